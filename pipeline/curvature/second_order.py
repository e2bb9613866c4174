"""Hess and H as tangent maps of the gradient map theta -> J(theta)^T r.

Hess v is the derivative along v with r = (pi - y)/N moving with theta; H v the same with r held
fixed.  Computed so, H has none of the cancellation of Hess v - G v.  A chunk is linearised once: a
product then evaluates tangents alone, at about the cost of one gradient.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.func import jvp, vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_sum
from pipeline.curvature.loss import loss_residual
from pipeline.curvature.memory import held_bytes
from pipeline.curvature.problem import Chunk, Data, Problem, linearised


def hessian(
    model: nn.Module, data: Data, *, chunk: int = 1000, memory_gb: float | None = None
) -> ChunkSum:
    """Return Hess, the Hessian of the mean cross-entropy, as a (p, p) operator.

    ``data`` is (inputs, labels) or anything with these attributes.  BatchNorm is in eval mode.
    ``chunk`` examples are linearised at once, which changes rounding only, and kept while they fit
    ``memory_gb`` GiB (default: a share of what is free); the others are recomputed at each
    product, at two to three times the cost.  Source: S; docs/method.md.
    """
    problem = Problem(model, data, chunk=chunk, memory_gb=memory_gb)
    return _tangent_of_gradient(problem, fixed_residual=False)


def residual(
    model: nn.Module, data: Data, *, chunk: int = 1000, memory_gb: float | None = None
) -> ChunkSum:
    """Return H = Hess - G, computed directly, as a (p, p) operator; options as ``hessian``.

    Its diagonal is zero for piecewise-linear networks.
    """
    problem = Problem(model, data, chunk=chunk, memory_gb=memory_gb)
    return _tangent_of_gradient(problem, fixed_residual=True)


def _tangent_of_gradient(problem: Problem, *, fixed_residual: bool) -> ChunkSum:
    theta = problem.network.theta

    def keep(chunk: Chunk) -> Kept:
        tangent = linearised(_gradient_map(problem, chunk, fixed_residual), theta)[1]
        return Kept(tangent, held_bytes(tangent))

    def recompute(chunk: Chunk) -> Product:
        gradient = _gradient_map(problem, chunk, fixed_residual)
        return lambda v: jvp(gradient, (theta,), (v,))[1]

    return chunk_sum(problem, keep=keep, recompute=recompute, positive=False)


def _gradient_map(
    problem: Problem, chunk: Chunk, fixed_residual: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    def logits_of(theta: torch.Tensor) -> torch.Tensor:
        return problem.network.logits(theta, chunk.inputs)

    def residual_of(logits: torch.Tensor) -> torch.Tensor:
        return loss_residual(logits, chunk.mask) / problem.examples

    fixed = residual_of(logits_of(problem.network.theta)) if fixed_residual else None

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        logits, pull = vjp(logits_of, theta)
        return pull(residual_of(logits) if fixed is None else fixed)[0]

    return gradient
