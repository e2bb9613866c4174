"""Eigenspaces of layers, in the parts of the layers cube: written with a part, read one by one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.cubes.store import opened_part

PREFIX = "eigenspace_"


def eigenspaces(vectors: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return eigenvectors (K, p) by layer as variables that no cube takes in."""
    part = xr.Dataset(
        {
            f"{PREFIX}{layer}": ((f"order_{layer}", f"element_{layer}"), own)
            for layer, own in vectors.items()
        }
    )
    for name, own in part.items():
        # Whole, and as it is: random digits do not compress.
        chunks = tuple(max(1, size) for size in own.shape)
        part[name].encoding = {"chunks": chunks, "compressors": None}
    return part


def layer_sizes(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return (outputs, weights, eigenvectors) by layer of a part; none of a diverged network."""
    with opened_part(path) as part:
        layers = part.layer.values.tolist() if "layer" in part.dims else []
        return {
            layer: (int(part.outputs.sel(layer=layer)), *part[f"{PREFIX}{layer}"].shape[::-1])
            for layer in layers
        }


def eigenspace(part: xr.Dataset, layer: str) -> np.ndarray:
    """Return the eigenvectors (K, p) of a layer of an opened part, largest eigenvalue first."""
    return part[f"{PREFIX}{layer}"].values
