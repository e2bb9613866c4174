"""J and J^T of a chunk of examples, kept linearised or recomputed: what lies around a kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import vjp

from pipeline.curvature.memory import saved_bytes
from pipeline.curvature.problem import Chunk, Problem
from pipeline.curvature.reverse import Reversed
from pipeline.curvature.tangent import Linearised, Map, NotLinearisedError, along, several


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
    network = problem.network
    theta, anyway = network.theta, network.tensors
    linearised = Linearised(network.logits, compiled=problem.compiled, anyway=anyway)
    saved: dict[torch.Size, int] = {}  # bytes for J^T, by shape: what there is to count is the same

    def keep(chunk: Chunk, pure: bool) -> Jacobian:
        inputs = chunk.inputs
        logits = partial(_logits, problem, inputs)
        if inputs.shape not in saved:
            saved[inputs.shape] = _saved(logits, theta, [inputs, *anyway])
        alone = problem.alone or problem.plain
        tangent = linearised.at(theta, inputs, pure=pure, alone=alone)
        _, pull = vjp(logits, theta)
        return Jacobian(
            push=tangent.push,
            pull=partial(several, lambda u: pull(u)[0], alone=alone),
            probabilities=chunk.relative(tangent.value).softmax(-1),
            held=tangent.held + saved[inputs.shape],
        )

    return keep


def _saved(logits: Map, theta: torch.Tensor, anyway: Sequence[torch.Tensor]) -> int:
    """Return ``saved_bytes``; NotLinearisedError where it cannot be told."""
    try:
        return saved_bytes(logits, theta, anyway)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NotLinearisedError(str(error)) from error


def recomputed_jacobian(problem: Problem, chunk: Chunk) -> Jacobian:
    """Return J whose products each evaluate the network anew."""
    if problem.plain:
        return _in_reverse(problem, chunk)
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

    return Jacobian(push, pull, _probabilities(problem, chunk), held=0)


def _in_reverse(problem: Problem, chunk: Chunk) -> Jacobian:
    """Return J of a network that torch.func cannot follow, evaluated anew at each product."""

    def evaluated() -> Reversed:
        return Reversed(partial(_logits, problem, chunk.inputs), problem.network.theta)

    def push(rows: torch.Tensor) -> torch.Tensor:
        found = evaluated()
        return several(found.push, rows, alone=True)

    def pull(rows: torch.Tensor) -> torch.Tensor:
        found = evaluated()
        return several(found.pull, rows, alone=True)

    return Jacobian(push, pull, _probabilities(problem, chunk), held=0)


def _probabilities(problem: Problem, chunk: Chunk) -> torch.Tensor:
    with torch.no_grad():
        return chunk.relative(problem.network(chunk.inputs)).softmax(-1)


def _logits(problem: Problem, inputs: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return problem.network.logits(theta, inputs)
