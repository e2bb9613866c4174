"""Hess and H as tangent maps of the gradient map theta -> J(theta)^T r.

Hess v is the derivative along v with r = (pi - y)/N moving with theta; H v the same with r held
fixed.  Computed so, H has none of the cancellation of Hess v - G v.  A chunk is linearised once: a
product then evaluates tangents alone, at about the cost of one gradient.
"""

from collections.abc import Callable
from typing import Unpack

import torch
from torch import nn
from torch.func import jvp, vjp
from torch.nn.modules.conv import _ConvNd

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_sum
from pipeline.curvature.loss import loss_residual
from pipeline.curvature.problem import Chunk, Data, Options, Problem
from pipeline.curvature.tangent import linearised


def hessian(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return Hess, the Hessian of the mean cross-entropy, as a (p, p) operator.

    ``data`` is (inputs, labels) or anything with these attributes.  BatchNorm is in eval mode.
    ``options`` are ``Options``.  Source: S; docs/method.md.
    """
    problem = Problem(model, data, **options)
    return _tangent_of_gradient(problem, fixed_residual=False)


def residual(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return H = Hess - G, computed directly, as a (p, p) operator; options as ``hessian``.

    Its diagonal is zero for piecewise-linear networks.
    """
    problem = Problem(model, data, **options)
    return _tangent_of_gradient(problem, fixed_residual=True)


def _tangent_of_gradient(problem: Problem, *, fixed_residual: bool) -> ChunkSum:
    theta = problem.network.theta

    def keep(chunk: Chunk, pure: bool) -> Kept:
        gradient = _gradient_map(problem, chunk, fixed_residual)
        tangent = linearised(gradient, theta, pure=pure, compiled=problem.compiled)
        return Kept(tangent.push, tangent.held)

    forward = _forward_is_better(problem, fixed_residual)

    def recompute(chunk: Chunk) -> Product:
        gradient = _gradient_map(problem, chunk, fixed_residual)
        if forward:
            return lambda v: jvp(gradient, (theta,), (v,))[1]
        return lambda v: vjp(gradient, theta)[1](v)[0]  # the same, the matrix being symmetric

    return chunk_sum(problem, keep=keep, recompute=recompute, positive=False)


def _forward_is_better(problem: Problem, fixed_residual: bool) -> bool:
    """Return whether to differentiate the gradient forwards where nothing is kept.

    With convolutions that is the faster way (LeNet5: 2.7 gradients against 3.3), without them it is
    not (F-200^2: 3.6 against 2.6).  Of some activations, as SiLU, PyTorch has no such derivative.
    """
    theta = problem.network.theta
    example = next(problem.chunks(1), None)
    if not any(isinstance(m, _ConvNd) for m in problem.network.module.modules()) or not example:
        return False
    try:
        with torch.no_grad():
            jvp(_gradient_map(problem, example, fixed_residual), (theta,), (theta,))
    except NotImplementedError:
        return False
    return True


def _gradient_map(
    problem: Problem, chunk: Chunk, fixed_residual: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    def logits_of(theta: torch.Tensor) -> torch.Tensor:
        return problem.network.logits(theta, chunk.inputs)

    def residual_of(logits: torch.Tensor) -> torch.Tensor:
        return loss_residual(chunk.relative(logits), chunk.mask) / problem.examples

    fixed = residual_of(logits_of(problem.network.theta)) if fixed_residual else None

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        logits, pull = vjp(logits_of, theta)
        return pull(residual_of(logits) if fixed is None else fixed)[0]

    return gradient
