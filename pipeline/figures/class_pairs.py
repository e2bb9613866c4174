"""The class-pair vectors in the plane: large labelled centres g_c, small members g_ck, by t-SNE."""

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.levels import one_split
from pipeline.figures.spectral import checkpoint, ends, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column for the first and the last checkpoint each."""
    cube = one_split(reference(cubes["hierarchy"]))
    shown = networks(cube)
    columns = ends(cube)
    figure, axes = style.panels(
        len(shown),
        len(columns),
        title="t-SNE of the class centres $g_c$ (numbered, large) and the class pairs "
        f"$g_{{c,k}}$ (small; crosses: k = c)\n{style.SPLIT_NAMES[str(cube.split.values)]}, "
        f"seed {int(cube.seed)}, {style.examples(int(cube.n_per_class))}",
        row_height=2.6,
    )
    for row, net in enumerate(shown):
        for column, last in enumerate(columns):
            panel, epoch = axes[row, column], checkpoint(cube, net, last=last)
            panel.set(xticks=[], yticks=[])
            if epoch is None:
                style.note(panel, "diverged")
                continue
            panel.set_title(f"{style.network_name(net)}: epoch {epoch}")
            _points(panel, cube.sel(net).sel(epoch=epoch))
    for panel in axes[-1]:
        panel.set_xlabel("t-SNE, first axis")
    for panel in axes[:, 0]:
        panel.set_ylabel("t-SNE, second axis")
    return figure


def _points(panel: Axes, network: xr.Dataset) -> None:
    pairs = network.dropna("pair", how="all", subset=["pair_true"])
    true, cross = pairs.pair_true.values.astype(int), pairs.pair_cross.values.astype(int)
    chosen = np.unique(true)
    points = network.embedding.values
    centres, members = points[: len(chosen)], points[len(chosen) : len(chosen) + len(true)]
    colours = dict(zip(chosen, sns.color_palette("husl", len(chosen)), strict=True))
    for c in chosen:
        for marker, which in ((".", cross != c), ("x", cross == c)):
            some = members[(true == c) & which]
            panel.plot(*some.T, marker, color=colours[c], ms=3.5, mew=0.8)
    numbers = network.class_index.dropna("true_class")
    names = dict(zip(numbers.values.astype(int), numbers.true_class.values, strict=True))
    for c, (x, y) in zip(chosen, centres, strict=True):
        if np.isfinite(x):
            panel.plot(x, y, "o", color=colours[c], ms=9, mec="white", mew=0.7)
            panel.text(
                x, y, str(names[c])[:3], ha="center", va="center_baseline", fontsize=6, color="k"
            )
