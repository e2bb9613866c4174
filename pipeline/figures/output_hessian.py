"""Spectra of each layer's output Hessian: C - 1 eigenvalues stand out."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import layerwise, style
from pipeline.figures.kronecker import PER_CLASS
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per model, a column per layer: eigenvalues by index, none against BatchNorm."""
    cube = layerwise.reference(cubes["layers"], all_seeds=True)
    figure, panels = layerwise.grid(
        cube,
        layerwise.by_model(cube),
        title=[
            "Eigenvalues of the output Hessian E[M] of each layer; dotted: after C - 1",
            "noted: eigenvalue C - 1 over eigenvalue C; overlap with the row space of the later "
            "weights, if linear",
        ],
        labels=("index", "eigenvalue (nat)"),
    )
    for panel in panels:
        classes = int(max(one.classes.max() for one in panel.slices.values()))
        layerwise.norms_by_index(
            panel,
            "output_hessian_eigenvalue",
            PER_CLASS * classes,
            noted={"output_gap": "{:.2g}", "rowspace_overlap": "{:.2f}"},
        )
        if panel.axes.lines:
            panel.axes.axvline(classes - 1.5, ls=":", lw=0.8, color=style.INK)
    layerwise.log_rows(panels, room=0.4)
    layerwise.legend(figure, columns=2)
    return figure
