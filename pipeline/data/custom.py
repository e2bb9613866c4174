"""Images and labels that a user's ``load`` returns, checked and made a source.

The checks here look at types, shapes and labels: they read no image.
"""

from typing import Any

import numpy as np
import torch

from pipeline.catalogue import LOADERS
from pipeline.config import Dataset
from pipeline.data.functions import call_function, function_at
from pipeline.data.source import Source
from pipeline.errors import AnatomyError, DataError

IMAGE_TYPES = "uint8 (0 to 255), or floats in [0, 1]"
# Cures for images of other types: what their numbers mean is the user's knowledge.
DIVIDE = "Divide by the largest value that a pixel can have, and return float32"


def is_custom(dataset: Dataset) -> bool:
    """Return whether a data set is loaded by a user's function."""
    return dataset.source not in LOADERS


def load_custom(dataset: Dataset, split: str, *, data_root: str) -> Source:
    """Return a split of a data set that the user's own function loads.

    Raises DataError with the function's name and the split if the function raises an exception, or
    returns something other than images (N, channels, height, width) and labels (N,).
    """
    path = dataset.source
    place = f"{path}, {split} split"
    load = function_at(path, "a data set's source")
    try:
        returned = call_function(load, path, split=split, data_root=data_root, **dataset.options)
    except DataError:
        raise
    except AnatomyError as error:
        raise DataError(f"{place}: {error}") from error.__cause__
    return checked_source(returned, place)


def checked_source(returned: Any, place: str) -> Source:
    """Return images and labels as a source; ``place`` names their function and split in errors.

    Labels are whole numbers 0 to C - 1, each of which occurs; floats without a fraction and
    booleans are taken as numbers.  Raises DataError.
    """
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        length = f" of length {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise DataError(
            f"{place}: it returned a {type(returned).__name__}{length}. Return (images, labels)"
        )
    images, labels = _images(returned[0], place), _labels(returned[1], place)
    if len(images) != len(labels):
        raise DataError(
            f"{place}: {len(images)} images, but {len(labels)} labels. Return one label per image"
        )
    names = tuple(str(label) for label in range(int(labels.max()) + 1))

    def read(indices: np.ndarray) -> torch.Tensor:
        # Byte order and strides are NumPy's own; PyTorch takes neither as they are.
        rows = images[indices]
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("=")))

    return Source(labels, read, names)


def _images(returned: Any, place: str) -> np.ndarray:
    """Return the images as an array (N, channels, height, width), mapped from a file if they were.

    A copy is made only of what is neither an array nor a tensor on the CPU.
    """
    images = _array(returned, place, "images")
    kind, size = images.dtype.kind, images.dtype.itemsize
    if not (kind == "u" and size == 1) and not (kind == "f" and size in (2, 4, 8)):
        cure = DIVIDE if kind in "iuf" else "Return numbers"
        if kind in "iu" and size > 1:
            cure = f"{DIVIDE}; whole numbers from 0 to 255 may be returned as uint8"
        raise DataError(
            f"{place}: images of type {images.dtype}, where {IMAGE_TYPES} are expected. {cure}"
        )
    if images.ndim != 4:
        cure = "Return (N, channels, height, width)"
        if images.ndim == 3:
            cure += ": of grey images, images[:, None]"
        raise DataError(f"{place}: images of shape {images.shape}. {cure}")
    if 0 in images.shape:
        raise DataError(
            f"{place}: images of shape {images.shape}, which is empty. Return at least one image "
            "of each class"
        )
    if min(images.shape[1:3]) > 4 and images.shape[3] in (1, 3, 4):
        raise DataError(
            f"{place}: images of shape {images.shape}, whose channels seem to be last. Return (N, "
            "channels, height, width): np.moveaxis(images, 3, 1)"
        )
    return images


def _labels(returned: Any, place: str) -> np.ndarray:
    """Return the labels as int64 (N,), every number from 0 to the largest among them."""
    labels = _array(returned, place, "labels")
    if labels.ndim != 1:
        cure = "Return (N,), a whole number for each image"
        if labels.ndim == 2:
            cure += (
                ": labels[:, 0]" if labels.shape[1] == 1 else ", of one-hot rows labels.argmax(1)"
            )
        raise DataError(f"{place}: labels of shape {labels.shape}. {cure}")
    numbering = "Number the classes from 0 in one order for both splits"
    if labels.dtype.kind not in "buif":
        some = ", ".join(map(repr, labels[:3].tolist()))
        raise DataError(
            f"{place}: labels of type {labels.dtype} ({some}, ...). Return whole numbers. "
            f"{numbering}"
        )
    if not len(labels):
        raise DataError(f"{place}: no labels. Return at least one example of each class")
    if labels.dtype.kind == "f":
        fractions = labels[~(np.isfinite(labels) & (labels == np.floor(labels)))]
        if len(fractions):
            raise DataError(
                f"{place}: a label is {fractions[0]}. Return whole numbers from 0 to C - 1"
            )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= len(labels):
        cure = f"{numbering}: subtract {int(low)}" if low > 0 else numbering
        raise DataError(
            f"{place}: labels from {low:g} to {high:g} for {len(labels)} examples, where 0 to "
            f"C - 1 are expected for C classes with an example each. {cure}"
        )
    labels = labels.astype(np.int64)
    counts = np.bincount(labels)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        shift = f": subtract {int(low)}" if len(absent) == low else ""
        raise DataError(
            f"{place}: labels from {int(low)} to {int(high)}, but no example has label "
            f"{', '.join(map(str, absent[:3].tolist()))}. {numbering}{shift}, with an example of "
            "each class in both splits"
        )
    return labels


def _array(returned: Any, place: str, what: str) -> np.ndarray:
    """Return a NumPy array of what was returned, without a copy if it is one or a CPU tensor."""
    if returned is None:
        raise DataError(f"{place}: {what} are None. Return arrays or tensors")
    try:
        if isinstance(returned, torch.Tensor):
            tensor = returned.detach().cpu()
            returned = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        array = returned if isinstance(returned, np.ndarray) else np.asarray(returned)
    except Exception as error:
        raise DataError(
            f"{place}: {what} are a {type(returned).__name__}, which is no array "
            f"({type(error).__name__}: {error}). Return a NumPy array or a dense tensor"
        ) from error
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise DataError(f"{place}: {what} have masked values. Fill them, or leave them out")
    return array
