"""Every instrument on a network of one logit, against plain logistic regression: dense, float64."""

import pytest
import torch
from torch import nn

from pipeline.anatomy.rowspace import later_weights
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.layer import layer_names
from pipeline.curvature.preactivations import output_hessian
from pipeline.models.fnet import fnet
from pipeline.models.pair import paired


@pytest.fixture
def binary():
    """Return the paired network, the plain one, and examples."""
    torch.manual_seed(0)
    plain = fnet((1, 3, 3), 1, "none", width=4, depth=2).double().eval()
    copy = fnet((1, 3, 3), 1, "none", width=4, depth=2).double().eval()
    copy.load_state_dict(plain.state_dict())
    return paired(copy).double(), plain, torch.randn(11, 1, 3, 3).double(), torch.arange(11) % 2


def logistic(plain, inputs, labels):
    """Return the dense Hess and G of mean log(1 + exp(-y z)), y = -1 or 1, example by example."""
    named = dict(plain.named_parameters())
    theta = torch.cat([p.detach().flatten() for p in named.values()])
    sizes = [p.numel() for p in named.values()]

    def z_of(flat, x):
        pieces = zip(named.items(), flat.split(sizes), strict=True)
        weights = {name: piece.view_as(p) for (name, p), piece in pieces}
        return torch.func.functional_call(plain, weights, (x[None],))[0, 0]

    H = G = 0.0
    for x, y in zip(inputs, labels, strict=True):
        sign = 2.0 * float(y) - 1

        def loss(flat, x=x, sign=sign):
            return nn.functional.softplus(-sign * z_of(flat, x))

        H = H + torch.autograd.functional.hessian(loss, theta) / len(labels)
        J = torch.autograd.functional.jacobian(lambda flat, x=x: z_of(flat, x), theta)
        p = z_of(theta, x).sigmoid()
        G = G + p * (1 - p) * torch.outer(J, J) / len(labels)
    return H, G


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=torch.float64)


def test_whole_matrices_are_those_of_logistic_regression(binary):
    network, plain, inputs, labels = binary
    H, G = logistic(plain, inputs, labels)
    assert torch.allclose(dense(hessian(network, (inputs, labels))), H, atol=1e-12)
    assert torch.allclose(dense(gauss_newton(network, (inputs, labels))), G, atol=1e-12)
    assert torch.allclose(dense(residual(network, (inputs, labels))), H - G, atol=1e-12)
    levels = sum(
        dense(component(network, (inputs, labels), name=name)) for name in ("A1", "A2", "B1", "B2")
    )
    assert torch.allclose(levels, G, atol=1e-12)


def test_layers_are_blocks_of_it_and_have_its_factors(binary):
    network, plain, inputs, labels = binary
    H, _ = logistic(plain, inputs, labels)
    assert layer_names(network) == ["fc1", "fc2", "fc3"]
    start = 0
    for name, parameter in plain.named_parameters():
        stop = start + parameter.numel()
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            found = layer_hessian(network, (inputs, labels), layer=layer)
            assert found.route == "closed form"
            assert torch.allclose(dense(found), H[start:stop, start:stop], atol=1e-12)
            factors = kronecker_factors(network, (inputs, labels), layer=layer)
            # The bias's Hessian is E[M].
            m = len(parameter)
            assert torch.allclose(
                factors.output_hessian, H[stop : stop + m, stop : stop + m], atol=1e-12
            )
        start = stop
    stacked = dense(output_hessian(network, (inputs, labels), layers=["fc1", "fc3"]).operator)
    fc3 = H[-1:, -1:]
    assert torch.allclose(stacked[-1:, -1:], fc3, atol=1e-12)


def test_later_weights_pass_through_the_pair(binary):
    network, plain, _, _ = binary
    S = later_weights(network, "fc2")
    assert torch.equal(S, torch.cat([torch.zeros(1, 4).double(), plain.fc3.weight]).detach())
