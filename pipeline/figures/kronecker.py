"""A layer's Hessian and its Kronecker approximation: eigenvalues, and overlap of eigenspaces."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

PER_CLASS = 3  # eigenvalues shown for each class: all outliers, and the bulk's beginning
GREY = "0.5"
PRODUCT = r"$E[M]\otimes{}E[xx^T]$"


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per layer: both spectra, and on the right the overlap."""
    cube = layerwise.reference(cubes["layers"])
    figure, panels = layerwise.grid(
        cube,
        layerwise.by_network(cube),
        title=[
            f"Layer Hessians and their approximation {PRODUCT}",
            "right axis, 0 to 1: overlap of the top k eigenspaces; "
            "noted: relative error of the approximation",
        ],
        labels=("order; k", "eigenvalue (nat)"),
    )
    for panel in panels:
        one, count = panel.only, PER_CLASS * int(panel.only.classes)
        names = {"layer Hessian": one.layer_eigenvalue, PRODUCT: one.kronecker_eigenvalue}
        if not spectra(panel.axes, names, count):
            style.note(panel.axes, layerwise.NO_VALUES)
        if np.isfinite(float(one.decoupling_error)):
            style.note(panel.axes, f"error {float(one.decoupling_error):.2f}")
        _overlap(panel.axes, one.kronecker_overlap, count)
    layerwise.log_rows(panels, room=0.25)
    layerwise.legend(figure, columns=3)
    return figure


def spectra(panel: Axes, named: dict[str, xr.DataArray], count: int) -> bool:
    """Plot the first ``count`` eigenvalues of each matrix by order; return whether any is there."""
    for (name, values), colour, mark in zip(named.items(), style.PALETTE, ".x", strict=False):
        values = values.isel(order=slice(count)).dropna("order")
        if values.size:
            line = {"lw": 0.8, "ms": 3.5, "mew": 0.8, "color": colour, "label": name}
            panel.plot(values.order, values, f"{mark}-", **line)
    return bool(panel.lines)


def _overlap(panel: Axes, values: xr.DataArray, count: int) -> None:
    values = values.sel(k=values.k <= count).dropna("k")
    if not values.size:
        return
    twin = panel.twinx()
    twin.plot(values.k, values, color=GREY, lw=0.9, label="overlap of top k (right axis)")
    twin.set(ylim=(0, 1.3), yticks=[0, 0.5, 1])
    # In a shorter row numbers would push the next column of panels aside.
    named = panel.get_subplotspec().is_last_col()
    twin.tick_params(colors=GREY, labelright=named)
    if named:
        twin.set_ylabel("overlap", color=GREY)
