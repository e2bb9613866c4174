"""Decoded images in one file, so that images which do not fit in memory are decoded once."""

import os
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from pipeline.atomic import storing, sync
from pipeline.data.source import Source
from pipeline.errors import DataError
from pipeline.progress import progress
from pipeline.scratch import alone

BLOCK = 256  # images between two looks at the disk: ImageNet's take 40 MB

Reader = Callable[[np.ndarray], torch.Tensor]


def decoded(source: Source, file: Path, indices: np.ndarray, *, label: str) -> Source:
    """Return a source that reads the images of ``indices`` from ``file``, once they are there.

    The file holds a byte for each of the source's images, 1 where it is decoded, then the images
    themselves, uint8; of those not decoded it has holes, which take no room.  A process that finds
    some missing decodes them while others wait, and one that was killed has done what it had done.
    Raises DataError where images differ in size, and as ``storing``.
    """
    shape = tuple(source.read(indices[:1]).shape[1:])
    count = len(source.labels)
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not _marks(file, count, shape)[indices].all():
            with alone(file.with_name(f".{file.name}.lock"), f"the decoding of {label}"):
                _decode(source.read, file, indices, count, shape, label)
    images = np.memmap(file, np.uint8, "r", offset=count, shape=(count, *shape))
    return replace(source, read=lambda rows: torch.from_numpy(images[rows]), key=None)


def _marks(file: Path, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return which images are decoded: none where the file is not there, or not whole."""
    if not file.exists() or file.stat().st_size != _size(count, shape):
        return np.zeros(count, dtype=np.uint8)
    return np.fromfile(file, np.uint8, count)


def _size(count: int, shape: tuple[int, ...]) -> int:
    return count * (1 + prod(shape))


def _decode(
    read: Reader, file: Path, indices: np.ndarray, count: int, shape: tuple[int, ...], label: str
) -> None:
    """Decode the images that are missing, a block at a time: first the images, then their marks."""
    missing = indices[_marks(file, count, shape)[indices] == 0]
    blocks = [missing[start : start + BLOCK] for start in range(0, len(missing), BLOCK)]
    with file.open("r+b" if file.exists() else "w+b") as store:
        if os.fstat(store.fileno()).st_size != _size(count, shape):
            store.truncate(0)
            store.truncate(_size(count, shape))
        for rows in progress(blocks, total=len(blocks), label=f"{label}, decoding"):
            images = read(rows)
            if tuple(images.shape[1:]) != shape or images.dtype != torch.uint8:
                raise DataError(
                    f"{label}: images of shapes {shape} and {tuple(images.shape[1:])}. Set "
                    "image_size for this data set"
                )
            _put(store, rows, count, images.numpy())


def _put(store: BinaryIO, rows: np.ndarray, count: int, images: np.ndarray) -> None:
    """Write a block of images, see it on the disk, and only then mark them."""
    size = images[0].size
    for row, image in zip(rows.tolist(), images, strict=True):
        store.seek(count + row * size)
        store.write(image.tobytes())
    sync(store)
    for row in rows.tolist():
        store.seek(row)
        store.write(b"\1")
    sync(store)
