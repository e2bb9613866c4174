"""Every job that a configuration stands for: what it makes, of what, and its log."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.assign import (
    bounds_job,
    comparison_job,
    cube_job,
    figure_job,
    overlap_job,
    select_job,
    splits_of,
    stage_job,
    theory_job,
    train_job,
)
from pipeline.catalogue import FIGURES
from pipeline.config import Config
from pipeline.reference.values import compared_cubes
from pipeline.runs import (
    SWEEP_FILE,
    TRAINING_FILES,
    Run,
    bounds_path,
    checkpoint_path,
    comparison_paths,
    log_path,
    overlap_path,
    part_path,
    run_folder,
    theory_path,
)
from pipeline.settings import Settings
from pipeline.tasks import (
    STAGES,
    candidate_files,
    compared_networks,
    layers_parts,
    part_places,
    training_files,
)

FIGURE_SUFFIXES = ("svg", "png")


@dataclass(frozen=True)
class Work:
    """One job: the rule, its name among the rule's jobs, its files, and its run if it has one."""

    rule: str
    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    log: Path
    run: Run | None = None

    @property
    def done(self) -> bool:
        """Whether all that it makes is there; whether it is up to date, Snakemake knows.

        ``is_done`` knows what a sweep deletes.
        """
        return all(file.exists() for file in self.outputs)


def workload(config: Config) -> Iterator[Work]:
    """Yield every job, each after those whose files it needs."""
    dissected = {stage: set(dissected_runs(config, stage)) for stage in STAGES}
    bounded = set(config.runs("bounds"))
    for run in config.runs():
        yield from _trained(config, run)
        for stage in STAGES:
            if run in dissected[stage]:
                yield from _stage(config, stage, run)
        if run in bounded:
            yield from _bounds(config, run)
    yield from _overlaps(config)
    if "theory" in config.cubes:
        yield Work(
            "theory", "", (), (theory_path(config.results),), log_path(config.results, "theory")
        )
    for cube in config.gathered():
        yield _cube(config, cube)
    for figure in config.figure_names():
        yield _figure(config, figure)
    if compared := compared_cubes(config):
        yield _comparison(config, compared)


def targets(config: Config) -> list[str]:
    """Return every file that stays when all jobs are done: a deleted one is made again."""
    return [
        str(file)
        for work in workload(config)
        for file in work.outputs
        if work.rule != "train" or keeps_networks(config, work.run) or not _is_network(file)
    ]


def is_done(config: Config, work: Work) -> bool:
    """Return whether all files of a job exist, except networks that its sweep has deleted."""
    if work.rule != "train" or keeps_networks(config, work.run):
        return work.done
    return all(file.exists() for file in work.outputs if not _is_network(file))


def keeps_networks(config: Config, run: Run) -> bool:
    """Return whether a trained run's checkpoints stay."""
    sweep = config.sweep_of.get(run.recipe)
    return sweep is None or config.recipes[sweep].sweep.keep


def kept_inputs(config: Config, work: Work) -> tuple[Path, ...]:
    """Return a job's inputs, but for networks that its sweep deletes once the best is chosen."""
    if work.rule != "select" or config.recipes[work.run.recipe].sweep.keep:
        return work.inputs
    return tuple(file for file in work.inputs if not _is_network(file))


def _is_network(file: Path) -> bool:
    return file.suffix == ".safetensors"


def dissected_runs(config: Config, stage: str) -> list[Run]:
    """Return the runs whose parts of a stage a cube is made of, the overlaps' layers with them."""
    return [*config.runs(stage), *(config.runs("overlap") if stage == "layers" else [])]


def told(config: Config, work: Work) -> Settings:
    """Return what a job is told now."""
    if work.rule in ("train", *STAGES):
        words = {"dataset": work.run.dataset, "model": work.run.model}
        if work.rule == "train":
            return train_job(config, **words, recipe=work.run.recipe)
        return stage_job(config, work.rule, **words)
    if work.rule == "select":
        return select_job(config, recipe=work.run.recipe)
    if work.rule == "bounds":
        words = {"dataset": work.run.dataset, "model": work.run.model}
        return bounds_job(config, **words, method=work.name.rpartition("/")[2])
    if work.rule == "overlap":
        dataset, model, norm = work.name.split("/")
        return overlap_job(config, dataset=dataset, model=model, norm=norm)
    if work.rule in ("theory", "comparison"):
        return {"theory": theory_job, "comparison": comparison_job}[work.rule](config)
    return {"cube": cube_job, "figure": figure_job}[work.rule](config, work.name)


