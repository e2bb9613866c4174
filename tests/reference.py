"""Dense float64 references, written with loops over examples and none of the project's own code."""

import copy

import torch
from torch import nn


def flat_logits(model: nn.Module, inputs: torch.Tensor):
    """Return theta (p,) and the function theta -> logits of a float64 eval copy of the model."""
    model = copy.deepcopy(model).double().eval()
    parameters = dict(model.named_parameters())
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])

    def logits(flat):
        weights, start = {}, 0
        for name, p in parameters.items():
            weights[name] = flat[start : start + p.numel()].view_as(p)
            start += p.numel()
        return torch.func.functional_call(model, weights, (inputs.double(),))

    return theta, logits


def dense_hessian(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return Hess by double backward, example by example."""
    total = 0.0
    for x, y in zip(inputs, labels, strict=True):
        theta, logits = flat_logits(model, x[None])

        def loss(flat, y=y, logits=logits):
            return nn.functional.cross_entropy(logits(flat), y[None])

        total = total + torch.autograd.functional.hessian(loss, theta)
    return total / len(labels)


def dense_gauss_newton(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return G = (1/N) sum_i sum_k pi_ik g_ik g_ik^T with g_ik = J_i^T (e_k - pi_i)."""
    total = 0.0
    for x in inputs:
        theta, logits = flat_logits(model, x[None])
        J = torch.autograd.functional.jacobian(lambda flat, logits=logits: logits(flat)[0], theta)
        pi = logits(theta)[0].softmax(-1)
        for k in range(len(pi)):
            g = J.T @ (nn.functional.one_hot(torch.tensor(k), len(pi)) - pi)
            total = total + pi[k] * torch.outer(g, g)
    return total / len(inputs)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ||found - expected|| / ||expected||."""
    difference = found.double() - expected.double()
    return float(difference.norm() / expected.double().norm())
