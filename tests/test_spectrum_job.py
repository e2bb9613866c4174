import json

import numpy as np
import pytest
import torch
from small_run import parts_of

from pipeline import open_run
from pipeline.anatomy.spectrum import dense_spectrum
from pipeline.atomic import sha256
from pipeline.cubes.store import read_part
from pipeline.curvature import recorded
from pipeline.curvature.base import Dense
from pipeline.curvature.chunked import ChunkSum
from pipeline.curvature.gram import gauss_newton_factors
from pipeline.errors import AnatomyError
from pipeline.jobs import parts as parts_module
from pipeline.jobs import spectrum as job_module
from pipeline.jobs.spectrum import write_spectra
from pipeline.scratch import scratch_path
from pipeline.stages import Compute, Spectrum
from pipeline.tasks import Access, SpectrumJob

JOB = SpectrumJob(
    spectrum=Spectrum(
        top={"Hess": 12, "G": 12, "H": 2}, exact=0, steps=20, probes=12, trace_probes=20
    ),
    compute=Compute(device="cpu", dtype="float64", chunk=40),
    code="test",
)


def only(matrix):
    """Return the job for one matrix alone, which is faster."""
    settings = JOB.spectrum.model_copy(update={"matrices": (matrix,)})
    return JOB.model_copy(update={"spectrum": settings})


def parts(folder, epochs=(3, 30)):
    return parts_of(folder, "spectrum", epochs, ("train", "test"))


def write(folder, job, epochs=(3, 30)):
    write_spectra(list(parts(folder, epochs).values()), job)


def test_parts_agree_with_dense_matrices(trained):
    write(trained, JOB)
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
        for degree in (1, 2):
            moment = one.sel(degree=degree)
            spread = float(moment.moment_stderr) + 1e-3 * (exact**2).sum()
            assert abs(float(moment.moment) - (exact**degree).sum()) < 5 * spread
        square = float(one.square_trace)
        assert abs(square - (exact**2).sum()) < 5 * float(one.square_trace_stderr) + 1e-12
        if name != "G":
            lowest = one.bottom_eigenvalue.values
            assert np.allclose(lowest, exact[::-1][:2], atol=1e-3 * exact[0])
        assert float(one.basis_kept) == 20
        if name != "H":  # of which fewer pairs are sought than a count needs
            assert float(one.bulk_edge_low) <= float(one.bulk_edge) <= float(one.bulk_edge_high)
        else:
            assert np.isnan([one.bulk_edge, one.outlier_count]).all()
        assert float(one.exact) == 0


def test_small_matrices_are_solved_whole(trained):
    # 610 parameters: dense.  G has examples x classes factors, fewer on the test split: Gram.
    job = JOB.model_copy(update={"spectrum": JOB.spectrum.model_copy(update={"exact": 1000})})
    write(trained, job, (30,))
    run = open_run(trained, 30, dtype=torch.float64)
    for split in ("train", "test"):
        found = read_part(parts(trained)[30, split])
        for name, operator in job_module.OPERATORS.items():
            data = getattr(run, split)
            matrix = operator(run.model, data) @ torch.eye(610, dtype=torch.float64)
            expected = np.linalg.eigvalsh(matrix.numpy())[::-1]
            one = found.sel(matrix=name)
            assert float(one.exact) == 1
            values = one.eigenvalue.values[np.isfinite(one.eigenvalue.values)]
            assert np.allclose(values, expected[: len(values)], atol=1e-12 * expected[0])
            assert np.allclose(expected[len(values) :], 0, atol=1e-12 * expected[0])
            assert float(one.trace) == pytest.approx(expected.sum(), abs=1e-10)
            assert float(one.trace_stderr) == 0
            if name == "H":
                # A ReLU network is piecewise linear in each weight: H's diagonal is zero.
                assert expected[0] > 0.01
                assert abs(float(one.trace)) < 1e-12
            measured = one.residual.values[: JOB.spectrum.top[name]]
            assert (measured < 1e-12 * expected[0]).all()


