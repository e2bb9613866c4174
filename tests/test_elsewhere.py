"""What a GPU would refuse, or wait for, on an emulated device: tensors of two devices in one
operation, and numbers read by the host within an iteration.
"""

import contextlib
from functools import partial

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, emulated
from small_run import folder_of, job_of, parts_of

from pipeline.cubes.store import read_part
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.jobs import bounds, hierarchy, layers, overlap, parts, spectrum, theory, train
from pipeline.runs import Run, bounds_path, overlap_path, theory_path
from pipeline.spectra import lanczos_quadrature, top_eigenpairs
from pipeline.stages import Bounds, Compute, Hierarchy, Layers, Overlap, Spectrum, Theory
from pipeline.tasks import (
    BoundsJob,
    HierarchyJob,
    LayersJob,
    OverlapJob,
    SpectrumJob,
    TheoryJob,
)

# It says that nothing is copied to a network on meta; here it is.
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")

OPERATORS = {
    "Hess": hessian,
    "G": gauss_newton,
    "H": residual,
    "B1": lambda model, data, **how: component(model, data, name="B1", **how),
}


@pytest.fixture
def waits(monkeypatch):
    with emulated(monkeypatch) as found:
        yield found


def moved(problem):
    model, inputs, labels = problem
    return model.to(ELSEWHERE), (inputs.to(ELSEWHERE), labels.to(ELSEWHERE))


def test_the_emulated_device_refuses_what_a_gpu_would(waits):
    there, here = torch.ones(3, 2, device=ELSEWHERE), torch.ones(2, 3)
    assert isinstance(there, Elsewhere)
    assert torch.equal((there @ here.to(ELSEWHERE)).cpu(), torch.full((3, 3), 2.0))
    with pytest.raises(RuntimeError, match="tensors of two devices"):
        there @ here
    waits.clear()
    assert float(there.sum()) == 6
    assert len(there[there > 0].cpu()) == 6
    assert len(waits) == 3


