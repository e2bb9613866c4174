"""Densities from quadrature nodes and weights, drawn when a figure is: NumPy only."""

import numpy as np

from pipeline.arguments import checked_count, checked_number
from pipeline.errors import ArgumentError

LOG_OFFSET = 1e-6  # S maps a Ritz value t to log(|t| + 1e-6)


def kernel_width(low: float, high: float, steps: int, *, kappa: float = 3.0) -> float:
    """Return the Gaussian kernel's standard deviation for ``steps`` nodes over [low, high].

    Neighbouring nodes at the mean distance overlap at 1/kappa of their height: S uses kappa = 3
    (Lin, Saad and Yang, 2016, section 3.2).  Raises ArgumentError if ``high`` is not above ``low``
    or ``kappa`` not above 1.
    """
    low = checked_number(low, "low")
    high = checked_number(high, "high", above=low)
    steps = checked_count(steps, "steps")
    kappa = checked_number(kappa, "kappa", above=1)
    return (high - low) / max(steps - 1, 1) / np.sqrt(8 * np.log(kappa))


def density(
    nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, *, width: float
) -> np.ndarray:
    """Return the smoothed spectral density of each probe on ``grid``: (probes, points).

    ``nodes`` and ``weights`` are (probes, steps); NaN nodes, which stand for an exhausted Krylov
    space, count nothing.  Each row integrates to the sum of its probe's weights.  Raises
    ArgumentError if the shapes do not fit, the grid or a node is not finite or ``width`` is not
    positive.
    """
    width = checked_number(width, "width", above=0)
    nodes, weights, grid = (np.asarray(array, dtype=float) for array in (nodes, weights, grid))
    if nodes.ndim != 2 or nodes.shape != weights.shape:
        raise ArgumentError(
            f"nodes and weights have the shapes {nodes.shape} and {weights.shape}. Give both as "
            "(probes, steps)"
        )
    if grid.ndim != 1 or not np.isfinite(grid).all():
        raise ArgumentError(f"grid has the shape {grid.shape}. Give finite numbers, (points,)")
    if np.isinf(nodes).any() or not np.isfinite(weights[np.isfinite(nodes)]).all():
        raise ArgumentError("nodes or weights are infinite. Give finite nodes, or NaN to skip one")
    known = np.isfinite(nodes)
    distances = (grid[None, None, :] - np.where(known, nodes, 0.0)[:, :, None]) / width
    kernels = np.exp(-0.5 * distances**2) / (width * np.sqrt(2 * np.pi))
    return np.einsum("ps,psg->pg", np.where(known, weights, 0.0), kernels)


def log_density(
    nodes: np.ndarray, weights: np.ndarray, log_grid: np.ndarray, *, width: float
) -> np.ndarray:
    """Return the density of log10(|t| + 1e-6), per decade, of each probe: (probes, points)."""
    return density(np.log10(np.abs(nodes) + LOG_OFFSET), weights, log_grid, width=width)


def per_unit(log_density_: np.ndarray, log_grid: np.ndarray) -> np.ndarray:
    """Return a density of |t| from one of log10(|t| + 1e-6): the change of measure."""
    return log_density_ / (10.0**log_grid * np.log(10))
