"""A split of a data set, its images read on demand: what every source returns."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


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
