"""How far a workflow has come: its grid drawn in a terminal, and what failed."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import Config
from pipeline.pending import MISSING
from pipeline.progress import INTERRUPTED, is_held
from pipeline.tasks import STAGES
from pipeline.workload import Work, workload

# A state, the sign that it is drawn with, and its colour.
SIGNS = {
    "done": ("#", "green"),
    "outdated": ("o", "yellow"),
    "running": (">", "cyan"),
    "failed": ("x", "bold red"),
    "waiting": (".", "dim"),
}
# A log's last line after Ctrl-C; the second while Python was still importing.
CTRL_C = (INTERRUPTED, "KeyboardInterrupt")
WORDS = ("dataset", "model", "norm", "recipe", "n_per_class")


def state_of(work: Work, pending: Mapping[Path, str]) -> str:
    """Return a job's state: done, outdated, running, failed or waiting.

    ``pending`` are the files that Snakemake would make now.  An outdated job has its files, and
    Snakemake would make them again.  A job that was killed, and not begun again, has failed; one
    that was interrupted waits.
    """
    if is_held(work.log):
        return "running"
    if not any(file in pending for file in work.outputs):
        return "done"
    if work.done:
        return "outdated"
    never_made = any(pending.get(file) == MISSING for file in work.outputs)
    is_left = work.log.exists() and last_line(work.log) not in CTRL_C
    return "failed" if never_made and is_left else "waiting"


def print_status(
    config: Config, console: Console, *, pending: Mapping[Path, str], command: str = "snakemake"
) -> bool:
    """Print the state of every job; return whether none has failed.

    ``command`` starts Snakemake with this configuration.
    """
    states = {work: state_of(work, pending) for work in workload(config)}
    console.print(_grid(config, states))
    console.print(_others(states))
    counts = [
        f"{sum(s == name for s in states.values())} {name} {SIGNS[name][0]}" for name in SIGNS
    ]
    console.print(f"{len(states)} jobs: {', '.join(counts)}")
    for word in ("running", "failed"):
        for work in (work for work, state in states.items() if state == word):
            console.print(Text(f"{word}: {work.rule} {work.name}", style=SIGNS[word][1]))
            console.print(Text(f"  {work.log}: {last_line(work.log)}"))
    if left := sum(state in ("outdated", "failed", "waiting") for state in states.values()):
        console.print(f"{command} makes {left} of them")
    return "failed" not in states.values()


def last_line(log: Path) -> str:
    """Return the last line of a log that says something; nothing of an empty one."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "(empty)")


def _grid(config: Config, states: dict[Work, str]) -> Table:
    """Return the table of runs: a row for all seeds of one, a column for each stage.

    A sweep's candidates stand in the row of the sweep.
    """
    rows: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for work, state in states.items():
        if work.run:
            recipe = config.sweep_of.get(work.run.recipe, work.run.recipe)
            words = tuple(str(getattr(replace(work.run, recipe=recipe), word)) for word in WORDS)
            rows.setdefault(words, {}).setdefault(work.rule, []).append(state)
    stages = [
        stage
        for stage in ("train", "select", *STAGES, "bounds")
        if any(stage in row for row in rows.values())
    ]
    table = Table(*WORDS[:-1], "n", *stages, box=None, pad_edge=False)
    for words, row in rows.items():
        table.add_row(*words, *(_signs(row.get(stage, [])) for stage in stages))
    return table


def _others(states: dict[Work, str]) -> Table:
    """Return the table of jobs that are of no single run: a row for each rule."""
    rows: dict[str, list[str]] = {}
    for work, state in states.items():
        if not work.run:
            rows.setdefault(work.rule, []).append(state)
    table = Table(box=None, pad_edge=False, show_header=False)
    for rule, found in rows.items():
        table.add_row(rule, _signs(found))
    return table


def _signs(states: Iterable[str]) -> Text:
    return Text.assemble(*(SIGNS[state] for state in states))
