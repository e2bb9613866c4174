"""The three levels of G in logit space: an analysis of variance over true and cross classes.

With u = J v and w = u - pi . u, all that A1, A2, B1 and B2 see of a vector are the class means

    s_ck = sum_{i in c} pi_ik w_ik / p_ck       t_c = sum_{k != c} p_ck s_ck / p_c

with p_ck = sum_{i in c} pi_ik and p_c = sum_{k != c} p_ck.  Source: S; docs/method.md.
"""

import re
from dataclasses import dataclass

import torch

from pipeline.curvature.loss import centred, likeliest, loss_hessian_product
from pipeline.errors import ArgumentError

PARTS = ("A1", "A2", "B1", "B2")
_NAMES = "Give A1, A2, B1, B2 or G, or a sum or difference of them, such as G-A1"
_TERM = re.compile(r"\s*([+-]?)\s*(G|A1|A2|B1|B2)\s*")


@dataclass(frozen=True)
class Weights:
    """How much of each of A1, A2, B1 and B2 an operator holds."""

    A1: float
    A2: float
    B1: float
    B2: float

    @classmethod
    def of(cls, name: str) -> "Weights":
        """Return the weights of a sum or difference such as "B1", "A1 + A2" or "G - A1".

        Raises ArgumentError for any other name.
        """
        total = dict.fromkeys(PARTS, 0.0)
        place = 0
        if not isinstance(name, str):
            raise ArgumentError(f"name is {name!r}. {_NAMES}")
        while place < len(name) or not place:
            term = _TERM.match(name, place)
            if term is None or (place and not term[1]):
                raise ArgumentError(f"name is {name!r}, no component of G. {_NAMES}")
            for part in PARTS if term[2] == "G" else (term[2],):
                total[part] += -1.0 if term[1] == "-" else 1.0
            place = term.end()
        return cls(**total)

    @property
    def values(self) -> tuple[float, float, float, float]:
        """The weights of A1, A2, B1 and B2."""
        return self.A1, self.A2, self.B1, self.B2


@dataclass(frozen=True)
class Group:
    """A chunk as the levels see it.

    ``probabilities``, the masks of the true and of the likeliest classes (n, C), ``labels`` (n,).
    """

    probabilities: torch.Tensor
    mask: torch.Tensor
    anchor: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, probabilities: torch.Tensor, mask: torch.Tensor) -> "Group":
        """Return the group of some examples' probabilities and true classes."""
        return cls(probabilities, mask, likeliest(probabilities), mask.int().argmax(-1))

    def centred(self, u: torch.Tensor) -> torch.Tensor:
        """Return w = u - pi . u row by row (k, n, C)."""
        return centred(self.probabilities, self.anchor, u)

    def sums(self, rows: torch.Tensor) -> torch.Tensor:
        """Return sum_{i in c} of ``rows`` (..., n, C) for every true class c: (..., C, C)."""
        return self.mask.to(rows.dtype).T @ rows


@dataclass(frozen=True)
class Means:
    """The class means of a block of vectors: ``s`` (k, C, C) and ``t`` (k, C, 1)."""

    s: torch.Tensor
    t: torch.Tensor

    def level(self, part: str) -> torch.Tensor:
        """Return a_{i,k} of A1, A2 or B1, which is one table (k, C, C) for all examples."""
        own = torch.eye(self.s.shape[-1], dtype=torch.bool, device=self.s.device)
        if part == "A2":
            return self.s * own
        return (self.t if part == "A1" else self.s - self.t) * ~own


def class_means(sums: torch.Tensor, mass: torch.Tensor) -> Means:
    """Return the means from sum_{i in c} pi_ik w_ik (k, C, C) and p_ck (C, C).

    A class that is absent, or whose probabilities vanish, has means of zero and weighs nothing.
    """
    off = mass.clone().fill_diagonal_(0)
    # sum_{k != c} p_ck s_ck = -p_cc s_cc, for every row of pi * w sums to zero.
    own = sums.diagonal(dim1=-2, dim2=-1)[..., None]
    return Means(ratio(sums, mass), ratio(-own, off.sum(-1, keepdim=True)))


def through_kernel(
    weights: Weights, group: Group, w: torch.Tensor, means: Means | None
) -> torch.Tensor:
    """Return N K u (k, n, C), rows summing to zero, of a combination of levels.

    Without ``means`` all weights must be equal: the levels' tables then cancel, and K is G's.
    """
    a = weights.B2 * w
    if means is not None:
        table = -weights.B2 * means.s
        for part, weight in zip(PARTS[:3], weights.values[:3], strict=True):
            table = table + weight * means.level(part)
        a = a + table[:, group.labels]
    return loss_hessian_product(group.probabilities, group.anchor, a)


def energies(group: Group, w: torch.Tensor, means: Means) -> torch.Tensor:
    """Return sum_{i in c} pi_ik (w_ik - s_ck)^2 (k, C, C): N v^T B2 v, split by class pair."""
    rest = w - means.s[:, group.labels]
    return group.sums(group.probabilities * rest.square())


def ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return the quotient, zero where the denominator is."""
    there = denominator > 0
    return torch.where(there, numerator / torch.where(there, denominator, 1), 0)
