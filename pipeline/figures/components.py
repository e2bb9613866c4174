"""The spectrum of G split into A1's and A2's eigenvalues and the bulks of B1 and B2."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.levels import (
    OFFSET_LABEL,
    Counts,
    eigenvalue_counts,
    one_split,
    quadrature_counts,
)
from pipeline.figures.spectral import checkpoint, ends, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column for the first and the last checkpoint each."""
    cube = one_split(reference(cubes["hierarchy"], all_seeds=True))
    shown = networks(cube)
    columns = ends(cube)
    figure, axes = style.panels(
        len(shown),
        len(columns),
        title=f"G = A1 + A2 + B1 + B2, {style.SPLIT_NAMES[str(cube.split.values)]}\n"
        f"mean over {style.count(cube.sizes['seed'], 'seed')}, "
        f"{style.examples(int(cube.n_per_class))}",
        sharex="row",
        sharey="row",
    )
    for row, net in enumerate(shown):
        axes[row, 0].set_ylabel("eigenvalues per decade")
        for column, last in enumerate(columns):
            panel, epoch = axes[row, column], checkpoint(cube, net, last=last)
            if epoch is None:
                style.note(panel, "diverged")
                continue
            panel.set_title(f"{style.network_name(net)}: epoch {epoch}")
            _spectra(panel, cube.sel(net).sel(epoch=epoch), settings)
    for panel in axes[-1]:
        panel.set_xlabel(OFFSET_LABEL)
    drawn = [panel for panel in axes.flat if panel.lines]
    if drawn:
        style.legend_below(figure, drawn[0], columns=5)
    return figure


def _spectra(panel: Axes, network: xr.Dataset, settings: Figures) -> None:
    p = float(network.dimension.max())
    found: dict[str, Counts] = {}
    for name in ("G", "B2", "B1", "A2", "A1"):
        one = network.sel(component=name)
        if bool(one.component_eigenvalue.notnull().any()):
            found[name] = eigenvalue_counts(one.component_eigenvalue, settings)
        elif bool(one.component_ritz_value.notnull().any()):
            found[name] = quadrature_counts(
                one.component_ritz_value, one.component_ritz_weight, p, settings
            )
    for name, counts in found.items():
        colour = style.COMPONENT_COLOURS[name]
        if name == "G":
            panel.fill_between(counts.x, 0, counts.mean, color=colour, alpha=0.25, lw=0, label="G")
        else:
            panel.plot(counts.x, counts.mean, color=colour, label=name)
    right = max(counts.x[-1] for counts in found.values())
    if panel.get_xscale() == "log":  # the row's other panel was here before
        right = max(right, panel.get_xlim()[1])
    panel.set(xscale="log", yscale="log", xlim=(1e-6, right))
    panel.set_ylim(0.3, 3 * max(counts.mean.max() for counts in found.values()))
    panel.minorticks_off()
