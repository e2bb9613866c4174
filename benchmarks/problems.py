"""The benchmark's problems: networks trained briefly on digits, so that their curvature is real."""

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config import Dataset
from pipeline.data.examples import load_examples
from pipeline.models.fnet import fnet
from pipeline.models.lenet import lenet5

EXAMPLES = 1000
EPOCHS = 15


def problem(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network in eval mode, inputs (1000, ...) and labels, the same in every process."""
    size = {"F-200^2": 28, "LeNet5": 32}[name]
    digits = load_examples(
        Dataset(source="digits"), "train", data_root="", n_per_class=EXAMPLES // 10, image_size=size
    )
    torch.manual_seed(0)
    if name == "LeNet5":
        model = lenet5((1, size, size), 10, "none")
    else:
        model = fnet((1, size, size), 10, "none", width=200, depth=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(EPOCHS):
        for batch in torch.randperm(EXAMPLES).split(50):
            optimiser.zero_grad()
            F.cross_entropy(model(digits.inputs[batch]), digits.labels[batch]).backward()
            optimiser.step()
    return model.eval(), digits.inputs, digits.labels
