"""The spectrum of one matrix of one network: outliers one by one, the bulk by quadrature."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.curvature.base import Deflated, LinearOperator
from pipeline.spectra.eigenpairs import Eigenpairs, top_eigenpairs
from pipeline.spectra.lanczos import Quadrature, lanczos_quadrature
from pipeline.spectra.outliers import Outliers, count_outliers
from pipeline.spectra.trace import Trace, trace_estimate
from pipeline.streams import stream


@dataclass(frozen=True)
class MatrixSpectrum:
    """Top eigenpairs, quadrature of what is left when the converged ones are deflated, trace.

    The whole spectral density is the eigenvalues that were deflated, 1/p each, and the quadrature,
    (p - deflated)/p in all.
    """

    pairs: Eigenpairs
    bulk: Quadrature
    trace: Trace
    outliers: Outliers

    @property
    def deflated(self) -> int:
        """The number of eigenpairs deflated."""
        return int(self.pairs.converged.sum())


def matrix_spectrum(
    operator: LinearOperator,
    *,
    top: int,
    tolerance: float,
    probes: int,
    steps: int,
    trace_probes: int,
    seed: int,
) -> MatrixSpectrum:
    """Return the spectrum of ``operator``; each random part has its own stream of ``seed``."""
    pairs = top_eigenpairs(operator, top, tolerance=tolerance, seed=stream(seed, "eigenpairs"))
    sure = torch.as_tensor(pairs.converged, device=pairs.vectors.device)
    rest = Deflated(operator, pairs.vectors[:, sure])
    bulk = lanczos_quadrature(
        rest, steps=steps, seeds=[stream(seed, "probe", i) for i in range(probes)]
    )
    left = trace_estimate(rest, seeds=[stream(seed, "trace", i) for i in range(trace_probes)])
    values = pairs.values[pairs.converged]
    trace = Trace(left.value + float(np.sum(values)), left.standard_error, left.probes)
    return MatrixSpectrum(pairs, bulk, trace, count_outliers(values))