def test_gram_factors_are_of_g(trained):
    run = open_run(trained, 30, dtype=torch.float64)
    data = (run.test.inputs[:33], run.test.labels[:33])
    rows = gauss_newton_factors(run.model, data).rows
    G = job_module.OPERATORS["G"](run.model, data) @ torch.eye(610, dtype=torch.float64)
    assert torch.allclose(rows.T @ rows, G, atol=1e-13 * float(G.norm()))


def test_a_basis_that_does_not_fit_is_recorded_and_pairs_are_refused(trained):
    bytes_per_vector = 610 * 8
    compute = JOB.compute.model_copy(update={"basis_gb": 35 * 2 * bytes_per_vector / 2**30})
    settings = JOB.spectrum.model_copy(update={"steps": 90, "matrices": ("G",)})
    job = JOB.model_copy(update={"compute": compute, "spectrum": settings})
    write(trained, job, (30,))
    found = read_part(parts(trained)[30, "train"]).sel(matrix="G")
    assert float(found.basis_kept) == 70
    assert found.sizes["node"] == 90
    moment = found.sel(degree=1)
    assert abs(float(moment.moment - moment.trace)) < 5 * float(moment.trace_stderr) + 1e-6
    compute = JOB.compute.model_copy(update={"basis_gb": 10 * bytes_per_vector / 2**30})
    with pytest.raises(AnatomyError, match=r"Raise compute\.basis_gb or lower spectrum\.top"):
        write(trained, job.model_copy(update={"compute": compute}), (30,))


def test_a_killed_job_goes_on_within_a_matrix_and_ends_identical(trained, monkeypatch):
    monkeypatch.setattr(recorded, "RECORD_ABOVE", 0.0)
    job = only("Hess")
    write(trained, job, (30,))
    whole = sha256(parts(trained)[30, "train"])
    counts = {"made": 0, "dies_at": 25}
    original = ChunkSum.matmat

    def counted(self, V):
        if counts["made"] == counts["dies_at"]:
            raise KeyboardInterrupt
        counts["made"] += 1
        return original(self, V)

    parts(trained)[30, "train"].unlink()
    monkeypatch.setattr(ChunkSum, "matmat", counted)
    with pytest.raises(KeyboardInterrupt):
        write(trained, job, (30,))
    first, counts["dies_at"] = counts["made"], 10**9
    counts["made"] = 0
    write(trained, job, (30,))
    again = counts["made"]
    counts["made"] = 0
    write(trained, job, (30,))
    assert again == counts["made"] - first
    assert sha256(parts(trained)[30, "train"]) == whole


def test_what_an_older_network_left_is_not_taken(trained, monkeypatch):
    monkeypatch.setattr(recorded, "RECORD_ABOVE", 0.0)
    job = only("G")
    write(trained, job)
    good = {place: sha256(path) for place, path in parts(trained).items()}
    # As if a job had been killed after an earlier training of the same run.
    for path in parts(trained).values():
        scratch = scratch_path(path.parent, job)
        scratch.mkdir(parents=True)
        (scratch / f"{16 * '0'}.zarr.zip").write_bytes(b"old")
        path.unlink()
    write(trained, job)
    assert {place: sha256(path) for place, path in parts(trained).items()} == good


def test_what_was_found_on_other_data_is_not_taken(trained):
    job, file = only("G"), parts(trained)[30, "train"]
    write(trained, job, (30,))
    first = file.read_bytes()
    scratch = scratch_path(file.parent, job)
    scratch.mkdir()
    (scratch / f"{open_run(trained, 30).key}.zarr.zip").write_bytes(first)
    file.unlink()
    # As if its network had come out the same on images that are normalised otherwise.
    told = trained / "run.json"
    text = told.read_text()
    record = json.loads(text)
    record["provenance"]["settings"]["dataset"] |= {"mean": [0.9], "std": [2.0]}
    told.write_text(json.dumps(record))
    write(trained, job, (30,))
    told.write_text(text)
    assert file.read_bytes() != first
    assert not scratch.exists()


