"""Augmentation of training images by torchvision's transforms, named in a recipe."""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.config import Dataset
from pipeline.data.examples import normalised, plain
from pipeline.data.functions import function_at
from pipeline.errors import AnatomyError


def augmentation(
    named: dict[str, dict[str, Any]], dataset: Dataset
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the transforms as one function of a batch of normalised images; None of none.

    Transforms of colour take pixels to lie in [0, 1], so that the normalisation of ``dataset`` is
    undone before them, and done again behind.  Each image is transformed by itself.

    Raises AnatomyError where torchvision.transforms.v2 has no such transform, or refuses its
    options.
    """
    dataset = dataset.resolved()
    steps = [_transform(name, options) for name, options in named.items()]

    def one(image: torch.Tensor) -> torch.Tensor:
        for step in steps:
            image = step(image)
        return image

    def augment(images: torch.Tensor) -> torch.Tensor:
        return normalised(torch.stack([one(image) for image in plain(images, dataset)]), dataset)

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
