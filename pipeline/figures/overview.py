"""S's first figure: the Hessian's spectrum, data sets as columns, training and test as rows."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.density import plot_hessian
from pipeline.figures.spectral import checkpoint, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw the first network of each data set at its last checkpoint."""
    cube = reference(cubes["spectrum"]).sel(matrix="Hess")
    first: dict[str, dict[str, str]] = {}
    for net in networks(cube):
        first.setdefault(net["dataset"], net)
    splits = list(cube.split.values)
    figure, axes = style.panels(
        len(splits),
        len(first),
        title=f"Hessian's spectrum by data set\nseed {int(cube.seed)}, "
        f"{style.examples(int(cube.n_per_class))}",
        row_height=2.0,
    )
    for column, (dataset, net) in enumerate(first.items()):
        epoch = checkpoint(cube, net, last=True)
        axes[0, column].set_title(f"{dataset}\n{net['model']}, {style.NORM_NAMES[net['norm']]}")
        for row, split in enumerate(splits):
            plot_hessian(axes[row, column], cube.sel(net).sel(split=split), epoch, settings)
        axes[-1, column].set_xlabel("eigenvalue (nat)")
    for row, split in enumerate(splits):
        axes[row, 0].set_ylabel(f"{split}\ndensity (1/nat)")
    return figure
