"""Whose is the upper tail of the Hessian's bulk, G's or H's: over epochs and sample sizes."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.spectral import in_order, networks
from pipeline.stages import Figures

DECADES = 2.0  # the colours' range
TOO_FEW = "spectrum.top of G should exceed the number of classes"


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per split: log10 of H's largest over G's bulk's largest."""
    cube = cubes["spectrum"].isel(recipe=0)
    shown, splits = networks(cube), list(cube.split.values)
    figure, axes = style.panels(
        len(shown),
        len(splits),
        title="Upper tail of the Hessian's bulk: H's (red) or G's (blue)\n"
        r"$\log_{10}$ of H's largest eigenvalue over G's (C + 1)-th, mean over seeds",
        row_height=1.3,
    )
    for row, net in enumerate(shown):
        for column, split in enumerate(splits):
            panel = axes[row, column]
            table = attribution(cube.sel(net).sel(split=split)).dropna("n_per_class", how="all")
            table = in_order(table.dropna("epoch", how="all").transpose("n_per_class", "epoch"))
            panel.set_title(f"{style.network_name(net)}: {style.SPLIT_NAMES[split]}")
            if not table.size:
                there = bool(cube.sel(net).sel(split=split).trace.notnull().any())
                style.note(panel, TOO_FEW if there else "diverged")
                continue
            panel.imshow(table.values, cmap="RdBu_r", vmin=-DECADES, vmax=DECADES, aspect="auto")
            panel.set_xticks(range(table.sizes["epoch"]), table.epoch.values)
            sizes = [style.size_name(int(n)) for n in table.n_per_class.values]
            panel.set_yticks(range(len(sizes)), sizes)
            for (i, j), value in np.ndenumerate(table.values):
                if np.isfinite(value):
                    ink = "white" if abs(value) > 0.7 * DECADES else "black"
                    panel.text(
                        j, i, f"{value:+.2f}", ha="center", va="center", fontsize=7, color=ink
                    )
        axes[row, 0].set_ylabel("n per class")
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    return figure


def attribution(spectra: xr.Dataset) -> xr.DataArray:
    """Return log10 of H's largest eigenvalue over G's largest that no class accounts for."""
    values = spectra.eigenvalue
    classes = int(spectra.classes.max())
    # Reindexed, an order that was not asked for is NaN.
    H = values.sel(matrix="H").reindex(order=[0]).squeeze("order", drop=True)
    G = values.sel(matrix="G").reindex(order=[classes]).squeeze("order", drop=True)
    return np.log10((H / G).where((H > 0) & (G > 0))).mean("seed")
