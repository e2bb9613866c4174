"""VGG11 for 32 x 32 images: S's, and D's with all convolutions of one width."""

from collections import OrderedDict

from torch import nn

from pipeline.models.norms import after_relu, before_relu

# Output channels of the convolutions; M is a max-pooling (S's settings).
WIDTHS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


def vgg11(
    in_shape: tuple[int, ...],
    classes: int,
    norm: str,
    *,
    width: int | None = None,
    hidden: int = 4096,
) -> nn.Sequential:
    """Return VGG11 for 32 x 32 inputs, with two hidden layers of ``hidden`` units behind.

    Without ``width`` it is S's: BatchNorm, affine, before each convolution's ReLU, and one in place
    of the first dropout.  With ``width`` it is D's, whose BatchNorm stands after each ReLU.
    """
    layers: list[tuple[str, nn.Module]] = []
    channels, index = in_shape[0], 0
    for entry in WIDTHS:
        if entry == "M":
            layers.append((f"pool{index}", nn.MaxPool2d(2)))
            continue
        outputs, index = width or entry, index + 1
        layers.append((f"conv{index}", nn.Conv2d(channels, outputs, 3, padding=1)))
        if width is None:
            before = before_relu(norm, outputs)
            layers += [(f"conv_{name}{index}", layer) for name, layer in before]
        layers.append((f"conv_relu{index}", nn.ReLU()))
        if width is not None:
            after = after_relu(norm, outputs, spatial=True)
            layers += [(f"conv_{name}{index}", layer) for name, layer in after]
        channels = outputs
    layers.append(("flatten", nn.Flatten()))
    features = channels
    for index in (1, 2):
        layers += [(f"fc{index}", nn.Linear(features, hidden)), (f"relu{index}", nn.ReLU())]
        if width is not None:
            after = after_relu(norm, hidden, spatial=False)
            layers += [(f"{name}{index}", layer) for name, layer in after]
        elif norm == "batch" and index == 1:
            layers.append((f"bn{index}", nn.BatchNorm1d(hidden)))
        features = hidden
    layers.append(("fc3", nn.Linear(features, classes)))
    return nn.Sequential(OrderedDict(layers))
