"""Augmentation of training images by torchvision's transforms, named in a recipe."""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.data.source import function_at
from pipeline.errors import AnatomyError


def augmentation(named: dict[str, dict[str, Any]]) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the transforms as one function of an image (channels, height, width); None of none.

    Raises AnatomyError where torchvision.transforms.v2 has no such transform, or refuses its
    options.
    """
    steps = [_transform(name, options) for name, options in named.items()]

    def augment(image: torch.Tensor) -> torch.Tensor:
        for step in steps:
            image = step(image)
        return image

    return augment if steps else None


def _transform(name: str, options: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    transform = function_at(f"torchvision.transforms.v2:{name}", "a recipe's augment")
    try:
        return transform(**options)
    except (TypeError, ValueError) as error:
        raise AnatomyError(
            f"augment: {name} refuses the options {options} ({error}). Name them as "
            f"torchvision.transforms.v2.{name} does"
        ) from error
