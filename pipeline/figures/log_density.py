"""S's log spectra: the density of log10 |eigenvalue| of Hess, G and H, with error bands."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.spectral import checkpoint, mean_and_error, networks, reference, spectrum
from pipeline.spectra.smoothing import LOG_OFFSET, log_density
from pipeline.stages import Figures

LOG_WIDTH = 0.2  # standard deviation of the kernel, in decades; chosen by eye


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per split, a line per matrix, at the last checkpoint."""
    cube = reference(cubes["spectrum"], all_seeds=True)
    shown = networks(cube)
    splits = list(cube.split.values)
    figure, axes = style.panels(
        len(shown),
        len(splits),
        title="Density of log |eigenvalue|, last checkpoint; mean and standard error over "
        f"{style.count(cube.sizes['seed'], 'seed')}\n"
        f"{style.examples(int(cube.n_per_class))}",
        sharex=True,
    )
    for row, net in enumerate(shown):
        epoch = checkpoint(cube, net, last=True)
        axes[row, 0].set_ylabel("density (1/decade)")
        for column, split in enumerate(splits):
            panel = axes[row, column]
            panel.set_title(f"{style.network_name(net)}: {style.SPLIT_NAMES[split]}")
            if epoch is None:
                style.note(panel, "diverged")
                continue
            for matrix in cube.matrix.values:
                found = cube.sel(net).sel(epoch=epoch, split=split, matrix=matrix)
                _line(panel, found, settings, matrix)
            panel.set_yscale("log")
            highest = max(line.get_ydata().max() for line in panel.lines)
            panel.set_ylim(0.2 / float(cube.dimension.max()), 4 * highest)
            panel.minorticks_off()
    for panel in axes[-1]:
        panel.set_xlabel(r"$\log_{10}$ (|eigenvalue| + $10^{-6}$) (nat)")
    drawn = [panel for panel in axes.flat if panel.lines]
    if drawn:
        style.legend_below(figure, drawn[0], columns=3)
    return figure


def _line(panel: Axes, matrix: xr.Dataset, settings: Figures, name: str) -> None:
    values, weights, seeds = spectrum(matrix)
    ends = np.log10([LOG_OFFSET, np.nanmax(np.abs(values)) + LOG_OFFSET])
    grid = np.linspace(ends[0] - 3 * LOG_WIDTH, ends[1] + 3 * LOG_WIDTH, settings.points)
    mean, error = mean_and_error(log_density(values, weights, grid, width=LOG_WIDTH), seeds)
    colour = style.MATRIX_COLOURS[name]
    panel.plot(grid, mean, color=colour, label=name)
    panel.fill_between(grid, mean - error, mean + error, color=colour, alpha=0.25, lw=0)
