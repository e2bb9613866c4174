"""Kept and recomputed chunks: equal bits, within the budget."""

import ctypes
import gc
import weakref
from functools import partial

import psutil
import pytest
import torch
from reference import relative
from torch import nn

from pipeline.curvature import chunked as chunked_module
from pipeline.curvature import component, derivatives, gauss_newton, hessian, residual, second_order
from pipeline.curvature import problem as problem_module
from pipeline.curvature.linearize import LinearizedFunction
from pipeline.curvature.memory import GIB, addresses, held_bytes
from pipeline.curvature.problem import Problem
from pipeline.errors import TooLittleMemoryError
from pipeline.models.fnet import fnet
from pipeline.models.lenet import lenet5

OPERATORS = [hessian, gauss_newton, residual]


def tensors():
    return [x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter)]


@pytest.fixture(scope="module")
def lenet():
    torch.manual_seed(0)
    return lenet5((1, 32, 32), 10, "batch").eval(), torch.randn(600, 1, 32, 32)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_recomputed_chunk_changes_no_bit_but_with_g_rounding(lenet, operator):
    model, inputs = lenet
    data = (inputs[:250], torch.arange(250) % 10)
    kept = operator(model, data, chunk=20)
    some = operator(model, data, chunk=20, memory_gb=0.0105)
    none = operator(model, data, chunk=20, memory_gb=0.0)
    assert (kept.kept, none.kept) == (13, 0)
    assert 0 < some.kept < 13
    v = torch.randn(kept.shape[0])
    expected = kept @ v
    allowed = 1e-6 * float(expected.norm()) if operator is gauss_newton else 0.0
    assert float((none @ v - expected).norm()) <= allowed
    assert float((some @ v - expected).norm()) <= allowed


@pytest.mark.parametrize("operator", [hessian, residual])
def test_a_recomputed_chunk_holds_nothing_between_products(lenet, operator):
    model, inputs = lenet
    data = (inputs[:200], torch.arange(200) % 10)
    taken = {}
    for memory_gb in (None, 0.0):
        A = None
        gc.collect()
        there = addresses(tensors())
        A = operator(model, data, memory_gb=memory_gb)
        A @ torch.randn(A.shape[0], 2)
        gc.collect()
        taken[A.kept] = held_bytes(tensors(), there)
    weights = sum(x.nbytes for x in model.parameters())
    assert taken[1] > 20 * weights
    assert taken[0] < 5 * weights  # the network's copies, one of them in float64


@pytest.mark.parametrize("operator", [hessian, residual])
def test_a_recomputed_block_is_its_single_products(operator):
    torch.manual_seed(0)
    model, inputs = fnet((1, 6, 6), 4, "batch", width=5, depth=2).double(), torch.randn(30, 1, 6, 6)
    data = (inputs, torch.arange(30) % 4)
    none = operator(model, data, chunk=7, memory_gb=0.0)
    V = torch.randn(none.shape[0], 5, dtype=torch.float64)
    single = torch.stack([none @ v for v in V.T], 1)
    assert relative(none @ V, single) < 1e-14
    assert relative(none @ V, operator(model, data) @ V) < 1e-13


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_residual_of_logits_linear_in_the_parameters_is_zero(memory_gb):
    H = residual(nn.Linear(4, 3), (torch.randn(6, 4), torch.arange(6) % 3), memory_gb=memory_gb)
    assert not (H @ torch.randn(15, 2)).any()


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_kept_is_measured_and_within_the_budget(lenet, operator):
    model, inputs = lenet
    data = (inputs.repeat(3, 1, 1, 1), torch.arange(1800) % 10)
    process = psutil.Process()
    operator(model, (inputs[:10], data[1][:10]))  # what PyTorch itself takes at the first time
    before = process.memory_info().rss
    made = operator(model, data, chunk=100, memory_gb=0.06)
    ctypes.CDLL(None).malloc_trim(0)  # what it took in passing to linearise a chunk
    taken = process.memory_info().rss - before
    assert 1 <= made.kept < 18
    # The network's copy, code and the allocator's slack come on top; half of what is held uncounted
    # would take 95 MB and more.
    assert taken < 1.1 * 0.06 * GIB + 15e6


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_kept_goes_with_its_operator(lenet, operator):
    model, inputs = lenet
    operator(model, (inputs[:20], torch.arange(20) % 10))
    gc.collect()
    gc.disable()
    try:
        known = {id(x) for x in tensors()}
        A = operator(model, (inputs[:20], torch.arange(20) % 10))
        made = [weakref.ref(x) for x in tensors() if id(x) not in known]
        assert A.kept == 1
        assert len(made) > 2 * len(list(model.parameters()))  # the network's own copy has one each
        del A
        # PyTorch's tracer waits for the collector, and running statistics with it: 2 kB.
        left = [ref() for ref in made if ref() is not None]
        assert sum(x.nbytes for x in left) <= sum(x.nbytes for x in model.buffers())
    finally:
        gc.enable()


