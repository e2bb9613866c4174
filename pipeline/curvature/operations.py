"""What shortens a recorded list, and what lets several vectors share it under vmap."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.curvature.codegen import users
from pipeline.curvature.tape import Operation, Value

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)


def without_idle_sums(
    operations: Sequence[Operation], derivative: Value, zeros: Collection[Value]
) -> tuple[list[Operation], Value]:
    """Return the list without sums with ``zeros``, and the Value that is now the derivative.

    Forward mode adds the zero tangents of inputs and constants; on LeNet5 that is a tenth of a
    product. Every bit of the result stays as it was. A sum stays if a later operation writes to it.
    """
    readers = users(operations)
    idle = set(zeros)
    for operation in operations:
        if operation.function is aten.zeros_like.default and is_only_added(
            operation.results[0], readers
        ):
            idle.update(operation.results)
    same: dict[Value, Value] = {}
    kept: list[Operation] = []
    for operation in operations:
        operation = operation.reading(same)
        other = _summand(operation, idle, readers)
        if other is None:
            kept.append(operation)
            continue
        result = operation.results[0]
        if other.shape != result.shape:
            kept.append(operation.calling(aten.expand.default, other, list(result.shape)))
        else:
            same[result] = other
    return kept, same.get(derivative, derivative)


def _summand(
    operation: Operation, idle: Collection[Value], readers: Mapping[Value, Sequence[Operation]]
) -> Value | None:
    """Return the summand that a sum equals because the other one is zero; None if there is none."""
    if operation.function is not aten.add.Tensor or operation.kwargs:
        return None
    result = operation.results[0]
    if any(reader.mutates for reader in readers.get(result, ())):
        return None
    for zero, other in (operation.args, operation.args[::-1]):
        if zero in idle and isinstance(other, Value) and other.dtype == result.dtype:
            return other
    return None


def is_only_added(value: Value, readers: Mapping[Value, Sequence[Operation]]) -> bool:
    """Return whether nothing but sums reads it: another operation might write to a view of it."""
    return all(reader.function is aten.add.Tensor for reader in readers.get(value, ()))


def with_sums_in_products(operations: Sequence[Operation], wanted: Value) -> list[Operation]:
    """Return the list with each x + A B as one operation.

    The two stay apart if an operation between them writes to a tensor: it might be A or B.
    """
    readers = users(operations)
    products: dict[Value, int] = {}
    kept: list[Operation | None] = []
    for operation in operations:
        if operation.mutates:
            products.clear()
        result = operation.results[0] if operation.single else None
        if operation.function is aten.mm.default and len(readers.get(result, ())) == 1:
            if result is not wanted:
                products[result] = len(kept)
        elif operation.function is aten.add.Tensor and not operation.kwargs:
            x, product = _product_last(operation, products)
            if product is not None:
                factors = kept[products[product]].args
                kept[products.pop(product)] = None
                operation = operation.calling(aten.addmm.default, x, *factors)
        kept.append(operation)
    return [operation for operation in kept if operation is not None]


def _product_last(
    operation: Operation, products: Collection[Value]
) -> tuple[Value | None, Value | None]:
    """Return a sum's two summands, a product of its shape and type last; None without one."""
    for x, product in (operation.args, operation.args[::-1]):
        if product in products and isinstance(x, Value) and x is not product:
            alike = (x, product, operation.results[0])
            if len({y.dtype for y in alike}) == 1 and product.shape == alike[2].shape:
                return x, product
    return None, None


def for_any_layout(operations: Sequence[Operation], *, shared: bool) -> list[Operation]:
    """Return the list for results that lie in memory otherwise than recorded.

    A view that needs a layout becomes a reshape. In a list that is ``shared`` by several vectors
    under vmap no operation asks for a memory format: vmap has none, and values do not depend on it.
    """
    found = []
    for operation in operations:
        if operation.function in VIEWS:
            operation = operation.calling(aten.reshape.default, *operation.args[:2])
        elif operation.function is aten.copy.default:  # vmap has no rule for it
            result = operation.results[0]
            source = operation.args[1]
            operation = operation.calling(_expanded, source, result.shape, result.dtype)
        elif operation.function is aten.slice_scatter.default:
            operation = replace(operation, args=_with_end_inside(*operation.args))
        if shared and "memory_format" in operation.kwargs:
            kwargs = operation.kwargs | {"memory_format": None}
            operation = replace(operation, kwargs=kwargs)
        found.append(operation)
    return found


def _with_end_inside(x: Value, source: Value, dim: int = 0, *bounds: Any) -> tuple[Any, ...]:
    """Return the arguments of slice_scatter: vmap adds to an end that means the last element."""
    if len(bounds) > 1 and bounds[1] is not None:
        bounds = (bounds[0], min(bounds[1], x.shape[dim]), *bounds[2:])
    return (x, source, dim, *bounds)


def _expanded(source: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return source.to(dtype).expand(shape)
