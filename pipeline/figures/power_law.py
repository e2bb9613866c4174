"""The spectrum of |H| on logarithmic axes, with a fitted power law and a semicircle beside it."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.spectral import checkpoint, networks, reference, spectrum
from pipeline.spectra.powerlaw import PowerLaw, fit_power_law
from pipeline.spectra.semicircle import fit_semicircle
from pipeline.spectra.smoothing import LOG_OFFSET, log_density, per_unit
from pipeline.stages import Figures

# Standard deviation, in decades, of the kernel that smooths the pooled nodes; chosen by eye.
LOG_WIDTH = 0.08


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per data set and model, a column per split, a colour per norm."""
    cube = reference(cubes["spectrum"], all_seeds=True).sel(matrix="H")
    shown = networks(cube)
    rows = list(dict.fromkeys((net["dataset"], net["model"]) for net in shown))
    splits = list(cube.split.values)
    figure, axes = style.panels(
        len(rows),
        len(splits),
        title="Tail of the spectrum of |H| at the last checkpoint; dashed: fitted power law, "
        "dotted: semicircle\n"
        f"{style.count(cube.sizes['seed'], 'seed')} pooled, "
        f"{style.examples(int(cube.n_per_class))}",
        row_height=2.3,
    )
    for row, (dataset, model) in enumerate(rows):
        for column, split in enumerate(splits):
            panel = axes[row, column]
            for net in shown:
                if (net["dataset"], net["model"]) != (dataset, model):
                    continue
                epoch = checkpoint(cube, net, last=True)
                if epoch is not None:
                    matrix = cube.sel(net).sel(epoch=epoch, split=split)
                    _lines(panel, matrix, settings, net["norm"])
            panel.set(xscale="log", yscale="log")
            panel.set_title(f"{dataset}, {model}: {style.SPLIT_NAMES[split]}")
            if not panel.lines:
                style.note(panel, "diverged")
                continue
            panel.set_ylim(top=1000 * panel.get_ylim()[1])  # room for the legend
            panel.minorticks_off()
            panel.legend(loc="upper right")
        axes[row, 0].set_ylabel("density (1/nat)")
    for panel in axes[-1]:
        panel.set_xlabel("|eigenvalue| (nat)")
    return figure


def _lines(panel: Axes, matrix: xr.Dataset, settings: Figures, norm: str) -> None:
    found = tail(matrix, settings)
    law, colour, name = found.law, style.NORM_COLOURS[norm], style.NORM_NAMES[norm]
    panel.plot(found.magnitudes, found.heights, color=colour)
    ends = np.array([law.low, law.high])
    panel.plot(
        ends,
        2 * law.coefficient * ends**law.exponent,  # above the density, to be seen beside it
        "--",
        color=colour,
        label=f"{name}: exponent {law.exponent:.2f}, $R^2$ {law.r_squared:.3f}",
    )
    inside = found.semicircle > 0
    panel.plot(
        found.magnitudes[inside],
        found.semicircle[inside],
        ":",
        color=colour,
        label=f"semicircle, to {found.reach:.0%} of the range",
    )


@dataclass(frozen=True)
class Tail:
    """The density of |eigenvalue| above what a quadrature resolves, and two laws beside it.

    ``semicircle`` is the density of |eigenvalue| by the semicircle law of the same mean and
    variance; it ends at ``reach`` times the largest magnitude.
    """

    magnitudes: np.ndarray
    heights: np.ndarray
    law: PowerLaw
    semicircle: np.ndarray
    reach: float


def tail(matrix: xr.Dataset, settings: Figures) -> Tail:
    """Return the upper tail of |eigenvalue|; nodes of all seeds and probes are pooled."""
    values, weights, seeds = spectrum(matrix)
    weights = weights / np.array([np.sum(seeds == seed) for seed in seeds])[:, None]
    weights /= len(np.unique(seeds))
    return tail_of(values, weights, nodes=matrix.sizes["node"], points=settings.points)


def tail_of(values: np.ndarray, weights: np.ndarray, *, nodes: int, points: int) -> Tail:
    """Return the upper tail of |eigenvalue| with a power law and a semicircle.

    ``values`` and ``weights`` are (rows, points) that sum to 1 in all.  The tail reaches down to
    the mean distance of the ``nodes`` of a quadrature, below which it resolves nothing.
    """
    largest = np.nanmax(np.abs(values))
    low = 2 * largest / nodes
    grid = np.linspace(np.log10(low + LOG_OFFSET), np.log10(largest + LOG_OFFSET), points)
    heights = per_unit(log_density(values, weights, grid, width=LOG_WIDTH).sum(0), grid)
    x = 10**grid - LOG_OFFSET
    circle = fit_semicircle(values.ravel(), weights.ravel())
    folded = circle.density(x) + circle.density(-x)
    reach = (abs(circle.centre) + circle.radius) / largest
    return Tail(x, heights, fit_power_law(x, heights, low=low, high=largest), folded, reach)
