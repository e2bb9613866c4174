"""The layers job: each layer of checkpoints of a run on its splits, one part each.

A part holds the eigenspaces too, a variable for each layer, which the cube leaves out: the overlap
job reads them one by one.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.anatomy.full_kronecker import full_kronecker
from pipeline.anatomy.layerwise import KroneckerAnatomy, LayerAnatomy, Network, layer_anatomy
from pipeline.api import OpenRun
from pipeline.cubes.eigenspaces import eigenspaces
from pipeline.curvature.layer import layer_names
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.memory import budget
from pipeline.device import release
from pipeline.errors import AnatomyError, TooLittleMemoryError
from pipeline.jobs.parts import Record, options_of, write_parts
from pipeline.progress import Progress, say
from pipeline.tasks import Access, LayersJob

ROUNDING = 1e-6  # of the largest eigenvalue: what float32 leaves of a zero


def write_layers(files: Sequence[Path], job: LayersJob, access: Access | None = None) -> None:
    """Write the layers parts ``files``."""
    write_parts(files, job, access, partial(_part, job), labels={})


def _part(job: LayersJob, run: OpenRun, split: str, record: Record) -> xr.Dataset:
    """Return the layers of one network on one split."""
    settings = job.layers
    network = Network(
        model=run.model,
        data=getattr(run, split),
        classes=len(run.class_names),
        settings=settings,
        seed=run.spec.seed,
        room=budget(job.compute.basis_gb, run.device),
        options=options_of(job),
        wrap=record,
    )
    found: dict[str, LayerAnatomy] = {}
    names = settings.names or layer_names(run.model)
    with Progress(total=len(names), label="layers", final=True) as shown:
        for name in names:
            release()  # what the layer before took
            try:
                found[name] = layer_anatomy(network, name)
            except TooLittleMemoryError:
                raise
            except AnatomyError as error:
                if settings.names:
                    raise
                say(f"{run.spec.path}: left out, {error}")
            shown.advance(note=f"({name})")
    if not found:
        return xr.Dataset()
    layers = xr.Variable("layer", np.array(list(found), dtype=object))
    one_by_one = [_of_layer(layer, network) for layer in found.values()]
    # Minimal: a coordinate of the first layer, of its stored vectors, may be missing in others.
    part = xr.concat(one_by_one, dim=layers, join="outer", coords="minimal")
    release()
    part = part.merge(_of_whole(network, list(found)), join="outer")
    vectors = {name: layer.eigenvectors.T.numpy() for name, layer in found.items()}
    return part.merge(eigenspaces(vectors))


def _of_whole(network: Network, layers: list[str]) -> xr.Dataset:
    """Return the whole Hessian beside its Kronecker parts, nothing where a layer has no such."""
    try:
        found = full_kronecker(network, layers)
    except NotLinearizedError:
        return xr.Dataset()
    return _counted(
        {
            "hessian_eigenvalue": ("order", found.true),
            "full_kronecker_eigenvalue": ("order", found.approximate),
            "full_kronecker_overlap": ("k", found.overlap),
            "full_kronecker_sure": float(found.sure),
        }
    )


def _of_layer(layer: LayerAnatomy, network: Network) -> xr.Dataset:
    settings = network.settings
    variables: dict[str, Any] = {
        "outputs": float(layer.outputs),
        "inputs": float(layer.inputs),
        "pairs_asked": float(layer.asked),
        "layer_complete": float(layer.complete),
        "closed_form": layer.closed_form,
        "residual_share": layer.residual_share,
        "layer_eigenvalue": ("order", layer.eigenvalues),
        "layer_residual": ("order", layer.residuals),
        "singular_value": (("order", "index"), layer.singular_values),
    }
    if layer.outputs * layer.inputs <= settings.elements:
        shown = layer.eigenvectors[:, : settings.shown].T.numpy()
        variables["eigenvector"] = (("shown", "element"), shown)
    if layer.kronecker is not None:
        variables |= _of_kronecker(layer.kronecker, settings.index, network.classes)
    return _counted(variables)


def _of_kronecker(found: KroneckerAnatomy, index: int, classes: int) -> dict[str, Any]:
    autocorrelation, output = found.autocorrelation, found.output_hessian
    return {
        "autocorrelation_eigenvalue": ("index", autocorrelation[:index]),
        "spectral_ratio": _ratio(autocorrelation, 0),
        "mean_alignment": found.mean_alignment,
        "output_hessian_eigenvalue": ("index", output[:index]),
        "output_gap": _ratio(output, classes - 2),
        "rowspace_overlap": found.rowspace_overlap,
        "kronecker_eigenvalue": ("order", found.eigenvalues),
        "kronecker_overlap": ("k", found.overlap),
        "decoupling_error": found.decoupling_error,
        "decoupling_error_stderr": found.decoupling_error_stderr,
        "correspondence_output": (("order", "index"), found.correspondence_output),
        "correspondence_input": (("order", "index"), found.correspondence_input),
    }


def _ratio(values: np.ndarray, place: int) -> float:
    """Return the ratio of an eigenvalue to the next one, NaN where there is none but rounding."""
    if place + 1 >= len(values) or not values[place + 1] > ROUNDING * values[0]:
        return np.nan
    return float(values[place] / values[place + 1])


def _counted(variables: dict[str, Any]) -> xr.Dataset:
    """Return the variables, each dimension counted, so that lengths may differ: NaN beyond them."""
    arrays = []
    for name, value in variables.items():
        dims, data = value if isinstance(value, tuple) else ((), value)
        dims = (dims,) if isinstance(dims, str) else dims
        coords = {
            dim: np.arange(size) + (dim == "k")
            for dim, size in zip(dims, np.shape(data), strict=True)
        }
        arrays.append(xr.DataArray(data, dims=dims, coords=coords, name=name))
    return xr.merge(arrays, join="outer")
