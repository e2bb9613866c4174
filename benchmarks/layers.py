"""One layer's Hessian: this project's closed form beside a library restricted to the layer."""

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import curvlinops
import numpy as np
import torch
from problems import problem
from torch import nn

from pipeline.curvature import layer_hessian
from pipeline.device import keep_freed_memory

DOCS = Path(__file__).parent.parent / "docs"
LAYERS = {"F-200^2": ("fc1", "fc2", "fc3"), "LeNet5": ("conv1", "conv2", "fc1", "fc2", "fc3")}
COLUMNS = 8
HEAD = """# One layer's Hessian: what a product costs

`make bench` writes this page. {n} examples, float32, two CPU threads, {rounds} rounds in turn;
medians (range). Time of curvlinops 3.0.1, its Hessian restricted to the layer's weight, over this
project's `layer_hessian`, for one vector and per vector of a block of {columns}; *set-up* is what
this project's factors take, in gradients of the whole network; *error* of the product, against the
same in float64.

| network | layer | one vector | in a block | set-up | error, ours | error, curvlinops |
|---|---|---|---|---|---|---|
"""


def main(rounds: int) -> None:
    """Time every layer in turn and write the table."""
    keep_freed_memory()  # as jobs do, for both
    torch.set_flush_denormal(True)
    torch.set_num_threads(2)
    lines, examples = [], 0
    for name, layers in LAYERS.items():
        model, x, y = problem(name)
        examples = len(y)

        def gradient(model: nn.Module = model, x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            nn.functional.cross_entropy(model(x), y).backward()

        for layer in layers:
            lines.append(f"| {name} | {layer} | {_row(model, x, y, layer, gradient, rounds)} |")
    head = HEAD.format(n=examples, rounds=rounds, columns=COLUMNS)
    (DOCS / "layers.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def _row(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    layer: str,
    gradient: Callable[[], None],
    rounds: int,
) -> str:
    ours = layer_hessian(model, (x, y), layer=layer)
    theirs = _restricted(model, x, y, layer)
    exact = layer_hessian(copy.deepcopy(model).double(), (x.double(), y), layer=layer)
    torch.manual_seed(0)
    V = torch.randn(ours.shape[0], COLUMNS)
    v = V[:, 0].contiguous()
    expected = exact @ v.double()
    errors = [float(((A @ v).double() - expected).norm() / expected.norm()) for A in (ours, theirs)]
    calls = (lambda: ours @ v, lambda: theirs @ v, lambda: ours @ V, lambda: theirs @ V)
    for call in calls:
        call()  # the warm-up
    ratios = []
    for _ in range(rounds):
        one, other, block, other_block = (_seconds(call) for call in calls)
        built = _seconds(lambda: layer_hessian(model, (x, y), layer=layer), repeats=1)
        ratios.append((other / one, other_block / block, built / _seconds(gradient)))
    cells = [
        f"{np.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in zip(*ratios, strict=True)
    ]
    return " | ".join([*cells, *(f"{error:.0e}" for error in errors)])


def _restricted(model: nn.Module, x: torch.Tensor, y: torch.Tensor, layer: str):
    weight = model.get_submodule(layer).weight
    loss = nn.CrossEntropyLoss()
    return curvlinops.HessianLinearOperator(
        model, loss, [weight], [(x, y)], check_deterministic=False
    )


def _seconds(call: Callable[[], object], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main(int(sys.argv[1]))
