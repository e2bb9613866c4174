"""The spectrum job: checkpoints of a run on its splits, one part each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.anatomy.spectrum import (
    DEGREES,
    MatrixSpectrum,
    dense_bytes,
    dense_spectrum,
    gram_spectrum,
    matrix_spectrum,
)
from pipeline.api import OpenRun
from pipeline.curvature.gram import factor_bytes, gauss_newton_factors
from pipeline.curvature.memory import budget
from pipeline.curvature.sandwich import gauss_newton
from pipeline.curvature.second_order import hessian, residual
from pipeline.device import release
from pipeline.jobs.parts import Record, options_of, write_parts
from pipeline.tasks import Access, SpectrumJob

OPERATORS = {"Hess": hessian, "G": gauss_newton, "H": residual}


def write_spectra(files: Sequence[Path], job: SpectrumJob, access: Access | None = None) -> None:
    """Write the spectrum parts ``files``."""
    labels = {"matrix": list(job.spectrum.matrices)}
    write_parts(files, job, access, partial(_part, job), labels=labels)


def _part(job: SpectrumJob, run: OpenRun, split: str, record: Record) -> xr.Dataset:
    """Return the spectra of one network on one split."""
    names = job.spectrum.matrices
    found = [_of_matrix(_spectrum(name, run, split, job, record)) for name in names]
    matrices = xr.Variable("matrix", np.array(names, dtype=object))
    return xr.concat(found, dim=matrices, join="outer", coords="minimal")


def _spectrum(
    matrix: str, run: OpenRun, split: str, job: SpectrumJob, record: Record
) -> MatrixSpectrum:
    """Return one matrix's spectrum, whole where it is small, by Lanczos where it is not."""
    release()  # what the matrix before took
    data, compute, settings = getattr(run, split), job.compute, job.spectrum
    options = options_of(job)
    operator = OPERATORS[matrix](run.model, data, **options)
    room = budget(compute.basis_gb, run.device)
    p, factors = operator.shape[0], len(data.labels) * len(run.class_names)
    if matrix == "G" and factors <= min(p, settings.exact):
        taken = factor_bytes(len(data.labels), len(run.class_names), p, operator.dtype)
        if taken <= room:
            found = gauss_newton_factors(run.model, data, **options)
            return gram_spectrum(operator, found, matrix, settings)
    if p <= settings.exact and dense_bytes(p) <= room:
        return dense_spectrum(operator, matrix, settings)
    return matrix_spectrum(
        record(operator, matrix), matrix, settings, seed=run.spec.seed, basis_bytes=room
    )


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
        "complete": float(pairs.complete),
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
        "bulk_edge_low": spectrum.outliers.edge_low,
        "bulk_edge_high": spectrum.outliers.edge_high,
    }
    coords = {
        "order": np.arange(highest),
        "from_bottom": np.arange(pairs.bottom),
        "degree": np.array(DEGREES),
    }
    return xr.Dataset(variables, coords=coords)
