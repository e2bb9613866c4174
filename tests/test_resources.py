"""What jobs ask of a scheduler, and are told of it."""

import re

from workflow import TINY, begin, snakemake

ASKED = {"train": {"mem_mb": 1000}, "spectrum": {"mem_mb": 3000}}


def commands(folder, *arguments):
    """Return the memory that jobs are told of, by their subcommand, from a dry run."""
    text = snakemake(folder, TINY | {"resources": ASKED}, "--dry-run", "-p", *arguments)
    found = re.findall(r"(?:ANATOMY_MEM_MB=(\d+) )?python -m pipeline (\w+)", text)
    return {command: memory and int(memory) for memory, command in found}


def test_jobs_that_have_budgets_are_told_what_they_asked_for(tmp_path):
    told = commands(begin(tmp_path), "--attempt", "3")
    assert (told["train"], told["spectrum"], told["theory"]) == (3000, 9000, 12000)
    assert {command for command, memory in told.items() if not memory} == {
        "select", "cube", "figure", "comparison"
    }  # fmt: skip
