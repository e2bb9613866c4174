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
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import jvp, vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_products
from pipeline.curvature.loss import (
    likeliest,
    loss_hessian_product,
    loss_residual,
    relative_logits,
)
from pipeline.curvature.problem import Chunk, Data, Options, Problem
from pipeline.curvature.reverse import differentiable
from pipeline.curvature.tangent import Linearised, several
from pipeline.device import rounding


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


def tangent_of_gradient(problem: Problem, *, fixed_residual: bool, once: bool = False) -> ChunkSum:
    """Return Hess, or H where the residual is fixed, of a problem.

    For a product asked ``once`` nothing is worth keeping.
    """
    network, theta = problem.network, problem.network.theta
    function = _gradient_map(problem, fixed_residual)
    linearised = Linearised(function, compiled=problem.compiled, anyway=network.tensors)

    def keep(chunk: Chunk, pure: bool) -> Kept:
        fixed = _fixed(problem, chunk, fixed_residual)
        tangent = linearised.at(theta, chunk.inputs, *fixed, pure=pure)
        return Kept(partial(several, tangent.push, alone=problem.alone), tangent.held)

    @cache  # asked within ``chunk_products``, which goes on with less where memory runs out
    def forward() -> bool:
        return _forward_is_better(problem, fixed_residual)

    def recompute(chunk: Chunk) -> Product:
        if not forward():
            return _twice_reversed(problem, chunk, fixed_residual)
        single = _pulled_back(problem, chunk, fixed_residual)
        fixed = _fixed(problem, chunk, fixed_residual)

        def product(rows: torch.Tensor) -> torch.Tensor:
            if len(rows) == 1:
                return single(rows[0])[None]
            inputs = chunk.inputs  # they may be streamed: held no longer than a product takes

            def gradient(at: torch.Tensor) -> torch.Tensor:
                return function(at, inputs, *fixed)

            return several(lambda v: jvp(gradient, (theta,), (v,))[1], rows, alone=problem.plain)

        return product

    products, kept = chunk_products(problem, keep=None if once else keep, recompute=recompute)
    return ChunkSum(problem, products, kept=kept, positive=False)


def _forward_is_better(problem: Problem, fixed_residual: bool) -> bool:
    """Return whether to use forward mode where nothing is kept.

    With convolutions that is the faster way (LeNet5: 2.4 gradients against 3.3), without them it is
    not (F-200^2: 2.5 against 2.3).  Of some activations, as SiLU, PyTorch has no such derivative,
    and of a user's own function it is not differentiated in turn.
    """
    theta = problem.network.theta
    if not problem.network.channels:
        return False
    try:
        with torch.no_grad():
            example = next(problem.chunks(1))
            fixed = (example.inputs, *_fixed(problem, example, fixed_residual))
            function = _gradient_map(problem, fixed_residual)
            expected = jvp(lambda at: function(at, *fixed), (theta,), (theta,))[1]
            found = _pulled_back(problem, example, fixed_residual)(theta)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # NotImplementedError is one; a function of the user's own is another
        return False
    allowed = rounding(theta.device, theta.dtype) ** 0.5 * float(expected.norm())
    return float((found - expected).norm()) <= allowed


def _pulled_back(
    problem: Problem, chunk: Chunk, fixed_residual: bool
) -> Callable[..., torch.Tensor]:
    """Return v -> the derivative of r . J v, where r moves or is fixed.

    The gradient's derivative takes a sixth longer for one vector (LeNet5, VGG11, ResNet18 on a
    CPU), and less for several, which share what does not depend on them.
    """
    network = problem.network

    def product(v: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            at = [piece.detach().requires_grad_() for piece in network.pieces(network.theta)]
            with dual_level():
                duals = [make_dual(*pair) for pair in zip(at, network.pieces(v), strict=True)]
                logits, u = unpack_dual(network.logits_of(duals, chunk.inputs))
            if u is None or not logits.requires_grad:  # they do not depend on the parameters
                return torch.zeros_like(v)
            relative = chunk.relative(logits.detach())
            residual = loss_residual(relative, chunk.mask) / problem.examples
            if fixed_residual:
                return _along([u], at, [residual])
            pi = relative.softmax(-1)
            Ku = loss_hessian_product(pi, likeliest(pi), u.detach()) / problem.examples
            return _along([u, logits], at, [residual, Ku])

    return product


def _twice_reversed(problem: Problem, chunk: Chunk, fixed_residual: bool) -> Product:
    """Return the product as the derivative of gradient . v, the matrix being symmetric.

    PyTorch's plain autograd: torch.func's costs F-200^2 a quarter of a gradient more.
    """
    network = problem.network

    def product(rows: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            at = [piece.detach().requires_grad_() for piece in network.pieces(network.theta)]
            logits = network.logits_of(at, chunk.inputs)
            residual = _residual(problem, logits, chunk.mask, chunk.correction)
            residual = residual.detach() if fixed_residual else residual
            if not logits.requires_grad:  # they do not depend on the parameters
                return torch.zeros_like(rows)
            with differentiable():
                gradient = torch.autograd.grad(
                    logits, at, residual, create_graph=True, materialize_grads=True
                )
                found = [_along(gradient, at, network.pieces(v)) for v in rows]
            return found[0][None] if len(found) == 1 else torch.stack(found)

    return product


def _along(
    gradient: Sequence[torch.Tensor], at: Sequence[torch.Tensor], v: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the derivative (p,) of gradient . v by ``at``, zero where the gradient is constant."""
    pairs = [(g, u) for g, u in zip(gradient, v, strict=True) if g.requires_grad]
    if not pairs:
        return torch.cat([torch.zeros_like(piece).flatten() for piece in at])
    moving, along = zip(*pairs, strict=True)
    found = torch.autograd.grad(moving, at, along, retain_graph=True, materialize_grads=True)
    return torch.cat([piece.flatten() for piece in found])


def _gradient_map(problem: Problem, fixed_residual: bool) -> Callable[..., torch.Tensor]:
    """Return the map theta -> J(theta)^T r, of inputs and what ``_fixed`` returns beside."""
    network = problem.network

    def gradient(theta: torch.Tensor, inputs: torch.Tensor, *fixed: torch.Tensor) -> torch.Tensor:
        logits, pull = vjp(lambda at: network.logits(at, inputs), theta)
        return pull(fixed[0] if fixed_residual else _residual(problem, logits, *fixed))[0]

    return gradient


def _fixed(problem: Problem, chunk: Chunk, fixed_residual: bool) -> tuple[torch.Tensor, ...]:
    """Return what r is made of beside the logits, or r itself where it is fixed."""
    if not fixed_residual:
        return chunk.mask, chunk.correction
    logits = problem.network.logits(problem.network.theta, chunk.inputs)
    return (_residual(problem, logits, chunk.mask, chunk.correction),)


def _residual(
    problem: Problem, logits: torch.Tensor, mask: torch.Tensor, correction: torch.Tensor
) -> torch.Tensor:
    """Return r = (pi - y) / N."""
    return loss_residual(relative_logits(logits, mask, correction), mask) / problem.examples