@pytest.mark.parametrize("operator", [hessian, residual])
@pytest.mark.parametrize("convolves", [False, True])
def test_a_chunk_holds_no_copy_of_the_weights(operator, convolves):
    torch.manual_seed(0)
    model = fnet((1, 6, 6), 4, "none", width=500, depth=2)
    if convolves:
        wide = (nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Flatten())
        model = nn.Sequential(*wide, nn.Linear(1024, 4))
    data = (torch.randn(2, 1, 6, 6), torch.arange(2))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    problem = Problem(model, data)
    chunk, fixed_residual = next(problem.chunks()), operator is residual
    gradient = second_order._gradient_map(problem, fixed_residual)
    linearized = LinearizedFunction(gradient, compiled=False)
    fixed = second_order._fixed(problem, chunk, fixed_residual)
    theta = problem.network.theta
    at = linearized.at(theta, chunk.inputs, *fixed, functional=False, vectorize=lambda: True)
    assert 0 < at.kept_bytes < 0.1 * weights
    assert operator(model, data, memory_gb=0.5 * weights / GIB).kept == 1


def test_out_of_memory_is_refused_with_what_to_lower(lenet, monkeypatch):
    def scarce(self, size=None):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Problem, "chunks", scarce)
    with pytest.raises(
        TooLittleMemoryError, match=r"with 20 examples at a time and 4 GiB .* Lower compute\.chunk"
    ):
        hessian(lenet[0], (lenet[1][:40], torch.arange(40) % 10), chunk=20, memory_gb=4.0)


@pytest.mark.parametrize(
    "operator",
    [
        *OPERATORS,
        partial(component, name="B1"),
        *(partial(operator, memory_gb=0.0) for operator in (hessian, residual)),
    ],
)
def test_vectors_one_by_one_give_what_they_give_together(lenet, operator, monkeypatch):
    model, inputs = lenet
    data = (inputs[:40], torch.arange(40) % 10)
    V = torch.randn(61706, 3)
    together = operator(model, data) @ V
    monkeypatch.setattr(problem_module, "WORK", 16)
    alone = operator(model, data)
    monkeypatch.setattr(derivatives, "vmap", None)
    assert torch.allclose(alone @ V, together, atol=1e-5 * float(together.abs().max()))
    assert torch.equal(alone @ V, torch.stack([alone @ v for v in V.T], 1))


def test_out_of_memory_in_a_product_is_refused_with_what_to_lower(lenet, monkeypatch):
    model, inputs = lenet

    def scarce(self, rows):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(chunked_module.ChunkSum, "_sum", scarce)
    for vectors, cure in ((4, r"Lower compute\.memory_gb, compute\.vectors or"), (1, "or compute")):
        A = hessian(model, (inputs[:40], torch.arange(40) % 10), vectors=vectors)
        with pytest.raises(TooLittleMemoryError, match=f"with {vectors} vectors .*{cure}"):
            A @ torch.randn(A.shape[0], 4)
