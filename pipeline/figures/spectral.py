"""What several spectral figures share: which networks to show, and their densities."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import padded
from pipeline.spectra.smoothing import density, kernel_width
from pipeline.stages import Figures

NETWORK = ("dataset", "model", "norm")


@dataclass(frozen=True)
class Curve:
    """A whole spectral density: ``y`` per unit of ``x``, integrating to 1; every atom is 1/p high.

    ``low`` and ``high`` are a standard error over probes below and above it.  ``outliers`` are the
    eigenvalues above the bulk's edge, ``outlier_heights`` the density there.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    outliers: np.ndarray
    outlier_heights: np.ndarray
    atom: float


def reference(cube: xr.Dataset, *, all_seeds: bool = False) -> xr.Dataset:
    """Return the slice a figure shows: first recipe, most examples per class, first seed or all."""
    cube = cube.isel(recipe=0).sel(n_per_class=most(cube))
    return cube if all_seeds else cube.isel(seed=0)


def most(cube: xr.Dataset) -> int:
    """Return the largest n_per_class: 0, the full training set, if it is there."""
    sizes = cube.n_per_class.values
    return 0 if 0 in sizes else int(sizes.max())


def in_order(cube: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    """Return the cube by growing sample size, the full training set last."""
    sizes = cube.n_per_class.values
    return cube.isel(n_per_class=np.lexsort((sizes, sizes == 0)))


def networks(cube: xr.Dataset, variable: str = "classes") -> list[dict[str, str]]:
    """Return the (dataset, model, norm) combinations that are there, in the config's order."""
    there = cube[variable].notnull()
    there = there.any([dim for dim in there.dims if dim not in NETWORK])
    return [
        {"dataset": d, "model": m, "norm": n}
        for d in cube.dataset.values
        for m in cube.model.values
        for n in cube.norm.values
        if bool(there.sel(dataset=d, model=m, norm=n))
    ]


def checkpoint(cube: xr.Dataset, net: dict[str, str], *, last: bool) -> int | None:
    """Return the first or last epoch that ``cube`` holds, None if ``net`` had diverged by then."""
    epochs = _epochs(cube)
    if not epochs:
        return None
    epoch = epochs[-1 if last else 0]
    return epoch if epoch in _epochs(cube.sel(net)) else None


def ends(cube: xr.Dataset) -> tuple[bool, ...]:
    """Return ``last`` of the checkpoints to show beside each other: one where there is but one."""
    return (False, True) if len(_epochs(cube)) > 1 else (True,)


def _epochs(cube: xr.Dataset) -> list[int]:
    there = cube["trace" if "trace" in cube else "component_trace"].notnull()
    there = there.any([dim for dim in there.dims if dim != "epoch"])
    return [int(epoch) for epoch in cube.epoch.values[there.values]]


def atoms(matrix: xr.Dataset) -> np.ndarray:
    """Return the eigenvalues that were deflated, of both ends, the largest first."""
    values = np.r_[matrix.eigenvalue.values.ravel(), matrix.bottom_eigenvalue.values.ravel()]
    return np.sort(values[np.isfinite(values)])[::-1]


def spectrum(matrix: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each probe's whole spectrum as (probes, points) values and weights that sum to 1.

    The third array tells each row's seed; an exact spectrum is one row, whatever the probes.

    ``matrix`` is a cube's slice with dims probe, node, order, from_bottom and possibly seed left;
    then every seed's probes are rows.  Deflated eigenvalues are points of 1/p each.
    """
    if "seed" not in matrix.dims:
        matrix = matrix.expand_dims("seed")
    values, weights, seeds = [], [], []
    for seed in matrix.seed.values:
        one = matrix.sel(seed=seed)
        p, known = float(one.dimension), atoms(one)
        for probe in one.probe.values:
            nodes = one.ritz_value.sel(probe=probe).values
            shares = one.ritz_weight.sel(probe=probe).values * (p - len(known)) / p
            if np.isfinite(nodes).any():
                values.append(np.r_[nodes, known])
                weights.append(np.r_[shares, np.full(len(known), 1 / p)])
                seeds.append(seed)
            if float(one.exact):
                break
    return padded(values), np.nan_to_num(padded(weights)), np.array(seeds)


def mean_and_error(heights: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of (probes, points) densities, and its standard error.

    Over seeds, if there are several: probes of one network say nothing of other networks.  Zero
    where there is but one row.
    """
    names = np.unique(seeds)
    if len(names) > 1:
        heights = np.stack([heights[seeds == name].mean(0) for name in names])
    mean = heights.mean(0)
    if len(heights) == 1:
        return mean, np.zeros_like(mean)
    return mean, heights.std(0, ddof=1) / np.sqrt(len(heights))


def curve(matrix: xr.Dataset, settings: Figures) -> Curve:
    """Return the density of one matrix (a cube's slice with dims probe, node and order left)."""
    p = float(matrix.dimension)
    values, weights, seeds = spectrum(matrix)
    low, high = np.nanmin(values), np.nanmax(values)
    if low == high:  # one value, such as of a zero matrix: give the axis a length
        low, high = low - 0.5, high + 0.5
    pad = settings.margin * (high - low)
    x = np.linspace(low - pad, high + pad, settings.points)
    outliers = atoms(matrix)[: counted(matrix)]
    width = kernel_width(low, high, resolution(matrix), kappa=settings.kappa)
    y, error = mean_and_error(density(values, weights, x, width=width), seeds)
    at_outliers = density(values, weights, outliers, width=width).mean(0)
    atom = 1 / (p * width * np.sqrt(2 * np.pi))
    return Curve(x, y, y - error, y + error, outliers, at_outliers, atom)


def counted(matrix: xr.Dataset) -> int:
    """Return the number of outliers, zero if they were not counted."""
    return int(np.nan_to_num(float(matrix.outlier_count)))


def resolution(matrix: xr.Dataset) -> int:
    """Return the number of points that tells a kernel's width: nodes and deflated eigenvalues.

    The whole range over its nodes, as S has it: bulk and outliers then share one kernel.  An exact
    spectrum, which has no nodes, is drawn as if quadrature had as many as the cube has room for.
    """
    if float(matrix.exact):
        return matrix.sizes["node"] + counted(matrix)
    return int(np.isfinite(matrix.ritz_value.values).sum(-1).max()) + len(atoms(matrix))


def count_above(matrix: xr.Dataset, edge: float) -> float:
    """Return how many eigenvalues lie above ``edge``: the deflated ones, plus quadrature."""
    values, weights, _ = spectrum(matrix)
    return float((weights * (values > edge)).sum(1).mean() * float(matrix.dimension))
