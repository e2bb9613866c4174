"""Hess and H as tangent maps of the gradient map theta -> J(theta)^T r.

Hess v is the derivative along v with r = (pi - y)/N moving with theta; H v the same with r held
fixed.  Computed so, H has none of the cancellation of Hess v - G v.  Of a linearised chunk a
product evaluates tangents alone, at about the cost of one gradient.
"""

from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from torch import nn
from torch.func import vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_products
from pipeline.curvature.given import Data
from pipeline.curvature.linearize import LinearizedFunction
from pipeline.curvature.loss import loss_residual, relative_logits
from pipeline.curvature.problem import Chunk, Options, Problem
from pipeline.curvature.reverse import differentiable
from pipeline.modes import default_modes


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


@default_modes()
def tangent_of_gradient(problem: Problem, *, fixed_residual: bool, once: bool = False) -> ChunkSum:
    """Return Hess, or H where the residual is fixed, of a problem.

    For a product asked ``once`` nothing is worth keeping.
    """
    network, theta = problem.network, problem.network.theta
    function = _gradient_map(problem, fixed_residual)
    linearized = LinearizedFunction(
        function,
        compiled=problem.compiled,
        state=network.state,
        structure=(network.structure, "H" if fixed_residual else "Hess", problem.examples),
        already_allocated=network.tensors,
    )

    def keep(chunk: Chunk, functional: bool) -> Kept:
        fixed = _fixed(problem, chunk, fixed_residual)
        at = linearized.at(
            theta, chunk.inputs, *fixed, functional=functional, vectorize=problem.vectorize
        )
        relinearize = at.relinearize  # not ``at``, whose constants a kept chunk takes

        def again(rows: torch.Tensor) -> torch.Tensor:
            # The inputs, which may be streamed, are read for each product.
            return relinearize(theta, chunk.inputs, *fixed)(rows)

        return Kept(at.jvp, at.kept_bytes, again, linearized if at.recorded_elsewhere else None)

    def recompute(chunk: Chunk) -> Product:
        return _twice_reversed(problem, chunk, fixed_residual)

    products, kept = chunk_products(
        problem, keep=None if once else keep, recompute=recompute, always=True
    )
    return ChunkSum(problem, products, kept=kept, positive=False)


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
