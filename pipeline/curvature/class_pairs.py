"""The vectors g_{c,k} of pairs of a true and a cross class: their Gram matrix.

A pair costs one backward pass over the examples of its true class, so all C^2 pairs cost C passes
over the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from pipeline.curvature.gram import COLUMNS
from pipeline.curvature.levels import ratio
from pipeline.curvature.loss import label_mask, likeliest, relative_logits, zero_sum
from pipeline.curvature.parallel import ranks, sum_over_ranks
from pipeline.curvature.problem import Data, Options, Problem

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
    p, theta = len(problem.network.theta), problem.network.theta
    width = max(1, min(p, room // max(1, len(pairs) * theta.dtype.itemsize)))
    gram = torch.zeros(len(pairs), len(pairs), dtype=torch.float64, device=theta.device)
    for start in range(0, p, width):
        rows, mass = _vectors(problem, pairs, slice(start, min(p, start + width)))
        # In float64: what is read from it are differences of nearly parallel vectors.
        for some in rows.split(COLUMNS, dim=1):
            gram += some.double() @ some.double().T
    return PairGram(tuple(pairs), gram.cpu(), (mass / problem.examples).cpu())


def all_pairs(classes: Sequence[int]) -> list[Pair]:
    """Return every pair of two of the classes, the cross class varying fastest."""
    return [(c, k) for c in classes for k in classes]


def _vectors(
    problem: Problem, pairs: Sequence[Pair], columns: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some columns of the g_ck, a row per pair, and p_ck (C, C) in float64."""
    network, C = problem.network, problem.classes
    theta = network.theta
    rows = torch.zeros(
        len(pairs), columns.stop - columns.start, dtype=theta.dtype, device=theta.device
    )
    mass = torch.zeros(C, C, dtype=torch.float64, device=theta.device)
    for c in range(C):
        places = [i for i, (true_class, _) in enumerate(pairs) if true_class == c]
        cross = [pairs[i][1] for i in places]
        one = problem.of_class(c)
        for inputs in one.inputs.split(one.chunk):
            if not len(inputs):
                continue
            with torch.enable_grad():
                # PyTorch's plain autograd, which has less to do per call than torch.func's.
                at = [piece.detach().requires_grad_() for piece in network.pieces(theta)]
                logits = network.logits_of(at, inputs)
            mask = label_mask(torch.full((len(inputs),), c, device=theta.device), C)
            exact = problem.exact_relative(inputs, mask)
            if exact is None:
                exact = relative_logits(logits.detach(), mask)
            pi = exact.softmax(-1).to(theta.dtype)
            own = pi.sum(0, dtype=torch.float64)
            mass[c] += own
            # A running mean: sums of p_ck g_ck could fall below float32's range.
            share = ratio(own, mass[c]).to(theta.dtype)
            for i, u in zip(places, _cotangents(pi, own, cross), strict=True):
                pulled = torch.autograd.grad(
                    logits, at, u, retain_graph=True, materialize_grads=True
                )
                flat = torch.cat([piece.flatten() for piece in pulled])[columns]
                rows[i] += share[pairs[i][1]] * (flat - rows[i])
    every = sum_over_ranks(mass.clone())
    if ranks()[1] > 1:
        share = ratio(mass, every).to(theta.dtype)
        rows *= torch.stack([share[pair] for pair in pairs])[:, None]
        sum_over_ranks(rows)
    return rows, every


def _cotangents(pi: torch.Tensor, own: torch.Tensor, cross: Sequence[int]) -> torch.Tensor:
    """Return (pi_ik / sum_i pi_ik) (e_k - pi_i) for each k of ``cross``: (m, n, C)."""
    k = torch.as_tensor(cross, dtype=torch.int64, device=pi.device)
    share = ratio(pi[:, k], own[k].to(pi.dtype)).T
    unit = torch.eye(pi.shape[1], dtype=pi.dtype, device=pi.device)[k]
    return share[:, :, None] * zero_sum(unit[:, None, :] - pi, likeliest(pi))
