"""Products written down: a rerun takes them from there, bit for bit, and trusts nothing damaged."""

import errno
import io
import os

import pytest
import torch

from pipeline.curvature import recorded as module
from pipeline.curvature.base import Dense
from pipeline.curvature.recorded import Recorded
from pipeline.errors import StorageError
from pipeline.spectra import lanczos_quadrature, top_eigenpairs


class Counted(Dense):
    """A matrix that counts its products, and dies at one."""

    def __init__(self, matrix, dies_at=10**9):
        super().__init__(matrix)
        self.count, self.dies_at = 0, dies_at

    def matmat(self, V):
        self.count += 1
        if self.count == self.dies_at:
            raise KeyboardInterrupt
        return super().matmat(V)


@pytest.fixture
def matrix():
    torch.manual_seed(0)
    M = torch.randn(120, 120)
    return M + M.T


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(module, "RECORD_ABOVE", 0.0)


def both(operator):
    pairs = top_eigenpairs(operator, 5, tolerance=1e-5)
    bulk = lanczos_quadrature(operator, steps=20, seeds=[1, 2])
    return pairs.values, pairs.vectors.numpy(), bulk.nodes, bulk.weights


def same(first, second):
    return all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dies_at", [2, 30, 50])
def test_a_killed_job_goes_on_where_it_was(matrix, tmp_path, dies_at):
    whole = Counted(matrix)
    expected = both(whole)
    with pytest.raises(KeyboardInterrupt):
        both(Recorded(Counted(matrix, dies_at), tmp_path / "products"))
    again = Counted(matrix)
    assert same(both(Recorded(again, tmp_path / "products")), expected)
    assert again.count == whole.count - (dies_at - 1)


def test_a_torn_record_is_made_again(matrix, tmp_path):
    expected = both(Recorded(Counted(matrix), tmp_path / "products"))
    file = tmp_path / "products-0"
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    again = Counted(matrix)
    assert same(both(Recorded(again, tmp_path / "products")), expected)
    assert again.count == 1
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    again = Counted(matrix)
    assert same(both(Recorded(again, tmp_path / "products")), expected)
    assert again.count > 1
    assert file.read_bytes() == data


def test_records_of_another_input_are_not_taken(matrix, tmp_path, capsys):
    both(Recorded(Counted(matrix), tmp_path / "products"))
    operator = Recorded(Counted(matrix), tmp_path / "products")
    v = torch.ones(120, 1)
    assert torch.equal(operator.matmat(v), matrix @ v)
    assert "of another input" in capsys.readouterr().err


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_of_the_record_and_a_rerun_goes_on(matrix, tmp_path, monkeypatch):
    expected, count = both(Counted(matrix)), 0
    opened = Recorded._opened

    def third_fails(self):
        nonlocal count
        count += 1
        return Full() if count == 3 else opened(self)

    monkeypatch.setattr(Recorded, "_opened", third_fails)
    refusal = r"products-0 cannot be written: No space left on device\. Free some space"
    with pytest.raises(StorageError, match=refusal):
        both(Recorded(Counted(matrix), tmp_path / "products"))
    again = Recorded(Counted(matrix), tmp_path / "products")
    assert len(again.places) == 2
    assert same(both(again), expected)


def test_quick_products_are_not_written(matrix, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECORD_ABOVE", 60.0)
    both(Recorded(Counted(matrix), tmp_path / "products"))
    assert not list(tmp_path.iterdir())
