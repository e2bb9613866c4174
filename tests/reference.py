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


def class_vectors(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pi (N, C) and g_ik = J_i^T (e_k - pi_i) (N, C, p), example by example."""
    pis, gs = [], []
    for x in inputs:
        theta, logits = flat_logits(model, x[None])
        J = torch.autograd.functional.jacobian(lambda flat, logits=logits: logits(flat)[0], theta)
        pi = logits(theta)[0].softmax(-1)
        pis.append(pi)
        gs.append((torch.eye(len(pi), dtype=pi.dtype) - pi) @ J)
    return torch.stack(pis), torch.stack(gs)


def dense_levels(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, misprinted: bool = False
) -> dict[str, torch.Tensor]:
    """Return A1, A2, B1 and B2 by S's definitions; ``misprinted`` takes g_k for g_c in B1."""
    pi, g = class_vectors(model, inputs)
    N, C, p = g.shape
    levels = {name: torch.zeros(p, p, dtype=g.dtype) for name in ("A1", "A2", "B1", "B2")}
    mean, mass, centre, total = {}, {}, {}, {}
    for c in range(C):
        members = [i for i in range(N) if labels[i] == c]
        if not members:
            continue
        for k in range(C):
            mass[c, k] = sum(pi[i, k] for i in members)
            mean[c, k] = sum(pi[i, k] * g[i, k] for i in members) / mass[c, k]
            for i in members:
                apart = g[i, k] - mean[c, k]
                levels["B2"] += pi[i, k] / N * torch.outer(apart, apart)
        total[c] = sum(mass[c, k] for k in range(C) if k != c)
        centre[c] = sum(mass[c, k] * mean[c, k] for k in range(C) if k != c) / total[c]
    for c in centre:
        levels["A1"] += total[c] / N * torch.outer(centre[c], centre[c])
        levels["A2"] += mass[c, c] / N * torch.outer(mean[c, c], mean[c, c])
        for k in range(C):
            if k != c and (not misprinted or k in centre):
                apart = mean[c, k] - centre[k if misprinted else c]
                levels["B1"] += mass[c, k] / N * torch.outer(apart, apart)
    return levels


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ||found - expected|| / ||expected||."""
    difference = found.double() - expected.double()
    return float(difference.norm() / expected.double().norm())
