"""Networks that torch.func cannot follow: plain autograd differentiates them instead."""

import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.gram import gauss_newton_factors
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.preactivations import output_hessian
from pipeline.errors import AnatomyError

N, C = 7, 3
LABELS = torch.arange(N) % C


class Old(Function):
    """A square with a backward of its own, as PyTorch's tutorials write it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class New(Function):
    """The same for torch.func, without a rule for vmap."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0] * tangent


class Once(Old):
    """The same, with a backward that cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Refusing(Function):
    """The identity without a derivative, as some of PyTorch's own backwards are."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("derivative is not implemented")


class Fused(Old):
    """The same, whose second derivatives raise."""

    @staticmethod
    def backward(ctx, gradient):
        return Refusing.apply(Old.backward(ctx, gradient))


class Own(nn.Module):
    """A convolution, a function of the user's own, a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two, self.function = nn.Conv2d(1, 2, 2), nn.Linear(8, C), function

    def forward(self, x):
        return self.two(self.function.apply(self.one(x)).flatten(1))


class Choosing(nn.Module):
    """A network that looks at its numbers before it goes on."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(9, 4), nn.Linear(4, C)

    def forward(self, x):
        x = self.one(x.flatten(1))
        return self.two(x.tanh() if float(x.detach().norm()) > 0 else x)


def made(which):
    torch.manual_seed(0)
    model = Choosing() if which is None else Own(which)
    return model.double(), torch.randn(N, 1, 3, 3, dtype=torch.float64)


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


@pytest.mark.parametrize("memory_gb", [None, 0.0])
@pytest.mark.parametrize("which", [Old, New, None])
def test_every_operator_is_the_dense_one(which, memory_gb):
    model, inputs = made(which)
    data, options = (inputs, LABELS), {"chunk": 4, "memory_gb": memory_gb}
    Hess, G = dense_hessian(model, *data), dense_gauss_newton(model, inputs)
    for operator, expected in ((hessian, Hess), (gauss_newton, G), (residual, Hess - G)):
        assert relative(dense(operator(model, data, **options)), expected) < 1e-12
    levels = [component(model, data, name=name, **options) for name in ("A1", "A2", "B1", "B2")]
    assert relative(sum(dense(level) for level in levels), G) < 1e-12
    rows = gauss_newton_factors(model, data, **options).rows
    assert relative(rows.T @ rows, G) < 1e-12


@pytest.mark.parametrize("which", [Old, New, None])
def test_layers_their_factors_and_the_output_hessian_are_the_dense_ones(which):
    model, inputs = made(which)
    data, start = (inputs, LABELS), sum(p.numel() for p in model.one.parameters())
    Hess, G = dense_hessian(model, *data), dense_gauss_newton(model, inputs)
    first, last = model.one.weight.numel(), slice(start, start + model.two.weight.numel())
    for layer, own in (("one", slice(first)), ("two", last)):
        A = layer_hessian(model, data, layer=layer, chunk=4)
        assert relative(dense(A), Hess[own, own]) < 1e-12
    biases = slice(start + model.two.weight.numel(), None)
    M = kronecker_factors(model, data, layer="two").output_hessian
    assert relative(M, G[biases, biases]) < 1e-12
    whole = dense(output_hessian(model, data, layers=["one", "two"]).operator)
    assert relative(whole[-C:, -C:], M) < 1e-12


@pytest.mark.parametrize("operator", [hessian, gauss_newton])
def test_a_backward_that_cannot_be_differentiated_is_refused_with_the_cure(operator):
    model, inputs = made(Once)
    with pytest.raises(AnatomyError, match="without once_differentiable"):
        operator(model, (inputs, LABELS))


@pytest.mark.parametrize("operator", [hessian, gauss_newton])
def test_a_missing_second_derivative_is_refused_with_the_cure(operator):
    model, inputs = made(Fused)
    with pytest.raises(AnatomyError, match=r"derivative is not implemented\. Write .* as plain"):
        operator(model, (inputs, LABELS))
