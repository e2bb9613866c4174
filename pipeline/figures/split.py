"""Hess, G and H side by side: outliers come from G, most of the bulk from H."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.density import limit_heights, outliers, plot_density
from pipeline.figures.spectral import checkpoint, count_above, curve, networks, reference
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures, *, last: bool = True) -> Figure:
    """Draw a row per network, a column per matrix, on the training examples."""
    cube = reference(cubes["spectrum"])
    cube = cube.sel(split="train" if "train" in cube.split else cube.split.values[0])
    shown = networks(cube)
    matrices = list(cube.matrix.values)
    figure, axes = style.panels(
        len(shown),
        len(matrices),
        title=f"Hess = G + H at the {'last' if last else 'first'} checkpoint, "
        f"{style.SPLIT_NAMES[str(cube.split.values)]}; dashed: edge of G's bulk, its range shaded\n"
        f"seed {int(cube.seed)}, {style.examples(int(cube.n_per_class))}",
        sharex="row",
        sharey="row",
    )
    for row, net in enumerate(shown):
        epoch = checkpoint(cube, net, last=last)
        axes[row, 0].set_ylabel("density (1/nat)")
        curves = []
        for column, matrix in enumerate(matrices):
            panel = axes[row, column]
            panel.set_title(f"{style.network_name(net)}: {matrix}" if column == 0 else matrix)
            if epoch is None:
                style.note(panel, "diverged")
                continue
            network = cube.sel(net).sel(epoch=epoch)
            found = curve(network.sel(matrix=matrix), settings)
            curves.append(found)
            plot_density(panel, found, style.MATRIX_COLOURS[matrix])
            text = outliers(network.sel(matrix=matrix))
            if "G" in matrices and bool(network.sel(matrix="G").bulk_edge.notnull()):
                G = network.sel(matrix="G")
                low, edge, high = (float(G[f"bulk_edge{end}"]) for end in ("_low", "", "_high"))
                panel.axvspan(low, high, color=style.INK, alpha=0.1, lw=0)
                panel.axvline(edge, ls="--", lw=0.7, color=style.INK)
                beyond = count_above(network.sel(matrix=matrix), edge)
                text += f"\n{_about(beyond)} beyond G's bulk"
            style.note(panel, text)
        limit_heights(axes[row, 0], curves)
    for panel in axes[-1]:
        panel.set_xlabel("eigenvalue (nat)")
    return figure


def _about(count: float) -> str:
    """Return a count from quadrature as a reader should take it: two digits at most."""
    return f"{count:.0f}" if count < 100 else f"about {float(f'{count:.2g}'):.0f}"
