"""LeNet5 of D: two 5 x 5 convolutions with max-pooling, then three fully connected layers."""

from collections import OrderedDict

from torch import nn

from pipeline.models.norms import after_relu


def lenet5(in_shape: tuple[int, ...], classes: int, norm: str, *, fc1: int = 120) -> nn.Sequential:
    """Return LeNet5 for 32 x 32 inputs: conv6, pool, conv16, pool, ``fc1``, 84, ``classes``."""
    channels = in_shape[0]
    layers: list[tuple[str, nn.Module]] = []
    for index, (inputs, outputs) in enumerate(((channels, 6), (6, 16)), start=1):
        block = [
            ("conv", nn.Conv2d(inputs, outputs, 5)),
            ("conv_relu", nn.ReLU()),
            *((f"conv_{name}", layer) for name, layer in after_relu(norm, outputs, spatial=True)),
            ("pool", nn.MaxPool2d(2)),
        ]
        layers += [(f"{name}{index}", layer) for name, layer in block]
    layers.append(("flatten", nn.Flatten()))
    for index, (inputs, outputs) in enumerate(((16 * 5 * 5, fc1), (fc1, 84)), start=1):
        block = [
            ("fc", nn.Linear(inputs, outputs)),
            ("relu", nn.ReLU()),
            *after_relu(norm, outputs, spatial=False),
        ]
        layers += [(f"{name}{index}", layer) for name, layer in block]
    layers.append(("fc3", nn.Linear(84, classes)))
    return nn.Sequential(OrderedDict(layers))
