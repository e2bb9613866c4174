"""Parts are equal in every byte whatever memory a job has, or the job is refused."""

import pytest
import torch
from small_run import folder_of, job_of, parts_of

from pipeline.anatomy.spectrum import matrix_spectrum
from pipeline.atomic import sha256
from pipeline.config import FNet, LeNet5
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, memory, residual
from pipeline.curvature.base import Dense
from pipeline.curvature.problem import Problem
from pipeline.device import all_memory
from pipeline.errors import TooLittleMemoryError
from pipeline.jobs.bounds import write_bound
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.overlap import write_overlaps
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.theory import write_theory
from pipeline.jobs.train import train_run
from pipeline.models.lenet import lenet5
from pipeline.recipes import Recipe
from pipeline.runs import Run, bounds_path, overlap_path, theory_path
from pipeline.stages import Bounds, Compute, Hierarchy, Layers, Overlap, Spectrum, Theory
from pipeline.tasks import (
    BoundsJob,
    HierarchyJob,
    LayersJob,
    OverlapJob,
    SpectrumJob,
    TheoryJob,
)

# MB of a Slurm job.  A tenth of the first is a pass over 12 examples of LeNet5 with one vector.
LITTLE, MUCH = 60, 20_000
MODELS = {
    "lenet5": LeNet5(family="lenet5"),
    "fnet": FNet(family="fnet", width=100, depth=2),
}
RECIPE = Recipe(lr=0.05, batch=16, epochs=1, checkpoints=(0, 1))
TOLD = {"compute": Compute(device="cpu"), "code": "test"}
SPECTRUM = Spectrum(
    top={"Hess": 3, "G": 3, "H": 2}, exact=0, steps=8, probes=5, trace_probes=9, tolerance=0.05
)
STAGES = {
    "spectrum": (write_spectra, SpectrumJob(spectrum=SPECTRUM, **TOLD)),
    "hierarchy": (
        write_hierarchies,
        HierarchyJob(hierarchy=Hierarchy(steps=6, probes=3, trace_probes=9, exact=0), **TOLD),
    ),
    "layers": (
        write_layers,
        LayersJob(layers=Layers(rank=4, full=3, probes=9, names=("fc2", "fc3")), **TOLD),
    ),
}


