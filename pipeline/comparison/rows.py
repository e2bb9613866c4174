"""The published values joined with the cubes: for each its value here, and how the two compare."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf

import xarray as xr

from pipeline.comparison.measure import Measured, measured
from pipeline.reference.published import Experiment, Published
from pipeline.reference.scale import departures, is_of, measured_otherwise, trained_epochs
from pipeline.reference.values import PUBLISHED
from pipeline.runs import Run
from pipeline.tasks import ComparisonJob

ABSENT, NO_VALUE = "not in this experiment", "no value"
WITHIN, OUTSIDE = "within", "outside"
NETWORK = ("dataset", "model", "norm", "recipe", "n_per_class")


@dataclass(frozen=True)
class Found:
    """What the runs of one network say of a published value.

    ``runs`` is their folder below runs/, ``departures`` how they are not the paper's, in words.
    """

    runs: str
    departures: tuple[str, ...]
    measured: Measured | None


@dataclass(frozen=True)
class Row:
    """A published value beside ours; ``found`` None: no run of its network is in the cube."""

    published: Published
    found: Found | None = None

    @property
    def measured(self) -> Measured | None:
        """The value here, if there is one."""
        return self.found.measured if self.found else None

    @property
    def verdict(self) -> str:
        """Whether the value lies within what counts as near, or why there is none."""
        if self.found is None:
            return ABSENT
        if self.measured is None:
            return NO_VALUE
        low, high = self.published.accepted
        return WITHIN if low <= self.measured.value <= high else OUTSIDE

    @property
    def scale(self) -> str:
        """How the runs depart from the paper's, in words."""
        if self.found is None:
            return ""
        return "; ".join(self.found.departures) or "as in the paper"


def compare(job: ComparisonJob, cubes: Mapping[str, xr.Dataset]) -> list[Row]:
    """Return a row for each published value, in the papers' order.

    Where several groups of runs are of a value's network, that which departs least from the paper's
    training stands for it; of equals, that with most epochs, then with most examples.
    """
    return [Row(one, _nearest(one, job, cubes)) for one in PUBLISHED]


def by_experiment(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows by their experiment's name."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.published.experiment.name, []).append(row)
    return grouped


def _nearest(
    published: Published, job: ComparisonJob, cubes: Mapping[str, xr.Dataset]
) -> Found | None:
    runs = _runs(job, published.experiment, published.cube)
    found = {run: _found(published, run, seeds, job, cubes) for run, seeds in runs.items()}

    def far(run: Run) -> tuple[bool, int, int, float]:
        one = found[run]
        epochs = trained_epochs(job.recipes[run.recipe])
        return one.measured is None, len(one.departures), -epochs, -(run.n_per_class or inf)

    return found[min(found, key=far)] if found else None


def _runs(job: ComparisonJob, experiment: Experiment, cube: str) -> dict[Run, int]:
    """Return the cube's runs of a paper's network: the first seed's, with the number of seeds."""
    groups: dict[tuple[str | int, ...], list[Run]] = {}
    for block in job.grids.get(cube, ()):
        for run in block.runs():
            if is_of(experiment, job.datasets[run.dataset], job.models[run.model], run.norm):
                groups.setdefault(tuple(getattr(run, key) for key in NETWORK), []).append(run)
    return {min(runs): len(runs) for runs in groups.values()}


def _found(
    published: Published,
    run: Run,
    seeds: int,
    job: ComparisonJob,
    cubes: Mapping[str, xr.Dataset],
) -> Found:
    recipe, cube = job.recipes[run.recipe], cubes[published.cube]
    place = {key: value for key, value in asdict(run).items() if key in NETWORK}
    if "epoch" in cube.dims:
        place["epoch"] = trained_epochs(recipe)
    try:
        value = measured(cube.sel(place), published, job.figures)
    except KeyError:
        value = None  # all of its networks diverged: the cube knows nothing of them
    words = departures(
        published.experiment,
        dataset=job.datasets[run.dataset],
        recipe=recipe,
        n_per_class=run.n_per_class,
        seeds=value.seeds if value else seeds,
    )
    stage = {"bounds": job.bounds, "spectrum": job.spectrum}.get(published.cube)
    words += (*measured_otherwise(stage, published.settings), *_short(published, value))
    return Found(run.path.rpartition("/")[0], words, value)


def _short(published: Published, value: Measured | None) -> tuple[str, ...]:
    """Return in words where overlaps end before the paper's peak."""
    if value is None or value.reach is None or value.reach >= published.reach:
        return ()
    return (f"overlaps known to k {value.reach} ({published.reach} or more)",)
