"""D's random two-layer theory against width: overlap, eigenvalue ratio, and the predicted M*."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.stages import Figures

COLOURS = {"gaussian": style.PALETTE[0], "rectified": style.PALETTE[1]}
NAMES = {"gaussian": "x ~ N(0, I)", "rectified": "x = max(N(0, I), 0)"}
SHOWN = {
    "overlap_predicted": "overlap with predicted space",
    "eigenvalue_ratio": "eigenvalue C over C - 1",
    "relative_error": "relative error of M*",
}


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a panel per quantity: each seed a point, their mean a line, by kind of input."""
    cube = cubes["theory"]
    seeds = style.count(cube.sizes["theory_seed"], "seed")
    figure, axes = style.panels(
        1,
        len(SHOWN),
        title=[
            "Output Hessian of a random two-layer network as its width grows",
            f"{seeds} for each width, line: mean; dashed: limit of infinite width; "
            "dotted: in proportion to 1 / width",
        ],
        row_height=2.3,
    )
    for panel, (variable, label) in zip(axes[0], SHOWN.items(), strict=True):
        panel.set(xlabel="hidden width", ylabel=label)
        for kind in cube.input.values:
            _points(panel, cube[variable].sel(input=kind), str(kind))
        if not panel.lines:
            panel.set(xticks=[], yticks=[])
            style.note(panel, layerwise.NO_VALUES)
            continue
        widths = cube.width.values
        panel.set_xscale("log", base=2)
        panel.set_xticks(widths, [str(width) for width in widths], rotation=90 * (len(widths) > 6))
        panel.margins(y=0.08)
        panel.minorticks_off()
    if axes[0, 0].lines:
        for kind in cube.input.values:
            limit = float(cube.overlap_limit.sel(input=kind))
            if np.isfinite(limit):
                axes[0, 0].axhline(limit, ls="--", lw=0.8, color=COLOURS[str(kind)])
    if axes[0, 1].lines:
        _guide(axes[0, 1])
        layerwise.log_scale([axes[0, 1]])
    layerwise.legend(figure, columns=len(NAMES))
    return figure


def _points(panel: Axes, values: xr.DataArray, kind: str) -> None:
    values = values.transpose("width", "theory_seed").dropna("width", how="all")
    if not values.size:
        return
    colour = COLOURS[kind]
    for seed in values.theory_seed.values:
        some = values.sel(theory_seed=seed)
        panel.plot(values.width, some, ".", color=colour, ms=4, alpha=0.5, mew=0)
    panel.plot(values.width, values.mean("theory_seed"), color=colour, label=NAMES[kind])


def _guide(panel: Axes) -> None:
    """Draw 1 / width through the first mean."""
    first = next(line for line in panel.lines if line.get_linestyle() == "-")
    widths, values = first.get_xdata(), first.get_ydata()
    panel.plot(widths, values[0] * widths[0] / widths, ":", color=style.INK, lw=0.9)
