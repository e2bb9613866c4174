"""Parts and their places in a labelled cube, whose absent combinations are NaN."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.cubes.layout import INDEX_DIMS, Layout, labels_of, laid_out
from pipeline.cubes.schema import SCHEMA
from pipeline.runs import Run


@dataclass(frozen=True)
class Placed:
    """A part and its place: a run's words and, for what has them, epoch and split."""

    place: dict[str, Any]
    data: xr.Dataset


@dataclass(frozen=True)
class Gathered:
    """A cube that is gathered as it is written: its layout, and its parts, gone over once.

    ``files`` are what it is gathered from, ``devices`` what its parts were computed on.
    """

    layout: Layout
    parts: Iterable[Placed]
    files: list[Path]
    devices: set[str]


@dataclass(frozen=True)
class Block:
    """A part's values in one chunk of the variable ``key``.

    The chunk is told by its positions along the dimensions that are split, the values' positions
    along the others are ``inside``.
    """

    key: str
    chunk: tuple[int, ...]
    inside: tuple[np.ndarray, ...]
    values: np.ndarray


def blocks(layout: Layout, parts: Iterable[Placed]) -> Iterator[Block]:
    """Yield the values of the cube, part by part.

    A part without a variable (of a diverged run) leaves it NaN.
    """
    split = {key: layout.split(key) for key in SCHEMA[layout.name]}
    for part in parts:
        labels = labels_of(layout.name, part.place, part.data)
        for key, count in split.items():
            if key not in part.data:
                continue
            dims = layout.dims(key)
            at = [_positions(layout, dim, labels[dim]) for dim in dims]
            inner = [dim for dim in dims if dim not in part.place]
            values = part.data[key].transpose(*inner).values.reshape([len(own) for own in at])
            inside = np.ix_(*at[count:])
            for i in np.ndindex(values.shape[:count]):
                chunk = tuple(int(own[j]) for own, j in zip(at[:count], i, strict=True))
                yield Block(key, chunk, inside, values[i])


def assemble(name: str, runs: Sequence[Run], parts: Iterable[Placed]) -> xr.Dataset:
    """Return the cube ``name`` over all ``runs``, dense in memory: of small parts, as in tests."""
    return dense(in_memory(name, runs, list(parts)))


def in_memory(name: str, runs: Sequence[Run], parts: Sequence[Placed]) -> Gathered:
    """Return the cube ``name`` over all ``runs``, gathered from parts that are in memory."""
    labels = [labels_of(name, part.place, part.data) for part in parts]
    return Gathered(laid_out(name, runs, labels), parts, [], set())


def dense(cube: Gathered) -> xr.Dataset:
    """Return a cube as it would be read from its store, dense in memory."""
    layout = cube.layout
    arrays = {key: np.full(layout.shape(key), np.nan) for key in SCHEMA[layout.name]}
    for block in blocks(layout, cube.parts):
        arrays[block.key][(*block.chunk, *block.inside)] = block.values
    variables = {
        key: (layout.dims(key), array, layout.attributes(key)) for key, array in arrays.items()
    }
    return layout.coordinates().assign(variables)


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Return lists of different lengths as rows, NaN beyond their ends."""
    rows = np.full((len(lists), max(map(len, lists), default=0)), np.nan)
    for row, values in zip(rows, lists, strict=True):
        row[: len(values)] = values
    return rows


def _positions(layout: Layout, dim: str, labels: Sequence[Any]) -> np.ndarray:
    if dim in INDEX_DIMS:
        return np.arange(len(labels))
    return np.array([layout.at[dim][label] for label in labels], dtype=int)
