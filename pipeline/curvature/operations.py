"""Straight lists of tensor operations, as torch.fx has them, and what shortens them."""

import copy
from collections.abc import Collection, Sequence
from operator import getitem

import torch
from torch import fx

aten = torch.ops.aten


def as_function(root: fx.GraphModule | dict[str, torch.Tensor], graph: fx.Graph) -> fx.GraphModule:
    """Return the list as a function, whose memory goes with its last use."""
    made = fx.GraphModule(root, graph)
    # A graph refers back to its module: what both hold would wait for Python's garbage collector.
    made.graph.owning_module = None
    return made


def ending_in(
    whole: fx.GraphModule, nodes: Sequence[fx.Node], wanted: Sequence[fx.Node]
) -> fx.GraphModule:
    """Return those ``nodes`` of a list that the ``wanted`` depend on, ending in these."""
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output([known[node] for node in wanted])
    leave_out_unread(graph)
    return as_function(whole, graph)


def leave_out_unread(graph: fx.Graph) -> None:
    """Drop what nothing reads, of a convolution's backward too, which returns several results."""
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is aten.convolution_backward.default:
            read = {user.args[1] for user in node.users if user.target is getitem}
            *given, wanted = node.args
            node.args = (*given, [asked and i in read for i, asked in enumerate(wanted)])


def summand(node: fx.Node, idle: Collection[fx.Node]) -> fx.Node | None:
    """Return what a sum is equal to where the other is zero: among the ``idle``, or made so."""
    changed = any(user.target._schema.is_mutable for user in node.users if _is_operation(user))
    if node.target is not aten.add.Tensor or node.kwargs or changed:
        return None
    for zero, other in (node.args, node.args[::-1]):
        made = isinstance(zero, fx.Node) and zero.target is aten.zeros_like.default
        if isinstance(other, fx.Node) and (zero in idle or (made and is_only_added(zero))):
            return other
    return None


def is_only_added(node: fx.Node) -> bool:
    """Return whether nothing but sums reads it: a view of it might be written to."""
    return all(user.target is aten.add.Tensor for user in node.users)


def with_sums_in_products(graph: fx.Graph) -> fx.Graph:
    """Return the list with each x + A B as one operation.

    Not where something is written to between the product and the sum: it might be A or B.
    """
    graph = copy.deepcopy(graph)
    products: set[fx.Node] = set()
    for node in graph.nodes:
        if _is_operation(node) and node.target._schema.is_mutable:
            products.clear()
        elif node.target is aten.mm.default and len(node.users) == 1:
            products.add(node)
        elif node.target is aten.add.Tensor and not node.kwargs:
            x, product = _product_last(node, products)
            if product is not None:
                with graph.inserting_before(node):
                    both = graph.call_function(aten.addmm.default, (x, *product.args))
                node.replace_all_uses_with(both, propagate_meta=True)
                graph.erase_node(node)
                graph.erase_node(product)
    return graph


def _product_last(
    node: fx.Node, products: Collection[fx.Node]
) -> tuple[fx.Node | None, fx.Node | None]:
    """Return a sum's two summands, a product of its shape and type last; None without one."""
    for x, product in (node.args, node.args[::-1]):
        if product in products and isinstance(x, fx.Node) and x is not product:
            alike = [given.meta["val"] for given in (x, product, node)]
            if len({y.dtype for y in alike}) == 1 and alike[1].shape == alike[2].shape:
                return x, product
    return None, None


def _is_operation(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)
