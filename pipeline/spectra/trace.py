"""The trace of an operator, with its standard error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.lanczos import Operator, gaussian


@dataclass(frozen=True)
class Trace:
    """An unbiased estimate and the standard error of it (NaN for a single probe)."""

    value: float
    standard_error: float
    probes: int


def trace_estimate(operator: Operator, *, seeds: Sequence[int]) -> Trace:
    """Return Hutchinson's estimate of the trace: the mean of s^T A s, one sign vector per seed.

    For H of a piecewise-linear network, whose diagonal is zero, it is zero on average.
    """
    signs = torch.stack([gaussian(operator, seed).sign() for seed in seeds], 1)
    samples = (signs * operator.matmat(signs)).sum(0, dtype=torch.float64).cpu().numpy()
    error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
    return Trace(float(samples.mean()), float(error), len(samples))
