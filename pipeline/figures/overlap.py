"""Overlap of the top eigenspaces of a layer's Hessian between networks from different seeds."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

TOP = 1.4  # of a row's largest overlap, so that notes stand above it
LEAST = 0.1  # an axis ends no lower: noise about zero is not to look like much


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per layer: the overlap against k, its pairs and baseline."""
    cube = layerwise.reference(cubes["overlap"], "overlap_mean")
    figure, panels = layerwise.grid(
        cube,
        layerwise.by_network(cube, "overlap_outputs"),
        "overlap_mean",
        title=[
            "Overlap of the layer Hessians' top k eigenspaces between networks",
            "noted: the largest mean for k of two or more",
        ],
        labels=("k", "overlap"),
        missing=layerwise.NO_PAIR,
    )
    for panel in panels:
        largest = float(panel.only.overlap.max())
        if panel.axes.get_subplotspec().is_first_col():
            panel.axes.set_ylim(0, LEAST)  # of the row, whose panels share it
        panel.axes.set_ylim(0, max(panel.axes.get_ylim()[1], TOP * np.nan_to_num(largest)))
        if bool(panel.only.overlap_mean.notnull().any()):
            _overlaps(panel.axes, panel.only)
        else:
            style.note(panel.axes, layerwise.NO_VALUES)
        _across(panel.axes, panel.only)
    layerwise.legend(figure, columns=4)
    return figure


def peak(mean: xr.DataArray) -> tuple[float, int] | None:
    """Return the largest mean overlap for k of two or more, and its k; None if there is none.

    Two leading eigenvectors can all but agree; D's peak, near the output width, lies further on.
    """
    values = mean.sel(k=mean.k >= 2).dropna("k")
    if not values.size:
        return None
    at = int(values.argmax("k"))
    return float(values[at]), int(values.k[at])


def _overlaps(panel: Axes, one: xr.Dataset) -> None:
    one = one.dropna("k", how="all", subset=["overlap_mean"])
    k, mean, std = one.k.values, one.overlap_mean.values, one.overlap_std.values
    colour = style.PALETTE[0]
    panel.plot(k, mean, color=colour, zorder=3, label="mean over pairs")
    pairs = one.overlap.transpose("k", "seed_a", "seed_b").values.reshape(len(k), -1)
    pairs = pairs[:, np.isfinite(pairs).any(0)]
    for i, values in enumerate(pairs.T):
        label = None if i else "each pair of seeds"
        panel.plot(k, values, color=colour, lw=0.5, alpha=0.4, label=label)
    if np.isfinite(std).any():
        panel.fill_between(
            k, mean - std, mean + std, color=colour, alpha=0.2, lw=0, label="± standard deviation"
        )
    panel.plot(k, one.random_baseline.values, "--", color=style.INK, lw=0.8, label="random spaces")
    outputs = float(one.overlap_outputs)
    if outputs <= k[-1]:
        panel.axvline(outputs, ls="-", lw=0.7, color=style.PALETTE[3], label="k = outputs m")
    found = peak(one.overlap_mean)
    if found:
        style.note(panel, f"{found[0]:.2f} at k = {found[1]}")


def _across(panel: Axes, one: xr.Dataset) -> None:
    own = (str(one.recipe.values), int(one.n_per_class))
    others = [
        (str(recipe), int(size))
        for recipe in one.other_recipe.values
        for size in one.other_n_per_class.values
        if (str(recipe), int(size)) != own
    ]
    for i, (recipe, size) in enumerate(others):
        values = one.across_overlap.sel(other_recipe=recipe, other_n_per_class=size).dropna("k")
        if values.size:
            words = [recipe] if recipe != own[0] else []
            words += [f"n = {style.size_name(size)}"] if size != own[1] else []
            panel.plot(
                values.k,
                values,
                ":",
                color=style.PALETTE[1 + (i + 1) % (len(style.PALETTE) - 1)],
                label=f"with {', '.join(words)}",
            )
