"""What several spectral figures share: which networks to show, and their densities."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pipeline.config import Figures
from pipeline.spectra.smoothing import density, kernel_width

NETWORK = ("dataset", "model", "norm")


@dataclass(frozen=True)
class Curve:
    """A whole spectral density: ``y`` per unit of ``x``, integrating to 1; every atom is 1/p high.

    ``outliers`` are the eigenvalues above the bulk's edge, ``outlier_heights`` the density there.
    """

    x: np.ndarray
    y: np.ndarray
    outliers: np.ndarray
    outlier_heights: np.ndarray
    atom: float


def reference(cube: xr.Dataset, *, all_seeds: bool = False) -> xr.Dataset:
    """Return the slice a figure shows: first recipe, most examples per class, first seed or all."""
    sizes = cube.n_per_class.values
    most = 0 if 0 in sizes else sizes.max()
    cube = cube.isel(recipe=0).sel(n_per_class=most)
    return cube if all_seeds else cube.isel(seed=0)


def networks(cube: xr.Dataset, variable: str = "dimension") -> list[dict[str, str]]:
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
    there = cube.trace.notnull()
    epochs = cube.epoch.values[there.any([dim for dim in there.dims if dim != "epoch"]).values]
    if not len(epochs):
        return None
    epoch = int(epochs[-1 if last else 0])
    return epoch if bool(there.sel(net, drop=True).sel(epoch=epoch).any()) else None


def curve(matrix: xr.Dataset, settings: Figures) -> Curve:
    """Return the density of one matrix (a cube's slice with dims probe, node and order left).

    The deflated eigenvalues are put back as atoms of 1/p, smoothed like the rest.
    """
    p = float(matrix.dimension)
    atoms = matrix.eigenvalue.values[matrix.converged.values == 1]
    nodes, weights = matrix.ritz_value.values, matrix.ritz_weight.values
    low = min(np.nanmin(nodes), atoms.min(initial=np.inf))
    high = max(np.nanmax(nodes), atoms.max(initial=-np.inf))
    pad = settings.margin * (high - low)
    x = np.linspace(low - pad, high + pad, settings.points)
    # The whole range over its nodes, as S has it: bulk and outliers then share one kernel.
    steps = int(np.isfinite(nodes).sum(-1).max()) + len(atoms)
    width = kernel_width(low, high, steps, kappa=settings.kappa)

    def height(at: np.ndarray) -> np.ndarray:
        bulk = density(nodes, weights, at, width=width).mean(0) * (p - len(atoms)) / p
        return bulk + density(atoms[None], np.full((1, len(atoms)), 1 / p), at, width=width)[0]

    outliers = atoms[: int(matrix.outlier_count)]
    atom = 1 / (p * width * np.sqrt(2 * np.pi))
    return Curve(x, height(x), outliers, height(outliers), atom)


def count_above(matrix: xr.Dataset, edge: float) -> float:
    """Return how many eigenvalues lie above ``edge``: the deflated ones, plus quadrature."""
    atoms = matrix.eigenvalue.values[matrix.converged.values == 1]
    above = (matrix.ritz_weight * (matrix.ritz_value > edge)).sum("node").mean("probe")
    return float((atoms > edge).sum() + float(above) * (float(matrix.dimension) - len(atoms)))
