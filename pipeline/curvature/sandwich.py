"""Operators J^T K J, with K acting on logits: the Gauss-Newton part G."""

from collections.abc import Callable

import torch
from torch import nn
from torch.func import vjp

from pipeline.curvature.base import ChunkSum
from pipeline.curvature.loss import loss_hessian_product
from pipeline.curvature.problem import Chunk, Data, Problem, linearised


def gauss_newton(model: nn.Module, data: Data, *, chunk: int = 1000) -> ChunkSum:
    """Return G = (1/N) sum_i J_i^T (diag(pi_i) - pi_i pi_i^T) J_i as a (p, p) operator.

    Options as ``hessian``.  Source: S; docs/method.md.
    """
    problem = Problem(model, data, chunk=chunk)
    products = [_sandwich(problem, piece) for piece in problem.chunks()]
    return ChunkSum(products, **problem.about, positive=True)


def _sandwich(problem: Problem, chunk: Chunk) -> Callable[[torch.Tensor], torch.Tensor]:
    theta = problem.network.theta

    def logits_of(parameters: torch.Tensor) -> torch.Tensor:
        return problem.network.logits(parameters, chunk.inputs)

    logits, push = linearised(logits_of, theta)
    _, pull = vjp(logits_of, theta)
    probabilities = logits.softmax(-1)

    def product(v: torch.Tensor) -> torch.Tensor:
        # v -> J v -> K J v -> J^T K J v
        Ku = loss_hessian_product(probabilities, chunk.mask, push(v))
        return pull(Ku / problem.examples)[0]

    return product
