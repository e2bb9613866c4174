"""G's spectrum with A1's eigenvalues marked on its outliers, and the two sets side by side."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.density import limit_heights, plot_density
from pipeline.figures.levels import one_split
from pipeline.figures.spectral import checkpoint, curve, networks, reference
from pipeline.stages import Figures

BEYOND = 8  # of G's eigenvalues shown after as many as there are classes


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network at the last checkpoint: the density, then eigenvalues by order."""
    levels = one_split(reference(cubes["hierarchy"]))
    spectra = reference(cubes["spectrum"]).sel(matrix="G")
    shown = networks(levels)
    figure, axes = style.panels(
        len(shown),
        2,
        title="G's outliers, and A1's eigenvalues below them: last checkpoint, "
        f"{style.SPLIT_NAMES[str(levels.split.values)]}\n"
        f"seed {int(levels.seed)}, {style.examples(int(levels.n_per_class))}",
    )
    for row, net in enumerate(shown):
        epoch = checkpoint(levels, net, last=True)
        axes[row, 0].set(title=style.network_name(net), ylabel="density (1/nat)")
        axes[row, 1].set(ylabel="eigenvalue (nat)")
        if epoch is None:
            for panel in axes[row]:
                style.note(panel, "diverged")
            continue
        A1 = (
            levels.component_eigenvalue.sel(net)
            .sel(epoch=epoch, component="A1")
            .dropna("order")
            .values
        )
        G = spectra.sel(net).sel(epoch=epoch, split=levels.split.values)
        _density(axes[row, 0], G, A1, settings)
        _by_order(axes[row, 1], G.eigenvalue.values[: len(A1) + BEYOND], A1)
    axes[-1, 0].set_xlabel("eigenvalue (nat)")
    axes[-1, 1].set_xlabel("order")
    drawn = [panel for panel in axes[:, 1] if panel.lines]
    if drawn:
        style.legend_below(figure, drawn[0], columns=2)
    return figure


def ratios(G: np.ndarray, A1: np.ndarray) -> np.ndarray:
    """Return A1's eigenvalues over G's of the same order, for the C - 1 that stand out by class."""
    count = min(len(G), max(1, len(A1) - 1))
    found = A1[:count] / G[:count]
    return found[np.isfinite(found)]


def _density(panel: Axes, G: xr.Dataset, A1: np.ndarray, settings: Figures) -> None:
    found = curve(G, settings)
    plot_density(panel, found, style.COMPONENT_COLOURS["G"])
    limit_heights(panel, [found])
    low = panel.get_ylim()[0]
    panel.vlines(A1, low, 6 * found.atom, color=style.COMPONENT_COLOURS["A1"], lw=1)


def _by_order(panel: Axes, G: np.ndarray, A1: np.ndarray) -> None:
    panel.plot(G, ".-", color=style.COMPONENT_COLOURS["G"], lw=0.7, label="G")
    panel.plot(A1, "|", color=style.COMPONENT_COLOURS["A1"], ms=9, mew=1.5, label="A1")
    panel.set_yscale("log")
    panel.xaxis.get_major_locator().set_params(integer=True)
    found = ratios(G, A1)
    if len(found):
        shown = np.r_[G, A1[: len(found)]]
        panel.set_ylim(bottom=0.3 * shown[shown > 1e-6 * shown[0]].min())
        style.note(panel, f"A1 / G: {found.min():.2f} to {found.max():.2f}")
