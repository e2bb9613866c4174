"""Checks of arguments: what each admits, and that a refusal names the argument and the value."""

from functools import partial

import numpy as np
import pytest
import torch

from pipeline.anatomy import eigenspace_overlap
from pipeline.arguments import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_number,
    checked_seeds,
)
from pipeline.curvature.base import Dense
from pipeline.errors import ArgumentError
from pipeline.spectra import density, lanczos_quadrature, top_eigenpairs, trace_estimate
from pipeline.spectra.outliers import count_outliers
from pipeline.spectra.powerlaw import fit_power_law
from pipeline.spectra.smoothing import kernel_width
from pipeline.spectra.trace import xtrace


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "3", None, True, np.nan, 11])
def test_a_count_out_of_range_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^chunk is .*from 1 to 10"):
        checked_count(value, "chunk", most=10)


@pytest.mark.parametrize("value", [1, np.int64(3), np.uint8(7)])
def test_a_whole_number_is_a_count(value):
    assert checked_count(value, "chunk") == int(value)


@pytest.mark.parametrize("value", [0.0, -1e-3, np.nan, np.inf, "1e-3", None, True])
def test_a_number_that_is_not_positive_and_finite_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^tolerance is "):
        checked_number(value, "tolerance", above=0)


@pytest.mark.parametrize("value", [[], 2, "01", [0.5], [1, 1], [-1], [True], None])
def test_seeds_are_distinct_whole_numbers(value):
    with pytest.raises(ArgumentError, match=r"^seeds is "):
        checked_seeds(value)


def test_seeds_may_be_any_iterable():
    assert checked_seeds(range(3)) == [0, 1, 2]
    assert checked_seeds(np.array([4, 2])) == [4, 2]


def test_flags_and_choices():
    assert checked_flag(True, "compiled")
    assert checked_choice("A1", "name", ["A1", "B1"]) == "A1"
    with pytest.raises(ArgumentError, match=r"^compiled is 1"):
        checked_flag(1, "compiled")
    with pytest.raises(ArgumentError, match="A1, B1"):
        checked_choice("A3", "name", ["A1", "B1"])


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_number_has_open_bounds(value):
    with pytest.raises(ArgumentError, match=r"^confidence is .*greater than 0, less than 1"):
        checked_number(value, "confidence", above=0, below=1)


A = Dense(torch.diag(torch.arange(60.0)))
U = torch.eye(60)[:, :4]
NODES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("k", partial(top_eigenpairs, A, k)) for k in (0, -1, 1.5, None, True)),
        *(("bottom", partial(top_eigenpairs, A, 2, bottom=b)) for b in (-1, 0.5)),
        *(("tolerance", partial(top_eigenpairs, A, 2, tolerance=t)) for t in (0, -1, np.nan)),
        *(("confidence", partial(top_eigenpairs, A, 2, confidence=c)) for c in (0, 1, np.nan, 2)),
        *(("block", partial(top_eigenpairs, A, 2, block=b)) for b in (0, -1, 61)),
        *(("basis", partial(top_eigenpairs, A, 2, basis=b)) for b in (0, 3, 2.5)),
        *(("max_products", partial(top_eigenpairs, A, 2, max_products=m)) for m in (0, np.inf)),
        *(("seed", partial(top_eigenpairs, A, 2, seed=s)) for s in (-1, "a")),
        *(("steps", partial(lanczos_quadrature, A, steps=s, seeds=[0])) for s in (0, -2, 1.5)),
        *(("seeds", partial(lanczos_quadrature, A, steps=4, seeds=s)) for s in ([], 2, [0.5])),
        ("basis_bytes", partial(lanczos_quadrature, A, steps=4, seeds=[0], basis_bytes=0)),
        *(("seeds", partial(trace_estimate, A, seeds=s)) for s in ([], 2, [1, 1])),
        *(("seeds", partial(xtrace, A, seeds=s)) for s in ([], range(61))),
        *(("width", partial(density, NODES, NODES, np.ones(3), width=w)) for w in (0, np.nan)),
        ("nodes", partial(density, NODES, NODES[:1], np.ones(3), width=1)),
        ("nodes", partial(density, NODES * np.inf, NODES, np.ones(3), width=1)),
        ("nodes", partial(density, NODES, NODES * np.nan, np.ones(3), width=1)),
        ("grid", partial(density, NODES, NODES, np.array([0, np.nan]), width=1)),
        ("steps", partial(kernel_width, 0, 1, 0)),
        ("high", partial(kernel_width, 1, 1, 5)),
        ("values", partial(count_outliers, np.array([1.0, 2.0]))),
        ("low", partial(fit_power_law, np.ones(4), np.ones(4), low=np.nan, high=1)),
        ("U", partial(eigenspace_overlap, 2 * U, U)),
        ("U", partial(eigenspace_overlap, U * np.nan, U)),
        ("V", partial(eigenspace_overlap, U, U[:, [0, 1, 2, 2]])),
        ("V", partial(eigenspace_overlap, U, U[:, 0])),
        ("U", partial(eigenspace_overlap, U, U[:, :3])),
        ("U", partial(eigenspace_overlap, U, U.double())),
        ("U", partial(eigenspace_overlap, torch.eye(59)[:, :4], U)),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(name, call):
    with pytest.raises(ArgumentError, match=f"^{name}\\b"):
        call()