def hold_to_the_cpu(make, problem, monkeypatch):
    """Hold an operator's product to the CPU's; it may wait for nothing."""
    model, *data = problem
    expected = make(model, tuple(data))
    V = torch.randn(expected.shape[0], 3, dtype=torch.float64)
    with emulated(monkeypatch) as waits:
        there = make(*moved(problem))
        assert getattr(there, "kept", None) == getattr(expected, "kept", None)
        W = V.to(ELSEWHERE)
        waits.clear()
        found = there @ W
        assert not waits
        assert torch.allclose(found.cpu(), expected @ V, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("memory_gb", [None, 0.0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_product_meets_no_other_device_and_waits_for_nothing(
    problem, name, memory_gb, monkeypatch
):
    make = partial(OPERATORS[name], chunk=5, memory_gb=memory_gb)
    hold_to_the_cpu(make, problem, monkeypatch)


def test_nor_does_a_layers_product(one_problem, monkeypatch):
    hold_to_the_cpu(partial(layer_hessian, layer="conv"), one_problem, monkeypatch)


def test_iterations_wait_for_nothing(one_problem, monkeypatch):
    plain = hessian(one_problem[0], one_problem[1:])
    nodes = lanczos_quadrature(plain, steps=16, seeds=range(2)).nodes
    pairs = top_eigenpairs(plain, 3, tolerance=1e-8, basis=12)
    with emulated(monkeypatch) as waits:
        there = hessian(*moved(one_problem))
        counts = []
        for steps in (8, 16):
            waits.clear()
            found = lanczos_quadrature(there, steps=steps, seeds=range(2))
            counts.append(len(waits))
        assert counts[0] == counts[1]
        waits.clear()
        same = top_eigenpairs(there, 3, tolerance=1e-8, basis=12)
        assert same.products > 24
        assert waits  # looks at convergence, now and then
        assert not any({"expand", "matmat"} & set(functions) for functions in waits)
    assert np.allclose(found.nodes, nodes, atol=1e-12)
    assert np.allclose(same.values, pairs.values, rtol=1e-10)


def test_training_ends_where_it_does_on_a_cpu(tmp_path, monkeypatch):
    ends = {}
    for place in ("here", "there"):
        folder = folder_of(tmp_path / place)
        with contextlib.ExitStack() as stack:
            if place == "there":
                stack.enter_context(emulated(monkeypatch))
                on_the_device(monkeypatch, train)
                monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
            train.train_run(folder, job_of(), save_every=1e9)
        ends[place] = (folder / "checkpoints" / "epoch30.safetensors").read_bytes()
    assert ends["here"] == ends["there"]


def on_the_device(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setattr(module, "prepare", lambda _compute: ELSEWHERE)


def same(found, expected):
    """Hold every variable to the CPU's: to what eigenpairs' tolerance leaves of it, signs apart."""
    assert set(found) == set(expected)
    for name, values in expected.items():
        if "residual" in name:
            continue
        one, other = (np.abs(np.asarray(x.values, dtype=float)) for x in (found[name], values))
        assert np.array_equal(np.isnan(one), np.isnan(other)), name
        scale = np.nanmax(other, initial=0)
        assert np.allclose(one, other, rtol=0, atol=1e-3 * scale + 1e-4, equal_nan=True), name


COMPUTE = Compute(device="cpu", dtype="float64", chunk=40)
JOBS = {
    "spectrum": (
        spectrum.write_spectra,
        SpectrumJob(
            spectrum=Spectrum(top={"Hess": 6, "G": 6, "H": 2}, exact=0, steps=8, trace_probes=3),
            compute=COMPUTE,
            code="test",
        ),
    ),
    "hierarchy": (
        hierarchy.write_hierarchies,
        HierarchyJob(
            hierarchy=Hierarchy(
                splits=("train",), knockouts=("G-A1",), probes=1, steps=6, trace_probes=2
            ),
            compute=COMPUTE,
            code="test",
        ),
    ),
    "layers": (
        layers.write_layers,
        LayersJob(layers=Layers(rank=12, full=6), compute=COMPUTE, code="test"),
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_part_is_the_cpus(trained, name, monkeypatch):
    write, job = JOBS[name]
    file = parts_of(trained, name)[30, "train"]
    write([file], job)
    expected = read_part(file)
    file.unlink()
    with emulated(monkeypatch):
        on_the_device(monkeypatch, parts)
        write([file], job)
    same(read_part(file), expected)


@pytest.fixture
def two_seeds(tmp_path):
    folders = [folder_of(tmp_path, norm="none", seed=seed) for seed in (0, 1)]
    for folder in folders:
        train.train_run(folder, job_of(), save_every=1e9)
        write, job = JOBS["layers"]
        write([parts_of(folder, "layers")[30, "train"]], job)
    return tmp_path, folders


def test_overlaps_bounds_and_theory_are_the_cpus(two_seeds, monkeypatch):
    root, folders = two_seeds
    run = Run.from_path(folders[0])
    bound = BoundsJob(
        bounds=Bounds(methods=("iter",), epochs=11, batch=30, samples=20),
        compute=COMPUTE,
        code="test",
    )
    pairs = OverlapJob(
        results=str(root),
        dataset=run.dataset,
        model=run.model,
        norm=run.norm,
        seeds=((run.recipe, run.n_per_class, (0, 1)),),
        checkpoints={run.recipe: (30,)},
        splits=("train",),
        overlap=Overlap(),
        compute=COMPUTE,
        code="test",
    )
    small = Theory(widths=(16, 32), seeds=(0,), examples=50)
    limit = TheoryJob(results=str(root), theory=small, compute=COMPUTE, code="test")
    made = {
        bounds_path(root, run, "iter"): lambda file: bounds.write_bound(
            file, bound, save_every=1e9
        ),
        overlap_path(root, run.dataset, run.model, run.norm): lambda _: overlap.write_overlaps(
            pairs
        ),
        theory_path(root): lambda _: theory.write_theory(limit),
    }
    expected = {}
    for file, write in made.items():
        write(file)
        expected[file] = read_part(file)
        file.unlink()
    with emulated(monkeypatch):
        on_the_device(monkeypatch, bounds, overlap, theory)
        for file, write in made.items():
            write(file)
    for file, values in expected.items():
        same(read_part(file), values)
