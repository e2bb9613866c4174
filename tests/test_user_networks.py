"""Networks that PyTorch differentiates unwillingly, or that compute beside their layers."""

import ctypes
import gc

import psutil
import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.curvature import chunked, gauss_newton, hessian, residual
from pipeline.curvature.memory import GIB, saved_bytes
from pipeline.errors import AnatomyError


class Doubled(torch.autograd.Function):
    """A function with a backward of its own and no forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Own(nn.Module):
    """A convolution, a function of the user's own, a linear layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(Doubled.apply(self.one(x)).flatten(1))


class Attending(nn.Module):
    """An encoder layer of torch's own between two linear ones."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 3)
        self.middle = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)

    def forward(self, x):
        return self.two(self.middle(self.one(x[:, 0])).mean(1))


@pytest.mark.parametrize("memory_gb", [None, 0.0])
def test_attention_is_differentiated_as_plain_operations(memory_gb):
    torch.manual_seed(0)
    model, inputs = Attending().double().eval(), torch.randn(7, 1, 3, 3, dtype=torch.float64)
    labels = torch.arange(7) % 3
    with sdpa_kernel(SDPBackend.MATH):
        Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    fast = torch.backends.mha.get_fastpath_enabled()
    for operator, expected in ((hessian, Hess), (gauss_newton, G), (residual, Hess - G)):
        A = operator(model, (inputs, labels), chunk=4, memory_gb=memory_gb)
        assert relative(A @ torch.eye(len(G), dtype=G.dtype), expected) < 1e-12
    assert torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("memory_gb", [None, 0.0])
def test_of_a_fused_normalisation_the_right_products_are_made_and_the_wrong_refused(memory_gb):
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(9, 4))
    model = nn.Sequential(nn.Flatten(), layer, nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(7, 1, 3, 3, dtype=torch.float64), torch.arange(7) % 3
    options = {"chunk": 4, "memory_gb": memory_gb}
    G = dense_gauss_newton(model, inputs)
    A = gauss_newton(model, (inputs, labels), **options)
    assert relative(A @ torch.eye(len(G), dtype=G.dtype), G) < 1e-12
    for operator in (hessian, residual):
        with pytest.raises(AnatomyError, match="no symmetric matrix"):
            operator(model, (inputs, labels), **options)


def test_a_function_of_the_users_own_behind_a_convolution():
    torch.manual_seed(0)
    model, inputs = Own().double(), torch.randn(7, 1, 3, 3, dtype=torch.float64)
    labels = torch.arange(7) % 3
    Hess = dense_hessian(model, inputs, labels)
    A = hessian(model, (inputs, labels), chunk=4)
    assert relative(A @ torch.eye(len(Hess), dtype=Hess.dtype), Hess) < 1e-12


class Beside(nn.Module):
    """Attention of its own making: what takes the memory is no layer's output."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)
        self.query = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        x = self.one(x)
        for _ in range(4):
            x = x + ((x @ self.query) @ x.transpose(1, 2)).softmax(-1) @ x
        return self.two(x.mean(1))


@pytest.mark.parametrize("operator", [hessian, gauss_newton])
def test_the_budget_holds_for_what_is_no_layers_output(operator):
    torch.manual_seed(0)
    model, data = Beside(), (torch.randn(200, 64, 4), torch.arange(200) % 3)
    operator(model, (data[0][:2], data[1][:2]))  # what PyTorch itself takes at the first time
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = psutil.Process().memory_info().rss
    made = operator(model, data, chunk=20, memory_gb=0.02)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    taken = psutil.Process().memory_info().rss - before
    assert 0 < made.kept < 10
    assert taken < 1.1 * 0.02 * GIB + 10e6
    v = torch.randn(made.shape[0])
    assert relative(made @ v, operator(model, data) @ v) < 1e-4


def test_a_chunk_that_is_larger_than_it_was_guessed_to_be_is_not_kept(monkeypatch):
    model, data = Beside(), (torch.randn(20, 64, 4), torch.arange(20) % 3)
    monkeypatch.setattr("pipeline.curvature.problem.GUESS", 0)
    assert gauss_newton(model, data, chunk=10, memory_gb=0.0001).kept == 0


def test_what_autograd_keeps_is_counted_once():
    x, theta = torch.randn(50, 30), torch.randn(30)

    def function(at):
        y = (x * at).tanh()  # x and y are kept, y for two operations
        return (y * y).sum()

    assert saved_bytes(function, theta, []) == 2 * x.nbytes
    assert saved_bytes(function, theta, [x]) == x.nbytes


def test_a_network_that_cannot_be_linearised_is_tried_once(monkeypatch, capsys):
    model = nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 3))
    asked, original = [], chunked._checked
    monkeypatch.setattr(chunked, "_checked", lambda *words: asked.append(1) or original(*words))
    A = hessian(model, (torch.randn(20, 6), torch.arange(20) % 3), chunk=4)
    assert (A.kept, len(asked)) == (0, 1)
    assert capsys.readouterr().err.count("cannot be linearised") == 1
