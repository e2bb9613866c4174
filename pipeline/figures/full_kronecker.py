"""The whole network's Hessian put together from Kronecker parts: eigenvalues and overlap."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.figures.kronecker import PER_CLASS, spectra
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network: eigenvalues by order, then the overlap against k."""
    cube = layerwise.reference(cubes["layers"])
    rows = layerwise.by_network(cube) or {"": []}
    what = "The full Hessian's top eigenpairs and their approximation from Kronecker parts"
    there = any(layerwise.is_there(cube, net, "outputs") for nets in rows.values() for net in nets)
    figure, axes = style.panels(
        len(rows), 2, title=[what, layerwise.place(cube)] if there else [what]
    )
    for (left, right), (name, nets) in zip(axes, rows.items(), strict=True):
        left.set(title=name, ylabel="eigenvalue (nat)")
        right.set(ylabel="overlap of top k", ylim=(0, 1.05))
        for net in nets:
            one = cube.sel(net)
            count = PER_CLASS * int(one.classes)
            named = {"Hess": one.hessian_eigenvalue, "from parts": one.full_kronecker_eigenvalue}
            if spectra(left, named, count):
                layerwise.log_scale([left])
            overlap = one.full_kronecker_overlap.sel(k=one.k <= count).dropna("k")
            if overlap.size:
                right.plot(overlap.k, overlap, ".-", color=style.INK, lw=0.9, ms=3.5)
                right.axvline(int(one.classes) - 1, ls=":", lw=0.8, color=style.INK)
        for panel in (left, right):
            panel.xaxis.get_major_locator().set_params(integer=True)
            if not panel.lines:
                panel.set(xticks=[], yticks=[])
                known = any(layerwise.is_there(cube, net, "outputs") for net in nets)
                style.note(panel, layerwise.NO_VALUES if known else "diverged")
    axes[-1, 0].set_xlabel("order")
    axes[-1, 1].set_xlabel("k (dotted: C - 1)")
    layerwise.legend(figure, columns=2)
    return figure
