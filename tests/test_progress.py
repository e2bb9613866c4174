"""What a job's log says of how far it is."""

import re

import pytest
import torch
from small_run import parts_of

from pipeline import progress as module
from pipeline.curvature import recorded
from pipeline.curvature.base import Dense
from pipeline.curvature.recorded import Recorded
from pipeline.curvature.watched import watched
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.progress import Progress
from pipeline.stages import Compute, Hierarchy, Layers, Spectrum
from pipeline.tasks import HierarchyJob, LayersJob, SpectrumJob

TOLD = {"compute": Compute(device="cpu"), "code": "test"}
# Stages of one part by job: the label, what is counted, in what number, where that is known.
JOBS = {
    "spectrum": (
        write_spectra,
        SpectrumJob(
            spectrum=Spectrum(matrices=("H",), top={"H": 2}, exact=0, steps=6, trace_probes=3),
            **TOLD,
        ),
        {"H eigenpairs, products": None, "H bulk, products": 6, "H traces, products": 3},
    ),
    "hierarchy": (
        write_hierarchies,
        HierarchyJob(hierarchy=Hierarchy(knockouts=("G-A1", "G-A1-A2-B1"), steps=6), **TOLD),
        # G, B2 that the second knockout is too, G-A1, and B2's ten classes.
        {"class pairs, classes": 10, "spectra of the levels, products": 6 * 13},
    ),
    "layers": (
        write_layers,
        LayersJob(layers=Layers(rank=4, full=4), **TOLD),
        {"fc1 eigenpairs, products": None, "whole Hess eigenpairs, products": None, "layers": 2},
    ),
}
LINE = re.compile(r"(.+): (\d+) of (at most )?(\d+), (?:at most )?\d+ s left(?: \((.+)\))?")


def lines_of(text):
    return [found.groups() for found in map(LINE.fullmatch, text.splitlines()) if found]


@pytest.mark.parametrize("cube", JOBS)
def test_the_log_of_one_part_counts_what_is_done_inside_it(cube, trained, capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOG_LINES", 0.0)
    write, job, stages = JOBS[cube]
    (part,) = parts_of(trained, cube).values()
    write([part], job)
    lines = lines_of(capsys.readouterr().err)
    for label, expected in stages.items():
        of_stage = [line for line in lines if line[0] == label]
        counts = [int(count) for _, count, *_ in of_stage]
        assert counts == sorted(counts), label
        _, last, at_most, total, _ = of_stage[-1]
        if expected is None:
            assert at_most, label
            assert int(last) <= int(total), label
        else:
            assert (int(last), int(total), at_most) == (expected, expected, None), label
    if cube == "layers":
        assert [line[4] for line in lines if line[0] == "layers"] == ["fc1", "fc2"]


def test_lines_come_no_oftener_than_every_few_seconds(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Progress(total=40, label="steps", final=True) as shown:
        for _ in range(40):
            now += 0.5
            shown.advance()
    assert [line[1] for line in lines_of(capsys.readouterr().err)] == ["10", "20", "30", "40"]


def test_of_several_processes_the_first_speaks(capsys, monkeypatch):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with Progress(total=1, label=f"rank {rank}", final=True) as shown:
            shown.advance()
    assert [line[0] for line in lines_of(capsys.readouterr().err)] == ["rank 0"]


def test_products_from_a_record_say_nothing_of_the_time_that_is_left(tmp_path, capsys, monkeypatch):
    now = 0.0

    class Slow(Dense):
        def matmat(self, V):
            nonlocal now
            now += 10.0
            return super().matmat(V)

    monkeypatch.setattr(recorded, "RECORD_ABOVE", 0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    matrix = torch.eye(3)
    for count in (3, 4):
        operator = Recorded(Slow(matrix), tmp_path / "products")
        with watched(operator, label="A", total=6) as A:
            for _ in range(count):
                A.matmat(torch.ones(3, 1))
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "A, products: 4 of 6, 20 s left"
