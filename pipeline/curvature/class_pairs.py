"""The vectors g_{c,k} of pairs of a true and a cross class: their Gram matrix.

A pair costs one backward pass over the examples of its true class, so all C^2 pairs cost C passes
over the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from torch.func import vjp

from pipeline.curvature.gram import COLUMNS
from pipeline.curvature.levels import Group, ratio
from pipeline.curvature.loss import likeliest, zero_sum
from pipeline.curvature.parallel import sum_over_ranks
from pipeline.curvature.problem import Chunk, Data, Options, Problem
from pipeline.curvature.tangent import several

Pair = tuple[int, int]  # true class, cross class


@dataclass(frozen=True)
class PairGram:
    """The Gram matrix (m, m) of the g_{c,k} of ``pairs``, and p_ck / N (C, C), in float64.

    Both on the CPU.  A pair whose p_ck vanishes has a vector of zeros.
    """

    pairs: tuple[Pair, ...]
    gram: torch.Tensor
    shares: torch.Tensor


def pair_gram(
    model: nn.Module,
    data: Data,
    pairs: Sequence[Pair],
    *,
    room: int,
    **options: Unpack[Options],
) -> PairGram:
    """Return the Gram matrix of g_ck = (1/p_ck) sum_{i in c} pi_ik J_i^T (e_k - pi_i).

    The m vectors take at most ``room`` bytes at a time: where m x p numbers are more, they are made
    over again for each block of parameters, to the same result but for rounding.  Options as
    ``hessian``.  Source: S.
    """
    problem = Problem(model, data, **options)
    p, dtype = len(problem.network.theta), problem.network.theta.dtype
    width = max(1, min(p, room // max(1, len(pairs) * dtype.itemsize)))
    mass = _mass(problem)
    gram = torch.zeros(len(pairs), len(pairs), dtype=torch.float64, device=mass.device)
    for start in range(0, p, width):
        columns = slice(start, min(p, start + width))
        rows = sum_over_ranks(_vectors(problem, pairs, mass.to(dtype), columns))
        # In float64: what is read from it are differences of nearly parallel vectors.
        for some in rows.split(COLUMNS, dim=1):
            gram += some.double() @ some.double().T
    return PairGram(tuple(pairs), gram.cpu(), (mass / problem.examples).cpu())


def all_pairs(classes: Sequence[int]) -> list[Pair]:
    """Return every pair of two of the classes, the cross class varying fastest."""
    return [(c, k) for c in classes for k in classes]


def _vectors(
    problem: Problem, pairs: Sequence[Pair], mass: torch.Tensor, columns: slice
) -> torch.Tensor:
    """Return some columns of this rank's part of the g_ck, a row per pair."""
    theta = problem.network.theta
    rows = torch.zeros(
        len(pairs), columns.stop - columns.start, dtype=theta.dtype, device=theta.device
    )
    for true_class in sorted({c for c, _ in pairs}):
        places = [i for i, (c, _) in enumerate(pairs) if c == true_class]
        for chunk in problem.of_class(true_class).chunks():
            for some in _batches(places, problem.vectors):
                cross = [pairs[i][1] for i in some]
                rows[some] += _pulled(problem, chunk, cross, mass[true_class])[:, columns]
    return rows


def _pulled(
    problem: Problem, chunk: Chunk, cross: Sequence[int], mass: torch.Tensor
) -> torch.Tensor:
    """Return sum_i (pi_ik / p_ck) J_i^T (e_k - pi_i) over a chunk of one class, a row per k."""

    def logits_of(parameters: torch.Tensor) -> torch.Tensor:
        return problem.network.logits(parameters, chunk.inputs)

    with torch.no_grad():
        logits, pull = vjp(logits_of, problem.network.theta)
        pi = chunk.relative(logits).softmax(-1)
        k = torch.as_tensor(cross, device=pi.device)
        share = ratio(pi[:, k], mass[k]).T  # (m, n)
        unit = torch.eye(pi.shape[1], dtype=pi.dtype, device=pi.device)[k]
        away = zero_sum(unit[:, None, :] - pi, likeliest(pi))  # e_k - pi_i, (m, n, C)
        return several(lambda u: pull(u)[0], share[:, :, None] * away)


def _mass(problem: Problem) -> torch.Tensor:
    """Return p_ck (C, C) over all examples, in float64."""
    theta = problem.network.theta
    total = torch.zeros(problem.classes, problem.classes, dtype=torch.float64, device=theta.device)
    with torch.no_grad():
        for chunk in problem.chunks():
            pi = chunk.relative(problem.network.logits(theta, chunk.inputs)).softmax(-1)
            total += Group.of(pi, chunk.mask).sums(pi).double()
    return sum_over_ranks(total)


def _batches(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
