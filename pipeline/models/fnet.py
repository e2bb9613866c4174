"""F-width^depth of D: fully connected, ReLU, ``depth`` hidden layers of ``width`` units."""

from collections import OrderedDict
from math import prod

from torch import nn

from pipeline.models.norms import after_relu


def fnet(
    in_shape: tuple[int, ...], classes: int, norm: str, *, width: int, depth: int
) -> nn.Sequential:
    """Return the network for inputs of ``in_shape`` (channels, height, width)."""
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    features = prod(in_shape)
    for index in range(1, depth + 1):
        block = [
            ("fc", nn.Linear(features, width)),
            ("relu", nn.ReLU()),
            *after_relu(norm, width, spatial=False),
        ]
        layers += [(f"{name}{index}", layer) for name, layer in block]
        features = width
    layers.append((f"fc{depth + 1}", nn.Linear(features, classes)))
    return nn.Sequential(OrderedDict(layers))
