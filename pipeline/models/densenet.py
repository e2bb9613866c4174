"""DenseNet40: three dense blocks of twelve layers, without bottleneck, compression or dropout."""

from collections import OrderedDict

import torch
from torch import nn

from pipeline.models.norms import before_relu

STEM = 16  # channels of the first convolution (Huang et al., for growth 12)
BLOCKS, LAYERS = 3, 12


class DenseLayer(nn.Sequential):
    """BatchNorm, ReLU and a convolution, whose output is joined to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input with ``growth`` channels more."""
        return torch.cat([x, super().forward(x)], 1)


def densenet40(
    in_shape: tuple[int, ...], classes: int, norm: str, *, growth: int = 12
) -> nn.Sequential:
    """Return DenseNet40 for 32 x 32 inputs.

    Source: Huang et al., as S has it; ``norm: none`` leaves the BatchNorms out and gives the
    convolutions biases.
    """
    bias = norm == "none"
    stem = nn.Conv2d(in_shape[0], STEM, 3, padding=1, bias=bias)
    layers: list[tuple[str, nn.Module]] = [("stem", stem)]
    channels = STEM
    for block in range(1, BLOCKS + 1):
        for layer in range(1, LAYERS + 1):
            conv = nn.Conv2d(channels, growth, 3, padding=1, bias=bias)
            parts = [*before_relu(norm, channels), ("relu", nn.ReLU()), ("conv", conv)]
            layers.append((f"dense{block}_{layer}", DenseLayer(OrderedDict(parts))))
            channels += growth
        ending = [*before_relu(norm, channels), ("relu", nn.ReLU())]
        if block < BLOCKS:
            ending += [
                ("conv", nn.Conv2d(channels, channels, 1, bias=bias)),
                ("pool", nn.AvgPool2d(2)),
            ]
        layers.append((f"transition{block}", nn.Sequential(OrderedDict(ending))))
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    layers.append(("fc", nn.Linear(channels, classes)))
    return nn.Sequential(OrderedDict(layers))
