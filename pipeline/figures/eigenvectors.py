"""The leading eigenvectors of the layer Hessians as matrices, outputs by inputs."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

PANELS = 12  # at most, so that a matrix of some hundred columns keeps its structure


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw the model with most layers: a row per layer, columns for eigenvectors by norm."""
    cube = layerwise.reference(cubes["layers"])
    name, stored = most_stored(cube)
    all_names = list(dict.fromkeys(n for found in stored.values() for n in found))
    names = layerwise.thinned(all_names)
    kept = {norm: max(len(found.get(n, [])) for n in names) for norm, found in stored.items()}
    each = max(1, PANELS // max(1, len(names) * len(stored)))
    columns = [(norm, i) for norm, count in kept.items() for i in range(min(count, each))]
    what = "Leading eigenvectors of the layer Hessians as matrices (red positive, blue negative)"
    where = [f"{name}{layerwise.out_of(names, all_names)}", layerwise.place(cube)]
    figure, axes = style.panels(
        max(1, len(names)),
        max(1, len(columns)),
        title=[what, *where] if names else [what],
        row_height=1.35,
    )
    for row, layer in enumerate(names):
        for column, (norm, i) in enumerate(columns):
            matrices = stored[norm].get(layer, [])
            if i < len(matrices):
                _heat(axes[row, column], matrices[i])
            else:
                axes[row, column].set(xticks=[], yticks=[])
                style.note(axes[row, column], layerwise.NO_VALUES)
            if row == 0:
                axes[row, column].set_title(f"{style.NORM_NAMES[norm]}\norder {i}")
        axes[row, 0].set_ylabel(f"{layerwise.shortened(layer, 16)}\noutput")
    for panel in axes[-1]:
        panel.set_xlabel("input")
    if not names:
        axes[0, 0].set(xticks=[], yticks=[], ylabel="output")
        style.note(axes[0, 0], "diverged,\nor no eigenvectors stored")
    return figure


def most_stored(cube: xr.Dataset) -> tuple[str, dict[str, dict[str, list[np.ndarray]]]]:
    """Return the model with eigenvectors of most layers, and these by norm and layer."""
    best: tuple[str, dict[str, dict[str, list[np.ndarray]]]] = ("", {})
    for name, nets in layerwise.by_model(cube).items():
        stored = {
            net["norm"]: {
                layer: found
                for layer in layerwise.layers(cube, [net])
                if (found := matrices(cube.sel(net).sel(layer=layer)))
            }
            for net in nets
        }
        stored = {norm: found for norm, found in stored.items() if found}
        if max(map(len, stored.values()), default=0) > max(map(len, best[1].values()), default=0):
            best = (name, stored)
    return best


def matrices(one: xr.Dataset) -> list[np.ndarray]:
    """Return a layer's stored eigenvectors as (outputs, inputs) matrices."""
    if not bool(one.outputs.notnull() & one.inputs.notnull()):
        return []
    shape = int(one.outputs), int(one.inputs)
    rows = one.eigenvector.transpose("shown", "element").values[:, : shape[0] * shape[1]]
    return [
        row.reshape(shape)
        for row in rows
        if len(row) == shape[0] * shape[1] and np.isfinite(row).all()
    ]


def _heat(panel: Axes, matrix: np.ndarray) -> None:
    # The sign of an eigenvector is arbitrary, and the few largest entries fix the scale.
    limit = np.abs(matrix).max()
    panel.imshow(
        matrix,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
        rasterized=True,
    )
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True, nbins=5)
