"""What jobs ask of a scheduler, and are told of it."""

import re

from workflow import TINY, begin, snakemake

from pipeline.stages import Resources

ASKED = {"train": {"mem_mb": 1000}, "spectrum": {"mem_mb": 3000, "most_mem_mb": 7000}}


def commands(folder, *arguments):
    """Return the memory that jobs are told of, by their subcommand, from a dry run."""
    text = snakemake(folder, TINY | {"resources": ASKED}, "--dry-run", "-p", *arguments)
    found = re.findall(r"(?:ANATOMY_MEM_MB=(\d+) )?python -m pipeline (\w+)", text)
    return {command: memory and int(memory) for memory, command in found}


def test_jobs_that_have_budgets_are_told_what_they_asked_for(tmp_path):
    told = commands(begin(tmp_path), "--attempt", "3")
    assert (told["train"], told["spectrum"], told["theory"]) == (3000, 7000, 12000)
    assert {command for command, memory in told.items() if not memory} == {
        "select", "cube", "figure", "comparison"
    }  # fmt: skip


def test_an_attempt_asks_for_more_up_to_the_most():
    asked = Resources(mem_mb=1000, runtime=30, most_mem_mb=2500, most_runtime=30)
    assert [asked.at("mem_mb", attempt) for attempt in (1, 2, 3)] == [1000, 2000, 2500]
    assert [asked.at("runtime", attempt) for attempt in (1, 2, 3)] == [30, 30, 30]
    assert Resources(mem_mb=1000).at("mem_mb", 3) == 3000
