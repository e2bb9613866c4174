import numpy as np
import pytest
import torch
from test_training import RECIPE, folder_of, job_of

from pipeline import open_run
from pipeline.atomic import sha256
from pipeline.config import Compute, Spectrum
from pipeline.cubes.store import read_part
from pipeline.jobs import spectrum as job_module
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run
from pipeline.runs import Run, part_path
from pipeline.tasks import SpectrumJob

JOB = SpectrumJob(
    epochs=(3, 30),
    spectrum=Spectrum(top={"Hess": 12, "G": 12, "H": 2}, steps=20, probes=2, trace_probes=20),
    compute=Compute(device="cpu", dtype="float64", chunk=40),
    code="test",
)


def only(matrix):
    """Return the job for one matrix alone, which is faster."""
    settings = JOB.spectrum.model_copy(update={"matrices": (matrix,)})
    return JOB.model_copy(update={"spectrum": settings})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("runs"))
    train_run(folder, job_of(RECIPE), save_every=1e9)
    return folder


def parts(folder):
    root, run = folder.parents[6], Run.from_path(folder)
    return {
        (epoch, split): part_path(root, run, epoch, split, "spectrum")
        for epoch in JOB.epochs
        for split in ("train", "test")
    }


def test_parts_agree_with_dense_matrices(trained):
    write_spectra(trained, JOB)
    run = open_run(trained, 30, dtype=torch.float64)
    found = read_part(parts(trained)[30, "train"])
    for name, operator in job_module.OPERATORS.items():
        matrix = operator(run.model, run.train) @ torch.eye(610, dtype=torch.float64)
        exact = np.linalg.eigvalsh(matrix.numpy())[::-1]
        one = found.sel(matrix=name)
        assert int(one.dimension) == len(exact)
        sure = one.converged.values == 1
        assert sure.sum() >= (10 if name != "H" else 2)
        assert np.allclose(one.eigenvalue.values[sure], exact[: sure.sum()], atol=1e-4 * exact[0])
        assert abs(float(one.trace) - exact.sum()) < 5 * float(one.trace_stderr) + 1e-12
        # Deflated eigenvalues and quadrature together hold the whole spectrum's second moment.
        left = (len(exact) - sure.sum()) * (one.ritz_weight * one.ritz_value**2).sum("node")
        moments = left + np.square(exact[: sure.sum()]).sum()
        assert float(moments.mean()) == pytest.approx(np.square(exact).sum(), rel=0.5)


def test_an_interrupted_job_keeps_its_finished_parts(trained, monkeypatch):
    write_spectra(trained, only("G"))
    whole = {place: sha256(path) for place, path in parts(trained).items()}
    for path in parts(trained).values():
        path.unlink()
    written = []
    original = job_module.write_part

    def counted(part, path):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        original(part, path)

    monkeypatch.setattr(job_module, "write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        write_spectra(trained, only("G"))
    assert not any(path.exists() for path in parts(trained).values())
    again = []
    monkeypatch.setattr(
        job_module, "write_part", lambda part, path: (again.append(path), original(part, path))
    )
    write_spectra(trained, only("G"))
    assert len(again) == 3
    assert {place: sha256(path) for place, path in parts(trained).items()} == whole


def test_chunk_size_and_threads_change_rounding_only(trained):
    results = []
    for chunk, threads in ((40, 1), (90, 1), (40, 2)):
        compute = Compute(device="cpu", dtype="float64", chunk=chunk, threads=threads)
        write_spectra(trained, only("Hess").model_copy(update={"compute": compute}))
        results.append(read_part(parts(trained)[30, "train"]).eigenvalue.values)
    torch.set_num_threads(1)
    assert np.allclose(results[0], results[1], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert np.allclose(results[0], results[2], rtol=1e-9, atol=1e-12, equal_nan=True)
