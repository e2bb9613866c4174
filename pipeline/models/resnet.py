"""ResNet18 for small images, as S has it: a 3 x 3 stem and no max-pooling."""

from collections import OrderedDict

import torch
from torch import nn

from pipeline.models.norms import before_relu

BLOCKS = (1, 1, 2, 1, 2, 1, 2, 1)  # strides of the eight blocks


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, norm: str, stride: int):
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, norm, stride)
        self.relu1 = nn.ReLU()
        self.conv2 = _convolution(outputs, outputs, 3, norm)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, norm, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))


def resnet18(
    in_shape: tuple[int, ...], classes: int, norm: str, *, width: int = 64
) -> nn.Sequential:
    """Return ResNet18 whose first blocks have ``width`` channels, the last eight times as many.

    BatchNorm is affine and stands before each ReLU.  Source: He et al.; S and D for small images.
    """
    layers: list[tuple[str, nn.Module]] = [
        ("stem", _convolution(in_shape[0], width, 3, norm)),
        ("relu", nn.ReLU()),
    ]
    channels = width
    for index, stride in enumerate(BLOCKS):
        outputs = width * 2 ** (index // 2)
        layers.append((f"block{index + 1}", Block(channels, outputs, norm, stride)))
        channels = outputs
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    layers.append(("fc", nn.Linear(channels, classes)))
    return nn.Sequential(OrderedDict(layers))


def _convolution(inputs: int, outputs: int, size: int, norm: str, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its normalisation, whose shift takes the place of a bias."""
    bias = norm == "none"
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)
    return nn.Sequential(OrderedDict([("conv", conv), *before_relu(norm, outputs)]))
