"""A function linearised once: its tangent map as a straight list of tensor operations."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.func import functionalize, linearize, vmap

aten = torch.ops.aten
Map = Callable[[torch.Tensor], torch.Tensor]


class NotLinearisedError(Exception):
    """The function has no tangent map that could be kept."""


@dataclass(frozen=True)
class Tangent:
    """The tangent map of a function at a point: ``value`` there, ``push`` (p,) -> like value.

    ``held`` counts the bytes that stay taken for it: what does not depend on the direction.
    """

    value: torch.Tensor
    push: Map
    held: int


def linearised(
    function: Map, theta: torch.Tensor, *, pure: bool, compiled: bool = False
) -> Tangent:
    """Return the tangent of ``function`` at ``theta``, evaluated once; ``compiled`` by Inductor.

    ``pure`` writes operations in place as new values first.  Without, they would act on what was
    folded, and change the map from call to call.  Raises NotLinearisedError where PyTorch cannot.
    """
    if pure:
        function = functionalize(function, remove="mutations_and_views")
    with warnings.catch_warnings():
        # PyTorch warns of its own insides: of its bookkeeping while it folds what does not depend
        # on v, and of a deprecated call that it makes itself when forward mode is first used.
        warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node")
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        try:
            value, tangent = linearize(function, theta)
            tangent(torch.zeros_like(theta))  # folds now, not at the first product
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise NotLinearisedError(str(error)) from error
    (graph,) = [
        cell.cell_contents
        for cell in tangent.__closure__ or ()
        if isinstance(cell.cell_contents, fx.GraphModule)
    ]
    _drop_idle(graph)
    _free_unread(graph)
    held = _held_bytes(graph)
    if compiled:
        graph = fx.GraphModule(graph, graph.graph)
    # A graph refers back to its module: what both hold would wait for Python's garbage collector.
    graph.graph.owning_module = None
    evaluate = torch.compile(graph) if compiled else graph

    def push(v: torch.Tensor) -> torch.Tensor:
        return evaluate(v)[0]

    return Tangent(value, push, held)


def several(product: Map, rows: torch.Tensor) -> torch.Tensor:
    """Return ``product`` (p,) -> (p,) of each of ``rows`` (k, p), in one pass over the data."""
    return product(rows[0])[None] if len(rows) == 1 else vmap(product)(rows)


def one_by_one(product: Map, rows: torch.Tensor) -> torch.Tensor:
    """Return the same, in a pass over the data for each."""
    return product(rows[0])[None] if len(rows) == 1 else torch.stack([product(v) for v in rows])


def _drop_idle(graph: fx.GraphModule) -> None:
    """Remove sums with a folded zero from a graph, and let vmap follow it.

    Forward mode adds the zero tangents of inputs and constants as if they were something; on
    LeNet5 that is a tenth of a product.  Every bit of the result stays as it was.
    """
    for node in list(graph.graph.nodes):
        if node.target is aten.view.default:
            node.target = aten.reshape.default  # vmap brings strides of its own
        changed = any(user.target._schema.is_mutable for user in node.users if _is_operation(user))
        if node.target is not aten.add.Tensor or node.kwargs or changed:
            continue
        for zero, other in (node.args, node.args[::-1]):
            if _is_zero(graph, zero) and isinstance(other, fx.Node):
                with graph.graph.inserting_before(node):
                    shape = list(node.meta["val"].shape)
                    same = graph.graph.call_function(aten.expand.default, (other, shape))
                same.meta = node.meta
                node.replace_all_uses_with(same)
                break
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _free_unread(graph: fx.GraphModule) -> None:
    """Free what was folded and no operation reads: most of it, copies of the weights among them."""
    graph.const_subgraph_module = None  # which folded it
    name = graph.fx_const_folded_attrs_name
    folded = getattr(graph, name or "", None)
    if not isinstance(folded, nn.ParameterList):
        return
    read = {
        node.args[1]
        for source in graph.graph.nodes
        if source.target == name
        for node in source.users
    }
    for place in set(range(len(folded))) - read:
        folded[place] = torch.empty(0)


def _is_operation(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)


def _is_zero(graph: fx.GraphModule, node: object) -> bool:
    """Return whether a node is known to be zero: made so and not written to, or folded to it."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    if node.target is aten.zeros_like.default:
        # A view of it might be written to: only ever read, and by sums.
        return all(user.target is aten.add.Tensor for user in node.users)
    folded = getattr(graph, graph.fx_const_folded_attrs_name or "", None)
    source = node.args[0] if node.args else None
    if isinstance(folded, nn.ParameterList) and isinstance(source, fx.Node):
        read = all(user.target is aten.add.Tensor for user in node.users)
        named = source.target == graph.fx_const_folded_attrs_name
        return named and read and not bool(folded[node.args[1]].any())
    return False


def _held_bytes(graph: fx.GraphModule) -> int:
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(graph)
        if not tensor._is_zerotensor()  # autograd's own zeros, which have no memory
    }
    return sum(storages.values())


def _tensors(graph: nn.Module) -> Iterator[torch.Tensor]:
    for module in graph.modules():
        for value in (*module.__dict__.values(), *module._parameters.values()):
            if isinstance(value, torch.Tensor):
                yield value
        yield from module.buffers(recurse=False)
