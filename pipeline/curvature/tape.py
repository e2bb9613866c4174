"""Functions recorded as straight lists of tensor operations.

``torch.fx.experimental.make_fx`` records the same lists, with a fake tensor for each result: a
vision transformer's Hess takes 100 products to record with it, and 3 with this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten


class NotRecordedError(RuntimeError):
    """The function depends on its numbers by more than tensor operations."""


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of a recorded list: an input, a captured tensor or the result of an operation."""

    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """One call ``results = function(*args, **kwargs)``; tensors in the arguments are Values.

    ``reads`` are these Values. ``single`` is True if the function returns a tensor, not a tuple.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[Value, ...]
    results: tuple[Value, ...]
    single: bool
    mutates: bool

    def calling(self, function: Callable[..., Any], *args: Any) -> "Operation":
        """Return the operation with another function and other arguments, without keywords."""
        return replace(self, function=function, args=args, kwargs={}, reads=_values_in(args))

    def reading(self, same: Mapping[Value, Value]) -> "Operation":
        """Return the operation with some Values exchanged for others."""
        if same.keys().isdisjoint(self.reads):
            return self
        args = map_leaves(self.args, Value, lambda value: same.get(value, value))
        return replace(self, args=args, reads=_values_in(args))


@dataclass(frozen=True)
class Tape:
    """The operations of (theta, v, *fixed) -> (value, derivative), in order.

    ``moving`` are the Values that depend on the direction v. ``captured`` are tensors that the
    function reads besides its inputs. ``constants`` are the tensors of the recorded call that
    operations on moving Values read. ``writes_to_constants`` is True if an operation on a moving
    Value writes to one that does not move.
    """

    operations: list[Operation]
    inputs: tuple[Value, ...]
    value: Value
    derivative: Value
    moving: frozenset[Value]
    captured: dict[Value, torch.Tensor]
    constants: dict[Value, torch.Tensor]
    writes_to_constants: bool


def record(function: Callable[..., tuple[torch.Tensor, torch.Tensor]], *inputs: torch.Tensor):
    """Return the Tape of ``function``, and its value and derivative for these inputs.

    The second input is the direction. Raises NotRecordedError if the function chooses by numbers.
    """
    recorder = _Recorder(inputs)
    with recorder:
        value, derivative = function(*inputs)
    return recorder.tape(value, derivative), value, derivative


class _Recorder(TorchDispatchMode):
    """Writes down each operation that runs within."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.values = WeakIdKeyDictionary()
        self.captured: dict[Value, torch.Tensor] = {}
        self.constants: dict[Value, torch.Tensor] = {}
        self.inputs = tuple(self._new(tensor) for tensor in inputs)
        self.moving = {self.inputs[1]}
        self.windows: set[Value] = set()  # views that as_strided made
        self.writes_to_constants = False

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        self._note(function, args, kwargs, made)
        return made

    def _note(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any
    ) -> None:
        single = isinstance(made, torch.Tensor)
        tensors = (made,) if single else made if isinstance(made, tuple | list) else ()
        if not all(x is None or isinstance(x, torch.Tensor) for x in tensors):
            raise NotRecordedError(f"{function} returns more than tensors")
        if not isinstance(function, torch._ops.OpOverload):
            raise NotRecordedError(f"{function} is no single operation")
        read: list[tuple[Value, torch.Tensor]] = []

        def known(x: torch.Tensor) -> Value:
            value = self.values.get(x)
            if value is None:
                value = self._new(x)
                self.captured[value] = x
            read.append((value, x))
            return value

        noted_args = map_leaves(args, torch.Tensor, known)
        if not tensors:
            if torch.Tag.data_dependent_output in function.tags and read:
                raise NotRecordedError(f"the function reads a number ({function})")
            return  # a question about shapes, whose answer is the same next time
        mutates = function._schema.is_mutable
        if function in OF_LAYOUT:
            function, noted_args = (
                OF_LAYOUT[function],
                (noted_args[0], args[0].stride(), *noted_args[1:]),
            )
        reads = tuple(value for value, _ in read)
        moves = not self.moving.isdisjoint(reads)
        if moves:
            self.constants.update(pair for pair in read if pair[0] not in self.moving)
        if mutates and reads:
            still = moves and reads[0] not in self.moving
            self.writes_to_constants |= still or reads[0] in self.windows
        results = tuple(map(self._new, tensors))
        if moves:
            self.moving.update(results)
        if function is as_strided_of:
            self.windows.update(results)
        if any(isinstance(x, torch.Tensor) for x in kwargs.values()):
            raise NotRecordedError(f"{function} takes a tensor by keyword")
        self.operations.append(
            Operation(function, noted_args, kwargs, reads, results, single, mutates)
        )

    def _new(self, tensor: torch.Tensor | None) -> Value:
        if tensor is None:  # a gradient that was not asked for
            return Value(torch.Size(), torch.bool)
        value = Value(tensor.shape, tensor.dtype)
        self.values[tensor] = value
        return value

    def tape(self, value: torch.Tensor, derivative: torch.Tensor) -> Tape:
        """Return all that was written down, the results of the function marked."""
        ends = []
        for tensor in (value, derivative):
            if tensor not in self.values:
                self.captured[self._new(tensor)] = tensor
            ends.append(self.values[tensor])
        if ends[1] not in self.moving:
            self.constants[ends[1]] = derivative
        return Tape(
            self.operations,
            self.inputs,
            *ends,
            moving=frozenset(self.moving),
            captured=self.captured,
            constants=self.constants,
            writes_to_constants=self.writes_to_constants,
        )


def as_strided_of(x: torch.Tensor, strides: tuple[int, ...], *args: Any) -> torch.Tensor:
    """Return ``x.as_strided(*args)`` of x (dense) laid out with ``strides``.

    Under vmap, or if an operation before it is left out, a result's layout may differ from the
    recorded one; as_strided would then read other elements.
    """
    if x.stride() != strides:
        order = _by_stride(strides)
        x = x.permute(order).contiguous().permute(_inverse(order))
    return aten.as_strided.default(x, *args)


def as_strided_scatter_of(
    x: torch.Tensor, strides: tuple[int, ...], source: torch.Tensor, *args: Any
) -> torch.Tensor:
    """Return ``x`` with ``source`` at ``as_strided(*args)`` of x (dense) laid out with ``strides``.

    Elements are addressed by number, so that x may have any layout.
    """
    order = _by_stride(strides)
    laid = x.permute(order)
    places = torch.arange(x.numel(), device=x.device).as_strided(*args).reshape(-1)
    flat = laid.reshape(-1).index_copy(0, places, source.reshape(-1))
    return flat.reshape(laid.shape).permute(_inverse(order))


def _by_stride(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda dim: -strides[dim])


def _inverse(order: list[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


OF_LAYOUT = {
    aten.as_strided.default: as_strided_of,
    aten.as_strided_scatter.default: as_strided_scatter_of,
}


def map_leaves(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples and lists with each leaf of a kind changed."""
    if isinstance(tree, kind):
        return change(tree)
    if type(tree) in (tuple, list) and tree:
        return type(tree)([map_leaves(leaf, kind, change) for leaf in tree])
    return tree


def _values_in(args: tuple[Any, ...]) -> tuple[Value, ...]:
    found: list[Value] = []
    map_leaves(args, Value, found.append)
    return tuple(found)
