"""How the levels move with training time and with sample size."""

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.levels import one_split
from pipeline.figures.spectral import checkpoint, in_order, most, networks
from pipeline.stages import Figures

BULK = (0.1, 0.9)  # of B1's eigenvalues, by count: the band that is drawn
LABELS = {"epoch": "epoch", "n_per_class": "training examples per class"}


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network: against epoch, then against sample size at the last epoch."""
    levels, spectra = one_split(cubes["hierarchy"]), cubes["spectrum"]
    levels = levels.isel(recipe=0)
    spectra = spectra.isel(recipe=0).sel(split=levels.split.values)
    shown = networks(levels)
    figure, axes = style.panels(
        len(shown),
        2,
        title="Levels of G, and H, as training goes on and with more examples\n"
        f"{style.SPLIT_NAMES[str(levels.split.values)]}, mean over seeds; band: 80 % of B1's "
        "eigenvalues",
        row_height=2.0,
        sharey="row",
    )
    for row, net in enumerate(shown):
        one = levels.sel(net)
        one = one.isel(n_per_class=one.classes.notnull().any("seed").values)
        size = most(one)
        epoch = checkpoint(one.sel(n_per_class=size), {}, last=True)
        axes[row, 0].set_ylabel("eigenvalue (nat)")
        name = style.network_name(net)
        if epoch is None:
            for panel in axes[row]:
                style.note(panel, "diverged")
            continue
        beside = spectra.sel(net).sel(n_per_class=one.n_per_class)
        for panel, along, at, title in (
            (axes[row, 0], "epoch", {"n_per_class": size}, f"n = {style.size_name(size)}"),
            (axes[row, 1], "n_per_class", {"epoch": epoch}, f"epoch {epoch}"),
        ):
            panel.set_title(f"{name}: {title}")
            _lines(panel, one.sel(at), beside.sel(at), along)
    for column, along in enumerate(LABELS):
        axes[-1, column].set_xlabel(LABELS[along])
    drawn = [panel for panel in axes.flat if panel.lines]
    if drawn:
        style.legend_below(figure, drawn[0], columns=5)
    return figure


@dataclass(frozen=True)
class Levels:
    """What is drawn at each place along an axis, means over seeds: arrays (places, ...)."""

    A1: np.ndarray
    B1: np.ndarray
    B2: np.ndarray

    @property
    def separation(self) -> np.ndarray:
        """log10 of A1's (C - 1)-th eigenvalue over B2's largest: decades between the two."""
        with np.errstate(divide="ignore"):
            return np.log10(self.A1[:, -1] / self.B2)


def levels_along(levels: xr.Dataset, along: str) -> Levels:
    """Return A1's C - 1 largest eigenvalues, B1's quantiles, and B2's largest node."""
    order = levels.sizes["order"]
    classes = int(levels.classes.max())
    A1 = levels.component_eigenvalue.sel(component="A1").isel(
        order=slice(0, min(order, classes - 1))
    )
    with warnings.catch_warnings():
        # Seeds that a size lacks; and of two classes B1 vanishes.
        warnings.filterwarnings("ignore", message="All-NaN slice")
        B1 = levels.component_eigenvalue.sel(component="B1").quantile(
            (BULK[0], 0.5, BULK[1]), "order"
        )
    B2 = levels.component_ritz_value.sel(component="B2").max(("probe", "node"))
    return Levels(
        A1.mean("seed").transpose(along, "order").values,
        B1.mean("seed").transpose(along, "quantile").values,
        B2.mean("seed").transpose(along).values,
    )


def _lines(panel: Axes, levels: xr.Dataset, spectra: xr.Dataset, along: str) -> None:
    known = levels.identity_error.notnull()
    there = {
        along: known.any("seed").values,
        "seed": known.any([dim for dim in known.dims if dim != "seed"]).values,
    }
    levels, spectra = levels.isel(there), spectra.isel(there)
    if along == "n_per_class":
        levels, spectra = in_order(levels), in_order(spectra)
    names = levels[along].values
    x = np.arange(len(names))
    panel.set_xticks(x, names if along == "epoch" else [style.size_name(int(n)) for n in names])
    found = levels_along(levels, along)
    colours = style.COMPONENT_COLOURS
    for i, values in enumerate(found.A1.T):
        label = None if i else "A1, C - 1 largest"
        panel.plot(x, values, ".-", color=colours["A1"], lw=0.6, label=label)
    if np.isfinite(found.B1).any():  # not where B1 is too large to be solved whole
        panel.fill_between(x, found.B1[:, 0], found.B1[:, 2], color=colours["B1"], alpha=0.25, lw=0)
        panel.plot(x, found.B1[:, 1], ".-", color=colours["B1"], label="B1, median")
    panel.plot(x, found.B2, ".-", color=colours["B2"], label="B2, largest")
    for matrix in ("H", "Hess"):
        if matrix in spectra.matrix:
            top = spectra.eigenvalue.sel(matrix=matrix).isel(order=0).mean("seed")
            colour = style.MATRIX_COLOURS[matrix]
            panel.plot(x, top.values, ".--", color=colour, label=f"{matrix}, largest")
    panel.set_yscale("log")
    parted = ", ".join(f"{value:+.1f}" for value in found.separation)
    style.note(panel, f"A1 over B2, decades: {parted}", corner="lower right")
