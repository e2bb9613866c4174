"""A published quantity's value in a cube, over the seeds of one network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from pipeline.figures.overlap import peak
from pipeline.figures.power_law import tail
from pipeline.reference.published import Published
from pipeline.stages import Figures


@dataclass(frozen=True)
class Measured:
    """A value, and the least and the largest of those that it sums up, on so many seeds.

    ``reach``, of a peak of overlaps: the largest k that they are known for.
    """

    value: float
    low: float
    high: float
    seeds: int
    reach: int | None = None


def measured(network: xr.Dataset, published: Published, settings: Figures) -> Measured | None:
    """Return a published quantity of one network, None where the cube has no value of it.

    ``network`` is the slice of the value's cube that has the seeds of one network left, and the
    dimensions that ``published.at`` labels.  Of several layers the mean and the range are over
    seeds and layers, as D's are.
    """
    try:
        one = network.sel(published.at)
    except KeyError:
        return None  # a split, a layer or a method that was not asked for
    if published.variable in MADE:
        return MADE[published.variable](one, settings)
    values = one[published.variable]
    rows = values.transpose("seed", ...).values.reshape(values.sizes["seed"], -1)
    return _over(rows)


def _over(rows: np.ndarray) -> Measured | None:
    """Return the mean and range of (seeds, values), None where all are NaN."""
    known = rows[np.isfinite(rows)]
    if not known.size:
        return None
    seeds = int(np.isfinite(rows).any(1).sum())
    return Measured(float(known.mean()), float(known.min()), float(known.max()), seeds)


def _peak(one: xr.Dataset, settings: Figures) -> Measured | None:
    """Return the largest mean overlap, with the range over pairs at its k."""
    found = peak(one.overlap_mean)
    if found is None:
        return None
    pairs = one.overlap.sel(k=found[1]).values
    low, high = float(np.nanmin(pairs)), float(np.nanmax(pairs))
    return Measured(found[0], low, high, _paired(one), _reach(one))


def _peak_k(one: xr.Dataset, settings: Figures) -> Measured | None:
    """Return the k of the largest mean overlap, with the range of each pair's own."""
    found = peak(one.overlap_mean)
    if found is None:
        return None
    pairs = one.overlap.stack(pair=("seed_a", "seed_b")).transpose("pair", "k")
    each = [place[1] for place in map(peak, pairs) if place]
    return Measured(float(found[1]), min(each), max(each), _paired(one), _reach(one))


def _reach(one: xr.Dataset) -> int:
    """Return the largest k of a known overlap."""
    return int(one.overlap_mean.dropna("k").k.max())


def _paired(one: xr.Dataset) -> int:
    """Return how many seeds have a pair."""
    there = one.overlap.notnull().any("k")
    first = one.seed_a.values[there.any("seed_b").values]
    second = one.seed_b.values[there.any("seed_a").values]
    return len({*first.tolist(), *second.tolist()})


def _law(one: xr.Dataset, settings: Figures, *, key: str) -> Measured | None:
    """Return a number of the power law fitted to each seed's tail, as the figure fits it."""
    found = [
        getattr(tail(matrix, settings).law, key)
        for matrix in (one.sel(seed=seed) for seed in one.seed.values)
        if bool(matrix.trace.notnull())
    ]
    return _over(np.array(found, dtype=float).reshape(-1, 1))


# What a cube holds in another form.
MADE: dict[str, Callable[[xr.Dataset, Figures], Measured | None]] = {
    "peak": _peak,
    "peak_k": _peak_k,
    "tail_exponent": partial(_law, key="exponent"),
    "tail_coefficient": partial(_law, key="coefficient"),
    "tail_r_squared": partial(_law, key="r_squared"),
}
