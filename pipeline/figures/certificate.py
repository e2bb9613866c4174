"""How far the numbers can be trusted: residuals of eigenpairs, and traces made in two ways."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.stages import Figures

TRACES = {1: ("trace", "trace_stderr"), 2: ("square_trace", "square_trace_stderr")}


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw residuals by order, then the moments of degree 1 and 2 against trace estimates."""
    cube = cubes["spectrum"]
    figure, axes = style.panels(
        1,
        3,
        title="Certificates of all networks, checkpoints and splits",
        row_height=2.3,
    )
    _residuals(axes[0, 0], cube)
    degrees = [degree for degree in cube.degree.values if int(degree) in TRACES]
    for panel, degree in zip(axes[0, 1:], degrees, strict=False):
        _moments(panel, cube, int(degree))
    if axes[0, 0].lines:
        style.legend_below(figure, axes[0, 0], columns=3)
    return figure


def _residuals(panel: Axes, cube: xr.Dataset) -> None:
    if not bool(cube.residual.notnull().any()):
        style.note(panel, "every network diverged")
        return
    scale = np.abs(cube.eigenvalue.isel(order=0))
    for matrix in cube.matrix.values:
        values = (cube.residual / scale).sel(matrix=matrix)
        values = values.transpose("order", ...).values.reshape(cube.sizes["order"], -1)
        known = np.isfinite(values).any(1)
        orders = cube.order.values[known]
        colour = style.MATRIX_COLOURS[matrix]
        panel.plot(orders, np.nanmax(values[known], axis=1), ".", color=colour, label=matrix)
    panel.set(
        yscale="log",
        xlabel="order of the eigenpair",
        ylabel=r"$\|A v - \lambda v\| / \lambda_0$, largest",
        title="residuals of eigenpairs",
    )


def _moments(panel: Axes, cube: xr.Dataset, degree: int) -> None:
    value, error = TRACES[degree]
    # An exact spectrum has but one trace, and estimates as good as exact have no spread.
    shown = cube[["moment", "moment_stderr", value, error]].sel(degree=degree)
    shown = shown.where((cube.exact == 0) & (cube[error] > 0))
    scores = (shown.moment - shown[value]) / np.hypot(shown[error], shown.moment_stderr)
    for matrix in cube.matrix.values:
        found = np.sort(scores.sel(matrix=matrix).values.ravel())
        found = found[np.isfinite(found)]
        if len(found):
            shares = (np.arange(len(found)) + 0.5) / len(found)
            panel.plot(found, shares, color=style.MATRIX_COLOURS[matrix])
    for sign in (-1, 1):
        panel.axvline(2 * sign, ls="--", lw=0.7, color=style.INK)
    panel.set(
        xlabel="difference / standard error",
        ylabel="share of networks below",
        title=rf"trace of $A^{degree}$, made in two ways",
        ylim=(0, 1),
    )
