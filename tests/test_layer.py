"""Layer Hessians: the closed form against dense blocks, autograd, and where each is taken."""

import curvlinops
import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn

from pipeline.curvature import layer_hessian
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.layer import layer_factors, layer_problem
from pipeline.curvature.memory import GIB
from pipeline.curvature.sums import sum_of_products
from pipeline.errors import AnatomyError

CHUNK = 5


def block(matrix, model, layer):
    """Return the block of a dense (p, p) matrix that belongs to a layer's weight."""
    start = 0
    for name, parameter in model.named_parameters():
        if name == f"{layer}.weight":
            own = slice(start, start + parameter.numel())
            return matrix[own, own]
        start += parameter.numel()
    raise KeyError(layer)


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


def layers_of(model):
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_the_closed_form_is_the_block_of_hess_and_of_g(problem):
    model, inputs, labels = problem
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    for layer in layers_of(model):
        found = layer_hessian(model, (inputs, labels), layer=layer, chunk=CHUNK)
        assert found.route == "closed form"
        assert found.residual_share < 1e-12
        assert relative(dense(found), block(Hess, model, layer)) < 1e-12
        assert relative(dense(found), block(G, model, layer)) < 1e-12


CONVOLUTIONS = {
    "stride": {"stride": 2},
    "padding": {"padding": 1},
    "dilation": {"dilation": 2},
    "no bias": {"bias": False},
    "all": {"stride": (2, 1), "padding": (1, 2), "bias": False},
}


def convolutional(**options):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, **options)
    size = conv(torch.zeros(1, 2, 6, 6)).numel()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(size, 3)).double()
    return model, torch.randn(7, 2, 6, 6, dtype=torch.float64), torch.arange(7) % 3


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_all_kinds(name):
    model, inputs, labels = convolutional(**CONVOLUTIONS[name])
    found = layer_hessian(model, (inputs, labels), layer="0")
    assert found.route == "closed form"
    Hess = dense_hessian(model, inputs, labels)
    assert relative(dense(found), block(Hess, model, "0")) < 1e-12


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding": "same"}])
def test_what_has_no_closed_form_goes_by_autograd(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, **options)
    size = conv(torch.zeros(1, 2, 6, 6)).numel()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(size, 3)).double()
    inputs, labels = torch.randn(7, 2, 6, 6, dtype=torch.float64), torch.arange(7) % 3
    found = layer_hessian(model, (inputs, labels), layer="0")
    assert found.route == "autograd"
    Hess = dense_hessian(model, inputs, labels)
    assert relative(dense(found), block(Hess, model, "0")) < 1e-12


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_of_smooth_networks_it_is_the_true_hessian(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), activation(), nn.Linear(5, 3)).double()
    inputs, labels = torch.randn(8, 1, 3, 3, dtype=torch.float64), torch.arange(8) % 3
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    found = layer_hessian(model, (inputs, labels), layer="1")
    assert found.route == "autograd"
    assert found.residual_share > 1e-3
    assert relative(dense(found), block(Hess, model, "1")) < 1e-12
    assert relative(block(G, model, "1"), block(Hess, model, "1")) > 1e-3
    # In its last weight every network is linear.
    last = layer_hessian(model, (inputs, labels), layer="3")
    assert last.route == "closed form"
    assert relative(dense(last), block(Hess, model, "3")) < 1e-12


def test_linear_layers_on_sequences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)).double()
    inputs, labels = torch.randn(6, 3, 4, dtype=torch.float64), torch.arange(6) % 3
    found = layer_hessian(model, (inputs, labels), layer="0")
    assert found.route == "closed form"
    Hess = dense_hessian(model, inputs, labels)
    assert relative(dense(found), block(Hess, model, "0")) < 1e-12


def test_memory_decides_the_route_and_not_the_result():
    model, inputs, labels = convolutional()
    whole = layer_hessian(model, (inputs, labels), layer="0", chunk=2)
    each = 8 * 16 * (18 + 3 * 3)  # positions x (inputs + classes x outputs)
    some = layer_hessian(model, (inputs, labels), layer="0", chunk=2, memory_gb=4.5 * each / GIB)
    none = layer_hessian(model, (inputs, labels), layer="0", chunk=2, memory_gb=0.0)
    assert [A.route for A in (whole, some, none)] == ["closed form", "both", "autograd"]
    assert some.kept == 2
    V = torch.randn(whole.shape[0], 11, dtype=torch.float64)
    assert relative(some @ V, whole @ V) < 1e-13
    assert relative(none @ V, whole @ V) < 1e-13
    assert relative((whole @ V)[:, 3], whole @ V[:, 3]) < 1e-13


def test_chunks_are_kept_as_matrices_where_these_are_the_smaller():
    model, inputs, labels = convolutional()
    labels, inputs = labels.repeat(8), torch.randn(8 * len(labels), 2, 6, 6, dtype=torch.float64)
    factors = layer_hessian(model, (inputs, labels), layer="0")
    matrix = 8 * factors.shape[0] ** 2 / GIB
    room = {"chunk": (len(labels) + 1) // 2, "memory_gb": 2.1 * matrix}
    whole = layer_hessian(model, (inputs, labels), layer="0", **room)
    assert whole.kept == 2
    assert whole.route == "closed form"
    assert len(whole.products[0].__closure__) == 1  # the matrix alone
    assert relative(dense(whole), dense(factors)) < 1e-13
    less = layer_hessian(model, (inputs, labels), layer="0", **room | {"memory_gb": 1.9 * matrix})
    assert less.route != "closed form"


def test_other_layers_are_refused(problem):
    model, inputs, labels = problem
    with pytest.raises(AnatomyError, match="no linear or 2d convolution layer"):
        layer_hessian(model, (inputs, labels), layer="nowhere")
    shared = nn.Linear(9, 9)
    twice = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.Linear(9, 3))
    with pytest.raises(AnatomyError, match="applied 2 times in a pass, not once"):
        layer_hessian(twice, (torch.randn(4, 1, 3, 3), torch.arange(4) % 3), layer="1")


