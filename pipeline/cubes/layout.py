"""A cube's layout: the labels along its dimensions, and the shapes and chunks of its variables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from pipeline.cubes.schema import SCHEMA, leading_dims
from pipeline.cubes.variable import NAMED_DIMS, RUN_DIMS
from pipeline.runs import Run

# Counted from 0 and padded, not labelled.
INDEX_DIMS = (
    "order",
    "from_bottom",
    "probe",
    "node",
    "pair",
    "pair_2",
    "point",
    "axis",
    "index",
    "shown",
    "element",
    "bin",
    "candidate",
)
# Labelled by numbers: in growing order, whatever the order of the parts.
SORTED_DIMS = (
    "epoch",
    "degree",
    "k",
    "seed_a",
    "seed_b",
    "other_n_per_class",
    "width",
    "theory_seed",
)
# Bytes, tuned: room for a variable of thousands of eigenvalues of each of a network's runs, and not
# for many heat maps, of which a reader wants one.
LARGEST_CHUNK = 2**24
ITEMSIZE = np.dtype(float).itemsize
Labels = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Layout:
    """What a cube looks like: its name, and the labels along each of its dimensions."""

    name: str
    coords: Labels

    @cached_property
    def at(self) -> dict[str, dict[Any, int]]:
        """The position of each label along the dimensions that are not counted from 0."""
        return {
            dim: {label: i for i, label in enumerate(labels)}
            for dim, labels in self.coords.items()
            if dim not in INDEX_DIMS
        }

    def rank(self, place: Mapping[str, Any]) -> list[int]:
        """Return what sorts places so that those that share a chunk follow each other."""
        return [self.at[dim][place[dim]] for dim in self.coords if dim in place]

    def dims(self, key: str) -> tuple[str, ...]:
        """Return a variable's dimensions."""
        return (*leading_dims(self.name), *SCHEMA[self.name][key].dims)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a variable's shape: all labels of its dimensions, combined."""
        return tuple(len(self.coords[dim]) for dim in self.dims(key))

    def split(self, key: str) -> int:
        """Return how many of a variable's dimensions, the first ones, a chunk holds one label of.

        These are the named ones, so that a network that is absent is never written, and as many
        more as make a chunk small enough to be held.  Of the others it holds all labels; lists
        that are counted from 0 are never cut.
        """
        dims, shape = self.dims(key), self.shape(key)
        count = sum(dim in NAMED_DIMS for dim in dims)
        while (
            count < len(dims)
            and dims[count] not in INDEX_DIMS
            and prod(shape[count:]) * ITEMSIZE > LARGEST_CHUNK
        ):
            count += 1
        return count

    def attributes(self, key: str) -> dict[str, str]:
        """Return what a variable says of itself."""
        variable = SCHEMA[self.name][key]
        return {
            "long_name": variable.long_name,
            "description": variable.description,
            "units": variable.units,
            "source": variable.source,
        }

    def coordinates(self) -> xr.Dataset:
        """Return the labels as a Dataset without variables."""
        return xr.Dataset(coords={dim: _coordinate(dim, v) for dim, v in self.coords.items()})


def laid_out(name: str, runs: Sequence[Run], labels: Sequence[Labels]) -> Layout:
    """Return the layout of the cube ``name`` over all ``runs``, from the labels of its parts."""
    coords = {dim: found for dim, found in _run_coords(runs).items() if dim in leading_dims(name)}
    for dim in _further_dims(name):
        coords[dim] = _union(dim, [found.get(dim, ()) for found in labels])
    return Layout(name, coords)


def labels_of(name: str, place: dict[str, Any], data: xr.Dataset) -> Labels:
    """Return the labels of a part of the cube ``name``, by dimension; reads coordinates alone."""
    return {dim: _labels(dim, place, data) for dim in (*leading_dims(name), *_further_dims(name))}


def _labels(dim: str, place: dict[str, Any], data: xr.Dataset) -> Sequence[Any]:
    if dim in place:
        return [place[dim]]
    if dim in INDEX_DIMS:
        return range(data.sizes.get(dim, 0))
    return data[dim].values.tolist() if dim in data.coords else []


def _run_coords(runs: Sequence[Run]) -> dict[str, Sequence[Any]]:
    coords: dict[str, Sequence[Any]] = {}
    for dim in RUN_DIMS:
        values = dict.fromkeys(getattr(run, dim) for run in runs)
        coords[dim] = sorted(values) if dim in ("n_per_class", "seed") else list(values)
    return coords


def _further_dims(name: str) -> list[str]:
    return list(dict.fromkeys(dim for v in SCHEMA[name].values() for dim in v.dims))


def _union(dim: str, lists: list[Sequence[Any]]) -> Sequence[Any]:
    # At least one entry, of NaN: xarray combines no dimension of length zero, and makes no table.
    if dim in INDEX_DIMS:
        return range(max(1, max(map(len, lists), default=0)))
    if dim in SORTED_DIMS:
        return sorted({value for values in lists for value in values}) or [0]
    return merged(sorted(lists, key=len, reverse=True)) or [""]


def merged(lists: Iterable[Sequence[Any]]) -> list[Any]:
    """Return each value of ``lists`` once, in an order that agrees with theirs where they agree.

    So the layers of each network stay in its own order, whatever names it shares with others.
    """
    union: list[Any] = []
    for values in dict.fromkeys(map(tuple, lists)):
        at = next((union.index(value) for value in values if value in union), len(union))
        for value in values:
            if value in union:
                at = union.index(value)
            else:
                union.insert(at, value)
            at += 1
    return union


def _coordinate(dim: str, values: Sequence[Any]) -> tuple[str, np.ndarray]:
    # Object dtype: fixed-width strings have no Zarr 3 specification yet.
    kind = object if values and isinstance(values[0], str) else np.int64
    return dim, np.array(values, dtype=kind)
