"""Recorded operations as Python functions: what a list needs, and its text."""

import builtins
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.curvature.tape import Operation, Value

aten = torch.ops.aten


def users(operations: Iterable[Operation]) -> dict[Value, list[Operation]]:
    """Return the operations that read each Value."""
    found: dict[Value, list[Operation]] = defaultdict(list)
    for operation in operations:
        for value in operation.reads:
            found[value].append(operation)
    return found


def needed(operations: Sequence[Operation], wanted: Collection[Value]) -> list[Operation]:
    """Return the operations that the ``wanted`` Values depend on, and those that write."""
    live, kept = set(wanted), []
    for operation in reversed(operations):
        if operation.mutates or not live.isdisjoint(operation.results):
            live.update(operation.reads)
            kept.append(_narrowed(operation, live))
    return kept[::-1]


def _narrowed(operation: Operation, live: Collection[Value]) -> Operation:
    """Return a convolution's backward without the gradients that nothing reads."""
    if operation.function is not aten.convolution_backward.default:
        return operation
    *given, mask = operation.args
    read = [wanted and value in live for wanted, value in zip(mask, operation.results, strict=True)]
    return replace(operation, args=(*given, read))


def as_function(
    operations: Sequence[Operation], inputs: Sequence[Value], outputs: Sequence[Value]
) -> Callable[..., list[torch.Tensor]]:
    """Return the operations as a function of ``inputs``; a result's memory goes with its last use.

    What no output depends on is left out.
    """
    operations = needed(operations, outputs)
    names = {value: f"x{i}" for i, value in enumerate(inputs)}
    uses = Counter(value for operation in operations for value in set(operation.reads))
    uses.update(outputs)
    space: dict[str, Any] = {"__builtins__": builtins}
    shared: dict[Any, str] = {}

    def constant(thing: Any) -> str:
        if type(thing) in (int, bool, type(None)):
            return repr(thing)
        if isinstance(thing, list | tuple):
            inner = "".join(f"{written(leaf)}, " for leaf in thing)
            return f"[{inner}]" if isinstance(thing, list) else f"({inner})"
        key = (type(thing), str(thing))  # 0.0 and -0.0 differ
        if key not in shared:
            shared[key] = f"k{len(shared)}"
            space[shared[key]] = thing
        return shared[key]

    def written(thing: Any) -> str:
        return names[thing] if isinstance(thing, Value) else constant(thing)

    lines = []
    for operation in operations:
        words = [written(thing) for thing in operation.args]
        words += [f"{name}={written(thing)}" for name, thing in operation.kwargs.items()]
        done = []
        for value in set(operation.reads):
            uses[value] -= 1
            if not uses[value]:
                done.append(names[value])
        for value in operation.results:
            names[value] = f"x{len(names)}"
        targets = [names[value] if uses[value] else "_" for value in operation.results]
        left = targets[0] if operation.single else f"[{', '.join(targets)}]"
        lines.append(f"{left} = {constant(operation.function)}({', '.join(words)})")
        if done:
            lines.append(f"del {', '.join(sorted(done))}")
    lines.append(f"return [{', '.join(names[value] for value in outputs)}]")
    head = f"def listed({', '.join(names[value] for value in inputs)}):"
    exec(compile("\n    ".join([head, *lines]), "<recorded operations>", "exec"), space)
    return space["listed"]
