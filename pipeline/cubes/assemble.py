"""Parts into one dense, labelled cube: absent combinations are NaN and take no space on disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
    *INDEX_DIMS,
    "epoch",
    "degree",
    "k",
    "seed_a",
    "seed_b",
    "other_n_per_class",
    "width",
    "seed",
)


@dataclass(frozen=True)
class Gathered:
    """A cube, the files it was gathered from, and the devices its parts were computed on."""

    cube: xr.Dataset
    files: list[Path]
    devices: set[str]


@dataclass(frozen=True)
class Placed:
    """A part and its place: a run's words and, for what has them, epoch and split."""

    place: dict[str, Any]
    data: xr.Dataset


def assemble(name: str, runs: Sequence[Run], parts: Iterable[Placed]) -> xr.Dataset:
    """Return the cube ``name`` over all ``runs``.

    A part without a variable (of a diverged run) leaves it NaN.
    """
    parts = list(parts)
    leading = leading_dims(name)
    coords = {dim: labels for dim, labels in _run_coords(runs).items() if dim in leading}
    for dim in _further_dims(name):
        values = [_labels(part, dim) for part in parts]
        coords[dim] = _union(dim, values)
    variables = {
        key: _filled(key, (*leading, *variable.dims), coords, parts)
        for key, variable in SCHEMA[name].items()
    }
    cube = xr.Dataset(variables, coords={dim: _coordinate(dim, v) for dim, v in coords.items()})
    for key, variable in SCHEMA[name].items():
        # One chunk for each combination of names: one that is absent is never written.
        chunks = [1 if dim in NAMED_DIMS else max(1, size) for dim, size in cube[key].sizes.items()]
        cube[key].encoding = {"chunks": tuple(chunks)}
        cube[key].attrs = {
            "long_name": variable.long_name,
            "units": variable.units,
            "source": variable.source,
        }
    return cube


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Return lists of different lengths as rows, NaN beyond their ends."""
    rows = np.full((len(lists), max(map(len, lists), default=0)), np.nan)
    for row, values in zip(rows, lists, strict=True):
        row[: len(values)] = values
    return rows


def _run_coords(runs: Sequence[Run]) -> dict[str, list[Any]]:
    coords: dict[str, list[Any]] = {}
    for dim in RUN_DIMS:
        values = dict.fromkeys(getattr(run, dim) for run in runs)
        coords[dim] = sorted(values) if dim in ("n_per_class", "seed") else list(values)
    return coords


def _further_dims(name: str) -> list[str]:
    return list(dict.fromkeys(dim for v in SCHEMA[name].values() for dim in v.dims))


def _labels(part: Placed, dim: str) -> list[Any]:
    if dim in part.place:
        return [part.place[dim]]
    if dim in INDEX_DIMS:
        return list(range(part.data.sizes.get(dim, 0)))
    return part.data[dim].values.tolist() if dim in part.data.coords else []


def _union(dim: str, lists: list[list[Any]]) -> list[Any]:
    if dim in SORTED_DIMS:
        return sorted({value for values in lists for value in values})
    return merged(sorted(lists, key=len, reverse=True))


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


def _coordinate(dim: str, values: list[Any]) -> tuple[str, np.ndarray]:
    # Object dtype: fixed-width strings have no Zarr 3 specification yet.
    kind = object if values and isinstance(values[0], str) else np.int64
    return dim, np.array(values, dtype=kind)


def _filled(
    key: str, dims: tuple[str, ...], coords: dict[str, list[Any]], parts: list[Placed]
) -> tuple[tuple[str, ...], np.ndarray]:
    array = np.full([len(coords[dim]) for dim in dims], np.nan)
    at = {dim: {value: i for i, value in enumerate(coords[dim])} for dim in dims}
    for part in parts:
        if key not in part.data:
            continue
        positions = [[at[dim][label] for label in _labels(part, dim)] for dim in dims]
        inner = [dim for dim in dims if dim not in part.place]
        shape = [len(p) for p in positions]
        array[np.ix_(*positions)] = part.data[key].transpose(*inner).values.reshape(shape)
    return dims, array