def test_kronecker_factors_are_sums_over_examples_and_positions(problem):
    model, inputs, labels = problem
    for layer in layers_of(model):
        found = kronecker_factors(model, (inputs, labels), layer=layer, chunk=CHUNK)
        M, xx = _factors_in_a_loop(model, inputs, layer)
        assert relative(found.output_hessian, M) < 1e-12
        assert relative(found.autocorrelation, xx) < 1e-12
    one = kronecker_factors(model, (inputs[:1], labels[:1]), layer=layers_of(model)[-1])
    # Of a single example on vectors the product of the factors is the layer's Hessian.
    H = layer_hessian(model, (inputs[:1], labels[:1]), layer=layers_of(model)[-1])
    assert relative(torch.kron(one.output_hessian, one.autocorrelation), dense(H)) < 1e-12


def _factors_in_a_loop(model, inputs, layer):
    """Return E[M] and E[x x^T] by differentiating the logits by each pre-activation."""
    module = model.get_submodule(layer)
    M, xx, positions = 0.0, 0.0, 0
    for x in inputs:
        seen = []

        def logits(shift, x=x, seen=seen):
            def add(_module, arguments, output):
                seen.append((arguments[0].detach(), output.detach()))
                return output + shift

            handle = module.register_forward_hook(add)
            try:
                return model(x[None])[0]
            finally:
                handle.remove()

        logits(torch.zeros(()))
        given, made = seen[0]
        J = torch.autograd.functional.jacobian(logits, torch.zeros_like(made))
        pi = logits(torch.zeros(())).detach().softmax(-1)
        if isinstance(module, nn.Conv2d):
            X = nn.functional.unfold(given, module.kernel_size)[0].T
            J = J.flatten(3)[:, 0]  # (C, m, P)
        else:
            X, J = given, J[:, 0, :, None]
        for position in range(J.shape[2]):
            j = J[:, :, position]
            M = M + j.T @ (torch.diag(pi) - torch.outer(pi, pi)) @ j
            xx = xx + torch.outer(X[position], X[position])
            positions += 1
    return M / len(inputs), xx / positions


@pytest.mark.filterwarnings("ignore")
def test_the_factors_are_those_of_kfac_type_2(problem):
    model, inputs, labels = problem
    layers = layers_of(model)
    weights = [model.get_submodule(layer).weight for layer in layers]
    kfac = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        weights,
        [(inputs, labels)],
        check_deterministic=False,
        fisher_type="type-2",
        kfac_approx="expand",
    )
    kfac.compute_kronecker_factors()
    for layer in layers:
        found = kronecker_factors(model, (inputs, labels), layer=layer, chunk=CHUNK)
        theirs = kfac._gradient_covariances[layer], kfac._input_covariances[layer]
        # What is a sum and what a mean over positions is for each to say: the product is not.
        ours = torch.kron(found.output_hessian, found.autocorrelation)
        assert relative(torch.kron(*theirs), ours) < 1e-12
        for one, other in zip(theirs, (found.output_hessian, found.autocorrelation), strict=True):
            assert relative(one / one.trace(), other / other.trace()) < 1e-12


def tall_convolution():
    """Return a convolution of two outputs at 784 positions, and its name."""
    conv = nn.Conv2d(1, 2, 5)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)), (1, 32, 32), "0"


def tall_sequence():
    """Return a linear layer of three outputs at 600 positions, and its name."""
    linear = nn.Linear(4, 3)
    return nn.Sequential(linear, nn.Tanh(), nn.Flatten(), nn.Linear(1800, 10)), (600, 4), "0"


@pytest.mark.parametrize("make", [tall_convolution, tall_sequence])
def test_factors_in_float32_are_sums_in_float64(make):
    torch.manual_seed(0)
    model, shape, layer = make()
    inputs, labels = torch.randn(500, *shape).abs(), torch.arange(500) % 10
    found = kronecker_factors(model, (inputs, labels), layer=layer, chunk=1000)
    problem = layer_problem(model, (inputs, labels), layer, chunk=1000)
    factors = layer_factors(problem, layer, next(problem.chunks()))
    A, x = factors.A.flatten(0, 2).double(), factors.inputs.flatten(0, 1).double()
    assert relative(found.output_hessian, A.T @ A / 500) < 1e-6
    assert relative(found.autocorrelation, x.T @ x / len(x)) < 1e-6


def test_long_sums_of_products_keep_their_digits():
    torch.manual_seed(0)
    # The rows fall off: float32 sums that begin with the large ones lose the small.
    scale = torch.logspace(0, -4, 3_000_000)[:, None]
    left, right = scale * torch.rand(3_000_000, 2), scale * torch.rand(3_000_000, 3)
    found = sum_of_products(left, right)
    assert found.dtype == torch.float64
    assert relative(found, left.double().T @ right.double()) < 1e-6
    some = torch.randn(2, 5000, 3, dtype=torch.float64)
    assert relative(sum_of_products(some, some[0]), some.mT @ some[0]) < 1e-14
