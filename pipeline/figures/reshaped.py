"""Eigenvectors of a layer's Hessian, reshaped as its weight, are matrices of rank about one."""

import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

ORDERS = (0, 1, 2, 4, 9, 19)  # of eigenvectors: the first few, then about twice as far each time
SHOWN = 10  # singular values


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per layer: the singular values of a few eigenvectors."""
    cube = layerwise.reference(cubes["layers"])
    figure, panels = layerwise.grid(
        cube,
        layerwise.by_network(cube),
        title=[
            "Singular values of the layer Hessians' eigenvectors as outputs x inputs matrices",
            "noted: the first one of order 0",
        ],
        labels=("index", "singular value"),
    )
    colours = dict(zip(ORDERS, sns.color_palette("crest_r", len(ORDERS)), strict=True))
    for panel in panels:
        values = panel.only.singular_value.isel(index=slice(SHOWN))
        values = values.dropna("index", how="all").dropna("order", how="all")
        panel.axes.set(ylim=(-0.05, 1.25), yticks=[0, 0.5, 1])
        for order in (order for order in ORDERS if order in values.order):
            panel.axes.plot(
                values.index,
                values.sel(order=order),
                ".-",
                color=colours[order],
                lw=0.9,
                label=f"order {order}",
            )
        if 0 in values.order:
            style.note(panel.axes, f"{float(values.sel(order=0)[0]):.3f}")
        elif not panel.axes.lines:
            style.note(panel.axes, layerwise.NO_VALUES)
    layerwise.legend(figure, columns=len(ORDERS))
    return figure
