"""Reading a configuration: every refusal at once, each with its place, its value and its cure."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.catalogue import FIGURES, FOLDER, SHOWN_MATRICES, SOURCES
from pipeline.config import Config, Dataset
from pipeline.errors import ConfigError
from pipeline.image_folder import class_folders, images_in
from pipeline.overlay import overlaid
from pipeline.paths import same_place
from pipeline.refusals import (
    Place,
    Refusal,
    bounds_refusals,
    group_refusals,
    logit_refusals,
    resource_refusals,
    sweep_refusals,
)
from pipeline.schema_refusals import schema_refusals, unknown


def load_config(settings: dict[str, Any], files: Sequence[str | Path] = ()) -> Config:
    """Return the validated configuration, or refuse it.

    ``settings`` is the merged mapping, ``files`` the YAML files it came from, later ones winning;
    they serve to say where a refused value stands.  Raises ConfigError with every refusal found.
    """
    try:
        # YAML reads 2026-11-30 as a date: a folder of that name is text.
        config = Config.model_validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        refuse(schema_refusals(error, settings), files)
    refuse(_cross_refusals(config), files)
    return config


def refuse(refusals: Iterable[Refusal], files: Sequence[str | Path]) -> None:
    """Raise ConfigError if there are refusals, with the place of each in the YAML files."""
    lines = [f"{_where(r.place, files)}: {r.problem}\n    cure: {r.cure}" for r in refusals]
    if lines:
        raise ConfigError("the configuration is refused\n  " + "\n  ".join(lines))


def read_config(files: Sequence[str | Path]) -> Config:
    """Return the configuration of YAML files, merged as Snakemake merges them."""
    return load_config(overlaid(files), files)


def _cross_refusals(config: Config) -> Iterator[Refusal]:
    for name, dataset in config.datasets.items():
        yield from _dataset_refusals(("datasets", name), dataset)
    for name, recipe in config.recipes.items():
        place = ("recipes", name, "checkpoints")
        yield from _repeats(place, recipe.checkpoints)
        for index, epoch in enumerate(recipe.checkpoints):
            if epoch > recipe.epochs:
                yield Refusal(
                    (*place, index),
                    f"checkpoint {epoch} is beyond the last epoch, {recipe.epochs}",
                    f"raise recipes.{name}.epochs, or choose checkpoints of at most it",
                )
    yield from sweep_refusals(config)
    for index, figure in enumerate(config.figures.names):
        if figure not in FIGURES:
            yield unknown(("figures", "names", index), figure, "figure", FIGURES)
        for needed in SHOWN_MATRICES.get(figure, ()):
            if needed not in config.spectrum.matrices:
                yield Refusal(
                    ("spectrum", "matrices"),
                    f"the figure {figure} shows {needed}, which is not among the matrices",
                    f"add {needed}, or leave {figure} out of figures.names",
                )
    for index, matrix in enumerate(config.spectrum.matrices):
        if matrix not in config.spectrum.top:
            yield Refusal(
                ("spectrum", "matrices", index),
                f"spectrum.top does not say how many eigenpairs of {matrix} to find",
                f"add {matrix} to spectrum.top",
            )
    for index, split in enumerate(config.hierarchy.splits):
        if split not in config.spectrum.splits:
            yield Refusal(
                ("hierarchy", "splits", index),
                f"{split} is not among spectrum.splits, whose G the hierarchy is drawn beside",
                f"add {split} to spectrum.splits, or leave it out here",
            )
    for index, width in enumerate(config.theory.widths):
        if width < config.theory.classes:
            yield Refusal(
                ("theory", "widths", index),
                f"width {width} with {config.theory.classes} classes: no C - 1 directions fit",
                "raise it to theory.classes at least, or lower these",
            )
    yield from resource_refusals(config)
    yield from _grid_refusals(config)


def _dataset_refusals(place: Place, dataset: Dataset) -> Iterator[Refusal]:
    known = [*SOURCES, FOLDER]
    if dataset.source not in known and ":" not in dataset.source:
        yield unknown((*place, "source"), dataset.source, "data set", [*known, "module:function"])
    if (dataset.source == FOLDER) != (dataset.path is not None):
        yield Refusal(
            (*place, "path"),
            f"path is {dataset.path!r} with source {dataset.source!r}",
            "a folder needs a path, and only a folder has one",
        )
    yield from group_refusals((*place, "groups"), dataset)
    mean, std = dataset.resolved().mean, dataset.resolved().std
    if mean and std and 1 not in (len(mean), len(std)) and len(mean) != len(std):
        yield Refusal(
            (*place, "std"),
            f"{len(std)} deviations for {len(mean)} means",
            "give one of each per channel",
        )


def _grid_refusals(config: Config) -> Iterator[Refusal]:
    named = True
    for block, grid in enumerate(config.grid):
        for key in ("datasets", "models", "recipes"):
            known = getattr(config, key)
            for index, name in enumerate(getattr(grid, key)):
                if name not in known:
                    named = False
                    yield unknown(("grid", block, key, index), name, key[:-1], known)
        for key in type(grid).model_fields:
            yield from _repeats(("grid", block, key), getattr(grid, key))
    if not named:
        return
    yield from logit_refusals(config)
    yield from bounds_refusals(config)
    for block, grid in enumerate(config.grid):
        for dataset in grid.datasets:
            yield from _size_refusals(config, block, dataset)
    first: dict[Any, int] = {}
    for block, grid in enumerate(config.grid):
        twice = [run for run in grid.runs() if first.setdefault(run, block) != block]
        if twice:
            yield Refusal(
                ("grid", block),
                f"{len(twice)} runs were named before, such as {twice[0].path} in "
                f"grid[{first[twice[0]]}]",
                "let each run stand in one block",
            )


def _size_refusals(config: Config, block: int, name: str) -> Iterator[Refusal]:
    for index, wanted in enumerate(config.grid[block].n_per_class):
        held = smallest_class(config.datasets[name], wanted)
        if held is not None and wanted > held:
            yield Refusal(
                ("grid", block, "n_per_class", index),
                f"{wanted} examples per class, but the rarest class of {name} has {held}",
                f"ask for at most {held}, or for 0, the full training set",
            )


def smallest_class(dataset: Dataset, wanted: int) -> int | None:
    """Return how many training examples the rarest class holds, None where only a job can tell.

    In a folder at most ``wanted`` files of a class are counted: a look at ImageNet stays short.
    """
    if dataset.groups:
        return None  # of a group only its classes' counts are told
    if dataset.source in SOURCES:
        return SOURCES[dataset.source].smallest_class
    if dataset.source != FOLDER or dataset.path is None:
        return None
    classes = class_folders(Path(same_place(dataset.path), "train"))
    counts = [sum(1 for _ in islice(images_in(folder), wanted)) for folder in classes]
    return min(counts, default=None)


def _repeats(place: Place, values: Iterable[Any]) -> Iterator[Refusal]:
    for value, count in Counter(values).items():
        if count > 1:
            yield Refusal(
                place, f"{value!r} stands {count} times: a run named twice", "name it once"
            )


def _where(place: Place, files: Sequence[str | Path]) -> str:
    """Return ``file:line: dotted.place[0]``, from the last file that holds most of the place."""
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    best, depth = "", 0
    for file in files:
        line, found = _line(Path(file), place)
        if found >= depth and found:
            best, depth = f"{file}:{line}: ", found
    return best + dotted.lstrip(".")


def _line(file: Path, place: Place) -> tuple[int, int]:
    """Return the line of the deepest part of ``place`` in a YAML file, and its depth."""
    node = yaml.compose(file.read_text(encoding="utf-8"))
    line = found = 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            key, node = pair
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
        found += 1
    return line, found
