"""Derivatives by PyTorch's plain autograd, in reverse alone: of what torch.func cannot follow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from pipeline.errors import AnatomyError


class Reversed:
    """A function at a point: its ``value`` there, and products with its derivative J.

    It is evaluated once.  A user's own autograd.Function need have no more than a backward, though
    ``push`` needs one that can be differentiated itself.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
        with torch.enable_grad():
            self._at = at.detach().requires_grad_()
            self._value = function(self._at)
        self.value = self._value.detach()

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Return J^T u, like the point."""
        return _gradient(self._value, self._at, u)

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """Return J v, like the value: the derivative of u -> J^T u, which is linear, pulled back.

        Raises AnatomyError where PyTorch cannot differentiate J^T u.
        """
        zero, gradient = self._transpose
        if not gradient.requires_grad:
            return torch.zeros_like(self.value)
        with second_derivatives():
            return _gradient(gradient, zero, v)

    @cached_property
    def _transpose(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A zero u, and J^T u as a function of it."""
        with torch.enable_grad():
            zero = torch.zeros_like(self.value).requires_grad_()
            gradient = torch.autograd.grad(
                self._value, self._at, zero, create_graph=True, materialize_grads=True
            )
        return zero, gradient[0]


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Let what runs within end in AnatomyError where a derivative cannot be differentiated."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise AnatomyError(
            f"the network's derivatives cannot be differentiated again: {error}. Write what has no "
            "second derivative in PyTorch as plain tensor operations"
        ) from error


def _gradient(value: torch.Tensor, at: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, at, u, retain_graph=True, materialize_grads=True)
    return found[0]