def test_products_that_are_not_finite_are_a_result(trained, monkeypatch, capsys):
    def broken(self, V):
        return torch.full_like(V, torch.nan)

    monkeypatch.setattr(ChunkSum, "matmat", broken)
    for exact in (0, 1000):
        settings = JOB.spectrum.model_copy(update={"exact": exact})
        write(trained, JOB.model_copy(update={"spectrum": settings}), (30,))
        part = read_part(parts(trained)[30, "train"])
        assert "trace" not in part
        assert float(part.classes) == 10
    assert "taken as diverged, products are not finite" in capsys.readouterr().err


def test_an_interrupted_job_keeps_its_finished_parts(trained, monkeypatch):
    write(trained, only("G"))
    whole = {place: sha256(path) for place, path in parts(trained).items()}
    for path in parts(trained).values():
        path.unlink()
    written = []
    original = parts_module.write_part

    def counted(part, path):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        original(part, path)

    monkeypatch.setattr(parts_module, "write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        write(trained, only("G"))
    assert not any(path.exists() for path in parts(trained).values())
    again = []
    monkeypatch.setattr(
        parts_module, "write_part", lambda part, path: (again.append(path), original(part, path))
    )
    write(trained, only("G"))
    assert len(again) == 3
    assert {place: sha256(path) for place, path in parts(trained).items()} == whole


HARMS = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[:-9],
    "lost a block": lambda data: data[: len(data) // 2] + bytes(512) + data[len(data) // 2 + 512 :],
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_part_in_scratch_that_is_not_whole_is_made_anew(trained, capsys, harm):
    job, file = only("G"), parts(trained)[30, "train"]
    write(trained, job, (30,))
    whole = file.read_bytes()
    waiting = scratch_path(file.parent, job) / f"{open_run(trained, 30).key}.zarr.zip"
    waiting.parent.mkdir()
    waiting.write_bytes(HARMS[harm](whole))
    file.unlink()
    write(trained, job, (30,))
    assert file.read_bytes() == whole
    assert f"{waiting}, left in scratch, is not whole" in capsys.readouterr().err


def test_parts_made_one_by_one_are_those_made_together(trained):
    write(trained, only("G"))
    together = {place: sha256(path) for place, path in parts(trained).items()}
    for path in parts(trained).values():
        path.unlink()
        write_spectra([path], only("G"))
    assert {place: sha256(path) for place, path in parts(trained).items()} == together


def test_chunk_size_threads_and_vectors_change_rounding_only(trained):
    results = []
    for chunk, threads, vectors in ((40, 1, 8), (90, 1, 8), (40, 2, 8), (40, 1, 1)):
        compute = Compute(
            device="cpu", dtype="float64", chunk=chunk, threads=threads, vectors=vectors
        )
        write(trained, only("Hess").model_copy(update={"compute": compute}))
        results.append(read_part(parts(trained)[30, "train"]).eigenvalue.values)
    torch.set_num_threads(1)
    for result in results[1:]:
        assert np.allclose(results[0], result, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_memory_that_runs_out_beside_products_is_refused(trained):
    def greedy(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    files = list(parts(trained, (30,)).values())
    with pytest.raises(
        AnatomyError,
        match=r"CUDA out of memory\. It holds .* Lower compute\.basis_gb or compute\.memory_gb",
    ):
        parts_module.write_parts(files, JOB, Access(), greedy, labels={})


def test_exact_pairs_are_held_to_the_largest_magnitude():
    Q = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]
    values = torch.cat([torch.tensor([1e-6]), -torch.linspace(0.5, 1.0, 29)])
    A = Dense((Q * values) @ Q.T)
    found = dense_spectrum(A, "H", Spectrum(top={"H": 3}, tolerance=1e-4)).pairs
    assert (found.residuals[:3] > 1e-4 * found.values[0]).any()  # rounding, of the whole matrix
    assert found.converged.all()
