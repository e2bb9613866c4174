"""The hierarchy job against a dense recomputation on a trained network."""

import numpy as np
import pytest
import torch
from reference import dense_gauss_newton, dense_levels
from small_run import parts_of

from pipeline import open_run
from pipeline.anatomy.embedding import embed
from pipeline.anatomy.hierarchy import Network, chosen_classes, hierarchy
from pipeline.atomic import sha256
from pipeline.cubes.store import read_part
from pipeline.curvature import recorded
from pipeline.curvature.components import Component
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.stages import Compute, Hierarchy
from pipeline.tasks import HierarchyJob

JOB = HierarchyJob(
    hierarchy=Hierarchy(splits=("train",), knockouts=("G-A1", "G-A1-A2-B1"), probes=12, steps=40),
    compute=Compute(device="cpu", dtype="float64", chunk=40),
    code="test",
)
LEVELS = ("A1", "A2", "B1", "B2")


def part_of(folder):
    return parts_of(folder, "hierarchy")[30, "train"]


def network_of(run, settings, room=2**30):
    return Network(run.model, run.train, 10, settings, seed=0, room=room)


@pytest.fixture(scope="module")
def found(trained):
    write_hierarchies([part_of(trained)], JOB)
    return read_part(part_of(trained))


@pytest.fixture(scope="module")
def exact(trained):
    run = open_run(trained, 30, dtype=torch.float64)
    levels = dense_levels(run.model, run.train.inputs, run.train.labels)
    return levels | {"G": dense_gauss_newton(run.model, run.train.inputs)}


def eigenvalues(matrix):
    return torch.linalg.eigvalsh(matrix).flip(0).numpy()


def test_eigenvalues_and_traces_are_the_dense_ones(found, exact):
    for name, count in (("A1", 10), ("A2", 10), ("B1", 80)):
        values = found.component_eigenvalue.sel(component=name).dropna("order").values
        assert len(values) == count
        expected = eigenvalues(exact[name])[:count]
        assert values == pytest.approx(expected, rel=1e-6, abs=1e-10 * expected[0])
    for name, matrix in exact.items():
        assert float(found.component_trace.sel(component=name)) == pytest.approx(
            float(matrix.trace())
        )
    assert not found.component_trace_stderr.any()
    assert float(found.within_trace.sum()) == pytest.approx(float(exact["B2"].trace()))
    assert float(found.probability.sum()) == pytest.approx(1)
    assert float(found.identity_error) < 1e-13


def test_quadratures_have_the_dense_moments_and_largest_eigenvalues(found, exact):
    knockouts = {"G-A1": exact["G"] - exact["A1"], "G-A1-A2-B1": exact["B2"]}
    cases = [("component_ritz", {"component": name}, exact[name]) for name in ("G", "B2")]
    cases += [("knockout_ritz", {"knockout": name}, m) for name, m in knockouts.items()]
    for prefix, at, matrix in cases:
        nodes = found[f"{prefix}_value"].sel(at).values
        weights = found[f"{prefix}_weight"].sel(at).values
        assert np.nansum(weights, 1) == pytest.approx(1)
        assert np.nanmax(nodes, 1) == pytest.approx(eigenvalues(matrix)[0], rel=1e-3)
        trace = len(matrix) * np.nansum(nodes * weights, 1).mean()
        assert trace == pytest.approx(float(matrix.trace()), rel=0.2)
    for c in ("0", "7"):
        assert np.isfinite(found.class_ritz_value.sel(true_class=c)).any()
    # What is B2 by another name is not made twice.
    again = found.knockout_ritz_value.sel(knockout="G-A1-A2-B1").values
    assert np.array_equal(
        again, found.component_ritz_value.sel(component="B2").values, equal_nan=True
    )


def test_estimated_traces_agree_with_exact_ones(trained, exact):
    run = open_run(trained, 30, dtype=torch.float64)
    settings = Hierarchy(exact=0, trace_probes=400, steps=2, knockouts=())
    made = hierarchy(Network(run.model, run.train, 10, settings, seed=0, room=2**30))
    for name in ("B2", "G"):
        estimate = made.traces[name]
        assert 0 < estimate.error < 0.1 * estimate.value
        assert abs(estimate.value - float(exact[name].trace())) < 4 * estimate.error
    assert not made.traces["A1"].error


