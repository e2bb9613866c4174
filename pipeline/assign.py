"""From a configuration to what each job is told."""

from typing import Any

from pipeline.catalogue import FIGURES, LOADERS
from pipeline.config import Config
from pipeline.data_files import data_digest, data_key
from pipeline.fingerprint import fingerprint
from pipeline.frozen import told_digest
from pipeline.reference.values import compared_cubes
from pipeline.settings import Split
from pipeline.tasks import (
    STAGES,
    Access,
    BoundsJob,
    ComparisonJob,
    CubeJob,
    FigureJob,
    OverlapJob,
    SelectJob,
    StageJob,
    TheoryJob,
    TrainJob,
)

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
READING, WRITING = "pipeline.cubes.store", "pipeline.cubes.write"


def data_access(config: Config) -> Access:
    """Return how every job comes by its data."""
    return Access(
        data_root=config.data_root, download=config.download, stream=config.compute.stream
    )


def digests(config: Config) -> dict[str, str]:
    """Return the digests of data and code that jobs are told, by what they are of."""
    networks = sorted({(run.dataset, run.model) for run in config.runs()})
    entries = [
        *(
            entry_modules(config, rule, dataset=dataset, model=model)
            for rule in ("train", *STAGES, "bounds")
            for dataset, model in networks
        ),
        *(entry_modules(config, r) for r in ("select", "overlap", "theory", "comparison")),
        *(entry_modules(config, "cube", name) for name in config.gathered()),
        *(entry_modules(config, "figure", name) for name in config.figure_names()),
    ]
    data = {
        data_key(config.datasets[name]): _data(config, name)
        for name in sorted({run.dataset for run in config.runs()})
    }
    code = {" ".join(modules): fingerprint(*modules) for modules in entries}
    return code | {key: digest for key, digest in data.items() if digest}


def _coded(config: Config, rule: str, name: str = "", **words: str) -> dict[str, Any]:
    """Return the modules that a rule's job begins with, and the digest of all they run."""
    modules = entry_modules(config, rule, name, **words)
    told = told_digest(" ".join(modules))
    return {"modules": tuple(modules), "code": told or fingerprint(*modules)}


def _data(config: Config, dataset: str) -> str | None:
    where = {"data_root": config.data_root, "results": config.results}
    return data_digest(config.datasets[dataset], **where)


def train_job(config: Config, *, dataset: str, model: str, recipe: str) -> TrainJob:
    """Return what the training of a run depends on, besides the run's own words."""
    return TrainJob(
        dataset=config.datasets[dataset].resolved(),
        model=config.models[model],
        recipe=config.recipe(recipe),
        data=_data(config, dataset),
        compute=config.compute,
        **_coded(config, "train", dataset=dataset, model=model),
    )


def select_job(config: Config, *, recipe: str) -> SelectJob:
    """Return what the choice among a sweep's candidates depends on, besides their files."""
    return SelectJob(
        candidates=tuple(config.candidates[recipe]),
        checkpoints=config.checkpoints(recipe, "training"),
        **_coded(config, "select"),
    )


def stage_job(config: Config, stage: str, *, dataset: str, model: str) -> StageJob:
    """Return what ``stage`` of a run (spectrum, hierarchy, layers) depends on, besides the run."""
    return STAGES[stage].model_validate(
        {
            stage: getattr(config, stage),
            "compute": config.compute,
            **_coded(config, stage, dataset=dataset, model=model),
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
        **_coded(config, "overlap"),
    )


def theory_job(config: Config) -> TheoryJob:
    """Return what the random two-layer networks depend on."""
    return TheoryJob(
        results=config.results,
        theory=config.theory,
        compute=config.compute,
        **_coded(config, "theory"),
    )


def bounds_job(config: Config, *, dataset: str, model: str, method: str) -> BoundsJob:
    """Return what the bound of a run by a method depends on, besides the run."""
    return BoundsJob(
        bounds=config.bounds.model_copy(update={"methods": (method,)}),
        compute=config.compute,
        **_coded(config, "bounds", dataset=dataset, model=model),
    )


def splits_of(config: Config, cube: str) -> tuple[Split, ...]:
    """Return the splits that the parts of a cube are made of, none where they have none."""
    return getattr(config, cube).splits if cube in ("spectrum", "hierarchy", "layers") else ()


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
        sweeps=tuple(sorted(config.candidates)) if cube == "training" else (),
        **_coded(config, "cube", cube),
    )


def figure_job(config: Config, figure: str) -> FigureJob:
    """Return what a figure depends on, besides its cubes."""
    return FigureJob(
        cubes={cube: f"{config.results}/cubes/{cube}.zarr" for cube in FIGURES[figure]},
        figures=config.figures.model_copy(update={"names": (figure,)}),
        **_coded(config, "figure", figure),
    )


def comparison_job(config: Config) -> ComparisonJob:
    """Return what the comparison with the papers' values depends on, besides its cubes."""
    cubes = compared_cubes(config)
    blocks = {cube: config.blocks(cube) for cube in cubes}
    used = [block for some in blocks.values() for block in some]

    def named(key: str) -> list[str]:
        return sorted({name for block in used for name in getattr(block, key)})

    return ComparisonJob(
        results=config.results,
        grids={
            cube: tuple(block.model_copy(update={"cubes": None}) for block in some)
            for cube, some in blocks.items()
        },
        datasets={name: config.datasets[name].resolved() for name in named("datasets")},
        models={name: config.models[name] for name in named("models")},
        recipes={name: config.recipes[name] for name in named("recipes")},
        bounds=config.bounds if "bounds" in cubes else None,
        spectrum=config.spectrum if "spectrum" in cubes else None,
        figures=config.figures.model_copy(update={"names": ("comparison",)}),
        **_coded(config, "comparison"),
    )


def entry_modules(
    config: Config, rule: str, name: str = "", *, dataset: str = "", model: str = ""
) -> list[str]:
    """Return the modules that a rule's job begins with; it runs all that these import too."""
    own = [f"pipeline.jobs.{rule}"]
    if rule == "cube":
        return [*own, WRITING, CUBE_MODULES[name]]
    if rule == "figure":
        return [*own, READING, f"pipeline.figures.{name}"]
    return [*own, *_named_modules(config, dataset, model)] if dataset else own


def _named_modules(config: Config, dataset: str, model: str) -> list[str]:
    """Return the modules, this project's or the user's, that are loaded by their name."""
    source, family = config.datasets[dataset].source, config.models[model].family
    paths = [LOADERS.get(source, source), family]
    return [path.partition(":")[0] for path in paths if ":" in path]
