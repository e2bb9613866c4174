"""A training step in other layouts and precisions: what the switches of a recipe gain here."""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.config import VGG11, DenseNet40, LeNet5, ResNet18
from pipeline.data.examples import Examples
from pipeline.models.registry import build
from pipeline.recipes import Recipe
from pipeline.training.loop import epoch_batches, layout, one_epoch

DOCS = Path(__file__).parent.parent / "docs"
NETWORKS = {
    "LeNet5": LeNet5(family="lenet5"),
    "VGG11": VGG11(family="vgg11"),
    "ResNet18": ResNet18(family="resnet18"),
    "DenseNet40": DenseNet40(family="densenet40"),
}
SWITCHES = {
    "channels_last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "both": {"channels_last": True, "precision": "bfloat16"},
}
BATCH, STEPS = 128, 2
HEAD = """# Training: channels last and bfloat16

`PYTHONPATH=. .venv/bin/python benchmarks/training.py` writes this page: time of a training step
in float32, contiguous, over its time with a recipe's `channels_last` and `precision: bfloat16`;
above 1 the switch is faster. BatchNorm, colour images of 32 x 32, batches of {batch}; {device};
{rounds} rounds in turn, medians (range).

| network | {names} |
|---|{rule}|
"""


def main(rounds: int) -> None:
    """Time every network's steps in turn and write the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(2)
    lines = [
        f"| {name} | {' | '.join(_row(model, device, rounds))} |"
        for name, model in NETWORKS.items()
    ]
    about = torch.cuda.get_device_name() if device == "cuda" else "CPU, two threads"
    head = HEAD.format(
        batch=BATCH,
        device=about,
        rounds=rounds,
        names=" | ".join(SWITCHES),
        rule="|".join("---" for _ in SWITCHES),
    )
    (DOCS / "training.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def _row(model: object, device: str, rounds: int) -> list[str]:
    torch.manual_seed(0)
    count = BATCH * STEPS
    examples = Examples(
        torch.randn(count, 3, 32, 32), torch.arange(count) % 10, tuple("0123456789")
    )
    examples = examples.to(device)
    times = {name: [] for name in ("plain", *SWITCHES)}
    for turn in range(rounds + 1):
        for name in times:
            taken = _seconds(model, examples, SWITCHES.get(name, {}))
            if turn:  # the first is for warming up
                times[name].append(taken)
    ratios = {name: np.array(times["plain"]) / np.array(times[name]) for name in SWITCHES}
    return [f"{np.median(r):.2f} ({r.min():.2f}-{r.max():.2f})" for r in ratios.values()]


def _seconds(model: object, examples: Examples, switches: dict[str, object]) -> float:
    recipe = Recipe(lr=0.01, batch=BATCH, epochs=1, checkpoints=(1,), **switches)
    network = build(model, "batch", (3, 32, 32), 10, init="default", seed=0)
    network.to(examples.inputs.device, memory_format=layout(recipe))
    optimiser = torch.optim.SGD(network.parameters(), lr=recipe.lr)
    start = time.perf_counter()
    one_epoch(network, optimiser, epoch_batches(examples, recipe, None, seed=0, epoch=1), recipe)
    if examples.inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
