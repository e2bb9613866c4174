"""Operators J^T K J, with K acting on logits: the Gauss-Newton part G."""

from functools import partial
from typing import Unpack

import torch
from torch import nn
from torch.func import vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_products
from pipeline.curvature.derivatives import along, map_rows
from pipeline.curvature.given import Data
from pipeline.curvature.jacobian import Jacobian, kept_jacobians
from pipeline.curvature.loss import likeliest, loss_hessian_product
from pipeline.curvature.problem import Chunk, Options, Problem
from pipeline.curvature.reverse import Reversed
from pipeline.modes import default_modes


def gauss_newton(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return G = (1/N) sum_i J_i^T (diag(pi_i) - pi_i pi_i^T) J_i as a (p, p) operator.

    Options as ``hessian``.  Source: S; docs/method.md.
    """
    return gauss_newton_of(Problem(model, data, **options))


@default_modes()
def gauss_newton_of(problem: Problem) -> ChunkSum:
    """Return G of a problem."""
    jacobian = kept_jacobians(problem)

    def keep(chunk: Chunk, functional: bool) -> Kept:
        J = jacobian(chunk, functional)
        return Kept(_sandwich(problem, J), J.held, recorded_elsewhere=J.recorded_elsewhere)

    def recompute(chunk: Chunk) -> Product:
        return recomputed_gauss_newton(problem, chunk)

    products, kept = chunk_products(problem, keep=keep, recompute=recompute)
    return ChunkSum(problem, products, kept=kept, positive=True)


def _sandwich(problem: Problem, J: Jacobian) -> Product:
    anchor = likeliest(J.probabilities)

    def product(rows: torch.Tensor) -> torch.Tensor:
        # v -> J v -> K J v -> J^T K J v
        Ku = loss_hessian_product(J.probabilities, anchor, J.push(rows))
        return J.pull(Ku / problem.examples)

    return product


def recomputed_gauss_newton(problem: Problem, chunk: Chunk) -> Product:
    """Return a chunk's product with G that evaluates the network anew."""
    if problem.plain:
        return partial(_in_reverse, problem, chunk)
    theta = problem.network.theta

    def product(inputs: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        def both(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # One forward serves J v and, pulled back, J^T.
            def logits_of(inner: torch.Tensor) -> torch.Tensor:
                return problem.network.logits(inner, inputs)

            logits, u = along(logits_of, parameters, v)
            return logits, u.detach()

        logits, pull, u = vjp(both, theta, has_aux=True)
        probabilities = chunk.relative(logits).softmax(-1)
        Ku = loss_hessian_product(probabilities, likeliest(probabilities), u)
        return pull(Ku / problem.examples)[0]

    # The inputs, which may be streamed, are held no longer than a product takes.
    return lambda rows: map_rows(
        partial(product, chunk.inputs), rows, vectorize=problem.shares_recomputed()
    )


def _in_reverse(problem: Problem, chunk: Chunk, rows: torch.Tensor) -> torch.Tensor:
    """Return the products with ``rows`` (k, p), of a network that torch.func cannot follow."""
    network, inputs = problem.network, chunk.inputs
    logits = Reversed(lambda theta: network.logits(theta, inputs), network.theta)
    probabilities = chunk.relative(logits.value).softmax(-1)
    J = Jacobian(logits.push, logits.pull, probabilities, held=0)
    return map_rows(_sandwich(problem, J), rows, vectorize=False)
