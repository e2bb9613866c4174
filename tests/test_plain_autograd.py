"""Networks that torch.func cannot follow: plain autograd differentiates them instead."""

import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.gram import gauss_newton_factors
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.preactivations import output_hessian
from pipeline.curvature.problem import Problem
from pipeline.errors import AnatomyError
from pipeline.models.densenet import densenet40
from pipeline.models.fnet import fnet
from pipeline.models.lenet import lenet5
from pipeline.models.resnet import resnet18
from pipeline.models.vgg import vgg11

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


class Twice(Function):
    """The square's backward as a function of its own, again without a rule for vmap."""

    @staticmethod
    def forward(x, gradient):
        return 2 * x * gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        x, first = ctx.saved_tensors
        return 2 * first * gradient, 2 * x * gradient

    @staticmethod
    def jvp(ctx, x_tangent, tangent):
        x, first = ctx.saved_tensors
        return 2 * first * x_tangent + 2 * x * tangent


class Chained(New):
    """The square whose backward is a function of the user's own too."""

    @staticmethod
    def backward(ctx, gradient):
        return Twice.apply(ctx.saved_tensors[0], gradient)


class Vmapped(Chained):
    """The same, with a rule for vmap at its first step alone."""

    generate_vmap_rule = True


class Untracked(Vmapped):
    """The same, whose forward derivative cannot be differentiated in turn and does not say so."""

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0].detach() * tangent


class Own(nn.Module):
    """A convolution, a function of the user's own, a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two, self.function = nn.Conv2d(1, 2, 2), nn.Linear(8, C), function

    def forward(self, x):
        return self.two(self.function.apply(self.one(x)).flatten(1))


class Last(Own):
    """The same, with the function at the very end."""

    def forward(self, x):
        return self.function.apply(self.two(self.one(x).flatten(1)))


class Choosing(nn.Module):
    """A network that looks at its activations before it goes on, or at its images."""

    def __init__(self, images):
        super().__init__()
        self.one, self.two, self.images = nn.Linear(9, 4), nn.Linear(4, C), images

    def forward(self, x):
        z = self.one(x.flatten(1))
        return self.two(z.tanh() if float((x if self.images else z).detach().norm()) > 0 else z)


def made(which):
    torch.manual_seed(0)
    model = Choosing(which) if isinstance(which, bool) else Own(which)
    return model.double(), torch.randn(N, 1, 3, 3, dtype=torch.float64)


ALL = [Old, New, Chained, Vmapped, Untracked, False, True]


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


@pytest.mark.parametrize("memory_gb", [None, 0.0])
@pytest.mark.parametrize("which", ALL)
def test_every_operator_is_the_dense_one(which, memory_gb):
    model, inputs = made(which)
    data, options = (inputs, LABELS), {"chunk": 4, "memory_gb": memory_gb}
    Hess, G = dense_hessian(model, *data), dense_gauss_newton(model, inputs)
    for operator, expected in ((hessian, Hess), (gauss_newton, G), (residual, Hess - G)):
        A, v = operator(model, data, **options), torch.linspace(-1, 1, len(expected)).double()
        assert relative(dense(A), expected) < 1e-12
        assert relative(A @ v, expected @ v) < 1e-12
    levels = [component(model, data, name=name, **options) for name in ("A1", "A2", "B1", "B2")]
    assert relative(sum(dense(level) for level in levels), G) < 1e-12
    rows = gauss_newton_factors(model, data, **options).rows
    assert relative(rows.T @ rows, G) < 1e-12


@pytest.mark.parametrize("which", ALL)
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


@pytest.mark.parametrize("network", [Own, Last])
@pytest.mark.parametrize("operator", [hessian, gauss_newton, residual])
def test_a_backward_that_cannot_be_differentiated_is_refused(operator, network):
    inputs = torch.randn(N, 1, 3, 3)
    with pytest.raises(AnatomyError, match=r"no symmetric matrix|marked once_differentiable"):
        operator(network(Once), (inputs, LABELS))
    assert operator(network(Old), (inputs, LABELS)).shape == (37, 37)


@pytest.mark.parametrize("operator", [hessian, gauss_newton])
def test_a_missing_second_derivative_is_refused_with_the_cure(operator):
    model, inputs = made(Fused)
    with pytest.raises(AnatomyError, match=r"not implemented\. Write .* as plain"):
        operator(model, (inputs, LABELS))


@pytest.mark.parametrize("operator", [hessian, gauss_newton, residual])
def test_parameters_that_no_logit_reads_have_zeros(operator):
    class Headed(Choosing):
        def __init__(self):
            super().__init__(False)
            self.head = nn.Linear(2, 2)

    model, data = Headed().double(), (torch.randn(N, 1, 3, 3, dtype=torch.float64), LABELS)
    plain = Choosing(False).double()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "head" not in k})
    expected = dense(operator(plain, data))
    found = dense(operator(model, data, memory_gb=0.0))
    assert relative(found[:-6, :-6], expected) < 1e-12
    assert not found[-6:].any()
    assert not found[:, -6:].any()


def test_of_a_layer_that_is_not_differentiated_there_is_nothing():
    class Frozen(Choosing):
        def forward(self, x):
            with torch.no_grad():
                z = self.one(x.flatten(1))
            return self.two(z.tanh() if self.images and float(z.norm()) > 0 else z)

    data = torch.randn(N, 1, 3, 3), LABELS
    for images in (False, True):
        M = kronecker_factors(Frozen(images), data, layer="one").output_hessian
        assert not M.any()
    with pytest.raises(AnatomyError, match=r"under torch\.no_grad"):
        gauss_newton(Frozen(False), data)


def test_recomputation_within_a_network_is_refused_with_the_cure():
    class Recomputing(Choosing):
        def forward(self, x):
            z = checkpoint(self.one, x.flatten(1), use_reentrant=False)
            return self.two(z.tanh())

    with pytest.raises(AnatomyError, match=r"leave out torch\.utils\.checkpoint"):
        hessian(Recomputing(False), (torch.randn(N, 1, 3, 3), LABELS))


def test_a_diverged_network_has_operators_whose_products_are_not_finite():
    model, inputs = made(Old)
    with torch.no_grad():
        model.two.weight[0, 0] = torch.nan
    for operator in (hessian, gauss_newton, residual):
        A = operator(model, (inputs, LABELS))
        assert (A @ torch.ones(A.shape[0], dtype=A.dtype)).isnan().any()


NETWORKS = {
    "fnet": (fnet, {"width": 5, "depth": 2}),
    "lenet5": (lenet5, {}),
    "vgg11": (vgg11, {"width": 4}),
    "resnet18": (resnet18, {"width": 4}),
    "densenet40": (densenet40, {"growth": 2}),
}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_networks_are_followed_by_torch_func(name, norm):
    family, options = NETWORKS[name]
    network = family((1, 32, 32), C, norm, **options)
    assert not Problem(network.eval(), (torch.randn(2, 1, 32, 32), torch.arange(2))).plain
