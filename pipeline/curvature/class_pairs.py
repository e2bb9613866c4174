"""The vectors g_{c,k} of pairs of a true and a cross class: their Gram matrix.

A pair costs one backward pass over the examples of its true class; one pair of a class is minus
the sum of its others.  So all C^2 pairs cost C - 1 passes over the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn

from pipeline.arguments import checked_count
from pipeline.curvature.given import Data
from pipeline.curvature.gram import COLUMNS
from pipeline.curvature.levels import ratio
from pipeline.curvature.loss import label_mask, likeliest, relative_logits, zero_sum
from pipeline.curvature.parallel import sum_over_ranks
from pipeline.curvature.problem import Options, Problem
from pipeline.data.streamed import part
from pipeline.device import trim
from pipeline.errors import ArgumentError
from pipeline.modes import default_modes
from pipeline.progress import Progress

# A logit's rounding is an error of its probability: at this size 4e-6 of it in float32.  Beyond, a
# forward in float64 costs as much as a gradient.
LARGE = 64.0

Pair = tuple[int, int]  # true class, cross class


@dataclass(frozen=True)
class PairGram:
    """The Gram matrix (m, m) of the g_{c,k} of ``pairs``, and p_ck / N (C, C), in float64.

    Both on the CPU.  A pair whose p_ck vanishes has a vector of zeros.
    """

    pairs: tuple[Pair, ...]
    gram: torch.Tensor
    shares: torch.Tensor


@default_modes()
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
    ``hessian``.  Source: S.  Raises ArgumentError if ``pairs`` are no distinct pairs of classes.
    """
    checked_count(room, "room")
    problem = Problem(model, data, **options)
    pairs = _checked_pairs(pairs, problem.classes)
    p, theta = len(problem.network.theta), problem.network.theta
    pi = _probabilities(problem)
    mass = torch.zeros(problem.classes, problem.classes, dtype=torch.float64, device=theta.device)
    mass = sum_over_ranks(mass.index_add(0, problem.labels, pi))
    width = max(1, min(p, room // max(1, len(pairs) * theta.dtype.itemsize)))
    gram = torch.zeros(len(pairs), len(pairs), dtype=torch.float64, device=theta.device)
    starts, classes = range(0, p, width), {c for c, _ in pairs}
    with Progress(total=len(starts) * len(classes), label="class pairs, classes") as shown:
        for start in starts:
            block = slice(start, min(p, start + width))
            # Unnamed, so that a block's vectors are gone before the next one's are made.
            trim()
            gram += _gram(_vectors(problem, pi, mass, pairs, block, shown))
    return PairGram(tuple(pairs), gram.cpu(), (mass / problem.examples).cpu())


def all_pairs(classes: Sequence[int]) -> list[Pair]:
    """Return every pair of two of the classes, the cross class varying fastest."""
    return [(c, k) for c in classes for k in classes]


def _checked_pairs(pairs: Any, classes: int) -> list[Pair]:
    """Return the pairs of ints; ArgumentError if they are not distinct pairs of classes."""
    cure = "Give a list of distinct pairs (true class, cross class), such as [(0, 1), (0, 2)]"
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
        raise ArgumentError(f"pairs is {str(pairs)[:60]}. {cure}")
    checked: list[Pair] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ArgumentError(f"pairs has the entry {pair!r}. {cure}")
        c, k = (
            checked_count(x, f"a class of pairs, in {pair!r},", least=0, most=classes - 1)
            for x in pair
        )
        checked.append((c, k))
    if len(set(checked)) < len(checked):
        twice = next(pair for i, pair in enumerate(checked) if pair in checked[:i])
        raise ArgumentError(f"pairs has {twice} more than once. {cure}")
    return checked


@torch.no_grad()
def _probabilities(problem: Problem) -> torch.Tensor:
    """Return pi (N, C) of the own examples in float64, as float64 has them for large logits."""
    found = [torch.zeros(0, problem.classes, dtype=torch.float64, device=problem.labels.device)]
    for inputs, labels in zip(
        problem.inputs.split(problem.chunk), problem.labels.split(problem.chunk), strict=True
    ):
        mask = label_mask(labels, problem.classes)
        relative = relative_logits(problem.network.logits(problem.network.theta, inputs), mask)
        exact = None
        if float(relative.abs().max()) > LARGE:
            exact = problem.exact_relative(inputs, mask)
        found.append((relative.double() if exact is None else exact).softmax(-1))
    return torch.cat(found)


def _vectors(
    problem: Problem,
    pi: torch.Tensor,
    mass: torch.Tensor,
    pairs: Sequence[Pair],
    columns: slice,
    shown: Progress,
) -> torch.Tensor:
    """Return some columns of the g_ck, a row per pair, from ``pi`` (N, C) and p_ck (C, C)."""
    network, theta = problem.network, problem.network.theta
    size = (len(pairs), columns.stop - columns.start)
    rows = torch.zeros(size, dtype=theta.dtype, device=theta.device)
    for c in sorted({c for c, _ in pairs}):
        place_of = {k: i for i, (true_class, k) in enumerate(pairs) if true_class == c}
        spared = _spared(list(place_of), mass[c])
        cross = [k for k in place_of if k != spared]
        chosen = problem.labels == c
        for inputs, own in zip(
            part(problem.inputs, chosen).split(problem.chunk),
            pi[chosen].split(problem.chunk),
            strict=True,
        ):
            if not len(inputs):
                continue
            with torch.enable_grad():
                # PyTorch's plain autograd, which has less to do per call than torch.func's.
                at = [piece.detach().requires_grad_() for piece in network.pieces(theta)]
                logits = network.logits_of(at, inputs)
            for k, u in zip(cross, _cotangents(own, mass[c], cross, theta.dtype), strict=True):
                pulled = torch.autograd.grad(
                    logits, at, u, retain_graph=True, materialize_grads=True
                )
                rows[place_of[k]] += torch.cat([piece.flatten() for piece in pulled])[columns]
        if spared is not None:
            weights = -ratio(mass[c, cross], mass[c, spared]).to(theta.dtype)
            rows[place_of[spared]] = weights @ rows[[place_of[k] for k in cross]]
        shown.advance()
    return sum_over_ranks(rows)


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """Return the Gram matrix of rows.

    In float64: what is read from it are differences of nearly parallel vectors.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for some in rows.split(COLUMNS, dim=1):
        wide = some.double()
        gram += wide @ wide.T
    return gram


def _spared(cross: list[int], mass: torch.Tensor) -> int | None:
    """Return the cross class of the largest p_ck where sum_k p_ck g_ck = 0 gives its vector."""
    return int(mass.argmax()) if len(cross) == len(mass) else None


def _cotangents(
    pi: torch.Tensor, mass: torch.Tensor, cross: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """Return (pi_ik / p_ck) (e_k - pi_i) for each k of ``cross``: (m, n, C)."""
    k = torch.as_tensor(cross, dtype=torch.int64, device=pi.device)
    share = ratio(pi[:, k], mass[k]).T.to(dtype)
    pi = pi.to(dtype)
    unit = torch.eye(pi.shape[1], dtype=dtype, device=pi.device)[k]
    return share[:, :, None] * zero_sum(unit[:, None, :] - pi, likeliest(pi))
