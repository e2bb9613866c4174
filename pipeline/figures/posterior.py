"""The posterior's variance against curvature, by method and layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, spectral, style
from pipeline.figures.bounds import NAMES, place
from pipeline.stages import Figures

ROUNDING = 1e-9  # of the largest curvature: what is smaller is rounding of a zero eigenvalue


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per method, a line per layer; each seed a line."""
    cube = spectral.reference(cubes["bounds"], all_seeds=True)
    nets, methods = spectral.networks(cube, "classes"), [str(name) for name in cube.basis.values]
    figure, axes = style.panels(
        max(1, len(nets)),
        max(1, len(methods)),
        title=[
            "Posterior variance along directions of growing curvature; dotted: the prior's",
            place(cube),
        ],
        sharex="row",
        sharey="row",
        row_height=1.9,
    )
    for row, net in zip(axes, nets, strict=False):
        for panel, method in zip(row, methods, strict=True):
            one = cube.sel(net).sel(basis=method)
            panel.set_title(NAMES[method], loc="left")
            if not _curves(panel, one):
                style.note(panel, "diverged")
        row[0].set_ylabel(f"{net['dataset']}, {net['model']}\nposterior variance")
    for panel in axes[-1]:
        panel.set_xlabel("curvature (nat)")
    if not nets:
        style.note(axes[0, 0], layerwise.NO_VALUES)
    layerwise.legend(figure, columns=6)
    return figure


def _curves(panel: Axes, one: xr.Dataset) -> bool:
    """Plot each layer's curve for each seed; return whether there is any."""
    colours = dict(zip(one.layer.values, style.PALETTE * 9, strict=False))
    highest = np.nanmax(one.curvature.values, initial=0.0)
    for seed in one.seed.values:
        for layer, colour in colours.items():
            curve = one[["curvature", "posterior_variance"]].sel(seed=seed, layer=layer)
            curve = curve.dropna("bin")
            curve = curve.isel(bin=np.flatnonzero(curve.curvature.values > ROUNDING * highest))
            if curve.sizes["bin"]:
                line = {"color": colour, "lw": 0.9, "ms": 2.5, "label": str(layer)}
                panel.plot(curve.curvature, curve.posterior_variance, ".-", **line)
        prior = float(one.half_log_lambda.sel(seed=seed))
        if np.isfinite(prior):
            panel.axhline(np.exp(2 * prior), ls=":", lw=0.8, color=style.INK)
    if panel.lines:
        panel.set(xscale="log", yscale="log")
    return bool(panel.lines)
