"""The spectrum job: every checkpoint of a run, on every split, one part each."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pipeline.anatomy.spectrum import MatrixSpectrum, matrix_spectrum
from pipeline.api import OpenRun, open_run
from pipeline.atomic import remove
from pipeline.cubes.store import attributes, write_part
from pipeline.curvature.sandwich import gauss_newton
from pipeline.curvature.second_order import hessian, residual
from pipeline.device import device_name, prepare
from pipeline.progress import progress, say
from pipeline.provenance import provenance
from pipeline.runs import Run, part_path, results_of
from pipeline.scratch import scratch_folder
from pipeline.tasks import SpectrumJob

OPERATORS = {"Hess": hessian, "G": gauss_newton, "H": residual}


def write_spectra(folder: Path, job: SpectrumJob) -> None:
    """Write the spectrum parts of the run in ``folder``, all of them or none.

    Finished parts wait in scratch, where a rerun finds them.
    """
    run = Run.from_path(folder)
    device = prepare(job.compute)
    targets = {
        (epoch, split): part_path(results_of(folder), run, epoch, split, "spectrum")
        for epoch in job.epochs
        for split in job.spectrum.splits
    }
    scratch = scratch_folder(results_of(folder) / "curvature" / run.path, job)
    staged = {place: scratch / f"epoch{place[0]}-{place[1]}.zarr.zip" for place in targets}
    waiting = [place for place in targets if not staged[place].exists()]
    done = len(targets) - len(waiting)
    label = f"{run.path} spectra"
    for epoch, split in progress(waiting, total=len(targets), done=done, label=label):
        opened = open_run(folder, epoch, device=device, dtype=getattr(torch, job.compute.dtype))
        write_part(_part(opened, split, job), staged[epoch, split])
    for place, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged[place], target)
    remove(scratch)


def _part(run: OpenRun, split: str, job: SpectrumJob) -> xr.Dataset:
    """Return the part of one checkpoint on one split; empty for a network that diverged."""
    attrs = attributes(
        provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device=device_name(run.device),
            seeds={"run": run.spec.seed},
            checkpoint=run.checksum,
        )
    )
    if run.diverged:
        say(f"{run.spec.path}: diverged before epoch {run.epoch}, no spectrum")
        return xr.Dataset(attrs=attrs)
    settings = job.spectrum
    found = {
        matrix: matrix_spectrum(
            OPERATORS[matrix](
                run.model,
                getattr(run, split),
                chunk=job.compute.chunk,
                memory_gb=job.compute.memory_gb,
            ),
            top=settings.top[matrix],
            tolerance=settings.tolerance,
            probes=settings.probes,
            steps=settings.steps,
            trace_probes=settings.trace_probes,
            seed=run.spec.seed,
        )
        for matrix in settings.matrices
    }
    part = xr.concat(
        [_of_matrix(spectrum) for spectrum in found.values()],
        dim=xr.Variable("matrix", np.array(list(found), dtype=object)),
        join="outer",
    )
    part["dimension"] = float(sum(p.numel() for p in run.model.parameters()))
    part["classes"] = float(len(run.class_names))
    return part.assign_attrs(attrs)


def _of_matrix(spectrum: MatrixSpectrum) -> xr.Dataset:
    pairs, bulk = spectrum.pairs, spectrum.bulk
    variables: dict[str, Any] = {
        "ritz_value": (("probe", "node"), bulk.nodes),
        "ritz_weight": (("probe", "node"), bulk.weights),
        # What did not converge is no eigenvalue.
        "eigenvalue": ("order", np.where(pairs.converged, pairs.values, np.nan)),
        "residual": ("order", pairs.residuals),
        "converged": ("order", pairs.converged.astype(float)),
        "deflated_count": float(spectrum.deflated),
        "trace": spectrum.trace.value,
        "trace_stderr": spectrum.trace.standard_error,
        "outlier_count": float(spectrum.outliers.count),
        "bulk_edge": spectrum.outliers.edge,
    }
    orders = {"order": np.arange(len(pairs.values))}
    return xr.Dataset(variables, coords=orders)
