"""Spectra of the autocorrelation of each layer's input, which BatchNorm makes less one-sided."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import layerwise
from pipeline.stages import Figures

SHOWN = 40  # eigenvalues: the first stands out, the rest decays


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per model, a column per layer: eigenvalues by index, none against BatchNorm."""
    cube = layerwise.reference(cubes["layers"], all_seeds=True)
    figure, panels = layerwise.grid(
        cube,
        layerwise.by_model(cube),
        title=[
            "Eigenvalues of the autocorrelation $E[xx^T]$ of each layer's input",
            "noted: first over second eigenvalue; squared cosine of the top eigenvector with E[x]",
        ],
        labels=("index", "eigenvalue"),
    )
    for panel in panels:
        layerwise.norms_by_index(
            panel,
            "autocorrelation_eigenvalue",
            SHOWN,
            noted={"spectral_ratio": "{:.3g}", "mean_alignment": "{:.2f}"},
        )
    layerwise.log_rows(panels, room=0.3)
    layerwise.legend(figure, columns=2)
    return figure
