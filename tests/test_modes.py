"""Products, factors and spectra are bit for bit the same in all of PyTorch's modes."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.anatomy import eigenspace_overlap
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.base import Deflated
from pipeline.curvature.class_pairs import all_pairs, pair_gram
from pipeline.curvature.gram import gauss_newton_factors, squared_norms
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.preactivations import (
    kronecker_direction,
    longest_direction,
    output_hessian,
)
from pipeline.spectra import density, lanczos_quadrature, top_eigenpairs, trace_estimate
from pipeline.spectra.trace import xtrace


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def grad_disabled():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": grad_disabled,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
}


def made():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, dtype=torch.float32),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 4, dtype=torch.float32),
        nn.BatchNorm1d(4, dtype=torch.float32),
        nn.Linear(4, 3, dtype=torch.float32),
    )
    return model.eval(), (torch.randn(7, 1, 3, 3), torch.arange(7) % 3)


MODEL, DATA = made()
P = sum(parameter.numel() for parameter in MODEL.parameters())
V = torch.randn(P, 3, generator=torch.Generator().manual_seed(1))

OPERATORS = {
    "Hess": hessian,
    "G": gauss_newton,
    "H": residual,
    **{
        name: lambda model, data, name=name, **how: component(model, data, name=name, **how)
        for name in ("A1", "B1", "B2", "G-A1")
    },
    "B2 of a class": lambda *given, **how: component(*given, name="B2", true_class=1, **how),
    "layer": lambda *given, **how: layer_hessian(*given, layer="3", **how),
    "convolution": lambda *given, **how: layer_hessian(*given, layer="0", **how),
    "output": lambda *given, **how: output_hessian(*given, layers=["0", "3"], **how).operator,
}
OTHERS = {
    "factors": lambda **how: gauss_newton_factors(MODEL, DATA, **how).rows,
    "gram": lambda **how: gauss_newton_factors(MODEL, DATA, **how).gram(),
    "norms": lambda **how: squared_norms(MODEL, DATA, **how),
    "Kronecker": lambda **how: tuple(
        vars(kronecker_factors(MODEL, DATA, layer="0", **how)).values()
    ),
    "traces": lambda **how: component(MODEL, DATA, name="G", **how).traces(V.sign()),
    "pairs": lambda **how: pair_gram(MODEL, DATA, all_pairs(range(3)), room=10**6, **how).gram,
    "direction": lambda **how: direction(**how),
}


def direction(**how):
    found = output_hessian(MODEL, DATA, layers=["0", "3"], **how)
    u = torch.linspace(-1, 1, found.operator.shape[0], dtype=torch.float32, device="cpu")
    return kronecker_direction(found, MODEL, u), longest_direction(found, MODEL)


def operators(memory_gb):
    how = {"chunk": 3, "memory_gb": memory_gb}
    return {name: make(MODEL, DATA, **how) for name, make in OPERATORS.items()}


def products(made):
    return {name: (A @ V[: A.shape[0]], A @ V[: A.shape[0], 0]) for name, A in made.items()}


def equal(one, other):
    if isinstance(one, tuple):
        return all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return np.array_equal(one, other, equal_nan=True)


@pytest.fixture(scope="module", params=[None, 0.0], ids=["kept", "recomputed"])
def outside(request):
    made = operators(request.param)
    others = {name: make(chunk=3, memory_gb=request.param) for name, make in OTHERS.items()}
    return request.param, made, products(made), others


@pytest.mark.parametrize("mode", MODES)
def test_every_operator_is_the_same_made_or_used_in_a_mode(outside, mode):
    memory_gb, made, expected, others = outside
    with MODES[mode]():
        used = products(made)
        within = products(operators(memory_gb))
        factors = {name: make(chunk=3, memory_gb=memory_gb) for name, make in OTHERS.items()}
    for name, product in expected.items():
        assert equal(product, used[name]), f"{name} used"
        assert equal(product, within[name]), f"{name} made and used"
    for name, value in others.items():
        assert equal(value, factors[name]), name


def spectra():
    A, G = hessian(MODEL, DATA), gauss_newton(MODEL, DATA)
    pairs = top_eigenpairs(G, 3, bottom=1)
    krylov = top_eigenpairs(A - 0.5 * G, 2, block=1, basis=8)
    bulk = lanczos_quadrature(Deflated(G, pairs.vectors[:, :3]), steps=6, seeds=[0, 1])
    grid = np.linspace(0, 1, 5)
    return (
        *(pairs.values, pairs.vectors, pairs.residuals, krylov.values, krylov.vectors),
        *(bulk.nodes, bulk.weights, density(bulk.nodes, bulk.weights, grid, width=0.1)),
        *(trace_estimate(A, seeds=[0, 1, 2]).value, xtrace(A, seeds=[0, 1, 2, 3])),
        eigenspace_overlap(pairs.vectors[:, :2], krylov.vectors[:, :2]),
    )


@pytest.mark.parametrize("mode", MODES)
def test_spectra_are_the_same_in_a_mode(mode):
    expected = spectra()
    with MODES[mode]():
        found = spectra()
    for one, other in zip(expected, found, strict=True):
        assert equal(one, other)


@pytest.mark.parametrize("memory_gb", [None, 0.0])
def test_networks_and_data_made_under_inference_mode(memory_gb):
    expected = products(operators(memory_gb))
    with torch.inference_mode():
        model, data = made()
        assert all(x.is_inference() for x in (*model.parameters(), *data))
        vectors = V.clone()
    for name, make in OPERATORS.items():
        A = make(model, data, chunk=3, memory_gb=memory_gb)
        assert equal(expected[name][0], A @ vectors[: A.shape[0]]), name
    rows = gauss_newton_factors(model, data, chunk=3).rows
    assert equal(gauss_newton_factors(MODEL, DATA, chunk=3).rows, rows)


def test_a_mode_is_the_callers_again_after_an_error():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="labels"):
            hessian(MODEL, (DATA[0], DATA[1] + 7))
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
