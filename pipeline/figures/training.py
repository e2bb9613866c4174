"""Training curves: loss and accuracy by epoch, mean and range over seeds."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.spectral import networks, reference
from pipeline.stages import Figures

ROWS = (("loss", "cross-entropy (nat)"), ("accuracy", "accuracy"))
DASHES = {"train": "-", "test": "--"}


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a column per data set and network, a line per norm and split."""
    cube = reference(cubes["training"], all_seeds=True)
    size = int(cube.n_per_class)
    shown = networks(cube, "diverged")
    columns = list(dict.fromkeys((net["dataset"], net["model"]) for net in shown))
    figure, axes = style.panels(
        2,
        len(columns),
        title=f"Training: mean and range over {style.count(cube.sizes['seed'], 'seed')}, "
        f"{style.examples(size)}",
        sharex="col",
        sharey="row",
    )
    for row, (quantity, label) in enumerate(ROWS):
        axes[row, 0].set_ylabel(label)
        for column, (dataset, model) in enumerate(columns):
            panel = axes[row, column]
            for net in shown:
                if (net["dataset"], net["model"]) == (dataset, model):
                    _lines(panel, cube.sel(net), quantity, net["norm"])
            if quantity == "loss":
                panel.set_yscale("log")
                panel.set_title(f"{dataset}, {model}")
            else:
                panel.set_xlabel("epoch")
    style.legend_below(figure, axes[0, 0], columns=4)
    return figure


def _lines(panel: Axes, network: xr.Dataset, quantity: str, norm: str) -> None:
    for split, dash in DASHES.items():
        values = network[f"{split}_{quantity}"].dropna("epoch", how="all")
        colour = style.NORM_COLOURS[norm]
        label = f"{style.NORM_NAMES[norm]}, {split}"
        panel.plot(values.epoch, values.mean("seed"), dash, color=colour, label=label)
        low, high = values.min("seed"), values.max("seed")
        panel.fill_between(values.epoch, low, high, color=colour, alpha=0.15, lw=0)
