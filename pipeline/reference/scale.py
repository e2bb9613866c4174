"""Whether a run is of a paper's network, and how it departs from the paper's, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.config import Dataset, Model
from pipeline.recipes import Recipe
from pipeline.reference.published import Experiment, Training
from pipeline.settings import Settings

PLAIN = ("lr", "momentum", "weight_decay", "batch")
ROUNDING = 1e-3  # of settings that a configuration writes as decimals, such as 1/3


def is_of(experiment: Experiment, dataset: Dataset, model: Model, norm: str) -> bool:
    """Return whether a network on a data set is the paper's, whatever the configuration's names."""
    theirs = experiment.dataset
    return (
        dataset.source == theirs.source
        and _classes(dataset) == _classes(theirs)
        and dataset.random_labels == theirs.random_labels
        and model == experiment.model
        and norm == experiment.norm
    )


def departures(
    theirs: Experiment, *, dataset: Dataset, recipe: Recipe, n_per_class: int, seeds: int
) -> tuple[str, ...]:
    """Return how runs on ``seeds`` seeds depart from the paper's; what is the paper's in brackets.

    More seeds than the paper's are no departure.
    """
    training = theirs.training
    words = [*_amounts(training, recipe, n_per_class, seeds), *_recipe(training, recipe)]
    for key in ("mean", "std"):
        ours, wanted = getattr(dataset.resolved(), key), getattr(theirs.dataset, key)
        if not _close(ours, wanted):
            words.append(f"pixels' {key} {_said(ours)} ({_said(wanted)})")
    ours, wanted = (one.resolved().fit for one in (dataset, theirs.dataset))
    if ours != wanted:
        words.append(f"images made to fit by {ours} ({wanted})")
    return tuple(words)


def measured_otherwise(settings: Settings | None, theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings of a stage that are not the paper's, with the paper's in brackets."""
    if settings is None:
        return ()
    return tuple(
        f"{type(settings).__name__.lower()}.{key} {_said(getattr(settings, key))} ({_said(value)})"
        for key, value in theirs.items()
        if not _close(getattr(settings, key), value)
    )


def trained_epochs(recipe: Recipe) -> int:
    """Return the epoch of a recipe's last checkpoint, which is what the cubes are compared at."""
    return max(recipe.checkpoints)


def _amounts(theirs: Training, recipe: Recipe, n_per_class: int, seeds: int) -> Iterator[str]:
    epochs = trained_epochs(recipe)
    if epochs < theirs.epochs:
        yield f"{epochs} of {theirs.epochs} epochs"
    elif epochs > theirs.epochs:
        yield f"{epochs} epochs ({theirs.epochs})"
    if n_per_class != theirs.n_per_class:
        ours, wanted = (f"{n} per class" if n else "all" for n in (n_per_class, theirs.n_per_class))
        yield f"training examples {ours} ({wanted})"
    if seeds < theirs.seeds:
        yield f"{seeds} of {theirs.seeds} seeds"


def _recipe(theirs: Training, recipe: Recipe) -> Iterator[str]:
    for key in PLAIN:
        ours, wanted = getattr(recipe, key), getattr(theirs, key)
        if not _close(ours, wanted):
            yield f"{key} {_said(ours)} ({_said(wanted)})"
    drops = [(one.drop_at, one.drop_factor if one.drop_at else 1.0) for one in (recipe, theirs)]
    if not all(_close(ours, wanted) for ours, wanted in zip(*drops, strict=True)):
        yield "another schedule of the rate"
    if recipe.sweep and theirs.sweep:
        rates = recipe.sweep.values()
        ours = (min(rates), max(rates), len(rates))
        if not _close(ours, theirs.sweep):
            yield f"best of {_swept(*ours)} ({_swept(*theirs.sweep)})"
    for name in recipe.augment:
        yield f"augmented by {name} (not)"
    if recipe.precision != "float32":
        yield f"trained in {recipe.precision}"
    if theirs.init is not None and recipe.init != theirs.init:
        yield f"init {recipe.init} ({theirs.init})"


def _swept(low: float, high: float, count: int) -> str:
    return f"{count} rates from {low:g} to {high:g}"


def _classes(dataset: Dataset) -> set[frozenset[int]] | None:
    return {frozenset(group) for group in dataset.groups} if dataset.groups else None


def _close(ours: Any, theirs: Any) -> bool:
    """Return whether numbers or lists agree; one number stands for a list of equal ones."""
    if ours is None or theirs is None:
        return ours is theirs
    a, b = np.atleast_1d(ours), np.atleast_1d(theirs)
    alike = a.size == b.size or (1 in (a.size, b.size) and 0 not in (a.size, b.size))
    return alike and bool(np.allclose(a, b, rtol=ROUNDING, atol=0))


def _said(value: Any) -> str:
    if value is None:
        return "swept"
    numbers = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{number:g}" for number in numbers) or "none"
