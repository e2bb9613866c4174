"""D's surprise: weights of two networks are all but orthogonal, their top eigenspaces overlap."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

ASIDE = 0.15  # from a layer's tick, so that its two columns of points do not cover each other
LETTERS = 42  # of layers' names that stand side by side under half a page


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per model, a column per norm: both measures by layer, means and pairs."""
    cube = layerwise.reference(cubes["overlap"], "weight_cosine")
    rows = layerwise.by_model(cube, "overlap_outputs")
    present = {net["norm"] for nets in rows.values() for net in nets}
    norms = [norm for norm in cube.norm.values if norm in present]
    what = "Weights of two networks, and the top k eigenspaces of their layer Hessians"
    figure, axes = style.panels(
        max(1, len(rows)),
        max(1, len(norms)),
        sharey=True,
        title=[what, layerwise.place(cube)] if rows else [what],
    )
    for panel in axes.flat:
        panel.set(xticks=[], ylabel="overlap; |cosine|")
    for line, (name, nets) in zip(axes, rows.items(), strict=False):
        by_norm = {net["norm"]: net for net in nets}
        for panel, norm in zip(line, norms, strict=True):
            if norm in by_norm:
                _network(panel, cube, by_norm[norm], f"{name}, {style.NORM_NAMES[norm]}")
            else:
                panel.remove()
    if not rows:
        style.note(axes[0, 0], layerwise.NO_PAIR)
    axes[0, 0].set_ylim(bottom=0)
    layerwise.label_below(figure, axes, "layer, and k: its outputs, or the most there are")
    layerwise.legend(figure, columns=5)
    return figure


def _network(panel: Axes, cube: xr.Dataset, net: layerwise.Network, name: str) -> None:
    names = layerwise.layers(cube, [net])
    chosen = layerwise.thinned(names)
    panel.set_title(f"{name}\n{layerwise.out_of(chosen, names)}".strip())
    if layerwise.is_there(cube, net, "weight_cosine"):
        _points(panel, cube.sel(net), chosen)
    else:
        style.note(panel, layerwise.NO_PAIR)


def at_outputs(one: xr.Dataset) -> xr.Dataset:
    """Return a layer's slice at k of its output width, or the largest k there is below it."""
    k = one.k.values[one.overlap_mean.notnull().values]
    k = k[k <= float(one.overlap_outputs)]
    # Reindexed, a k that is not there is NaN.
    return one.reindex(k=[k[-1] if len(k) else 0]).squeeze("k")


def _points(panel: Axes, network: xr.Dataset, names: list[str]) -> None:
    chosen = [at_outputs(network.sel(layer=name)) for name in names]
    cosines = [np.abs(one.weight_cosine.values).ravel() for one in chosen]
    overlaps = [one.overlap.values.ravel() for one in chosen]
    x = np.arange(len(names))
    for side, values, means, colour, label in (
        (-ASIDE, cosines, [_mean(row) for row in cosines], 0, "|cosine| of the weights"),
        (ASIDE, overlaps, [float(one.overlap_mean) for one in chosen], 1, "overlap of eigenspaces"),
    ):
        for at, row in zip(x + side, values, strict=True):
            found = row[np.isfinite(row)]
            colours = {"color": style.PALETTE[colour], "alpha": 0.35, "mew": 0}
            panel.plot(np.full(len(found), at), found, ".", ms=5, **colours)
        ink = {"color": style.PALETTE[colour], "mfc": "none"}
        panel.plot(x + side, means, "D", ms=5, label=label, **ink)
    baseline = [float(one.random_baseline) for one in chosen]
    panel.plot(
        x + ASIDE, baseline, "_", ms=9, mew=1.2, color=style.INK, label="random spaces: k / p"
    )
    numbers = [f"\n{int(one.k)}" if int(one.k) else "" for one in chosen]
    short = [layerwise.shortened(name, LETTERS // len(names)) for name in names]
    panel.set_xticks(x, [name + number for name, number in zip(short, numbers, strict=True)])
    panel.set_xlim(-0.5, len(names) - 0.5)


def _mean(values: np.ndarray) -> float:
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else np.nan
