"""What the figures of the hierarchy share: slices, and densities that count eigenvalues."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import padded
from pipeline.figures.spectral import mean_and_error
from pipeline.spectra.smoothing import LOG_OFFSET, log_density
from pipeline.stages import Figures

OFFSET_LABEL = r"|eigenvalue| + $10^{-6}$ (nat)"
LOG_WIDTH = 0.1  # standard deviation of the kernel, in decades; chosen by eye


@dataclass(frozen=True)
class Counts:
    """Eigenvalues per decade over log10 |eigenvalue|, mean over networks and standard error."""

    grid: np.ndarray
    mean: np.ndarray
    error: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """|eigenvalue| + 1e-6 on the grid (nat), as S maps it: what is smaller piles up there."""
        return 10**self.grid


def one_split(cube: xr.Dataset) -> xr.Dataset:
    """Return the slice of the training examples, or of the only split there is."""
    return cube.sel(split="train" if "train" in cube.split else cube.split.values[0])


def quadrature_counts(
    nodes: xr.DataArray, weights: xr.DataArray, p: float, settings: Figures
) -> Counts:
    """Return the counts of a (p, p) matrix from quadratures with dims seed, probe, node."""
    rows = [
        (seed, nodes.sel(seed=seed, probe=probe).values, weights.sel(seed=seed, probe=probe).values)
        for seed in nodes.seed.values
        for probe in nodes.probe.values
    ]
    rows = [row for row in rows if np.isfinite(row[1]).any()]
    values, shares = (padded([row[i] for row in rows]) for i in (1, 2))
    return _counts(values, p * np.nan_to_num(shares), np.array([r[0] for r in rows]), settings)


def eigenvalue_counts(eigenvalues: xr.DataArray, settings: Figures) -> Counts:
    """Return the counts of known eigenvalues with dims seed, order."""
    values = eigenvalues.transpose("seed", "order").values
    kept = np.isfinite(values).any(1)
    weights = np.isfinite(values[kept]).astype(float)
    return _counts(values[kept], weights, eigenvalues.seed.values[kept], settings)


def _counts(
    values: np.ndarray, weights: np.ndarray, seeds: np.ndarray, settings: Figures
) -> Counts:
    largest = np.nanmax(np.abs(values), initial=LOG_OFFSET)
    ends = np.log10([LOG_OFFSET, largest + LOG_OFFSET])
    grid = np.linspace(ends[0], ends[1] + 4 * LOG_WIDTH, settings.points)
    heights = log_density(values, weights, grid, width=LOG_WIDTH)
    if not len(heights):
        return Counts(grid, np.zeros_like(grid), np.zeros_like(grid))
    return Counts(grid, *mean_and_error(heights, seeds))
