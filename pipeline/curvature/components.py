"""Operators of the levels of G: A1, A2, B1, B2, and any sum or difference of them."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import nn

from pipeline.arguments import checked_count
from pipeline.curvature.base import checked_columns
from pipeline.curvature.chunked import ChunkSum, Kept, chunk_products
from pipeline.curvature.given import Data
from pipeline.curvature.jacobian import Jacobian, kept_jacobians, recomputed_jacobian
from pipeline.curvature.levels import (
    Group,
    Means,
    Weights,
    class_means,
    energies,
    through_kernel,
)
from pipeline.curvature.memory import pass_budget
from pipeline.curvature.parallel import least_over_ranks, sum_over_ranks
from pipeline.curvature.problem import Chunk, Options, Problem
from pipeline.errors import ArgumentError
from pipeline.modes import default_modes


@default_modes()
def component(
    model: nn.Module,
    data: Data,
    *,
    name: str,
    true_class: int | None = None,
    **options: Unpack[Options],
) -> "Component":
    """Return A1, A2, B1, B2, or a sum or difference of them such as "G-A1", as a (p, p) operator.

    G = A1 + A2 + B1 + B2 exactly; classes may be unbalanced or absent.  With ``true_class`` only
    the examples of that class speak: of B2 this is B2_c.  Options as ``hessian``.  Source: S;
    docs/method.md.
    """
    made = _component(Problem(model, data, **options), Weights.of(name))
    return made if true_class is None else made.of_class(true_class)


def _component(problem: Problem, weights: Weights) -> "Component":
    jacobian = kept_jacobians(problem)

    def keep(chunk: Chunk, functional: bool) -> Kept:
        J = jacobian(chunk, functional)
        return Kept(J, J.held, recorded_elsewhere=J.recorded_elsewhere)

    def recompute(chunk: Chunk) -> Jacobian:
        return recomputed_jacobian(problem, chunk)

    jacobians, kept = chunk_products(problem, keep=keep, recompute=recompute)
    return Component(problem, jacobians, weights, kept=kept)


class Component(ChunkSum):
    """J^T K J with a kernel that couples the examples of a class through their means.

    All chunks are multiplied by J first, then come the means, over all ranks, then J^T.
    """

    def __init__(
        self, problem: Problem, jacobians: Sequence[Jacobian], weights: Weights, *, kept: int
    ) -> None:
        positive = all(weight >= 0 for weight in weights.values)
        super().__init__(problem, jacobians, kept=kept, positive=positive)
        self.problem = problem
        self.jacobians = tuple(jacobians)
        self.weights = weights
        self.groups = [
            Group.of(J.probabilities, chunk.mask)
            for J, chunk in zip(jacobians, problem.chunks(), strict=True)
        ]
        mass = self._zeros()
        for group in self.groups:
            mass += group.sums(group.probabilities)
        self.mass = sum_over_ranks(mass)
        # J v of all examples is held at once, for each vector of a pass.
        images = max(1, problem.examples * problem.classes * self.dtype.itemsize)
        fit = max(1, min(self.vectors, pass_budget(self.device) // images))
        self.vectors = least_over_ranks(fit, self.device)

    @default_modes()
    def of_class(self, true_class: int) -> "Component":
        """Return the part of one true class, recomputed at each product.

        For one class, linearising costs more than it saves, unless examples are many.
        """
        checked_count(true_class, "true_class", least=0, most=self.problem.classes - 1)
        problem = self.problem.of_class(true_class)
        jacobians = [recomputed_jacobian(problem, chunk) for chunk in problem.chunks()]
        return Component(problem, jacobians, self.weights, kept=0)

    @default_modes()
    def named(self, name: str) -> "Component":
        """Return another component of the same G; the two share what is linearised."""
        return Component(self.problem, self.jacobians, Weights.of(name), kept=self.kept)

    @property
    def shares(self) -> torch.Tensor:
        """p_ck / N (C, C): how much of the probability true class c gives to class k."""
        return self.mass / self.problem.examples

    @default_modes()
    def traces(self, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return v^T A v for columns v of ``V`` (p, k): A1's, A2's, B1's (k, 3); B2's (k, C, C).

        For random signs these are unbiased estimates of traces, B2's split by class pair (true,
        cross).  One product with J serves them all.
        """
        V = checked_columns(V, self)
        if not V.shape[1]:
            raise ArgumentError(f"V has shape {tuple(V.shape)}. Give at least one column")
        rows = V.T.to(self.dtype).contiguous()
        with torch.no_grad():
            parts = [self._energies(some) for some in rows.split(self.vectors)]
        between, within = (torch.cat(found) for found in zip(*parts, strict=True))
        return between, within

    def _energies(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        centred, means = self._pushed(rows)
        within = self._zeros(len(rows))
        for group, w in zip(self.groups, centred, strict=True):
            within += energies(group, w, means)
        squares = [means.level(part).square() * self.shares for part in ("A1", "A2", "B1")]
        between = torch.stack([square.sum((-1, -2)) for square in squares], -1)
        return between, sum_over_ranks(within) / self.problem.examples

    def _sum(self, rows: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(rows)
        if len(set(self.weights.values)) == 1:  # a multiple of G: nothing is coupled
            for J, group in zip(self.jacobians, self.groups, strict=True):
                total = total + self._pulled(J, group, group.centred(J.push(rows)), None)
            return total
        centred, means = self._pushed(rows)
        for J, group, w in zip(self.jacobians, self.groups, centred, strict=True):
            total = total + self._pulled(J, group, w, means)
        return total

    def _pulled(
        self, J: Jacobian, group: Group, w: torch.Tensor, means: Means | None
    ) -> torch.Tensor:
        return J.pull(through_kernel(self.weights, group, w, means) / self.problem.examples)

    def _pushed(self, rows: torch.Tensor) -> tuple[list[torch.Tensor], Means]:
        """Return w of every chunk, and the class means over all of them."""
        centred = [
            group.centred(J.push(rows))
            for J, group in zip(self.jacobians, self.groups, strict=True)
        ]
        sums = self._zeros(len(rows))
        for group, w in zip(self.groups, centred, strict=True):
            sums += group.sums(group.probabilities * w)
        return centred, class_means(sum_over_ranks(sums), self.mass)

    def _zeros(self, *leading: int) -> torch.Tensor:
        shape = (*leading, self.problem.classes, self.problem.classes)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)
