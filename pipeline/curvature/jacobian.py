"""J and J^T of a chunk of examples, kept linearised or recomputed: what lies around a kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import vjp

from pipeline.curvature.memory import saved_bytes
from pipeline.curvature.problem import Chunk, Problem
from pipeline.curvature.tangent import Linearised, Map, along, several, there_anyway


@dataclass(frozen=True)
class Jacobian:
    """The derivative of a chunk's logits (n, C) by the parameters.

    ``push`` (k, p) -> (k, n, C) is J v for each row, ``pull`` (k, n, C) -> (k, p) its transpose;
    ``probabilities`` (n, C) are the network's, ``held`` the bytes that stay taken.
    """

    push: Map
    pull: Map
    probabilities: torch.Tensor
    held: int

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return J^T J v for each of ``rows``."""
        return self.pull(self.push(rows))


def kept_jacobians(problem: Problem) -> Callable[[Chunk, bool], Jacobian]:
    """Return what makes J of a chunk, linearised once; its flag is ``pure`` of ``Linearised``."""
    return partial(_kept, problem, Linearised(problem.network.logits, compiled=problem.compiled))


def _kept(problem: Problem, linearised: Linearised, chunk: Chunk, pure: bool) -> Jacobian:
    theta, inputs = problem.network.theta, chunk.inputs
    tangent = linearised.at(theta, inputs, pure=pure)
    logits = partial(_logits, problem, inputs)
    _, pull = vjp(logits, theta)
    saved = saved_bytes(logits, theta, there_anyway([inputs]))
    of_rows = partial(several, alone=problem.alone)
    return Jacobian(
        push=partial(of_rows, tangent.push),
        pull=partial(of_rows, lambda u: pull(u)[0]),
        probabilities=chunk.relative(tangent.value).softmax(-1),
        held=tangent.held + saved,
    )


def recomputed_jacobian(problem: Problem, chunk: Chunk) -> Jacobian:
    """Return J whose products each evaluate the network anew."""
    theta = problem.network.theta

    def logits() -> Map:
        # The inputs, which may be streamed, are held no longer than a product takes.
        return partial(_logits, problem, chunk.inputs)

    def push(rows: torch.Tensor) -> torch.Tensor:
        of = logits()
        return several(lambda v: along(of, theta, v)[1], rows)

    def pull(rows: torch.Tensor) -> torch.Tensor:
        back = vjp(logits(), theta)[1]
        return several(lambda u: back(u)[0], rows)

    with torch.no_grad():
        probabilities = chunk.relative(logits()(theta)).softmax(-1)
    return Jacobian(push, pull, probabilities, held=0)


def _logits(problem: Problem, inputs: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return problem.network.logits(theta, inputs)
