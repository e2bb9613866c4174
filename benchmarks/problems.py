"""The benchmark's problems: networks trained briefly, so that their curvature is real."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, vgg11

from pipeline.config import Dataset
from pipeline.data.examples import load_examples
from pipeline.models.fnet import fnet
from pipeline.models.lenet import lenet5

EXAMPLES = {
    "F-200^2": 1000,
    "LeNet5": 1000,
    "F-200^2 fitted": 1000,
    "VGG11": 50,
    "ResNet18": 50,
}
EPOCHS = {"VGG11": 1, "ResNet18": 1}  # 15 for the others
LEAD = 16.0  # of the true class in a fitted network, in nats, at least: 1 - pi_y is about 1e-7


def problem(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network in eval mode, inputs and labels, the same in every process."""
    size, examples = 28 if name.startswith("F-200^2") else 32, EXAMPLES[name]
    digits = load_examples(
        Dataset(source="digits"), "train", data_root="", n_per_class=examples // 10, image_size=size
    )
    torch.manual_seed(0)
    model = _network(name, size)

    def trained() -> dict[str, torch.Tensor]:
        _train(model, digits.inputs, digits.labels, EPOCHS.get(name, 15))
        return model.state_dict()

    model.load_state_dict(once(name, trained))
    model.eval()
    if name == "F-200^2 fitted":
        return _fitted(model, digits.inputs)
    return model, digits.inputs, digits.labels


def once(name: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return what ``make`` makes; the folder BENCHMARK_CACHE, if set, keeps it for later calls."""
    kept = Path(os.environ.get("BENCHMARK_CACHE", "/nonexistent"), f"{name}.safetensors")
    if kept.exists():
        return load_file(kept)
    made = make()
    if kept.parent.exists():
        save_file(made, kept)
    return made


@torch.no_grad()
def _fitted(model: nn.Module, inputs: torch.Tensor) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return the network grown certain of its own answers, which are then the labels."""
    top = model(inputs).topk(2).values
    sure = top[:, 0] - top[:, 1] > 1
    last = list(model.parameters())[-2:]
    for parameter in last:
        parameter *= LEAD / float((top[:, 0] - top[:, 1])[sure].min())
    return model, inputs[sure], model(inputs[sure]).argmax(-1)


def _network(name: str, size: int) -> nn.Module:
    if name.startswith("F-200^2"):
        return fnet((1, size, size), 10, "none", width=200, depth=2)
    if name == "LeNet5":
        return lenet5((1, size, size), 10, "none")
    # torchvision's, made for small grey images: one input channel, no large classifier or stem.
    if name == "VGG11":
        model = vgg11().features
        model[0] = nn.Conv2d(1, 64, 3, padding=1)
        model = nn.Sequential(model, nn.Flatten(), nn.Linear(512, 10))
    else:
        model = resnet18(num_classes=10)
        model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the peers differentiate through autograd's saved inputs
    return model


def _train(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            optimiser.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimiser.step()
