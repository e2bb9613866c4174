"""Functions linearised once: their tangent maps as straight lists of tensor operations."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import fx
from torch.func import functionalize, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.curvature.memory import addresses, held_bytes
from pipeline.curvature.operations import (
    as_function,
    aten,
    ending_in,
    is_only_added,
    leave_out_unread,
    summand,
    with_sums_in_products,
)

Map = Callable[[torch.Tensor], torch.Tensor]


class NotLinearisedError(Exception):
    """The function has no tangent map that could be kept."""


@dataclass(frozen=True)
class Tangent:
    """The tangent map of a function at a point: ``value`` there, ``push`` (k, p) -> (k, *value).

    ``held`` counts the bytes that stay taken for it: what does not depend on the direction.
    ``anew`` makes ``push`` again from theta and the same ``fixed``, holding nothing in between.
    """

    value: torch.Tensor
    push: Map
    held: int
    anew: Callable[..., Map]


class Linearised:
    """The tangent maps of ``function`` (theta, *fixed) by theta (p,), for any ``fixed`` tensors.

    PyTorch follows the function once for all that have the same shapes, which takes as long as a
    hundred products with a small chunk.  What else the function reads counts as constant, and as
    held, but for what is there ``anyway``.
    """

    def __init__(
        self,
        function: Callable[..., torch.Tensor],
        *,
        compiled: bool,
        anyway: Sequence[torch.Tensor] = (),
    ) -> None:
        self._function = function
        self._compiled = compiled
        self._anyway = addresses(anyway)
        self._traced: dict[tuple[Hashable, ...], _Traced] = {}

    def at(
        self, theta: torch.Tensor, *fixed: torch.Tensor, pure: bool, alone: bool = False
    ) -> Tangent:
        """Return the tangent map at ``theta``, the function evaluated once.

        Several directions share a pass, or have one each where they go ``alone``.  ``pure``
        writes operations in place as new values first: without, they would act on what stays from
        call to call, and change the map.  Raises NotLinearisedError where PyTorch cannot follow
        the function.
        """
        key = (pure, *(tensor.shape for tensor in fixed))
        try:
            if key not in self._traced:
                self._traced[key] = _Traced(self._graph(theta, fixed, pure), self._compiled)
            return self._traced[key].at(theta, fixed, alone, self._anyway)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # NotImplementedError is one
            raise NotLinearisedError(str(error)) from error

    def _graph(
        self, theta: torch.Tensor, fixed: Sequence[torch.Tensor], pure: bool
    ) -> fx.GraphModule:
        """Return (theta, v, *fixed) -> value and derivative along v, operation by operation."""

        def both(
            theta: torch.Tensor, v: torch.Tensor, *fixed: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return jvp(lambda at: self._function(at, *fixed), (theta,), (v,))

        traced = make_fx(functionalize(both) if pure else both)
        return traced(theta, torch.zeros_like(theta), *fixed)


class _Traced:
    """A function and its derivative in two lists of operations.

    The first, of what ``fixed`` decides, ends in what the second reads: it is evaluated once for
    each ``fixed``, the second, of what the direction moves, at each product.
    """

    def __init__(self, both: fx.GraphModule, compiled: bool) -> None:
        nodes = list(both.graph.nodes)
        direction = [node for node in nodes if node.op == "placeholder"][1]
        value, self._derivative = nodes[-1].args[0]
        moved = {direction}
        for node in nodes[:-1]:
            if not moved.isdisjoint(node.all_input_nodes):
                moved.add(node)
        self._direction, self._compiled = direction, compiled
        self._moved = [node for node in nodes[:-1] if node in moved and node is not direction]
        read = [given for node in self._moved for given in node.all_input_nodes]
        self._read = [*dict.fromkeys(x for x in (*read, self._derivative) if x not in moved)]
        self._still = [node for node in nodes[:-1] if node not in moved]
        self._both = both
        self._first = ending_in(both, self._still, [value, *self._read])
        self._added = [place for place, node in enumerate(self._read) if is_only_added(node)]
        self._seconds: dict[tuple[int, ...], _Second] = {}
        self._least: dict[tuple[int, ...], fx.GraphModule] = {}
        both.graph.owning_module = None

    def at(
        self,
        theta: torch.Tensor,
        fixed: Sequence[torch.Tensor],
        alone: bool,
        anyway: frozenset[int],
    ) -> Tangent:
        """Return the tangent map at ``theta`` and ``fixed``, which have the shapes traced.

        Storages at the addresses ``anyway`` count as held by others.
        """
        value, *constants = self._first(theta, *fixed)
        zeros = tuple(place for place in self._added if not constants[place].any())
        if zeros not in self._seconds:
            self._seconds[zeros] = self._second_list(zeros)
        second = self._seconds[zeros]
        constants = [constants[place] for place in second.read]
        known = anyway | addresses([theta, *parts_of_others(fixed)])
        return Tangent(
            value,
            push=partial(second.push, constants, alone),
            held=held_bytes(constants, known),
            anew=partial(self._anew, zeros, alone),
        )

    def _anew(
        self, zeros: tuple[int, ...], alone: bool, theta: torch.Tensor, *fixed: torch.Tensor
    ) -> Map:
        """Return ``push``, evaluating no more than it reads: neither the value nor zeros."""
        second = self._seconds[zeros]
        if zeros not in self._least:
            wanted = [self._read[place] for place in second.read]
            self._least[zeros] = ending_in(self._both, self._still, wanted)
        return partial(second.push, self._least[zeros](theta, *fixed), alone)

    def _second_list(self, zeros: tuple[int, ...]) -> "_Second":
        """Return the second list, as (v, *constants).

        Forward mode adds the zero tangents of inputs and constants as if they were something; on
        LeNet5 that is a tenth of a product.  Sums with constants that are zero, by their places,
        are left out: every bit of the result stays as it was.
        """
        graph = fx.Graph()
        names = {self._direction: "direction"}
        names |= {node: f"c{place}" for place, node in enumerate(self._read)}
        known = {node: graph.placeholder(name) for node, name in names.items()}
        for node, placeholder in known.items():
            placeholder.meta = dict(node.meta)
        idle = {self._read[place] for place in zeros}
        for node in self._moved:
            other = summand(node, idle)
            if other is None:
                known[node] = graph.node_copy(node, known.__getitem__)
                if node.target is aten.view.default:
                    known[node].target = aten.reshape.default  # vmap brings strides of its own
            else:
                known[node] = known[other]
                shape = node.meta["val"].shape
                if other.meta["val"].shape != shape:
                    arguments = (known[other], list(shape))
                    known[node] = graph.call_function(aten.expand.default, arguments)
                    known[node].meta = dict(node.meta)
        graph.output(known[self._derivative])
        leave_out_unread(graph)
        read = [place for place, node in enumerate(self._read) if known[node].users]
        for node in self._read:
            if not known[node].users:
                graph.erase_node(known[node])
        shared = as_function({}, graph)
        if self._compiled:
            shared = torch.compile(shared)
            return _Second(shared, shared, read)
        return _Second(as_function({}, with_sums_in_products(graph)), shared, read)


@dataclass(frozen=True)
class _Second:
    """The list of what a direction moves, for ``one`` vector and for several that ``share`` a pass.

    ``read`` are the places of the constants that it reads.
    """

    one: Map
    shared: Map
    read: list[int]

    def push(
        self, constants: Sequence[torch.Tensor], alone: bool, rows: torch.Tensor
    ) -> torch.Tensor:
        # vmap takes addmm apart: in blocks F-200^2 would take 4 % longer.
        push = self.one if alone or len(rows) == 1 else self.shared
        return several(lambda v: push(v, *constants), rows, alone=alone)


def several(product: Map, rows: torch.Tensor, *, alone: bool = False) -> torch.Tensor:
    """Return ``product`` (p,) -> (p,) of each of ``rows`` (k, p).

    They share one pass over the data, or have one each where they go ``alone``.
    """
    if len(rows) == 1:
        return product(rows[0])[None]
    return torch.stack([product(v) for v in rows]) if alone else vmap(product)(rows)


def along(function: Map, theta: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``function`` at ``theta`` and its derivative along ``v``.

    Where PyTorch has no forward derivative it is that of u -> J^T u, pulled back by v.
    """
    try:
        return jvp(function, (theta,), (v,))
    except NotImplementedError:
        value, pull = vjp(function, theta)
        return value, vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](v)[0]


def parts_of_others(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return those that are parts of what others hold."""
    return [x for x in tensors if x.untyped_storage().nbytes() > x.nbytes]


@cache
def load_forward_mode() -> None:
    """Let PyTorch load its forward mode, which then warns of a call that it makes itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
