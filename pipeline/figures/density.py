"""Density of the Hessian's spectrum on training and test examples, outliers marked and counted."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import Figures
from pipeline.figures import style
from pipeline.figures.spectral import Curve, checkpoint, curve, networks, reference


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
        epoch = checkpoint(cube.sel(net), last=True)
        for column, split in enumerate(splits):
            panel = axes[row, column]
            panel.set_title(
                f"{net['dataset']}, {net['model']}, {style.NORM_NAMES[net['norm']]}: "
                f"{style.SPLIT_NAMES[split]}"
            )
            if epoch is None:
                style.note(panel, "diverged")
                continue
            matrix = cube.sel(net).sel(epoch=epoch, split=split)
            found = curve(matrix, settings)
            plot_density(panel, found, style.MATRIX_COLOURS["Hess"])
            style.note(panel, f"{len(found.outliers)} outliers, C = {int(matrix.classes)}")
        axes[row, 0].set_ylabel("density (1/nat)")
    for panel in axes[-1]:
        panel.set_xlabel("eigenvalue (nat)")
    return figure


def plot_density(panel: Axes, found: Curve, colour: tuple[float, ...]) -> None:
    """Plot a density on a logarithmic axis that ends just below a single eigenvalue's height."""
    panel.plot(found.x, found.y, color=colour)
    panel.plot(
        found.outliers,
        1.6 * found.outlier_heights,
        "v",
        color=style.INK,
        ms=3,
        mew=0,
        label="outlier",
    )
    panel.set_yscale("log")
    panel.set_ylim(found.atom / 20, found.y.max() * 10)
