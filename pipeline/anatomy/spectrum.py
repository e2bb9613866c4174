"""The spectrum of one matrix of one network: outliers one by one, the bulk by quadrature.

Or, where the matrix is small, every eigenvalue.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.curvature.base import Deflated, LinearOperator
from pipeline.curvature.gram import Factors
from pipeline.curvature.memory import refuse_basis_beyond_memory
from pipeline.curvature.watched import watched
from pipeline.errors import AnatomyError
from pipeline.progress import say
from pipeline.spectra.eigenpairs import Eigenpairs, basis_size, most_products, top_eigenpairs
from pipeline.spectra.lanczos import Quadrature, lanczos_quadrature, norms
from pipeline.spectra.outliers import Outliers, count_outliers
from pipeline.spectra.trace import Trace, trace_estimate
from pipeline.stages import Spectrum
from pipeline.streams import stream

DEGREES = (1, 2)  # of the moments that are checked against the trace estimates
LEAST_ROOM = 6  # vectors that a basis needs beyond the pairs asked for, to move at all


@dataclass(frozen=True)
class MatrixSpectrum:
    """Eigenpairs, quadrature of what is left when the converged ones are deflated, traces.

    The whole spectral density is the eigenvalues that were deflated, 1/p each, and the quadrature,
    (p - deflated)/p in all.  ``moments`` are trace(A) and trace(A^2) by these two, each with its
    standard error; ``trace`` estimates the same from vectors of its own.  ``exact``:
    all eigenvalues (but zeros) are known, and nothing is estimated.
    """

    pairs: Eigenpairs
    bulk: Quadrature
    trace: Trace
    moments: tuple[tuple[float, float], ...]
    outliers: Outliers
    exact: bool

    @property
    def deflated(self) -> int:
        """The number of eigenpairs deflated."""
        return int(self.pairs.converged.sum())


def matrix_spectrum(
    operator: LinearOperator, matrix: str, settings: Spectrum, *, seed: int, basis_bytes: int
) -> MatrixSpectrum:
    """Return the spectrum of ``operator``; each random part has its own stream of ``seed``.

    Raises AnatomyError where ``basis_bytes`` has no room for the eigenpairs asked for, and
    FloatingPointError where products are not finite.
    """
    pairs = _pairs(operator, matrix, settings, seed=seed, basis_bytes=basis_bytes)
    sure = pairs.vectors[:, torch.as_tensor(pairs.converged, device=pairs.vectors.device)]
    steps = settings.probes * min(settings.steps, operator.shape[0] - sure.shape[1])
    refuse_basis_beyond_memory(operator, settings.steps * operator.vectors, basis_bytes)
    with watched(operator, label=f"{matrix} bulk", total=steps) as counted:
        bulk = lanczos_quadrature(
            Deflated(counted, sure),
            steps=settings.steps,
            seeds=[stream(seed, "probe", i) for i in range(settings.probes)],
            basis_bytes=basis_bytes,
        )
    with watched(operator, label=f"{matrix} traces", total=settings.trace_probes) as counted:
        left = trace_estimate(
            Deflated(counted, sure),
            seeds=[stream(seed, "trace", i) for i in range(settings.trace_probes)],
        )
    values = pairs.values[pairs.converged]
    sums = [float(np.sum(values**degree)) for degree in DEGREES]
    trace = Trace(
        left.value + sums[0],
        left.standard_error,
        left.square + sums[1],
        left.square_standard_error,
        left.probes,
    )
    estimates = [bulk.moment(degree) for degree in DEGREES]
    moments = tuple((sums[i] + value, error) for i, (value, error) in enumerate(estimates))
    top = settings.top[matrix]
    highest = pairs.values[:top][pairs.converged[:top]]
    return MatrixSpectrum(pairs, bulk, trace, moments, count_outliers(highest), exact=False)


def _pairs(
    operator: LinearOperator, matrix: str, settings: Spectrum, *, seed: int, basis_bytes: int
) -> Eigenpairs:
    """Return the extreme eigenpairs that are asked for, where they have room."""
    top, bottom = settings.top[matrix], settings.bottom.get(matrix, 0)
    p = operator.shape[0]
    # The basis and its images, and at the end the pairs' own.
    room = basis_bytes // (2 * p * operator.dtype.itemsize) - (top + bottom)
    if room < min(p, top + bottom + LEAST_ROOM):
        raise AnatomyError(
            f"spectrum.top and bottom of {matrix} ask for {top + bottom} eigenpairs of dimension "
            f"{p}, but compute.basis_gb has room for a basis of {room} vectors. Raise "
            "compute.basis_gb or lower spectrum.top"
        )
    refuse_basis_beyond_memory(operator, 2 * basis_size(top + bottom), basis_bytes)
    most = most_products(top + bottom)
    with watched(operator, label=f"{matrix} eigenpairs", total=most, at_most=True) as counted:
        pairs = top_eigenpairs(
            counted,
            top,
            bottom=bottom,
            tolerance=settings.tolerance,
            seed=stream(seed, "eigenpairs"),
            basis=min(room, basis_size(top + bottom)),
        )
    if not pairs.complete:
        say(f"{matrix}: eigenvalues may be missing among the {top} largest or {bottom} smallest")
    return pairs


def dense_bytes(p: int) -> int:
    """Return the bytes that ``dense_spectrum`` takes: some (p, p) matrices in float64."""
    return 4 * p**2 * torch.float64.itemsize


def dense_spectrum(operator: LinearOperator, matrix: str, settings: Spectrum) -> MatrixSpectrum:
    """Return all eigenvalues of ``operator`` from its dense matrix, solved in float64."""
    p = operator.shape[0]
    identity = torch.eye(p, dtype=operator.dtype, device=operator.device)
    A = operator.matmat(identity).double()
    if not bool(torch.isfinite(A).all()):
        raise FloatingPointError("products are not finite")
    values, vectors = torch.linalg.eigh((A + A.T) / 2)
    return _whole(operator, values.flip(0), vectors.flip(1), matrix, settings)


def gram_spectrum(
    operator: LinearOperator, factors: Factors, matrix: str, settings: Spectrum
) -> MatrixSpectrum:
    """Return all non-zero eigenvalues of G = rows^T rows from the Gram matrix rows rows^T."""
    gram = factors.gram()
    if not bool(torch.isfinite(gram).all()):
        raise FloatingPointError("the factors of G are not finite")
    values, left = torch.linalg.eigh(gram)
    values, left = values.flip(0), left.flip(1)
    # Of a Gram matrix larger than G the rest is G's zeros, counted twice.
    values = values[: operator.shape[0]]
    top = left[:, : settings.top[matrix]].to(operator.dtype)
    vectors = torch.linalg.qr(factors.rows.T @ top)[0]
    return _whole(operator, values, vectors, matrix, settings)


def _whole(
    operator: LinearOperator,
    values: torch.Tensor,
    vectors: torch.Tensor,
    matrix: str,
    settings: Spectrum,
) -> MatrixSpectrum:
    """Return the exact spectrum, the residuals of its top pairs measured with ``operator``."""
    p, count = operator.shape[0], len(values)
    top = min(settings.top[matrix], count, vectors.shape[1])
    V = vectors[:, :top].to(operator.dtype)
    misses = norms((operator.matmat(V) - V * values[:top].to(V.dtype)).T)
    residuals = np.full(count, np.nan)
    residuals[:top] = misses.cpu().numpy()
    found = values.cpu().numpy()
    nodes = np.full((settings.probes, settings.steps), np.nan)
    weights = np.zeros_like(nodes)
    nodes[:, 0], weights[:, 0] = 0.0, 1.0  # what is not among the eigenvalues is zero
    bulk = Quadrature(nodes, weights, p - count, kept=settings.steps)
    sums = [float(np.sum(found**degree)) for degree in DEGREES]
    converged = ~(residuals > settings.tolerance * np.abs(found).max())
    return MatrixSpectrum(
        Eigenpairs(
            found,
            V,
            residuals,
            converged,
            products=0,
            complete=bool(converged.all()),
            confidence=1.0,
        ),
        bulk,
        Trace(sums[0], 0.0, sums[1], 0.0, probes=0),
        tuple((value, 0.0) for value in sums),
        count_outliers(found[:top]),
        exact=True,
    )
