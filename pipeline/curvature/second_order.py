"""Hess and H as tangent maps of the gradient map theta -> J(theta)^T r.

Hess v is the derivative along v with r = (pi - y)/N moving with theta; H v the same with r held
fixed.  Computed so, H has none of the cancellation of Hess v - G v.  A chunk is linearised once: a
product then evaluates tangents alone, at about the cost of one gradient.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Unpack

import torch
from torch import nn
from torch.func import jvp, vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_products
from pipeline.curvature.loss import loss_residual
from pipeline.curvature.problem import Chunk, Data, Options, Problem
from pipeline.curvature.tangent import Map, linearised, several


def hessian(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return Hess, the Hessian of the mean cross-entropy, as a (p, p) operator.

    ``data`` is (inputs, labels) or anything with these attributes.  BatchNorm is in eval mode.
    ``options`` are ``Options``.  Source: S; docs/method.md.
    """
    problem = Problem(model, data, **options)
    return tangent_of_gradient(problem, fixed_residual=False)


def residual(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return H = Hess - G, computed directly, as a (p, p) operator; options as ``hessian``.

    Its diagonal is zero for piecewise-linear networks.
    """
    problem = Problem(model, data, **options)
    return tangent_of_gradient(problem, fixed_residual=True)


def tangent_of_gradient(problem: Problem, *, fixed_residual: bool) -> ChunkSum:
    """Return Hess, or H where the residual is fixed, of a problem."""
    theta = problem.network.theta

    def keep(chunk: Chunk, pure: bool) -> Kept:
        gradient = _gradient_map(problem, chunk, fixed_residual)()
        tangent = linearised(gradient, theta, pure=pure, compiled=problem.compiled)
        return Kept(partial(several, tangent.push), tangent.held)

    @cache  # asked within ``chunk_products``, which goes on with less where memory runs out
    def forward() -> bool:
        return _forward_is_better(problem, fixed_residual)

    def recompute(chunk: Chunk) -> Product:
        if not forward():
            return _twice_reversed(problem, chunk, fixed_residual)
        made = _gradient_map(problem, chunk, fixed_residual)

        def product(rows: torch.Tensor) -> torch.Tensor:
            gradient = made()
            return several(lambda v: jvp(gradient, (theta,), (v,))[1], rows)

        return product

    products, kept = chunk_products(problem, keep=keep, recompute=recompute)
    return ChunkSum(problem, products, kept=kept, positive=False)


def _forward_is_better(problem: Problem, fixed_residual: bool) -> bool:
    """Return whether to differentiate the gradient forwards where nothing is kept.

    With convolutions that is the faster way (LeNet5: 2.7 gradients against 3.3), without them it is
    not (F-200^2: 3.6 against 2.4).  Of some activations, as SiLU, PyTorch has no such derivative.
    """
    theta = problem.network.theta
    if not problem.network.channels:
        return False
    try:
        with torch.no_grad():
            example = next(problem.chunks(1))
            jvp(_gradient_map(problem, example, fixed_residual)(), (theta,), (theta,))
    except NotImplementedError:
        return False
    return True


def _twice_reversed(problem: Problem, chunk: Chunk, fixed_residual: bool) -> Product:
    """Return the product as the derivative of gradient . v, the matrix being symmetric.

    PyTorch's plain autograd: torch.func's costs F-200^2 a quarter of a gradient more.
    """
    network = problem.network

    def product(rows: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            at = [piece.detach().requires_grad_() for piece in network.pieces(network.theta)]
            logits = network.logits_of(at, chunk.inputs)
            residual = _residual(problem, chunk, logits)
            residual = residual.detach() if fixed_residual else residual
            gradient = torch.autograd.grad(logits, at, residual, create_graph=True)
            found = [_along(gradient, at, network.pieces(v)) for v in rows]
            return found[0][None] if len(found) == 1 else torch.stack(found)

    return product


def _along(
    gradient: Sequence[torch.Tensor], at: Sequence[torch.Tensor], v: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the derivative (p,) of gradient . v, zero where the gradient is constant."""
    pairs = [(g, u) for g, u in zip(gradient, v, strict=True) if g.requires_grad]
    if not pairs:
        return torch.cat([torch.zeros_like(piece).flatten() for piece in at])
    moving, along = zip(*pairs, strict=True)
    found = torch.autograd.grad(moving, at, along, retain_graph=True, materialize_grads=True)
    return torch.cat([piece.flatten() for piece in found])


def _gradient_map(problem: Problem, chunk: Chunk, fixed_residual: bool) -> Callable[[], Map]:
    """Return what makes the map theta -> J(theta)^T r of a chunk, which holds its inputs.

    They may be streamed: a chunk that is recomputed holds them no longer than a product takes.
    """
    network, fixed = problem.network, None
    if fixed_residual:
        fixed = _residual(problem, chunk, network.logits(network.theta, chunk.inputs))

    def gradient(inputs: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        logits, pull = vjp(lambda at: network.logits(at, inputs), theta)
        return pull(_residual(problem, chunk, logits) if fixed is None else fixed)[0]

    return lambda: partial(gradient, chunk.inputs)


def _residual(problem: Problem, chunk: Chunk, logits: torch.Tensor) -> torch.Tensor:
    """Return r = (pi - y) / N."""
    return loss_residual(chunk.relative(logits), chunk.mask) / problem.examples
