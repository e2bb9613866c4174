"""What each job is told: all that its result depends on, besides its input files, and nothing else.

The rules keep it in their params as one JSON text, so that Snakemake reruns a job when it changes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.catalogue import FIGURES, LOADERS
from pipeline.config import (
    Compute,
    Config,
    Dataset,
    Epoch,
    Figures,
    Grid,
    Hierarchy,
    Model,
    Recipe,
    Settings,
    Spectrum,
    Split,
)
from pipeline.fingerprint import fingerprint
from pipeline.runs import Run, part_path

# Who gathers a cube.
CUBE_MODULES = {
    "training": "pipeline.cubes.training",
    "spectrum": "pipeline.cubes.parts",
    "hierarchy": "pipeline.cubes.parts",
}


class TrainJob(Settings):
    """What one training job is told; the run's own words are in its folder's name."""

    dataset: Dataset
    model: Model
    recipe: Recipe
    data_root: str
    download: bool
    compute: Compute
    code: str


class SpectrumJob(Settings):
    """What one spectrum job is told."""

    epochs: tuple[Epoch, ...]
    spectrum: Spectrum
    compute: Compute
    code: str


class HierarchyJob(Settings):
    """What one hierarchy job is told."""

    epochs: tuple[Epoch, ...]
    hierarchy: Hierarchy
    compute: Compute
    code: str


class CubeJob(Settings):
    """What the aggregation of a cube is told: the grid it must find whole."""

    results: str
    grid: tuple[Grid, ...]
    checkpoints: dict[str, tuple[Epoch, ...]]
    splits: tuple[Split, ...]
    code: str

    def runs(self) -> list[Run]:
        """Return every run that the cube must hold."""
        return [run for block in self.grid for run in block.runs()]


class FigureJob(Settings):
    """What one figure is told."""

    cubes: dict[str, str]
    figures: Figures
    code: str


def train_job(config: Config, *, dataset: str, model: str, recipe: str) -> TrainJob:
    """Return what the training of a run depends on, besides the run's own words."""
    return TrainJob(
        dataset=config.datasets[dataset].resolved(),
        model=config.models[model],
        recipe=config.recipes[recipe],
        data_root=config.data_root,
        download=config.download,
        compute=config.compute,
        code=fingerprint("pipeline.jobs.train", *_named_modules(config, dataset, model)),
    )


def spectrum_job(config: Config, *, dataset: str, model: str, recipe: str) -> SpectrumJob:
    """Return what the spectra of a run depend on, besides the trained run."""
    return SpectrumJob(
        epochs=tuple(sorted(config.recipes[recipe].checkpoints)),
        spectrum=config.spectrum,
        compute=config.compute,
        code=fingerprint("pipeline.jobs.spectrum", *_named_modules(config, dataset, model)),
    )


def hierarchy_job(config: Config, *, dataset: str, model: str, recipe: str) -> HierarchyJob:
    """Return what the hierarchy of a run depends on, besides the trained run."""
    return HierarchyJob(
        epochs=tuple(sorted(config.recipes[recipe].checkpoints)),
        hierarchy=config.hierarchy,
        compute=config.compute,
        code=fingerprint("pipeline.jobs.hierarchy", *_named_modules(config, dataset, model)),
    )


def splits_of(config: Config, cube: str) -> tuple[Split, ...]:
    """Return the splits that the parts of a cube are made of; none for the training cube."""
    return getattr(config, cube).splits if cube in ("spectrum", "hierarchy") else ()


def part_places(cube: str, job: CubeJob) -> list[tuple[dict[str, Any], Path]]:
    """Return the parts that a cube is gathered from: the place of each in the cube, and its file.

    A place is a run's words, an epoch and a split.
    """
    return [
        (
            asdict(run) | {"epoch": epoch, "split": split},
            part_path(job.results, run, epoch, split, cube),
        )
        for run in job.runs()
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
    ]


def cube_job(config: Config, cube: str) -> CubeJob:
    """Return what a cube depends on, besides its parts."""
    used = sorted({recipe for block in config.grid for recipe in block.recipes})
    return CubeJob(
        results=config.results,
        grid=config.grid,
        checkpoints={name: tuple(sorted(config.recipes[name].checkpoints)) for name in used},
        splits=splits_of(config, cube),
        code=fingerprint(CUBE_MODULES[cube]),
    )


def figure_job(config: Config, figure: str) -> FigureJob:
    """Return what a figure depends on, besides its cubes."""
    return FigureJob(
        cubes={cube: f"{config.results}/cubes/{cube}.zarr" for cube in FIGURES[figure]},
        figures=config.figures.model_copy(update={"names": (figure,)}),
        code=fingerprint(f"pipeline.figures.{figure}"),
    )


def _named_modules(config: Config, dataset: str, model: str) -> list[str]:
    """Return the modules, this project's or the user's, that are loaded by their name."""
    source, family = config.datasets[dataset].source, config.models[model].family
    paths = [LOADERS.get(source, source), family]
    return [path.partition(":")[0] for path in paths if ":" in path]
