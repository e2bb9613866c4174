"""The bounds job: a run's PAC-Bayes bound by one method."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pipeline.anatomy.bounds import Task, bound_found, check_comparable, optimised
from pipeline.anatomy.posterior import Posterior, VarianceCurve, variance_curves
from pipeline.api import OpenRun, open_run
from pipeline.cubes.assemble import padded
from pipeline.cubes.store import attributes, write_part
from pipeline.device import device_name, prepare, within_memory
from pipeline.jobs.parts import options_of
from pipeline.progress import say
from pipeline.provenance import provenance
from pipeline.runs import Run, run_folder
from pipeline.scratch import only_maker, scratch_folder
from pipeline.tasks import Access, BoundsJob

BINS = 40  # points of a curve of variance against curvature


@within_memory("Lower bounds.batch or compute.chunk, or set compute.stream to true")
def write_bound(
    file: Path, job: BoundsJob, access: Access | None = None, *, save_every: float
) -> None:
    """Write the part ``file``, .../curvature/<run>/<method>/bounds.zarr.zip.

    The posterior waits in scratch, so that a rerun of a killed job goes on from it.
    """
    device = prepare(job.compute)
    folder = run_folder(file.parents[8], Run.from_path(file.parents[1]))
    opened = {"device": device, "dtype": getattr(torch, job.compute.dtype), "access": access}
    with only_maker(file), scratch_folder(file.parent, job) as scratch:
        run, initial = open_run(folder, **opened), open_run(folder, 0, **opened)
        state = scratch / f"{run.key}-{initial.key}.safetensors"
        part = _part(job, run, initial, state, save_every)
        part["classes"] = float(len(run.class_names))
        part.attrs = attributes(
            provenance(
                settings=job.model_dump(mode="json"),
                code=job.code,
                device=device_name(device),
                seeds={"run": run.spec.seed},
                checkpoint=run.checksum,
                initial=initial.checksum,
            )
        )
        write_part(part, file)


def _part(
    job: BoundsJob, run: OpenRun, initial: OpenRun, state: Path, save_every: float
) -> xr.Dataset:
    """Return the bound of one network by one method; nothing where it or the search diverged."""
    if run.diverged:
        say(f"{run.spec.path}: diverged before epoch {run.epoch}, there is no bound")
        return xr.Dataset()
    check_comparable(run.model, initial.model)
    (method,) = job.bounds.methods
    task = Task(
        network=run.model,
        initial=initial.model,
        train=run.train,
        test=run.test,
        settings=job.bounds,
        method=method,
        seed=run.spec.seed,
        options=options_of(job),
        label=f"{run.spec.path} {method}",
    )
    try:
        posterior = optimised(task, state, save_every=save_every)
    except FloatingPointError as error:
        say(f"{run.spec.path}: no bound, {error}")
        return xr.Dataset()
    return _found(task, posterior)


def _found(task: Task, posterior: Posterior) -> xr.Dataset:
    """Return the bound of a posterior, and its variances."""
    variables: dict[str, Any] = vars(bound_found(task, posterior)) | {
        "samples": float(task.settings.samples),
        "examples": float(len(task.train)),
        "dimension": float(sum(p.numel() for p in task.network.parameters())),
    }
    return xr.Dataset(variables).merge(_curves(variance_curves(posterior, bins=BINS)))


def _curves(curves: dict[str, VarianceCurve]) -> xr.Dataset:
    """Return the curves of all layers, NaN beyond the ends of small ones'."""
    names = {"curvature": "curvature", "posterior_variance": "variance", "coordinates": "count"}
    return xr.Dataset(
        {
            key: (
                ("layer", "bin"),
                padded([getattr(curve, name).cpu().numpy() for curve in curves.values()]),
            )
            for key, name in names.items()
        },
        coords={"layer": np.array(list(curves), dtype=object)},
    )
