"""What every source of images hands over, and the refusals they share."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import AnatomyError


@dataclass(frozen=True)
class Source:
    """One split of a data set, its images read on demand.

    ``labels`` is (N,) int64; ``read(indices)`` returns (n, channels, height, width) images as
    uint8, or as floats in [0, 1]; ``class_names`` has one name per class.  ``key`` tells the images
    from others where each is decoded when it is read; None: they lie in memory or in one file.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], torch.Tensor]
    class_names: tuple[str, ...]
    key: str | None = None


def in_memory(
    images: torch.Tensor | np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> Source:
    """Return a source whose images are all in memory already, or an array mapped from a file."""

    def read(indices: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(images[indices])

    return Source(labels.astype(np.int64), read, class_names)


def function_at(path: str, place: str) -> Callable[..., Any]:
    """Return the function at ``module:function``; ``place`` says where it was named."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise AnatomyError(
            f"{place} names {path}, which cannot be imported: {error}. Put the module on "
            "PYTHONPATH or in the folder that snakemake runs in, and mind the spelling"
        ) from error
