"""Hess, G and H side by side at the first checkpoint, where H is as large as G."""

import xarray as xr
from matplotlib.figure import Figure

from pipeline.figures import split
from pipeline.stages import Figures


def draw(cubes: dict[str, xr.Dataset], settings: Figures) -> Figure:
    """Draw a row per network, a column per matrix, on the training examples."""
    return split.draw(cubes, settings, last=False)
