"""What a configuration may not say of groups, single logits, sweeps, bounds and resources."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.catalogue import SOURCES
from pipeline.config import Config, Dataset, Grid
from pipeline.image_size import IMAGE_SIZE
from pipeline.prior import highest_half_log_lambda

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Refusal:
    """One thing that a configuration may not say."""

    place: Place
    problem: str
    cure: str


def group_refusals(place: Place, dataset: Dataset) -> Iterator[Refusal]:
    """Yield what is wrong with a data set's groups of classes."""
    facts, seen = SOURCES.get(dataset.source), set()
    if dataset.groups is not None and len(dataset.groups) < 2:
        yield Refusal(place, f"{len(dataset.groups)} group", "name two at least, or none")
    for index, group in enumerate(dataset.groups or ()):
        for label in group:
            if label in seen:
                problem = f"class {label} stands in two places"
                yield Refusal((*place, index), problem, "let it stand in one group")
            if facts and label >= facts.classes:
                yield Refusal(
                    (*place, index),
                    f"class {label}, but {dataset.source} has {facts.classes} classes",
                    f"name classes by their numbers, 0 to {facts.classes - 1}",
                )
            seen.add(label)


def logit_refusals(config: Config) -> Iterator[Refusal]:
    """Yield networks of a single logit whose data set is known to have other than two classes."""
    for block, grid in enumerate(config.grid):
        for index, name in enumerate(grid.models):
            for dataset in grid.datasets if config.models[name].single_logit else ():
                classes = known_classes(config.datasets[dataset])
                if classes not in (None, 2):
                    yield Refusal(
                        ("grid", block, "models", index),
                        f"{name} has a single logit, but {dataset} has {classes} classes",
                        "group the classes into two (datasets.<name>.groups), or take another "
                        "network",
                    )


def known_classes(dataset: Dataset) -> int | None:
    """Return how many classes a data set has, None where only a job can tell."""
    if dataset.groups:
        return len(dataset.groups)
    return SOURCES[dataset.source].classes if dataset.source in SOURCES else None


def sweep_refusals(config: Config) -> Iterator[Refusal]:
    """Yield recipes without one learning rate or one sweep, and sweeps that say too much."""
    for name, recipe in config.recipes.items():
        place, sweep = ("recipes", name), recipe.sweep
        if (recipe.lr is None) == (sweep is None):
            problem = "neither lr nor sweep" if sweep is None else f"lr {recipe.lr:g} and a sweep"
            yield Refusal(place, problem, "give the learning rate, or a sweep of some")
        if sweep is None:
            continue
        given = [end is not None for end in (sweep.low, sweep.high, sweep.count)]
        if not any(given) if sweep.rates is not None else all(given):
            yield from _rate_refusals(config, (*place, "sweep"), name)
        else:
            problem = "no whole range" if sweep.rates is None else "rates, and a range besides"
            cure = "give rates: a list, or all of low, high and count"
            yield Refusal((*place, "sweep"), problem, cure)


def _rate_refusals(config: Config, place: Place, name: str) -> Iterator[Refusal]:
    rates, candidates = config.recipes[name].sweep.values(), config.recipes[name].candidates(name)
    if len(rates) < 2 or list(rates) != sorted(rates):
        problem = f"{len(rates)} rates, from {rates[0]:g} to {rates[-1]:g}" if rates else "no rate"
        yield Refusal(place, problem, "give two at least, the smallest first")
    elif len(candidates) < len(rates):
        yield Refusal(
            place, f"{len(rates)} rates, of which {len(candidates)} differ", "name each rate once"
        )
    for taken in candidates.keys() & config.recipes.keys():
        yield Refusal(
            place,
            f"its candidate {taken} has the name of another recipe",
            "rename that recipe",
        )


def bounds_refusals(config: Config) -> Iterator[Refusal]:
    """Yield runs whose bounds are asked for and would not hold, and settings of no prior."""
    bounded = config.blocks("bounds")
    for block, grid in enumerate(config.grid):
        if grid in bounded:
            yield from _block_refusals(config, ("grid", block), grid)
    start, ceiling = config.bounds.start_half_log_lambda, highest_half_log_lambda(config.bounds)
    if start > ceiling:
        yield Refusal(
            ("bounds", "start_half_log_lambda"),
            f"{start} is a lambda above c exp(-1 / b), the largest that the prior may have: at "
            f"most {ceiling:.4f}",
            "lower it, or raise bounds.prior_ceiling",
        )


def _block_refusals(config: Config, place: Place, grid: Grid) -> Iterator[Refusal]:
    for index, norm in enumerate(grid.norms):
        if norm == "batch":
            yield Refusal(
                (*place, "norms", index),
                "bounds of networks with BatchNorm would not hold: its statistics are learned, and "
                "are no parameters",
                "take bounds out of this block's cubes, or batch out of its norms",
            )
    for index, name in enumerate(grid.recipes):
        if 0 not in config.recipes[name].checkpoints:
            yield Refusal(
                (*place, "recipes", index),
                f"bounds need the initialisation, and {name} keeps no checkpoint 0",
                f"add 0 to recipes.{name}.checkpoints, or take bounds out of this block's cubes",
            )
    for index, name in enumerate(grid.models):
        family = config.models[name].family
        if "iter-m" in config.bounds.methods and family in IMAGE_SIZE and family != "fnet":
            yield Refusal(
                (*place, "models", index),
                f"iter-m needs linear layers and ReLU alone, and {name} has convolutions",
                "take iter-m out of bounds.methods, or the network out of this block",
            )


def resource_refusals(config: Config) -> Iterator[Refusal]:
    """Yield stages whose first attempt asks for more than any may."""
    for stage, asked in config.resources:
        for name in ("mem_mb", "runtime"):
            first, most = getattr(asked, name), getattr(asked, f"most_{name}")
            if most is not None and most < first:
                yield Refusal(
                    ("resources", stage, f"most_{name}"),
                    f"{most} is less than the first attempt's {name}, {first}",
                    f"raise it, or lower resources.{stage}.{name}",
                )
