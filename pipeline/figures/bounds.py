"""PAC-Bayes bounds by method, with the errors that they bound."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import layerwise, spectral, style
from pipeline.stages import Figures

NAMES = {"base": "Base", "appr": "Appr", "iter": "Iter", "iter-d": "Iter(D)", "iter-m": "Iter.M"}
SHOWN = {
    "bound": ("bound", style.PALETTE[0], "o"),
    "bound_of_estimate": ("bound of estimate", style.PALETTE[9], "o"),
    "stochastic_error_test": ("posterior, test", style.PALETTE[3], "^"),
    "stochastic_error_train": ("posterior, training", style.PALETTE[1], "v"),
    "deterministic_error_test": ("trained network, test", style.INK, "_"),
}
SPREAD = 0.11  # of a method's room, between kinds of points


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a panel per network: each seed a point, their mean a larger one, by method."""
    cube = spectral.reference(cubes["bounds"], all_seeds=True)
    nets = spectral.networks(cube, "classes")
    figure, axes = style.panels(
        max(1, len(nets)),
        1,
        title=["PAC-Bayes bounds on test errors", f"{place(cube)}, line: mean"],
        row_height=2.0,
    )
    for panel, net in zip(axes[:, 0], nets, strict=False):
        one = cube.sel(net)
        methods = [str(name) for name in one.basis.values]
        panel.set_title(style.network_name(net), loc="left")
        panel.set_ylabel("error")
        panel.set_xticks(range(len(methods)), [NAMES[name] for name in methods])
        panel.set_xlim(-0.5, len(methods) - 0.5)
        there = [_points(panel, one, key, at) for at, key in enumerate(SHOWN)]
        if not any(there):
            style.note(panel, "diverged")
        panel.set_ylim(bottom=0)
    axes[-1, 0].set_xlabel("basis in which the posterior is diagonal")
    if not nets:
        style.note(axes[0, 0], layerwise.NO_VALUES)
    layerwise.legend(figure, columns=2)
    return figure


def place(cube: xr.Dataset) -> str:
    """Return where in the cube a slice lies, for a figure's title."""
    return (
        f"recipe {cube.recipe.item()}; {style.examples(int(cube.n_per_class))}; "
        f"{style.count(cube.sizes['seed'], 'seed')}"
    )


def _points(panel: Axes, one: xr.Dataset, key: str, at: int) -> bool:
    """Plot one kind of error by method; return whether any is there."""
    label, colour, mark = SHOWN[key]
    values = one[key].transpose("basis", "seed").values
    for method, seeds in enumerate(values):
        x = method + SPREAD * (at - (len(SHOWN) - 1) / 2)
        known = seeds[seeds == seeds]
        if known.size:
            shown = {"color": colour, "ls": "none"}
            panel.plot([x] * len(known), known, mark, ms=4, alpha=0.7, label=label, **shown)
            panel.hlines(known.mean(), x - SPREAD / 2, x + SPREAD / 2, color=colour, lw=1)
    return bool((values == values).any())
