"""The plan of a configuration, printed before anything runs."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import Config
from pipeline.curvature.memory import CPU_BUDGET, GIB, GPU_BUDGET
from pipeline.plan.costs import on_gpu
from pipeline.plan.jobs import Plan, Row, plan_of

HOUR = 3600.0
TERA = 1e12
SHOWN = 4  # places that a note names


def print_plan(config: Config, console: Console, *, tflops: float, device_gb: float) -> None:
    """Print what a configuration's jobs take at a rate of ``tflops``, and what that rests on."""
    plan = plan_of(config, device_gb=device_gb)
    console.print(_work(plan, tflops))
    console.print(_memory(config, plan, tflops))
    console.print("assumed:", style="bold")
    for text in _assumptions(config, plan, tflops, device_gb):
        console.print(Text(f"  {text}"))
    warnings = [*_warnings(config, plan, tflops, device_gb), *_notes(plan)]
    console.print("warnings:" if warnings else "no warnings", style="bold")
    for text in warnings:
        console.print(Text(f"  {text}", style="yellow"))


def _work(plan: Plan, tflops: float) -> Table:
    """Return the table of what is computed and stored: a row for each rule."""
    table = Table(box=None, pad_edge=False)
    table.add_column("rule")
    for name in ("jobs", "done", "unknown", "passes", "TFLOP", "GPU-hours", "disk"):
        table.add_column(name, justify="right")
    for rule, row in plan.rows.items():
        table.add_row(rule, *_cells(row, tflops))
    rows = plan.rows.values()
    flop, left = sum(row.cost.flop for row in rows), sum(row.left for row in rows)
    table.add_row(
        "total",
        *(_count(sum(getattr(row, key) for row in rows)) for key in ("jobs", "done", "unknown")),
        "",
        _number(flop / TERA),
        _number(flop / TERA / tflops / HOUR),
        _size(sum(row.cost.disk for row in rows)),
        style="bold",
    )
    table.add_row(
        "to do", "", "", "", "", _number(left / TERA), _number(left / TERA / tflops / HOUR), ""
    )
    return table


def _cells(row: Row, tflops: float) -> list[str]:
    teraflop = row.cost.flop / TERA
    return [
        *(_count(number) for number in (row.jobs, row.done, row.unknown)),
        _number(row.cost.passes),
        _number(teraflop),
        _number(teraflop / tflops / HOUR),
        _size(row.cost.disk),
    ]


def _memory(config: Config, plan: Plan, tflops: float) -> Table:
    """Return the table of the most memory that a job of each rule takes, beside what it asks for.

    The job that is named is the one of the most of a GPU's memory, without one of main memory.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("rule")
    for name in ("main memory", "asked", "of each GPU", "longest, h"):
        table.add_column(name, justify="right")
    table.add_column("most memory in", overflow="fold")  # a run's name is read to its end
    for rule, row in plan.rows.items():
        if not row.cost.flop:  # of jobs that compute nothing to speak of, or are unknown
            continue
        most = row.fullest if row.fullest.device else row.largest
        table.add_row(
            rule,
            _size(row.largest.main),
            _size(getattr(config.resources, rule).mem_mb * 1e6),
            _size(row.fullest.device),
            _number(_hours(row, tflops)),
            most.work.name,
        )
    return table


def _hours(row: Row, tflops: float) -> float:
    """Return the hours of a rule's longest job."""
    return row.longest.flop / TERA / tflops / HOUR


def _assumptions(config: Config, plan: Plan, tflops: float, device_gb: float) -> Iterator[str]:
    yield (
        f"{tflops:g} TFLOP/s sustained on every device (--tflops): small networks, whose time goes "
        "into starting operations, reach a fraction of it"
    )
    yield (
        "FLOPs are those of matrix products and convolutions, two for each multiply-add; of a "
        "passage through a network PyTorch's own count"
    )
    yield (
        "passes: gradients (train, bounds), products and backward passes over all examples of a "
        "split; of layers, products with one layer's Hessian"
    )
    yield (
        "estimates: eigenpairs, by as many products as their Krylov basis holds, 2 k + 20 for k "
        "pairs; groups of classes, by the mean class"
    )
    yield (
        "upper bounds: backward passes down to a layer, taken as whole ones; trainings, which stop "
        "where they diverge; memory, of kept chunks above all. All else is counted"
    )
    gpus = [rule for rule, row in plan.rows.items() if row.cost.flop and on_gpu(config, rule)]
    if gpus:
        yield f"{', '.join(gpus)} on GPUs of {device_gb:g} GiB (--device-gb)"
    budgets = (
        ("linearised chunks", config.compute.memory_gb),
        ("a Krylov basis", config.compute.basis_gb),
        ("a pass", None),
    )
    unset = ", ".join(text for text, gib in budgets if gib is None)
    yield (
        f"budgets by default, each {CPU_BUDGET / GIB:g} GiB on a CPU and {GPU_BUDGET / GIB:g} GiB "
        f"on a GPU, whatever memory the job has: {unset}"
    )
    rows = plan.rows.values()
    scratch = max(row.cost.scratch for row in rows)
    waiting = _size(sum(row.cost.waiting for row in rows))
    yield (
        "disk holds checkpoints and parts; cubes, figures and logs come on top, and while it runs "
        f"a job's scratch, of {_size(scratch) or 'nothing'} at most"
    )
    if waiting:
        yield (
            f"candidates of a sweep keep their checkpoints until it is decided: {waiting} on top, "
            "where all sweeps train before any is"
        )


def _warnings(config: Config, plan: Plan, tflops: float, device_gb: float) -> Iterator[str]:
    """Yield where a rule's jobs take more than they ask for."""
    for rule, row in plan.rows.items():
        if not row.cost.flop:
            continue
        asked, job, full = getattr(config.resources, rule), row.largest, row.fullest
        if job.main > asked.mem_mb * 1e6:
            yield (
                f"{rule}: {_size(job.main)} of main memory, resources.{rule}.mem_mb asks for "
                f"{asked.mem_mb}: {job.work.name}"
            )
        if full.device > device_gb * GIB:
            yield f"{rule}: {_size(full.device)} of a GPU's {device_gb:g} GiB: {full.work.name}"
        hours = _hours(row, tflops)
        if 60 * hours > asked.runtime:
            yield (
                f"{rule}: {_number(hours)} hours at this rate, resources.{rule}.runtime asks for "
                f"{asked.runtime} minutes: {row.longest.work.name}"
            )


def _notes(plan: Plan) -> Iterator[str]:
    for note, places in plan.notes.items():
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        yield f"{note}: {', '.join(places[:SHOWN])}{more}"


def _count(value: int) -> str:
    return str(value or "")


def _number(value: float) -> str:
    """Return a number of three digits at least, nothing of zero."""
    return "" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(value: float) -> str:
    """Return a number of bytes, nothing of none."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return "" if not value else f"{value:.0f} B"
