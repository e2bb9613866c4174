"""Which factors an eigenvector of a layer's Hessian is made of: D's correspondence matrices."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

SHOWN = 30  # orders and indices, beyond which little is left to see at this size
SIDES = {"output": "output Hessian", "input": "autocorrelation"}


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw the model with most layers: a row per layer, the two matrices of each norm."""
    cube = layerwise.reference(cubes["layers"])
    name, nets = most_layers(cube)
    all_names = layerwise.layers(cube, nets)
    names = layerwise.thinned(all_names)
    columns = [(net, side) for net in nets for side in SIDES]
    what = "Layer Hessians' eigenvectors (order), projected on those of their factors (index)"
    where = [f"{name}{layerwise.out_of(names, all_names)}", layerwise.place(cube)]
    figure, axes = style.panels(
        max(1, len(names)),
        max(1, len(columns)),
        title=[what, *where] if names else [what],
        row_height=1.35,
    )
    images = []
    for row, layer in enumerate(names):
        for column, (net, side) in enumerate(columns):
            panel = axes[row, column]
            if row == 0:
                panel.set_title(f"{style.NORM_NAMES[net['norm']]}\n{SIDES[side]}")
            values = cube[f"correspondence_{side}"].sel(net).sel(layer=layer)
            images += _heat(panel, values)
            if not panel.images:
                there = layerwise.is_there(cube, net, "outputs")
                panel.set(xticks=[], yticks=[])
                style.note(panel, layerwise.NO_VALUES if there else "diverged")
        axes[row, 0].set_ylabel(f"{layerwise.shortened(layer, 16)}\nindex")
    for panel in axes[-1]:
        panel.set_xlabel("order")
    if images:
        bar = figure.colorbar(images[0], ax=axes, fraction=0.02, aspect=50, shrink=0.6)
        bar.set_label("squared projection")
    if not names:
        axes[0, 0].set(xticks=[], yticks=[], ylabel="index")
        style.note(axes[0, 0], "diverged")
    return figure


def most_layers(cube: xr.Dataset) -> tuple[str, list[layerwise.Network]]:
    """Return the model of most layers with its networks, of which one at least is there."""
    best: tuple[str, list[layerwise.Network]] = ("", [])
    for name, nets in layerwise.by_model(cube).items():
        there = any(layerwise.is_there(cube, net, "outputs") for net in nets)
        if there and len(layerwise.layers(cube, nets)) > len(layerwise.layers(cube, best[1])):
            best = (name, nets)
    return best


def _heat(panel: Axes, values: xr.DataArray) -> list:
    values = values.isel(order=slice(SHOWN), index=slice(SHOWN))
    values = values.dropna("order", how="all").dropna("index", how="all")
    if not values.size:
        return []
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True, nbins=4)
    return [
        panel.imshow(
            values.transpose("index", "order").values,
            cmap="Blues",
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
            rasterized=True,
        )
    ]
