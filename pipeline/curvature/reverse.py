"""Derivatives by PyTorch's plain autograd, in reverse alone: of what torch.func cannot follow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from pipeline.errors import AnatomyError


class Reversed:
    """A function at a point: its ``value`` there, and products with its derivative J.

    It is evaluated once.  A user's own autograd.Function need have no more than a backward, though
    ``push`` needs one that can be differentiated itself.  Both products raise AnatomyError where
    PyTorch cannot differentiate.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
        with torch.enable_grad():
            self._at = at.detach().requires_grad_()
            self._value = function(self._at)
        self.value = self._value.detach()

    def pull(self, u: torch.Tensor) -> torch.Tensor:
        """Return J^T u, like the point."""
        return self._gradient(self._value, self._at, u)

    def push(self, v: torch.Tensor) -> torch.Tensor:
        """Return J v, like the value: the derivative of u -> J^T u, pulled back."""
        zero, gradient = self._transpose
        return self._gradient(gradient, zero, v)

    @cached_property
    def _transpose(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A zero u, and J^T u as a function of it."""
        with torch.enable_grad():
            zero = torch.zeros_like(self.value).requires_grad_()
            return zero, self._gradient(self._value, self._at, zero, create_graph=True)

    @staticmethod
    def _gradient(
        value: torch.Tensor, at: torch.Tensor, u: torch.Tensor, **how: bool
    ) -> torch.Tensor:
        if not value.requires_grad:  # it does not depend on the point
            return torch.zeros_like(at)
        with differentiable():
            return torch.autograd.grad(
                value, at, u, retain_graph=True, materialize_grads=True, **how
            )[0]


@contextmanager
def differentiable() -> Iterator[None]:
    """Let what runs within end in AnatomyError where PyTorch cannot differentiate it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise AnatomyError(
            f"PyTorch does not differentiate the network: {error}. Write what has no second "
            "derivative there as plain tensor operations, and leave out torch.utils.checkpoint"
        ) from error
