"""Time and memory of an experiment's jobs, from Snakemake's benchmark files: prints a table.

    PYTHONPATH=. python benchmarks/jobs.py config.yaml presets/large-networks.yaml

A row for each network and stage, its jobs added up, memory that of the largest; figures and cubes
are one row each.  Exits with 1 if a job took more memory than its stage asks of a scheduler.
"""

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.configfile import read_config
from pipeline.workload import Work, workload

FIELDS = ("cpu_time", "max_rss")
ASKED = {"comparison": "figure"}  # as its rule says
MIB = 2**20 / 1e6  # MB, in which jobs ask for memory; Snakemake measures in MiB
HEAD = """| network | stage | jobs | wall (s) | CPU (s) | peak memory (MB) | asked for (MB) |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Cost:
    """What a job took: seconds of wall and CPU time, and the most resident memory in MB."""

    wall: float
    cpu: float
    memory: float


def main(configfiles: list[str]) -> int:
    """Print the table; return 1 if a job took more memory than it asked for."""
    config = read_config([Path(file) for file in configfiles])
    groups: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for work in workload(config):
        if found := cost(config, work):
            groups[network(work), work.rule].append(found)
    print(HEAD)
    over = False
    # By network, those of all last; stages stay in the order of the workflow.
    for (name, stage), costs in sorted(groups.items(), key=lambda one: (not one[0][0], one[0][0])):
        asked = getattr(config.resources, ASKED.get(stage, stage)).mem_mb
        peak = max(one.memory for one in costs)
        over |= peak > asked
        wall, cpu = sum(one.wall for one in costs), sum(one.cpu for one in costs)
        print(
            f"| {name} | {stage} | {len(costs)} | {wall:.0f} | {cpu:.0f} | {peak:.0f} | {asked} |"
        )
    every = [one for costs in groups.values() for one in costs]
    wall, cpu = sum(one.wall for one in every), sum(one.cpu for one in every)
    peak = max((one.memory for one in every), default=0)
    print(f"| all | | {len(every)} | {wall:.0f} | {cpu:.0f} | {peak:.0f} | |")
    return int(over)


def network(work: Work) -> str:
    """Return the network that a job is of, without its seed; nothing for those of all."""
    if work.run:
        return f"{work.run.model}, {work.run.norm}"
    return ", ".join(work.name.split("/")[1:]) if work.rule == "overlap" else ""


def cost(config: Config, work: Work) -> Cost | None:
    """Return what a job took, None where it has not been done under Snakemake."""
    within = work.log.relative_to(Path(config.results) / "logs")
    file = (Path(config.results) / "benchmarks" / within).with_suffix(".tsv")
    if not file.exists():
        return None
    with file.open(newline="") as lines:
        row = next(csv.DictReader(lines, delimiter="\t"))
    # A job of under a second or so may have ended before it was looked at.
    cpu, memory = (float(row[name]) if row[name] not in ("NA", "-") else 0.0 for name in FIELDS)
    return Cost(float(row["s"]), cpu, memory * MIB)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