def _trained(config: Config, run: Run) -> Iterator[Work]:
    """Yield the training of a run; of a sweep that of its candidates, and the choice among them."""
    if run.recipe not in config.candidates:
        yield _train(config, run)
        return
    yield from (_train(config, replace(run, recipe=name)) for name in config.candidates[run.recipe])
    inputs = tuple(candidate_files(run, select_job(config, recipe=run.recipe), config.results))
    outputs = (*_files(config, run), run_folder(config.results, run) / SWEEP_FILE)
    yield Work(
        "select", run.path, inputs, outputs, log_path(config.results, "select", run.path), run
    )


def _train(config: Config, run: Run) -> Work:
    log = log_path(config.results, "train", run.path)
    return Work("train", run.path, (), _files(config, run), log, run)


def _files(config: Config, run: Run) -> tuple[Path, ...]:
    """Return the files of a trained run."""
    folder = run_folder(config.results, run)
    checkpoints = [checkpoint_path(folder, e) for e in config.checkpoints(run.recipe, "training")]
    return (*(folder / name for name in TRAINING_FILES), *checkpoints)


def _stage(config: Config, stage: str, run: Run) -> Iterator[Work]:
    folder = run_folder(config.results, run)
    epochs = config.checkpoints(run.recipe, stage)
    inputs = (folder / "run.json", *(checkpoint_path(folder, epoch) for epoch in epochs))
    places = [(epoch, split) for epoch in epochs for split in splits_of(config, stage)]
    parts = [part_path(config.results, run, *place, stage) for place in places]
    if getattr(config.resources, stage).job == "run":
        log = log_path(config.results, stage, run.path)
        yield Work(stage, run.path, inputs, tuple(parts), log, run)
        return
    for (epoch, split), part in zip(places, parts, strict=True):
        name = f"{run.path}/epoch{epoch}/{split}"
        yield Work(stage, name, inputs, (part,), log_path(config.results, stage, name), run)


def _bounds(config: Config, run: Run) -> Iterator[Work]:
    folder = run_folder(config.results, run)
    epochs = config.checkpoints(run.recipe, "bounds")
    inputs = (folder / "run.json", *(checkpoint_path(folder, epoch) for epoch in epochs))
    for method in config.bounds.methods:
        part, name = bounds_path(config.results, run, method), f"{run.path}/{method}"
        yield Work("bounds", name, inputs, (part,), log_path(config.results, "bounds", name), run)


def _overlaps(config: Config) -> Iterator[Work]:
    networks = sorted({(run.dataset, run.model, run.norm) for run in config.runs("overlap")})
    for dataset, model, norm in networks:
        job = overlap_job(config, dataset=dataset, model=model, norm=norm)
        inputs = [*(file for _, _, file in layers_parts(job)), *compared_networks(job)]
        name = f"{dataset}/{model}/{norm}"
        output = overlap_path(config.results, dataset, model, norm)
        log = log_path(config.results, "overlap", name)
        yield Work("overlap", name, tuple(inputs), (output,), log)


def _cube(config: Config, cube: str) -> Work:
    folder = Path(config.results) / "cubes"
    if cube == "training":
        inputs = training_files(cube_job(config, cube))
    else:
        inputs = [file for _, file in part_places(cube, cube_job(config, cube))]
    outputs = (folder / f"{cube}.zarr", folder / f"{cube}.manifest.json")
    return Work("cube", cube, tuple(inputs), outputs, log_path(config.results, "cubes", cube))


def _figure(config: Config, figure: str) -> Work:
    cubes, folder = Path(config.results) / "cubes", Path(config.results) / "figures"
    inputs = tuple(cubes / f"{cube}.manifest.json" for cube in FIGURES[figure])
    outputs = tuple(folder / f"{figure}.{suffix}" for suffix in FIGURE_SUFFIXES)
    return Work("figure", figure, inputs, outputs, log_path(config.results, "figures", figure))


def _comparison(config: Config, cubes: tuple[str, ...]) -> Work:
    folder = Path(config.results) / "cubes"
    inputs = tuple(folder / f"{cube}.manifest.json" for cube in cubes)
    outputs = tuple(comparison_paths(config.results).values())
    return Work("comparison", "", inputs, outputs, log_path(config.results, "comparison"))
