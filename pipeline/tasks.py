"""What each job is told: all that its result depends on, besides its input files, and nothing else.

The rules keep it in their params as one JSON text, so that Snakemake reruns a job when it changes.
Of the configuration's ``compute`` the text has the fields of the class that a job declares.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Dataset, Grid, Model
from pipeline.recipes import Recipe
from pipeline.runs import (
    SWEEP_FILE,
    TRAINING_FILES,
    Run,
    bounds_path,
    checkpoint_path,
    overlap_path,
    part_path,
    run_folder,
    theory_path,
)
from pipeline.settings import Cube, Epoch, Method, Settings, Split
from pipeline.stages import (
    Arithmetic,
    Bounds,
    Figures,
    Hierarchy,
    Krylov,
    Layers,
    Overlap,
    Products,
    Spectrum,
    Theory,
)


class Job(Settings):
    """What every job is told: the modules that it begins with, and a digest of all they run."""

    modules: tuple[str, ...] = ()
    code: str


class Access(Settings):
    """How a job comes by its data; apart from what it is told, for no result depends on it.

    ``stream`` is ``compute.stream``.
    """

    data_root: str = "data"
    download: bool = False
    stream: bool | Literal["auto"] = "auto"


class TrainJob(Job):
    """What one training job is told; the run's own words are in its folder's name.

    ``data`` is a digest of the data set's files, or of their place where they are not looked at.
    """

    dataset: Dataset
    model: Model
    recipe: Recipe
    data: str | None = None
    compute: Arithmetic


class SelectJob(Job):
    """What the choice among a sweep's candidates is told: their recipes, and what each keeps."""

    candidates: tuple[str, ...]
    checkpoints: tuple[Epoch, ...]


class SpectrumJob(Job):
    """What one spectrum job is told, besides the parts that it makes."""

    spectrum: Spectrum
    compute: Krylov


class HierarchyJob(Job):
    """What one hierarchy job is told, besides the parts that it makes."""

    hierarchy: Hierarchy
    compute: Krylov


class LayersJob(Job):
    """What one layers job is told, besides the parts that it makes."""

    layers: Layers
    compute: Krylov


StageJob = SpectrumJob | HierarchyJob | LayersJob
STAGES: dict[str, type[StageJob]] = {
    "spectrum": SpectrumJob,
    "hierarchy": HierarchyJob,
    "layers": LayersJob,
}


class OverlapJob(Job):
    """What the overlaps of one network's runs on a data set are told.

    ``seeds`` are those of each recipe and n_per_class, ``checkpoints`` the epochs of each recipe.
    ``compute`` is that of the layers' parts, which are made anew with any of it.
    """

    results: str
    dataset: str
    model: str
    norm: str
    seeds: tuple[tuple[str, int, tuple[int, ...]], ...]
    checkpoints: dict[str, tuple[Epoch, ...]]
    splits: tuple[Split, ...]
    overlap: Overlap
    compute: Krylov

    def runs(self) -> list[Run]:
        """Return the runs to compare."""
        network = (self.dataset, self.model, self.norm)
        return [Run(*network, recipe, n, seed) for recipe, n, some in self.seeds for seed in some]


class TheoryJob(Job):
    """What the random two-layer networks are told."""

    results: str
    theory: Theory
    compute: Arithmetic


class BoundsJob(Job):
    """What one bound is told: its settings have one method."""

    bounds: Bounds
    compute: Products


class CubeJob(Job):
    """What the aggregation of a cube is told: the grid it must find whole.

    ``methods`` are those of the bounds, ``sweeps`` the recipes that are sweeps, of the training.
    """

    results: str
    grid: tuple[Grid, ...]
    checkpoints: dict[str, tuple[Epoch, ...]]
    splits: tuple[Split, ...]
    methods: tuple[Method, ...] = ()
    sweeps: tuple[str, ...] = ()

    def runs(self) -> list[Run]:
        """Return every run that the cube must hold."""
        return [run for block in self.grid for run in block.runs()]


class FigureJob(Job):
    """What one figure is told."""

    cubes: dict[str, str]
    figures: Figures


class ComparisonJob(Job):
    """What the comparison with the papers' values is told: what the runs of its cubes are.

    ``grids`` has the blocks of each cube.  ``bounds`` and ``spectrum`` are what those cubes were
    measured with.
    """

    results: str
    grids: dict[Cube, tuple[Grid, ...]]
    datasets: dict[str, Dataset]
    models: dict[str, Model]
    recipes: dict[str, Recipe]
    bounds: Bounds | None = None
    spectrum: Spectrum | None = None
    figures: Figures


def layers_parts(job: OverlapJob) -> list[tuple[Run, tuple[int, str], Path]]:
    """Return the layers parts that a job compares: run, (epoch, split), file."""
    return [
        (run, (epoch, split), part_path(job.results, run, epoch, split, "layers"))
        for run in job.runs()
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
    ]


def compared_networks(job: OverlapJob) -> list[Path]:
    """Return the files of the networks whose weights a job compares: records and checkpoints."""
    places = [(run_folder(job.results, run), epoch) for run, (epoch, _), _ in layers_parts(job)]
    return sorted(
        {folder / "run.json" for folder, _ in places}
        | {checkpoint_path(folder, epoch) for folder, epoch in places}
    )


def candidate_files(run: Run, job: SelectJob, results: str) -> list[Path]:
    """Return the files of a run's candidates."""
    folders = [run_folder(results, replace(run, recipe=name)) for name in job.candidates]
    return [
        file
        for folder in folders
        for file in (
            *(folder / name for name in TRAINING_FILES),
            *(checkpoint_path(folder, epoch) for epoch in job.checkpoints),
        )
    ]


def training_files(job: CubeJob) -> list[Path]:
    """Return the files that the training cube is gathered from."""
    return [
        run_folder(job.results, run) / name
        for run in job.runs()
        for name in (*TRAINING_FILES, *([SWEEP_FILE] if run.recipe in job.sweeps else []))
    ]


def part_places(cube: str, job: CubeJob) -> list[tuple[dict[str, Any], Path]]:
    """Return the parts that a cube is gathered from: the place of each in the cube, and its file.

    A place is a run's words, an epoch and a split; of overlaps, a data set, a network and a norm;
    of bounds, a run's words and a method.
    """
    if cube == "theory":
        return [({}, theory_path(job.results))]
    if cube == "bounds":
        return [
            (asdict(run) | {"basis": method}, bounds_path(job.results, run, method))
            for run in job.runs()
            for method in job.methods
        ]
    if cube == "overlap":
        networks = {(run.dataset, run.model, run.norm): None for run in job.runs()}
        return [
            ({"dataset": d, "model": m, "norm": n}, overlap_path(job.results, d, m, n))
            for d, m, n in networks
        ]
    return [
        (
            asdict(run) | {"epoch": epoch, "split": split},
            part_path(job.results, run, epoch, split, cube),
        )
        for run in job.runs()
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
    ]
