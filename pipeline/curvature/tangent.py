"""A function linearised once: its tangent map as a straight list of tensor operations."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.func import linearize, vmap

aten = torch.ops.aten
Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tangent:
    """The tangent map of a function at a point: ``value`` there, ``push`` (p,) -> like value.

    ``held`` counts the bytes that stay taken for it: what does not depend on the direction.
    """

    value: torch.Tensor
    push: Map
    held: int


def linearised(function: Map, theta: torch.Tensor, *, compiled: bool = False) -> Tangent:
    """Return the tangent of ``function`` at ``theta``, evaluated once; ``compiled`` by Inductor."""
    with warnings.catch_warnings():
        # PyTorch warns of its own insides: of its bookkeeping while it folds what does not depend
        # on v, and of a deprecated call that it makes itself when forward mode is first used.
        warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node")
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        value, tangent = linearize(function, theta)
        tangent(torch.zeros_like(theta))  # folds now, not at the first product
    (graph,) = [
        cell.cell_contents
        for cell in tangent.__closure__ or ()
        if isinstance(cell.cell_contents, fx.GraphModule)
    ]
    _drop_idle(graph)
    evaluate = torch.compile(fx.GraphModule(graph, graph.graph)) if compiled else graph

    def push(v: torch.Tensor) -> torch.Tensor:
        return evaluate(v)[0]

    return Tangent(value, push, _held_bytes(graph))


def several(product: Map, rows: torch.Tensor) -> torch.Tensor:
    """Return the products with each of ``rows`` (k, p) in one pass over the data."""
    return vmap(product)(rows)


def _drop_idle(graph: fx.GraphModule) -> None:
    """Remove operations that change nothing: sums with a folded zero, and a copy of the direction.

    Forward mode adds the zero tangents of inputs and constants as if they were something; on
    LeNet5 that is a tenth of a product.  Every bit of the result stays as it was.
    """
    for node in list(graph.graph.nodes):
        if node.target is aten.view.default:
            node.target = aten.reshape.default  # which vmap, with its own strides, can follow
        if any(user.target is aten.div_.Tensor for user in node.users):
            continue
        if node.target is aten.add.Tensor and not node.kwargs:
            for zero, other in (node.args, node.args[::-1]):
                if _is_zero(graph, zero) and _shape(other) is not None:
                    with graph.graph.inserting_before(node):
                        shape = list(_shape(node))
                        same = graph.graph.call_function(aten.expand.default, (other, shape))
                    same.meta = node.meta
                    node.replace_all_uses_with(same)
                    break
        elif node.target is aten.copy_.default and _is_direction(node):
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)  # an in-place operation, which would be kept otherwise
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _shape(node: object) -> torch.Size | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.shape if isinstance(value, torch.Tensor) else None


def _is_zero(graph: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.target in (aten.zeros_like.default, aten._new_zeros_with_same_feature_meta.default):
        return all(user.target is not aten.copy_.default for user in node.users)
    folded = getattr(graph, graph.fx_const_folded_attrs_name or "", None)
    if node.op == "call_function" and isinstance(folded, nn.ParameterList):
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source.target == graph.fx_const_folded_attrs_name:
            return not bool(folded[node.args[1]].any())
    return False


def _is_direction(node: fx.Node) -> bool:
    """Return whether ``node`` copies the graph's input into fresh memory of the same shape."""
    target, source = node.args
    return (
        target.target is aten._new_zeros_with_same_feature_meta.default
        and source.op == "placeholder"
        and len(target.users) == 1
    )


def _held_bytes(graph: fx.GraphModule) -> int:
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(graph)
    }
    return sum(storages.values())


def _tensors(graph: nn.Module) -> Iterator[torch.Tensor]:
    for module in graph.modules():
        for value in (*module.__dict__.values(), *module._parameters.values()):
            if isinstance(value, torch.Tensor):
                yield value
        yield from module.buffers(recurse=False)
