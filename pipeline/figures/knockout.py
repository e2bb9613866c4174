"""The log spectrum of G with components knocked out, each beside G's own."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.levels import OFFSET_LABEL, Counts, one_split, quadrature_counts
from pipeline.figures.spectral import checkpoint, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per knockout, at the last checkpoint."""
    cube = one_split(reference(cubes["hierarchy"], all_seeds=True))
    shown, knockouts = networks(cube), [name for name in cube.knockout.values if name]
    figure, axes = style.panels(
        len(shown),
        max(1, len(knockouts)),
        title="G with components knocked out (black), and whole (coloured): last checkpoint, "
        f"{style.SPLIT_NAMES[str(cube.split.values)]}\n"
        f"mean and standard error over {style.count(cube.sizes['seed'], 'seed')}, "
        f"{style.examples(int(cube.n_per_class))}",
        sharex="row",
        sharey="row",
    )
    for row, net in enumerate(shown):
        epoch = checkpoint(cube, net, last=True)
        name = style.network_name(net)
        axes[row, 0].set(title=name, ylabel="eigenvalues per decade")
        if epoch is None:
            for panel in axes[row]:
                style.note(panel, "diverged")
            continue
        network = cube.sel(net).sel(epoch=epoch)
        p = float(network.dimension.max())
        nodes, weights = (
            network[f"component_ritz_{key}"].sel(component="G") for key in ("value", "weight")
        )
        whole = quadrature_counts(nodes, weights, p, settings)
        for panel, knockout in zip(axes[row], knockouts, strict=False):
            one = network.sel(knockout=knockout)
            left = quadrature_counts(one.knockout_ritz_value, one.knockout_ritz_weight, p, settings)
            _line(panel, whole, style.COMPONENT_COLOURS["G"])
            _line(panel, left, "k")
            panel.set(xscale="log", yscale="log", xlim=(1e-6, None))
            panel.set_ylim(0.1, 10 * whole.mean.max())
            panel.minorticks_off()
            style.note(panel, str(knockout))
    for panel in axes[-1]:
        panel.set_xlabel(OFFSET_LABEL)
    return figure


def _line(panel: Axes, found: Counts, colour: object) -> None:
    panel.plot(found.x, found.mean, color=colour)
    low, high = found.mean - found.error, found.mean + found.error
    panel.fill_between(found.x, low, high, color=colour, alpha=0.2, lw=0)
