"""Functions linearized once: their derivatives as straight lists of tensor operations.

PyTorch's forward mode runs once while ``tape`` records it. The list is split in two. The first half
depends only on theta and ``fixed``, runs once per chunk and returns constants; the second half
depends on the direction v and runs at every product.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from torch.func import functionalize, jvp

from pipeline.curvature.codegen import as_function, needed, users
from pipeline.curvature.derivatives import Map, map_rows
from pipeline.curvature.memory import addresses, held_bytes
from pipeline.curvature.operations import (
    for_any_layout,
    is_only_added,
    with_sums_in_products,
    without_idle_sums,
)
from pipeline.curvature.tape import NotRecordedError, Operation, Tape, Value, record


class NotLinearizedError(Exception):
    """The function has no derivative that could be kept."""


@dataclass(frozen=True)
class Linearization:
    """The derivative of a function at a point.

    ``value`` is the function there and ``jvp`` (k, p) -> (k, *value) its products with rows.
    ``kept_bytes`` is the memory of the constants kept between products. ``relinearize`` returns
    ``jvp`` from theta and the same ``fixed`` and keeps nothing in between. ``recorded_elsewhere``
    is True if the list was recorded for another network of the same structure.
    """

    value: torch.Tensor
    jvp: Map
    kept_bytes: int
    relinearize: Callable[..., Map]
    recorded_elsewhere: bool


class LinearizedFunction:
    """The derivatives of ``function`` (theta, *fixed) by theta (p,), for any ``fixed`` tensors.

    The function is recorded once for all ``fixed`` of the same shapes. ``state`` are tensors that
    the function reads besides, by name; if ``structure`` is given, all functions of one structure
    in this process share what is recorded. Tensors ``already_allocated`` do not count as kept.
    """

    def __init__(
        self,
        function: Callable[..., torch.Tensor],
        *,
        compiled: bool,
        state: Mapping[str, torch.Tensor] | None = None,
        structure: Hashable = None,
        already_allocated: Sequence[torch.Tensor] = (),
    ) -> None:
        self._function = function
        self._compiled = compiled
        self._state = dict(state or {})
        self._structure = structure
        self._allocated = addresses(already_allocated)
        self._own: dict[Hashable, _Split] = {}

    def at(
        self,
        theta: torch.Tensor,
        *fixed: torch.Tensor,
        functional: bool,
        vectorize: Callable[[], bool],
    ) -> Linearization:
        """Return the derivative at ``theta``, the function evaluated once.

        Directions share a pass over the data if ``vectorize()`` is True when they are multiplied.
        ``functional`` writes operations in place as new values first. Without it they could act on
        constants, which would change from product to product. Raises NotLinearizedError if PyTorch
        cannot follow the function.
        """
        key = (functional, self._compiled, *((x.shape, x.dtype) for x in fixed))
        try:
            split = self._own.get(key) or (self._structure and SPLITS.get((self._structure, key)))
            recorded_elsewhere = bool(split) and key not in self._own
            if split:
                value, *constants = split.first(theta, *fixed, *split.captured(self._state))
            else:
                split, value, constants = self._recorded(theta, fixed, functional)
                if self._structure is not None and split.is_portable:
                    SPLITS.keep((self._structure, key), split)
            self._own[key] = split
            second = split.second(constants)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # NotImplementedError is one
            raise NotLinearizedError(str(error)) from error
        constants = [constants[place] for place in second.read]
        known = self._allocated | addresses([theta, *parts_of_others(fixed)])
        return Linearization(
            value,
            jvp=partial(second.jvp, constants, vectorize),
            kept_bytes=held_bytes(constants, known),
            relinearize=partial(second.relinearize, split.captured(self._state), vectorize),
            recorded_elsewhere=recorded_elsewhere,
        )

    def forget(self) -> None:
        """Record again at the next call, also what other networks have recorded."""
        for key in self._own:
            SPLITS.drop((self._structure, key))
        self._own.clear()

    def _recorded(
        self, theta: torch.Tensor, fixed: Sequence[torch.Tensor], functional: bool
    ) -> tuple["_Split", torch.Tensor, list[torch.Tensor]]:
        """Return the list in two halves, and what the first half returns at ``theta``."""

        def both(
            theta: torch.Tensor, v: torch.Tensor, *fixed: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return jvp(lambda at: self._function(at, *fixed), (theta,), (v,))

        tape, value, _ = record(
            functionalize(both) if functional else both, theta, torch.zeros_like(theta), *fixed
        )
        if tape.writes_to_constants and not functional:
            raise NotRecordedError("an operation in place writes to a constant")
        split = _Split(tape, self._state, self._compiled)
        return split, value, [tape.constants[constant] for constant in split.constants]


class _Split:
    """A recorded list in two halves."""

    def __init__(self, tape: Tape, state: Mapping[str, torch.Tensor], compiled: bool) -> None:
        names = {id(tensor): name for name, tensor in state.items()}
        self._captured = [names.get(id(x), x) for x in tape.captured.values()]
        self._compiled = compiled
        self._theta, self._direction, *fixed = tape.inputs
        self._inputs = [self._theta, *fixed, *tape.captured]
        self._still, self._moving = [], []
        for operation in tape.operations:
            moves = not tape.moving.isdisjoint(operation.results)
            (self._moving if moves else self._still).append(operation)
        self._value, self._derivative = tape.value, tape.derivative
        self.constants = list(tape.constants)
        readers = users(self._moving)
        self._added = [i for i, x in enumerate(self.constants) if is_only_added(x, readers)]
        self._seconds: dict[tuple[int, ...], _Second] = {}

    @property
    def is_portable(self) -> bool:
        """Whether all that the list captured are numbers and parts of the network's state."""
        return all(isinstance(x, str) or not x.ndim for x in self._captured)

    def captured(self, state: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the captured tensors, those of the network's state as ``state`` has them."""
        return [state[x] if isinstance(x, str) else x for x in self._captured]

    @cached_property
    def first(self) -> Callable[..., list[torch.Tensor]]:
        """The first half: (theta, *fixed, *captured) -> [value, *constants]."""
        return self.first_half([self._value, *self.constants])

    def first_half(self, outputs: Sequence[Value]) -> Callable[..., list[torch.Tensor]]:
        """Return the part of the first half that some outputs depend on."""
        return as_function(self._still, self._inputs, outputs)

    def second(self, constants: Sequence[torch.Tensor]) -> "_Second":
        """Return the second half, without sums with those constants that are zero."""
        zeros = tuple(place for place in self._added if not constants[place].any())
        if zeros not in self._seconds:
            idle = [self.constants[place] for place in zeros]
            operations, derivative = without_idle_sums(self._moving, self._derivative, idle)
            self._seconds[zeros] = _Second(
                self, operations, self._direction, derivative, self._compiled
            )
        return self._seconds[zeros]


class _Second:
    """The second half of a list, for one vector and for several that share a pass.

    ``read`` are the places of the constants that it reads.
    """

    def __init__(
        self,
        split: _Split,
        operations: Sequence[Operation],
        direction: Value,
        derivative: Value,
        compiled: bool,
    ) -> None:
        self._operations = needed(operations, [derivative])
        self._derivative, self._compiled = derivative, compiled
        readers = users(self._operations)
        self.read = [i for i, x in enumerate(split.constants) if readers.get(x) or x is derivative]
        constants = [split.constants[place] for place in self.read]
        self._inputs = [direction, *constants]
        self._first = cache(partial(split.first_half, constants))

    def jvp(
        self, constants: Sequence[torch.Tensor], vectorize: Callable[[], bool], rows: torch.Tensor
    ) -> torch.Tensor:
        """Return the derivative along each of ``rows``."""
        shares = len(rows) > 1 and vectorize()
        listed = self._shared if shares else self._single
        return map_rows(lambda v: listed(v, *constants)[0], rows, vectorize=shares)

    def relinearize(
        self,
        captured: Sequence[torch.Tensor],
        vectorize: Callable[[], bool],
        theta: torch.Tensor,
        *fixed: torch.Tensor,
    ) -> Map:
        """Return ``jvp`` at a point; nothing is evaluated but the constants that it reads."""
        return partial(self.jvp, self._first()(theta, *fixed, *captured), vectorize)

    @cached_property
    def _single(self) -> Callable[..., list[torch.Tensor]]:
        if self._compiled:
            return self._shared
        # vmap takes addmm apart: in blocks F-200^2 would take 4 % longer.
        operations = for_any_layout(self._operations, shared=False)
        return self._listed(with_sums_in_products(operations, self._derivative))

    @cached_property
    def _shared(self) -> Callable[..., list[torch.Tensor]]:
        listed = self._listed(for_any_layout(self._operations, shared=True))
        return torch.compile(listed) if self._compiled else listed

    def _listed(self, operations: Sequence[Operation]) -> Callable[..., list[torch.Tensor]]:
        return as_function(operations, self._inputs, [self._derivative])


class _Recent:
    """The lists recorded last, by structure of the network and shapes of the inputs."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, _Split] = OrderedDict()

    def get(self, key: Hashable) -> _Split | None:
        """Return the list, None if there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Hashable, split: _Split) -> None:
        """Remember a list; the one that was used least recently goes if there are too many."""
        self._kept[key] = split
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forget a list."""
        self._kept.pop(key, None)


SPLITS = _Recent(32)


def parts_of_others(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return those tensors whose storage is larger than they are."""
    return [x for x in tensors if x.untyped_storage().nbytes() > x.nbytes]
