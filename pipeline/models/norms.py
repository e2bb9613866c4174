"""The normalisations a network may carry."""

from torch import nn


def after_relu(norm: str, features: int, *, spatial: bool) -> list[tuple[str, nn.Module]]:
    """Return the layers, named, that stand behind a ReLU: none, or BatchNorm without affine part.

    D puts BatchNorm after each ReLU and without affine parameters.
    """
    if norm == "none":
        return []
    layer = nn.BatchNorm2d if spatial else nn.BatchNorm1d
    return [("bn", layer(features, affine=False))]


def before_relu(norm: str, features: int) -> list[tuple[str, nn.Module]]:
    """Return the layers, named, that stand before a ReLU: none, or BatchNorm with affine part.

    So S's VGG11, and ResNet and DenseNet as they were published.
    """
    return [] if norm == "none" else [("bn", nn.BatchNorm2d(features))]
