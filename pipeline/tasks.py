"""What each job is told: all that its result depends on, besides its input files, and nothing else.

The rules keep it in their params as one JSON text, so that Snakemake reruns a job when it changes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.catalogue import FIGURES, LOADERS
from pipeline.config import Config, Dataset, Grid, Model, Recipe
from pipeline.data_files import data_digest
from pipeline.fingerprint import fingerprint
from pipeline.runs import Run, bounds_path, overlap_path, part_path, theory_path
from pipeline.settings import Epoch, Method, Settings, Split
from pipeline.stages import Bounds, Compute, Figures, Hierarchy, Layers, Overlap, Spectrum, Theory

# Who gathers a cube.
CUBE_MODULES = {
    "training": "pipeline.cubes.training",
    "spectrum": "pipeline.cubes.parts",
    "hierarchy": "pipeline.cubes.parts",
    "layers": "pipeline.cubes.parts",
    "overlap": "pipeline.cubes.parts",
    "theory": "pipeline.cubes.parts",
    "bounds": "pipeline.cubes.parts",
}


class TrainJob(Settings):
    """What one training job is told; the run's own words are in its folder's name.

    ``data`` is a digest of the data set's files.
    """

    dataset: Dataset
    model: Model
    recipe: Recipe
    data: str | None = None
    data_root: str
    download: bool
    compute: Compute
    code: str


class SpectrumJob(Settings):
    """What one spectrum job is told, besides the parts that it makes."""

    spectrum: Spectrum
    compute: Compute
    code: str


class HierarchyJob(Settings):
    """What one hierarchy job is told, besides the parts that it makes."""

    hierarchy: Hierarchy
    compute: Compute
    code: str


class LayersJob(Settings):
    """What one layers job is told, besides the parts that it makes."""

    layers: Layers
    compute: Compute
    code: str


StageJob = SpectrumJob | HierarchyJob | LayersJob
STAGES: dict[str, type[StageJob]] = {
    "spectrum": SpectrumJob,
    "hierarchy": HierarchyJob,
    "layers": LayersJob,
}


class OverlapJob(Settings):
    """What the overlaps of one network's runs on a data set are told.

    ``seeds`` are those of each recipe and n_per_class, ``checkpoints`` the epochs of each recipe.
    """

    results: str
    dataset: str
    model: str
    norm: str
    seeds: tuple[tuple[str, int, tuple[int, ...]], ...]
    checkpoints: dict[str, tuple[Epoch, ...]]
    splits: tuple[Split, ...]
    overlap: Overlap
    compute: Compute
    code: str

    def runs(self) -> list[Run]:
        """Return the runs to compare."""
        network = (self.dataset, self.model, self.norm)
        return [Run(*network, recipe, n, seed) for recipe, n, some in self.seeds for seed in some]


class TheoryJob(Settings):
    """What the random two-layer networks are told."""

    results: str
    theory: Theory
    compute: Compute
    code: str


class BoundsJob(Settings):
    """What one bound is told: its settings have one method."""

    bounds: Bounds
    compute: Compute
    code: str


class CubeJob(Settings):
    """What the aggregation of a cube is told: the grid it must find whole.

    ``methods`` are those of the bounds.
    """

    results: str
    grid: tuple[Grid, ...]
    checkpoints: dict[str, tuple[Epoch, ...]]
    splits: tuple[Split, ...]
    methods: tuple[Method, ...] = ()
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
        data=data_digest(
            dataset, config.datasets[dataset], data_root=config.data_root, results=config.results
        ),
        data_root=config.data_root,
        download=config.download,
        compute=config.compute,
        code=fingerprint(*entry_modules(config, "train", dataset=dataset, model=model)),
    )


def stage_job(config: Config, stage: str, *, dataset: str, model: str) -> StageJob:
    """Return what ``stage`` of a run (spectrum, hierarchy, layers) depends on, besides the run."""
    return STAGES[stage].model_validate(
        {
            stage: getattr(config, stage),
            "compute": config.compute,
            "code": fingerprint(*entry_modules(config, stage, dataset=dataset, model=model)),
        }
    )


def overlap_job(config: Config, *, dataset: str, model: str, norm: str) -> OverlapJob:
    """Return what the overlaps of a network's runs depend on, besides their layers."""
    seeds: dict[tuple[str, int], list[int]] = {}
    for run in config.runs("overlap"):
        if (run.dataset, run.model, run.norm) == (dataset, model, norm):
            seeds.setdefault((run.recipe, run.n_per_class), []).append(run.seed)
    recipes = {recipe for recipe, _ in seeds}
    return OverlapJob(
        results=config.results,
        dataset=dataset,
        model=model,
        norm=norm,
        seeds=tuple((recipe, n, tuple(sorted(some))) for (recipe, n), some in seeds.items()),
        checkpoints={name: config.checkpoints(name, "layers") for name in sorted(recipes)},
        splits=config.layers.splits,
        overlap=config.overlap,
        compute=config.compute,
        code=fingerprint(*entry_modules(config, "overlap")),
    )


