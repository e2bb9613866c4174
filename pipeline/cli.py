"""The commands: one thin subcommand for each rule, which imports its stage when it is called."""

import json
import os
import shlex
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from pipeline.atomic import FULL, storing
from pipeline.config import Config
from pipeline.configfile import read_config
from pipeline.cubes.reference import cube_reference
from pipeline.errors import AnatomyError
from pipeline.fingerprint import check_code
from pipeline.overlay import overlaid, with_default
from pipeline.pending import pending
from pipeline.preflight import preflight
from pipeline.progress import INTERRUPTED, hold_log, say
from pipeline.spread import spread
from pipeline.tasks import (
    Access,
    BoundsJob,
    ComparisonJob,
    CubeJob,
    FigureJob,
    HierarchyJob,
    Job,
    LayersJob,
    OverlapJob,
    SelectJob,
    SpectrumJob,
    TheoryJob,
    TrainJob,
)

J = TypeVar("J", bound=Job)
CTRL_C = 130  # the exit status that Typer gives to an interrupted command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

PartFiles = Annotated[
    list[Path],
    typer.Argument(help="parts to make: .../curvature/<run>/epoch<e>/<split>/<cube>.zarr.zip"),
]
RunFolder = Annotated[Path, typer.Argument(help="a run's folder: .../runs/<dataset>/.../seed<n>")]
JobText = Annotated[str, typer.Option("--job", help="what the job depends on, as JSON")]
AccessText = Annotated[str, typer.Option("--access", help="how it comes by its data, as JSON")]
Processes = Annotated[
    int, typer.Option(help="start so many under torchrun, each with a share of the examples")
]
ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        "--configfile", help="a YAML file over config.yaml; several, the later over the earlier"
    ),
]


@app.command()
def check(configfile: ConfigFiles = []) -> None:  # noqa: B006
    """Check a configuration and say what it stands for."""
    files = with_default(configfile)
    config = read_config(files)
    preflight(config, overlaid(files), files)
    print(f"{', '.join(map(str, files))}: {len(config.runs())} runs, results in {config.results}")


@app.command()
def status(configfile: ConfigFiles = []) -> None:  # noqa: B006
    """Draw how far each run has come, and say what failed; exit 1 if anything has."""
    from rich.console import Console

    from pipeline.status import print_status

    config, now = read_config(with_default(configfile)), _now(configfile)
    if not print_status(config, Console(soft_wrap=True), **now):
        raise typer.Exit(1)


def _now(configfile: list[Path]) -> dict[str, Any]:
    """Return what Snakemake would make now, and the command that makes it."""
    words = ["snakemake", *(["--configfile", *map(str, configfile)] if configfile else [])]
    found = pending(overlaid(with_default(configfile)))
    return {"pending": found, "command": shlex.join(words)}


@app.command()
def plan(
    configfile: ConfigFiles = [],  # noqa: B006
    tflops: Annotated[
        float, typer.Option(min=1e-6, help="sustained, by which hours are told")
    ] = 10,
    device_gb: Annotated[float, typer.Option(min=1e-3, help="GiB of a GPU's memory")] = 80,
) -> None:
    """Say before anything runs what all jobs take: products, FLOPs, hours, memory, disk."""
    from rich.console import Console

    from pipeline.plan.table import print_plan

    print_plan(read_config(with_default(configfile)), Console(), tflops=tflops, device_gb=device_gb)


@app.command()
def why(
    artifact: Annotated[Path, typer.Argument(help="a file of the results folder, or a cube")],
    configfile: ConfigFiles = [],  # noqa: B006
) -> None:
    """Say what made an artifact, what would have it made again, and what has changed."""
    from pipeline.why import explanation

    config = read_config(with_default(configfile))
    print(explanation(artifact, config, **_now(configfile)))


@app.command()
def schema(out: Path = Path("docs")) -> None:
    """Write the JSON Schema of the configuration, for editors, and the reference of the cubes."""
    text = json.dumps(Config.model_json_schema(), indent=1) + "\n"
    (out / "config.schema.json").write_text(text, encoding="utf-8")
    (out / "cubes.md").write_text(cube_reference(), encoding="utf-8")


@app.command(hidden=True)
def rehearse() -> None:
    """Read the data and build the networks of jobs, given as JSON on standard input."""
    from pipeline.jobs.rehearse import rehearse_jobs

    rehearse_jobs(json.load(sys.stdin))


@app.command()
def train(
    folder: RunFolder,
    job: JobText,
    access: AccessText,
    save_every: Annotated[float, typer.Option(help="seconds between resumable states")] = 20.0,
) -> None:
    """Train a run: checkpoints, history.csv and run.json."""
    told = checked(TrainJob, job)
    from pipeline.jobs.train import train_run

    train_run(folder, told, Access.model_validate_json(access), save_every=save_every)


