"""The Gram matrix of G's factors: as large as examples times classes, with G's own eigenvalues."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from torch.func import vjp, vmap

from pipeline.curvature.derivatives import map_rows
from pipeline.curvature.given import Data
from pipeline.curvature.loss import likeliest, zero_sum
from pipeline.curvature.memory import pass_budget
from pipeline.curvature.parallel import own_share, sum_over_ranks
from pipeline.curvature.problem import Chunk, Options, Problem
from pipeline.curvature.reverse import Reversed
from pipeline.modes import default_modes

EXAMPLES = 50  # differentiated at once, each for all classes
COLUMNS = 4096  # of the factors multiplied at once: sums over more lose float32's digits


@dataclass(frozen=True)
class Factors:
    """``rows`` (N C, p) with rows^T rows = G: row (i, k) is sqrt(pi_ik / N) g_ik."""

    rows: torch.Tensor

    @default_modes()
    def gram(self) -> torch.Tensor:
        """Return rows rows^T (N C, N C) in float64: G's eigenvalues but for zeros."""
        n = len(self.rows)
        total = torch.zeros(n, n, dtype=torch.float64, device=self.rows.device)
        for some in self.rows.split(COLUMNS, dim=1):
            total += some @ some.T
        return (total + total.T) / 2


def factor_bytes(examples: int, classes: int, p: int, dtype: torch.dtype) -> int:
    """Return the bytes that the factors and the solution of their Gram matrix take at most."""
    rows = (examples + min(examples, EXAMPLES)) * classes * p * dtype.itemsize
    return rows + 4 * (examples * classes) ** 2 * torch.float64.itemsize


@default_modes()
def gauss_newton_factors(model: nn.Module, data: Data, **options: Unpack[Options]) -> Factors:
    """Return G's factors sqrt(pi_ik / N) g_ik with g_ik = J_i^T (e_k - pi_i).  Source: S.

    In a data-parallel job each rank makes its examples' rows, and all get all of them.
    """
    problem = Problem(model, data, **options)
    theta = problem.network.theta
    shape = (problem.examples, problem.classes, len(theta))
    rows = torch.zeros(shape, dtype=theta.dtype, device=theta.device)
    own, done = own_share(rows), 0
    for chunk, some in _rows(problem):
        own[done : done + len(chunk)] = some
        done += len(chunk)
    return Factors(sum_over_ranks(rows).flatten(0, 1))  # of each row all ranks but one have zeros


@default_modes()
def squared_norms(model: nn.Module, data: Data, **options: Unpack[Options]) -> torch.Tensor:
    """Return sum_{i in c} (pi_ik / N) ||g_ik||^2 (C, C) in float64: trace(G), split by class pair.

    One backward pass for each example and class.  Options as ``hessian``.
    """
    problem = Problem(model, data, **options)
    C, theta = problem.classes, problem.network.theta
    total = torch.zeros(C, C, dtype=torch.float64, device=theta.device)
    for chunk, some in _rows(problem):
        total += chunk.mask.T.double() @ some.square().sum(-1, dtype=torch.float64)
    return sum_over_ranks(total)


def _rows(problem: Problem) -> Iterator[tuple[Chunk, torch.Tensor]]:
    """Yield a few examples and sqrt(pi_ik / N) g_ik (n, C, p) of theirs at a time."""
    theta = problem.network.theta
    classes = torch.arange(problem.classes, device=theta.device)

    def one(x: torch.Tensor, cotangents: torch.Tensor) -> torch.Tensor:
        _, pull = vjp(lambda parameters: problem.network.logits(parameters, x[None])[0], theta)
        return vmap(lambda cotangent: pull(cotangent)[0])(cotangents)

    def in_reverse(x: torch.Tensor, cotangents: torch.Tensor) -> torch.Tensor:
        found = Reversed(lambda at: problem.network.logits(at, x[None])[0], theta)
        return map_rows(found.pull, cotangents, vectorize=False)

    each = problem.classes * len(theta) * theta.dtype.itemsize
    fit = max(1, min(EXAMPLES, pass_budget(theta.device) // each))
    with torch.no_grad():
        for chunk in problem.chunks(fit):
            inputs = chunk.inputs
            logits = problem.network.logits(theta, inputs)
            pi = chunk.relative(logits).softmax(-1)
            away = (classes[:, None] == classes).to(pi.dtype) - pi[:, None, :]  # e_k - pi_i
            away = zero_sum(away, likeliest(pi)[:, None, :])
            scale = (pi / problem.examples).sqrt()
            cotangents = scale[:, :, None] * away
            if problem.plain:
                pairs = zip(inputs, cotangents, strict=True)
                yield chunk, torch.stack([in_reverse(x, some) for x, some in pairs])
            else:
                yield chunk, vmap(one)(inputs, cotangents)
