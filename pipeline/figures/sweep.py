"""Sweeps of the learning rate: how each candidate ended, and which was chosen."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a column per data set and network, a row per training-set size.

    A dot is a candidate's final test error, ringed where it was chosen; a cross stands at the top
    for one whose loss ceased to be finite.
    """
    cube = cubes["training"]
    swept = cube.candidate_lr.notnull()
    rows = _held(swept, "n_per_class")
    columns = swept.any(["norm", "recipe", "n_per_class", "seed", "candidate"])
    nets = [
        (d, m)
        for d in cube.dataset.values
        for m in cube.model.values
        if columns.sel(dataset=d, model=m)
    ]
    figure, axes = style.panels(
        len(rows),
        len(nets),
        title="Learning rates: final test error of every candidate, the chosen ones ringed",
        sharex=True,
        sharey="col",
    )
    for row, size in enumerate(rows):
        axes[row, 0].set_ylabel("test error")
        for column, (dataset, model) in enumerate(nets):
            panel = axes[row, column]
            found = cube.sel(dataset=dataset, model=model, n_per_class=size)
            for number, norm in enumerate(_held(swept, "norm")):
                _candidates(panel, found.sel(norm=norm), str(norm), height=0.97 - 0.06 * number)
            panel.set_xscale("log")
            panel.set_title(f"{dataset}, {model}; {style.examples(int(size))}")
            if row == len(rows) - 1:
                panel.set_xlabel("learning rate")
    style.legend_below(figure, axes[0, 0], columns=4)
    return figure


def _held(swept: xr.DataArray, dim: str) -> np.ndarray:
    """Return the labels of ``dim`` for which any candidate was trained."""
    others = [other for other in swept.dims if other != dim]
    return swept[dim].values[swept.any(others).values]


def _candidates(panel: Axes, cube: xr.Dataset, norm: str, *, height: float) -> None:
    """Draw the candidates of all recipes and seeds of a network, crosses at ``height``."""
    lr, error, diverged, selected = (
        cube[f"candidate_{name}"].values.ravel()
        for name in ("lr", "test_error", "diverged", "selected")
    )
    colour, name = style.NORM_COLOURS[norm], style.NORM_NAMES[norm]
    ended, wild, chosen = diverged == 0, diverged == 1, selected == 1
    panel.plot(lr[ended], error[ended], ".", color=colour, label=name)
    panel.plot(lr[chosen], error[chosen], "o", mfc="none", color=colour, ms=7)
    panel.plot(
        lr[wild],
        np.full(wild.sum(), height),
        "x",
        color=colour,
        transform=panel.get_xaxis_transform(),
        label=f"{name}, diverged",
    )
