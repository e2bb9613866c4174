"""The spectrum job: every checkpoint of a run, on every split, one part each."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pipeline.anatomy.spectrum import (
    DEGREES,
    MatrixSpectrum,
    dense_bytes,
    dense_spectrum,
    gram_spectrum,
    matrix_spectrum,
)
from pipeline.api import OpenRun, open_run
from pipeline.atomic import remove
from pipeline.cubes.store import attributes, write_part
from pipeline.curvature.gram import factor_bytes, gauss_newton_factors
from pipeline.curvature.memory import basis_budget
from pipeline.curvature.parallel import from_first_rank, ranks, wait_for_all
from pipeline.curvature.problem import Options
from pipeline.curvature.recorded import Recorded
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
    """Write the spectrum parts of the run in ``folder``, moved to their places when all are done.

    Finished parts, and the products of a long one, wait in scratch, named after the network's
    checksum; a rerun finds them.  In a data-parallel job all ranks compute and the first writes.
    """
    run = Run.from_path(folder)
    device = prepare(job.compute)
    first = ranks()[0] == 0
    targets = {
        (epoch, split): part_path(results_of(folder), run, epoch, split, "spectrum")
        for epoch in job.epochs
        for split in job.spectrum.splits
    }
    scratch = scratch_folder(results_of(folder) / "curvature" / run.path, job, first_rank=first)
    checksums = {epoch: open_run(folder, epoch).checksum[:16] for epoch in job.epochs}
    staged = {
        (epoch, split): scratch / f"epoch{epoch}-{split}-{checksums[epoch]}.zarr.zip"
        for epoch, split in targets
    }
    waiting = from_first_rank([place for place in targets if not staged[place].exists()])
    done = len(targets) - len(waiting)
    label = f"{run.path} spectra"
    for epoch, split in progress(waiting, total=len(targets), done=done, label=label):
        opened = open_run(folder, epoch, device=device, dtype=getattr(torch, job.compute.dtype))
        products = staged[epoch, split].with_suffix(".products")
        part = _part(opened, split, job, products)
        if first:
            write_part(part, staged[epoch, split])
            remove(products)
        wait_for_all()
    if first:
        for place, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged[place], target)
        remove(scratch)
    wait_for_all()


def _part(run: OpenRun, split: str, job: SpectrumJob, products: Path) -> xr.Dataset:
    """Return the part of one checkpoint on one split; without spectra if the network diverged."""
    attrs = attributes(
        provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device=device_name(run.device),
            seeds={"run": run.spec.seed},
            checkpoint=run.checksum,
        )
    )
    matrices = np.array(job.spectrum.matrices, dtype=object)
    classes = float(len(run.class_names))
    empty = xr.Dataset({"classes": classes}, coords={"matrix": matrices}, attrs=attrs)
    if run.diverged:
        say(f"{run.spec.path}: diverged before epoch {run.epoch}, no spectrum")
        return empty
    try:
        found = [_of_matrix(_spectrum(name, run, split, job, products)) for name in matrices]
    except FloatingPointError as error:
        say(f"{run.spec.path}, epoch {run.epoch}: taken as diverged, {error}")
        return empty
    part = xr.concat(found, dim=xr.Variable("matrix", matrices), join="outer")
    part["dimension"] = float(sum(p.numel() for p in run.model.parameters()))
    part["classes"] = classes
    return part.assign_attrs(attrs)


def _spectrum(
    matrix: str, run: OpenRun, split: str, job: SpectrumJob, products: Path
) -> MatrixSpectrum:
    """Return one matrix's spectrum, whole where it is small, by Lanczos where it is not."""
    data, compute, settings = getattr(run, split), job.compute, job.spectrum
    options: Options = {
        "chunk": compute.chunk,
        "memory_gb": compute.memory_gb,
        "compiled": compute.compiled,
        "vectors": compute.vectors,
    }
    operator = OPERATORS[matrix](run.model, data, **options)
    room = basis_budget(compute.basis_gb, run.device)
    p, factors = operator.shape[0], len(data.labels) * len(run.class_names)
    alone = ranks()[1] == 1
    if matrix == "G" and alone and factors <= min(p, settings.exact):
        taken = factor_bytes(len(data.labels), len(run.class_names), p, operator.dtype)
        if taken <= room:
            found = gauss_newton_factors(run.model, data, **options)
            return gram_spectrum(operator, found, matrix, settings)
    if p <= settings.exact and dense_bytes(p) <= room:
        return dense_spectrum(operator, matrix, settings)
    recorded = Recorded(operator, products / matrix)
    return matrix_spectrum(recorded, matrix, settings, seed=run.spec.seed, basis_bytes=room)


def _of_matrix(spectrum: MatrixSpectrum) -> xr.Dataset:
    pairs, bulk, trace = spectrum.pairs, spectrum.bulk, spectrum.trace
    # What did not converge is no eigenvalue.
    values = np.where(pairs.converged, pairs.values, np.nan)
    highest = len(values) - pairs.bottom
    moments, errors = zip(*spectrum.moments, strict=True)
    variables: dict[str, Any] = {
        "ritz_value": (("probe", "node"), bulk.nodes),
        "ritz_weight": (("probe", "node"), bulk.weights),
        "eigenvalue": ("order", values[:highest]),
        "residual": ("order", pairs.residuals[:highest]),
        "converged": ("order", pairs.converged[:highest].astype(float)),
        "bottom_eigenvalue": ("from_bottom", values[highest:][::-1]),
        "bottom_residual": ("from_bottom", pairs.residuals[highest:][::-1]),
        "exact": float(spectrum.exact),
        "basis_kept": np.nan if spectrum.exact else float(bulk.kept),
        "deflated_count": float(spectrum.deflated),
        "trace": trace.value,
        "trace_stderr": trace.standard_error,
        "square_trace": trace.square,
        "square_trace_stderr": trace.square_standard_error,
        "moment": ("degree", np.array(moments)),
        "moment_stderr": ("degree", np.array(errors)),
        "outlier_count": float(spectrum.outliers.count),
        "outlier_fewest": float(spectrum.outliers.fewest),
        "outlier_most": float(spectrum.outliers.most),
        "bulk_edge": spectrum.outliers.edge,
    }
    coords = {
        "order": np.arange(highest),
        "from_bottom": np.arange(pairs.bottom),
        "degree": np.array(DEGREES),
    }
    return xr.Dataset(variables, coords=coords)
