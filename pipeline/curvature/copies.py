"""Copies of networks, and calls of networks on copies of what they write to."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def deep_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of a network that keeps results of operations as attributes."""
    with _CopiesOfResults():
        return copy.deepcopy(model)


class _CopiesOfResults(TorchFunctionMode):
    """Lets deepcopy copy tensors that an operation made: old-style norms and pruning keep some."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


def call_on_copies(module: nn.Module) -> None:
    """Let each call of a network work on copies of its inputs and buffers.

    The originals are back after the call, so that every call starts from the same ones.
    """
    originals: list[tuple[nn.Module, dict[str, Any]]] = []

    def copy_all(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        originals[:] = [(owner, dict(owner._buffers)) for owner in module.modules()]
        for owner, buffers in originals:
            copies = {name: x if x is None else x.clone() for name, x in buffers.items()}
            owner._buffers.update(copies)
        return tuple(x.clone() for x in inputs)

    def restore(*_: Any) -> None:
        for owner, buffers in originals:
            owner._buffers.update(buffers)

    module.register_forward_pre_hook(copy_all)
    module.register_forward_hook(restore, always_call=True)


def changed(tensors: dict[str, torch.Tensor], before: dict[str, tuple]) -> list[str]:
    """Return the names of tensors that were written to or exchanged since ``noted``.

    The version counts writes that leave the values of a few examples as they are, such as a ReLU's.
    """
    return [
        name
        for name, x in tensors.items()
        if name not in before or not _is_as_noted(x, *before[name])
    ]


def noted(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    """Return what ``changed`` compares: each tensor, its version and its values."""
    return {name: (x, x._version, x.clone()) for name, x in tensors.items()}


def _is_as_noted(x: torch.Tensor, before: torch.Tensor, version: int, values: torch.Tensor) -> bool:
    return x is before and x._version == version and same(x, values)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are equal, NaN counting as equal to itself."""
    alike = one.shape == other.shape
    return alike and bool(((one == other) | ((one != one) & (other != other))).all())
