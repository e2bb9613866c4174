"""J and J^T of a chunk of examples, kept linearised or recomputed: what lies around a kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import vjp

from pipeline.curvature.derivatives import Map, along, map_rows
from pipeline.curvature.linearize import LinearizedFunction, NotLinearizedError
from pipeline.curvature.memory import saved_bytes
from pipeline.curvature.problem import Chunk, Problem
from pipeline.curvature.reverse import Reversed


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
    recorded_elsewhere: LinearizedFunction | None = None  # if another network was recorded

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return J^T J v for each of ``rows``."""
        return self.pull(self.push(rows))


def kept_jacobians(problem: Problem) -> Callable[[Chunk, bool], Jacobian]:
    """Return the function (chunk, functional) -> J, which linearizes the network once per chunk."""
    network = problem.network
    theta, allocated = network.theta, network.tensors
    linearized = LinearizedFunction(
        network.logits,
        compiled=problem.compiled,
        state=network.state,
        structure=(network.structure, "J"),
        already_allocated=allocated,
    )
    saved: dict[torch.Size, int] = {}  # bytes for J^T, by shape: what there is to count is the same

    def keep(chunk: Chunk, functional: bool) -> Jacobian:
        inputs = chunk.inputs
        logits = partial(_logits, problem, inputs)
        if inputs.shape not in saved:
            saved[inputs.shape] = _saved(logits, theta, [inputs, *allocated])
        vectorize = problem.vectorize
        at = linearized.at(theta, inputs, functional=functional, vectorize=vectorize)
        _, back = vjp(logits, theta)

        def pull(rows: torch.Tensor) -> torch.Tensor:
            return map_rows(lambda u: back(u)[0], rows, vectorize=vectorize())

        return Jacobian(
            push=at.jvp,
            pull=pull,
            probabilities=chunk.relative(at.value).softmax(-1),
            held=at.kept_bytes + saved[inputs.shape],
            recorded_elsewhere=linearized if at.recorded_elsewhere else None,
        )

    return keep


def _saved(logits: Map, theta: torch.Tensor, allocated: Sequence[torch.Tensor]) -> int:
    """Return ``saved_bytes``; NotLinearizedError if they cannot be counted."""
    try:
        return saved_bytes(logits, theta, allocated)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NotLinearizedError(str(error)) from error


def recomputed_jacobian(problem: Problem, chunk: Chunk) -> Jacobian:
    """Return J whose products each evaluate the network again."""
    if problem.plain:
        return _in_reverse(problem, chunk)
    theta = problem.network.theta

    def logits() -> Map:
        # The inputs, which may be streamed, are read for each product.
        return partial(_logits, problem, chunk.inputs)

    def push(rows: torch.Tensor) -> torch.Tensor:
        of = logits()
        return map_rows(
            lambda v: along(of, theta, v)[1], rows, vectorize=problem.shares_recomputed()
        )

    def pull(rows: torch.Tensor) -> torch.Tensor:
        back = vjp(logits(), theta)[1]
        return map_rows(lambda u: back(u)[0], rows, vectorize=problem.shares_recomputed())

    return Jacobian(push, pull, _probabilities(problem, chunk), held=0)


def _in_reverse(problem: Problem, chunk: Chunk) -> Jacobian:
    """Return J of a network that torch.func cannot follow, evaluated at each product."""

    def evaluated() -> Reversed:
        return Reversed(partial(_logits, problem, chunk.inputs), problem.network.theta)

    def push(rows: torch.Tensor) -> torch.Tensor:
        found = evaluated()
        return map_rows(found.push, rows, vectorize=False)

    def pull(rows: torch.Tensor) -> torch.Tensor:
        found = evaluated()
        return map_rows(found.pull, rows, vectorize=False)

    return Jacobian(push, pull, _probabilities(problem, chunk), held=0)


def _probabilities(problem: Problem, chunk: Chunk) -> torch.Tensor:
    with torch.no_grad():
        return chunk.relative(problem.network(chunk.inputs)).softmax(-1)


def _logits(problem: Problem, inputs: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return problem.network.logits(theta, inputs)
