"""The pixels of a source whose images lie in memory or in one file: range, NaN, and a digest."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.data.source import Source
from pipeline.errors import DataError

BLOCK_BYTES = 2**25  # of images looked at together
ROUNDING = 1e-6  # of floats that were scaled to [0, 1]
DARKEST = 1 / 255  # if no pixel is brighter, the images were scaled twice


def examined(source: Source, name: str, split: str) -> str:
    """Return a digest of all images and labels; raise DataError for pixels out of range."""
    place = f"{name}, {split} split"
    digest = hashlib.sha256(np.ascontiguousarray(source.labels).tobytes())
    low, high = np.inf, -np.inf
    for start, images in _blocks(source):
        digest.update(f"{images.dtype} {tuple(images.shape)}".encode())
        digest.update(images.contiguous().numpy().data)
        numbers = images.float() if images.dtype == torch.float16 else images
        least, most = (float(end) for end in torch.aminmax(numbers))
        if not (np.isfinite(least) and np.isfinite(most)):
            broken = ~torch.isfinite(numbers).flatten(1).all(1)
            index = start + int(broken.nonzero()[0])
            raise DataError(
                f"{place}: image {index} has a pixel that is NaN or infinite. Replace the pixel, "
                "or leave the image out"
            )
        low, high = min(low, least), max(high, most)
        is_bytes = images.dtype == torch.uint8
    if is_bytes:
        if high <= 255 * DARKEST:
            raise DataError(
                f"{place}: uint8 images whose pixels range from {low:g} to {high:g}, where 255 is "
                "white. Return numbers from 0 to 255, or floats in [0, 1]"
            )
    elif low < -ROUNDING or high > 1 + ROUNDING:
        raise DataError(
            f"{place}: images of floats from {low:.4g} to {high:.4g}, where [0, 1] is expected. "
            f"{_scaling(low, high)}; the data set's mean and std normalise them afterwards"
        )
    elif high <= DARKEST:
        raise DataError(
            f"{place}: images of floats from {low:.4g} to {high:.4g}, where 1 is white. Scale them "
            "to [0, 1] once, not twice"
        )
    return digest.hexdigest()[:16]


def _scaling(low: float, high: float) -> str:
    if low >= 0 and high <= 255:
        return "Divide them by 255, or by the largest value that a pixel can have"
    return "Scale them, such as (x - low) / (high - low) with one low and high for both splits"


def _blocks(source: Source) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the images in order, some at a time, with the index of the first."""
    size = max(1, BLOCK_BYTES // source.read(np.array([0])).nbytes)
    for start in range(0, len(source.labels), size):
        rows = np.arange(start, min(start + size, len(source.labels)))
        yield start, source.read(rows)
