"""Density of the Hessian's spectrum on training and test examples, outliers marked and counted."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.spectral import Curve, checkpoint, curve, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per split, at the last checkpoint."""
    cube = reference(cubes["spectrum"]).sel(matrix="Hess")
    shown = networks(cube)
    splits = list(cube.split.values)
    figure, axes = style.panels(
        len(shown),
        len(splits),
        title="Spectral density of the Hessian, last checkpoint: "
        f"seed {int(cube.seed)}, {style.examples(int(cube.n_per_class))}",
    )
    for row, net in enumerate(shown):
        epoch = checkpoint(cube, net, last=True)
        for column, split in enumerate(splits):
            panel = axes[row, column]
            panel.set_title(f"{style.network_name(net)}: {style.SPLIT_NAMES[split]}")
            plot_hessian(panel, cube.sel(net).sel(split=split), epoch, settings)
        axes[row, 0].set_ylabel("density (1/nat)")
    for panel in axes[-1]:
        panel.set_xlabel("eigenvalue (nat)")
    return figure


def plot_hessian(panel: Axes, network: xr.Dataset, epoch: int | None, settings: Figures) -> None:
    """Plot the Hessian's density at ``epoch`` with its outliers counted; None: it diverged."""
    if epoch is None:
        style.note(panel, "diverged")
        return
    matrix = network.sel(epoch=epoch)
    found = curve(matrix, settings)
    plot_density(panel, found, style.MATRIX_COLOURS["Hess"])
    limit_heights(panel, [found])
    style.note(panel, f"{outliers(matrix)}, C = {int(matrix.classes)}")


def plot_density(panel: Axes, found: Curve, colour: tuple[float, ...]) -> None:
    """Plot a density on a logarithmic axis, outliers marked above their atoms."""
    panel.plot(found.x, found.y, color=colour)
    panel.fill_between(found.x, found.low, found.high, color=colour, alpha=0.25, lw=0)
    panel.plot(found.outliers, 1.7 * found.outlier_heights, "v", color=style.INK, ms=3, mew=0)
    panel.set_yscale("log")


def outliers(matrix: xr.Dataset) -> str:
    """Return "9 outliers", or "9 (9 to 11) outliers" if the criterion leaves a choice.

    It is "outliers not counted" if too few eigenvalues were asked for.
    """
    if not np.isfinite(float(matrix.outlier_count)):
        return "outliers not counted"
    count, fewest, most = (
        int(matrix[key]) for key in ("outlier_count", "outlier_fewest", "outlier_most")
    )
    if fewest == most:
        return style.count(count, "outlier")
    return f"{count} ({fewest} to {most}) outliers"


def limit_heights(panel: Axes, curves: list[Curve]) -> None:
    """End a logarithmic density axis just below the lowest atom, with room for a note above."""
    if curves:
        low, high = min(c.atom for c in curves) / 5, max(c.y.max() for c in curves)
        panel.set_ylim(low, high * (high / low) ** 0.25)
        panel.minorticks_off()
