"""Networks that PyTorch differentiates unwillingly, or that compute beside their layers."""

import ctypes
import gc

import psutil
import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.curvature import chunked, component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.jacobian import kept_jacobians
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.memory import GIB, saved_bytes
from pipeline.curvature.problem import Problem
from pipeline.errors import AnatomyError


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
    monkeypatch.setattr("pipeline.curvature.problem.Problem._guess", lambda *_: 0)
    assert gauss_newton(model, data, chunk=10, memory_gb=0.0001).kept == 0


def test_what_autograd_keeps_is_counted_once():
    x, theta = torch.randn(50, 30), torch.randn(30)

    def function(at):
        y = (x * at).tanh()  # x and y are kept, y for two operations
        return (y * y).sum()

    assert saved_bytes(function, theta, []) == 2 * x.nbytes
    assert saved_bytes(function, theta, [x]) == x.nbytes


class Prototypes(nn.Module):
    """A network that PyTorch's forward mode does not differentiate."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return -torch.cdist(x, self.points)


def test_a_network_that_cannot_be_linearized_is_tried_once(monkeypatch, capsys):
    asked, original = [], chunked._Trial.linearized
    monkeypatch.setattr(
        chunked._Trial, "linearized", lambda *words: asked.append(1) or original(*words)
    )
    A = gauss_newton(Prototypes(), (torch.randn(20, 6), torch.arange(20) % 3), chunk=4)
    assert (A.kept, len(asked)) == (0, 1)
    assert capsys.readouterr().err.count("cannot be linearized") == 1


def test_one_chunk_that_rounds_more_does_not_end_the_keeping(monkeypatch, capsys):
    model, data = nn.Linear(6, 3), (torch.randn(20, 6), torch.arange(20) % 3)
    asked, original = [], chunked._Trial.linearized

    def second_fails(*words):
        asked.append(1)
        return None if len(asked) == 2 else original(*words)

    monkeypatch.setattr(chunked._Trial, "linearized", second_fails)
    A = gauss_newton(model, data, chunk=4)
    assert (A.kept, len(asked)) == (4, 5)
    assert "cannot be linearized" not in capsys.readouterr().err
    assert relative(A @ torch.eye(21), dense_gauss_newton(model, data[0])) < 1e-5


class Differentiating(nn.Module):
    """A network whose output is a derivative, taken by torch.func."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 6)

    def forward(self, x):
        value, pull = torch.func.vjp(lambda z: self.two(z).tanh(), self.one(x))
        return pull(torch.ones_like(value))[0]


def test_a_network_that_calls_torch_func_itself():
    torch.manual_seed(0)
    model = Differentiating().double()
    inputs, labels = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    for operator, expected in ((hessian, Hess), (gauss_newton, G), (residual, Hess - G)):
        A = operator(model, (inputs, labels), chunk=4)
        assert relative(A @ torch.eye(len(G), dtype=G.dtype), expected) < 1e-12


class Single(nn.Module):
    """A network that insists on float32."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 3)

    def forward(self, x):
        return self.one(x.float())


def test_why_float64_cannot_be_had_is_said_once(capsys):
    model, data = Single(), (torch.randn(9, 4), torch.arange(9) % 3)
    A = component(model, data, name="B2")
    for true_class in range(3):
        A.of_class(true_class)
    said = capsys.readouterr().err
    assert said.count("float64 logits cannot be had") == 1
    assert "same dtype" in said


def test_layers_of_networks_with_attention_are_made_of_its_plain_form():
    asked = []

    class Asking(Attending):
        def forward(self, x):
            asked.append(torch.backends.mha.get_fastpath_enabled())
            return super().forward(x)

    model, data = Asking().eval(), (torch.randn(7, 1, 3, 3), torch.arange(7) % 3)
    kronecker_factors(model, data, layer="one")
    assert asked == [False] * len(asked)
    assert len(asked) > 2


def test_of_one_layer_the_weights_of_others_are_no_bytes_of_its_examples():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2000), nn.Linear(2000, 3))
    data = torch.randn(8, 6), torch.arange(8) % 3
    whole, one = Problem(model, data), Problem(model, data, only=["0.weight"])
    assert one.bytes_per_example <= whole.bytes_per_example
    saved = kept_jacobians(one)(next(one.chunks()), False).held
    assert 0 < saved < len(data[0]) * one.bytes_per_example


class Absolute(nn.Module):
    """|x| as a square root: its second derivative is zero but for rounding."""

    def forward(self, x):
        return (x * x).sqrt()


def test_a_layers_h_that_is_rounding_is_no_reason_to_refuse_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), Absolute(), nn.Linear(5, 3))
    inputs, labels = torch.randn(8, 6), torch.arange(8) % 3
    A = layer_hessian(model, (inputs, labels), layer="0")
    assert A.route == "closed form"
    assert 0 < A.residual_share < 1e-5
    G = dense_gauss_newton(model.double(), inputs.double())[:30, :30]
    assert relative(A @ torch.eye(30), G) < 1e-5