def theory_job(config: Config) -> TheoryJob:
    """Return what the random two-layer networks depend on."""
    return TheoryJob(
        results=config.results,
        theory=config.theory,
        compute=config.compute,
        code=fingerprint(*entry_modules(config, "theory")),
    )


def bounds_job(config: Config, *, dataset: str, model: str, method: str) -> BoundsJob:
    """Return what the bound of a run by a method depends on, besides the run."""
    return BoundsJob(
        bounds=config.bounds.model_copy(update={"methods": (method,)}),
        compute=config.compute,
        code=fingerprint(*entry_modules(config, "bounds", dataset=dataset, model=model)),
    )


def splits_of(config: Config, cube: str) -> tuple[Split, ...]:
    """Return the splits that the parts of a cube are made of, none where they have none."""
    return getattr(config, cube).splits if cube in ("spectrum", "hierarchy", "layers") else ()


def layers_parts(job: OverlapJob) -> list[tuple[Run, tuple[int, str], Path]]:
    """Return the layers parts that a job compares: run, (epoch, split), file."""
    return [
        (run, (epoch, split), part_path(job.results, run, epoch, split, "layers"))
        for run in job.runs()
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
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


def cube_job(config: Config, cube: str) -> CubeJob:
    """Return what a cube depends on, besides its parts."""
    # No trained network has a part in the theory.
    blocks = () if cube == "theory" else config.blocks(cube)
    grid = tuple(block.model_copy(update={"cubes": None}) for block in blocks)
    used = sorted({recipe for block in grid for recipe in block.recipes})
    return CubeJob(
        results=config.results,
        grid=grid,
        checkpoints={name: config.checkpoints(name, cube) for name in used},
        splits=splits_of(config, cube),
        methods=config.bounds.methods if cube == "bounds" else (),
        code=fingerprint(*entry_modules(config, "cube", cube)),
    )


def figure_job(config: Config, figure: str) -> FigureJob:
    """Return what a figure depends on, besides its cubes."""
    return FigureJob(
        cubes={cube: f"{config.results}/cubes/{cube}.zarr" for cube in FIGURES[figure]},
        figures=config.figures.model_copy(update={"names": (figure,)}),
        code=fingerprint(*entry_modules(config, "figure", figure)),
    )


def entry_modules(
    config: Config, rule: str, name: str = "", *, dataset: str = "", model: str = ""
) -> list[str]:
    """Return the modules that a rule's job begins with; it runs all that these import too."""
    if rule == "cube":
        return [CUBE_MODULES[name]]
    if rule == "figure":
        return [f"pipeline.figures.{name}"]
    own = [f"pipeline.jobs.{rule}"]
    return [*own, *_named_modules(config, dataset, model)] if dataset else own


def _named_modules(config: Config, dataset: str, model: str) -> list[str]:
    """Return the modules, this project's or the user's, that are loaded by their name."""
    source, family = config.datasets[dataset].source, config.models[model].family
    paths = [LOADERS.get(source, source), family]
    return [path.partition(":")[0] for path in paths if ":" in path]