def give(monkeypatch, megabytes):
    """Emulate a Slurm job of so much memory."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("ANATOMY_MEM_MB", str(megabytes))
    assert all_memory(torch.device("cpu")) <= megabytes * 2**20


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """Return two trained seeds of a network with BN; the first."""
    root = tmp_path_factory.mktemp("results")
    job = job_of(RECIPE).model_copy(update={"model": MODELS[request.param]})
    for seed in (1, 0):
        train_run(folder_of(root, seed=seed), job, save_every=1e9)
    return folder_of(root)


def digests(monkeypatch, file, make):
    """Return the checksum of ``file`` as jobs of little and of much memory make it."""
    found = []
    for megabytes in (LITTLE, MUCH):
        give(monkeypatch, megabytes)
        file.unlink(missing_ok=True)
        make()
        found.append(sha256(file))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_part_does_not_depend_on_the_jobs_memory(folder, stage, monkeypatch):
    write, job = STAGES[stage]
    part = parts_of(folder, stage, epochs=(1,))[1, "train"]
    little, much = digests(monkeypatch, part, lambda: write([part], job))
    assert little == much


def test_nor_does_an_overlap(folder, monkeypatch):
    root = folder.parents[6]
    for seed in (0, 1):
        part = parts_of(folder_of(root, seed=seed), "layers", epochs=(1,))[1, "train"]
        write_layers([part], STAGES["layers"][1])
    job = OverlapJob(
        results=str(root),
        dataset="digits",
        model="small",
        norm="batch",
        seeds=(("sgd", 9, (0, 1)),),
        checkpoints={"sgd": (1,)},
        splits=("train",),
        overlap=Overlap(),
        **TOLD,
    )
    file = overlap_path(root, "digits", "small", "batch")

    def make():
        for kept in (file.parent / ".overlap").glob("*"):
            kept.unlink()
        write_overlaps(job)

    little, much = digests(monkeypatch, file, make)
    assert little == much


@pytest.mark.parametrize("model", MODELS)
def test_nor_does_a_bound(model, tmp_path, monkeypatch):
    folder = folder_of(tmp_path, norm="none")
    train_run(folder, job_of(RECIPE).model_copy(update={"model": MODELS[model]}), save_every=1e9)
    file = bounds_path(tmp_path, Run.from_path(folder), "appr")
    settings = Bounds(methods=("appr",), epochs=1, batch=40, samples=5)
    job = BoundsJob(bounds=settings, **TOLD)
    little, much = digests(monkeypatch, file, lambda: write_bound(file, job, save_every=1e9))
    assert little == much


def test_nor_does_the_theory(tmp_path, monkeypatch):
    job = TheoryJob(
        results=str(tmp_path), theory=Theory(widths=(32, 64), seeds=(0,), examples=100), **TOLD
    )
    little, much = digests(monkeypatch, theory_path(tmp_path), lambda: write_theory(job))
    assert little == much


OPERATORS = {
    "Hess": hessian,
    "G": gauss_newton,
    "H": residual,
    "B1": lambda *given, **how: component(*given, name="B1", **how),
    "layer": lambda *given, **how: layer_hessian(*given, layer="fc2", **how),
}


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    model = lenet5((1, 32, 32), 10, "batch").eval()
    return model, (torch.randn(90, 1, 32, 32), torch.arange(90) % 10)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_grouping_of_examples_and_vectors_is_configured(lenet, name, monkeypatch):
    made = []
    for megabytes in (LITTLE, MUCH):
        give(monkeypatch, megabytes)
        made.append(OPERATORS[name](*lenet))
    V = torch.randn(made[0].shape[0], 9)
    assert made[0].vectors == made[1].vectors == 8
    assert (made[0].kept, len(made[0].products)) == (made[1].kept, len(made[1].products)) == (1, 1)
    assert torch.equal(made[0] @ V, made[1] @ V)


def test_a_pass_that_does_not_fit_the_job_is_refused(lenet, monkeypatch):
    give(monkeypatch, 10)
    with pytest.raises(
        TooLittleMemoryError, match=r"90 examples with 8 vectors .* Lower compute\.chunk or"
    ):
        Problem(*lenet)
    assert Problem(*lenet, chunk=10, vectors=1).vectors == 1


def test_chunks_to_keep_that_do_not_fit_the_job_are_refused(lenet, monkeypatch):
    give(monkeypatch, 3)
    how = {"chunk": 10, "vectors": 1}
    with pytest.raises(TooLittleMemoryError, match=r"keeping \d .* Lower compute\.memory_gb"):
        hessian(*lenet, **how)
    assert hessian(*lenet, memory_gb=0.002, **how).kept > 0


def test_a_basis_that_does_not_fit_the_job_is_refused(monkeypatch):
    operator = Dense(torch.diag(torch.arange(400.0)))
    settings = Spectrum(top={"Hess": 30, "G": 3, "H": 2}, steps=50)
    how = {"seed": 0, "basis_bytes": 2**30}
    monkeypatch.setattr(memory, "all_memory", lambda _device: 250_000)
    with pytest.raises(TooLittleMemoryError, match=r"Krylov basis .* Lower compute\.basis_gb"):
        matrix_spectrum(operator, "Hess", settings, **how)
    how["basis_bytes"] = 249_000
    assert matrix_spectrum(operator, "Hess", settings, **how).pairs.converged.all()


def test_a_layer_that_does_not_fit_the_job_is_not_left_out(folder, monkeypatch):
    part = parts_of(folder, "layers", epochs=(1,))[1, "train"]
    monkeypatch.setattr(memory, "all_memory", lambda _device: 50_000)
    with pytest.raises(TooLittleMemoryError):
        write_layers([part], LayersJob(layers=Layers(rank=4, full=3), **TOLD))