def test_of_many_classes_some_are_chosen_and_large_matrices_are_estimated(trained, exact):
    run = open_run(trained, 30, dtype=torch.float64)
    settings = Hierarchy(classes=4, steps=30, probes=2, trace_probes=300, knockouts=())
    made = hierarchy(Network(run.model, run.train, 10, settings, seed=0, room=2**30))
    chosen = chosen_classes(10, 4)
    assert len(set(chosen)) == 4
    assert chosen == chosen_classes(10, 4)
    assert sorted(made.of_class) == chosen
    assert made.pairs.pairs[:4] == tuple((chosen[0], k) for k in chosen)
    assert made.embedding.coordinates.shape == (4 + 16, 2)
    assert made.eigenvalues["B1"] == pytest.approx(eigenvalues(exact["B1"])[:80], abs=1e-9)
    # With room for some 30,000 numbers the Gram matrix of all pairs does not fit.
    tight = hierarchy(network_of(run, settings, room=250_000))
    assert "B1" not in tight.eigenvalues
    assert tight.eigenvalues["A1"] == pytest.approx(eigenvalues(exact["A1"])[:10], rel=1e-9)
    assert tight.quadratures["B1"].nodes.max() == pytest.approx(eigenvalues(exact["B1"])[0])
    assert tight.traces["B1"].value == pytest.approx(float(exact["B1"].trace()), rel=0.5)


def test_an_interrupted_job_goes_on_and_ends_identical(trained, found, monkeypatch, capsys):
    whole = sha256(part_of(trained))
    part_of(trained).unlink()
    monkeypatch.setattr(recorded, "RECORD_ABOVE", 0.0)
    original, made, limit = Component._sum, 0, 60

    def broken(self, rows):
        nonlocal made
        made += 1
        if made > limit:
            raise KeyboardInterrupt
        return original(self, rows)

    monkeypatch.setattr(Component, "_sum", broken)
    with pytest.raises(KeyboardInterrupt):
        write_hierarchies([part_of(trained)], JOB)
    made, limit = 0, 10**6
    write_hierarchies([part_of(trained)], JOB)
    assert sha256(part_of(trained)) == whole
    assert "going on after" in capsys.readouterr().err
    resumed, made = made, 0
    write_hierarchies([part_of(trained)], JOB)
    assert resumed < made - 40


def test_a_diverged_network_leaves_an_empty_part(trained, monkeypatch, capsys):
    monkeypatch.setattr(Component, "_sum", lambda self, rows: rows * float("nan"))
    job = JOB.model_copy(update={"code": "other"})
    write_hierarchies([part_of(trained)], job)
    assert "taken as diverged" in capsys.readouterr().err
    part = read_part(part_of(trained))
    assert "component_eigenvalue" not in part
    assert float(part.classes) == 10


def test_an_embedding_keeps_groups_together_and_leaves_out_zeros():
    draw = np.random.default_rng(0)
    rows = np.repeat(np.eye(3) * 10, 8, axis=0) + 0.1 * draw.standard_normal((24, 3))
    rows[5] = 0
    found = embed(rows @ rows.T, perplexity=5, seed=1)
    assert np.isnan(found.coordinates[5]).all()
    groups = np.delete(found.coordinates, 5, axis=0).reshape(23, 2)
    labels = np.delete(np.repeat(np.arange(3), 8), 5)
    within = max(np.ptp(groups[labels == c], axis=0).max() for c in range(3))
    centres = np.stack([groups[labels == c].mean(0) for c in range(3)])
    apart = min(np.linalg.norm(centres[a] - centres[b]) for a in range(3) for b in range(a))
    assert apart > 1.5 * within
    assert np.isnan(embed(np.eye(3), perplexity=5, seed=1).coordinates).all()
    again = embed(rows @ rows.T, perplexity=5, seed=1)
    assert np.array_equal(found.coordinates, again.coordinates, equal_nan=True)