@app.command()
def select(folder: RunFolder, job: JobText) -> None:
    """Make the best of a sweep's candidates a run's network: its files, and sweep.csv."""
    told = checked(SelectJob, job)
    from pipeline.jobs.select import select_run

    select_run(folder, told)


@app.command()
def spectrum(parts: PartFiles, job: JobText, access: AccessText, processes: Processes = 1) -> None:
    """Compute the spectra of checkpoints."""
    told = checked(SpectrumJob, job)
    spread(processes)
    from pipeline.jobs.spectrum import write_spectra

    write_spectra(parts, told, Access.model_validate_json(access))


@app.command()
def hierarchy(parts: PartFiles, job: JobText, access: AccessText, processes: Processes = 1) -> None:
    """Compute the three-level hierarchy of checkpoints."""
    told = checked(HierarchyJob, job)
    spread(processes)
    from pipeline.jobs.hierarchy import write_hierarchies

    write_hierarchies(parts, told, Access.model_validate_json(access))


@app.command()
def layers(parts: PartFiles, job: JobText, access: AccessText, processes: Processes = 1) -> None:
    """Dissect the layers of checkpoints."""
    told = checked(LayersJob, job)
    spread(processes)
    from pipeline.jobs.layers import write_layers

    write_layers(parts, told, Access.model_validate_json(access))


@app.command()
def overlap(job: JobText) -> None:
    """Compare the layers' eigenspaces between the runs of a network."""
    told = checked(OverlapJob, job)
    from pipeline.jobs.overlap import write_overlaps

    write_overlaps(told)


@app.command()
def theory(job: JobText) -> None:
    """Hold random two-layer networks to their theory."""
    told = checked(TheoryJob, job)
    from pipeline.jobs.theory import write_theory

    write_theory(told)


@app.command()
def bounds(
    part: Annotated[
        Path, typer.Argument(help="to make: .../curvature/<run>/<method>/bounds.zarr.zip")
    ],
    job: JobText,
    access: AccessText,
    save_every: Annotated[float, typer.Option(help="seconds between resumable states")] = 20.0,
) -> None:
    """Bound a run's test error by a PAC-Bayes posterior."""
    told = checked(BoundsJob, job)
    from pipeline.jobs.bounds import write_bound

    write_bound(part, told, Access.model_validate_json(access), save_every=save_every)


@app.command()
def cube(name: str, job: JobText) -> None:
    """Gather the cube NAME from its parts."""
    told = checked(CubeJob, job)
    from pipeline.jobs.cube import write_cube_of

    write_cube_of(name, told)


@app.command()
def figure(
    name: str,
    out: Annotated[list[Path], typer.Option(help="files to draw to, by their suffix")],
    job: JobText,
) -> None:
    """Draw the figure NAME from its cubes."""
    told = checked(FigureJob, job)
    from pipeline.jobs.figure import draw_figure

    draw_figure(name, out, told)


@app.command()
def comparison(job: JobText) -> None:
    """Set the papers' values beside the cubes': tables and a figure."""
    told = checked(ComparisonJob, job)
    from pipeline.jobs.comparison import write_comparison

    write_comparison(told)


def checked(kind: type[J], text: str) -> J:
    """Return what a job is told; raises CodeError where its code has been edited since.

    Its results would say that they are of the code that it was told of.
    """
    job = kind.model_validate_json(text)
    for module in job.modules:
        # The user's own, first and for good: until a job has a network to build it may wait long
        # for another's end.  What cannot be imported is refused there.
        if not module.startswith("pipeline."):
            with suppress(Exception):
                import_module(module)
    check_code(job.code, job.modules)
    return job


def main() -> NoReturn:
    """Run a command; a refusal is one message, not a traceback.

    A job's command stands first in its log, to be copied and run by hand.
    """
    # Modules of the user in the working folder, after all libraries: they replace none.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        with storing("the job's log", FULL):
            if "--job" in sys.argv and "WORLD_SIZE" not in os.environ:
                hold_log()
                say(f"$ python -m pipeline {shlex.join(sys.argv[1:])}")
            app()
    except AnatomyError as error:
        refuse(f"error: {error}")
    except SystemExit as ended:
        if ended.code == CTRL_C and "--job" in sys.argv:
            say(INTERRUPTED)
        raise
    sys.exit(0)


def refuse(text: str) -> NoReturn:
    """End with a message, on standard output where the disk of the job's log takes no more."""
    try:
        say(text)
    except OSError:
        print(text, flush=True)
    sys.exit(1)
