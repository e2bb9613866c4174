"""Operators J^T K J, with K acting on logits: the Gauss-Newton part G."""

from functools import partial
from typing import Unpack

import torch
from torch import nn
from torch.func import jvp, vjp

from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_sum
from pipeline.curvature.loss import loss_hessian_product
from pipeline.curvature.memory import activation_bytes
from pipeline.curvature.problem import Chunk, Data, Options, Problem
from pipeline.curvature.tangent import linearised, several


def gauss_newton(model: nn.Module, data: Data, **options: Unpack[Options]) -> ChunkSum:
    """Return G = (1/N) sum_i J_i^T (diag(pi_i) - pi_i pi_i^T) J_i as a (p, p) operator.

    Options as ``hessian``.  Source: S; docs/method.md.
    """
    problem = Problem(model, data, **options)

    def keep(chunk: Chunk, pure: bool) -> Kept:
        return _kept(problem, chunk, pure)

    def recompute(chunk: Chunk) -> Product:
        return _recomputed(problem, chunk)

    return chunk_sum(problem, keep=keep, recompute=recompute, positive=True)


def _kept(problem: Problem, chunk: Chunk, pure: bool) -> Kept:
    theta = problem.network.theta

    def logits_of(parameters: torch.Tensor) -> torch.Tensor:
        return problem.network.logits(parameters, chunk.inputs)

    tangent = linearised(logits_of, theta, pure=pure, compiled=problem.compiled)
    _, pull = vjp(logits_of, theta)
    probabilities = chunk.relative(tangent.value).softmax(-1)

    def product(v: torch.Tensor) -> torch.Tensor:
        # v -> J v -> K J v -> J^T K J v
        Ku = loss_hessian_product(probabilities, chunk.mask, tangent.push(v))
        return pull(Ku / problem.examples)[0]

    saved = activation_bytes(problem.network.module, chunk.inputs)  # by autograd, for J^T
    return Kept(partial(several, product), tangent.held + saved)


def _recomputed(problem: Problem, chunk: Chunk) -> Product:
    theta = problem.network.theta

    def product(v: torch.Tensor) -> torch.Tensor:
        def both(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # One forward serves J v and, pulled back, J^T.
            def logits_of(inner: torch.Tensor) -> torch.Tensor:
                return problem.network.logits(inner, chunk.inputs)

            logits, u = jvp(logits_of, (parameters,), (v,))
            return logits, u.detach()

        logits, pull, u = vjp(both, theta, has_aux=True)
        Ku = loss_hessian_product(chunk.relative(logits).softmax(-1), chunk.mask, u)
        return pull(Ku / problem.examples)[0]

    return partial(several, product)
