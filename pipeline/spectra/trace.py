"""Traces of an operator and of its square from products with sign vectors, with their errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.arguments import checked_seeds
from pipeline.errors import ArgumentError
from pipeline.modes import default_modes
from pipeline.spectra.lanczos import Operator, gaussian, mean_and_error


@dataclass(frozen=True)
class Trace:
    """Unbiased estimates of trace(A) and trace(A^2), with standard errors (NaN for one probe)."""

    value: float
    standard_error: float
    square: float
    square_standard_error: float
    probes: int


@default_modes()
def trace_estimate(operator: Operator, *, seeds: Sequence[int]) -> Trace:
    """Return Hutchinson's estimates: the means of s^T A s and ||A s||^2, a sign vector s per seed.

    For H of a piecewise-linear network, whose diagonal is zero, the trace is zero on average.  Of a
    deflated operator they are the second half of Hutch++ (Meyer, Musco, Musco and Woodruff, 2021),
    with eigenvectors for its subspace.  Raises ArgumentError if ``seeds`` are not distinct whole
    numbers.
    """
    seeds = checked_seeds(seeds)
    signs = torch.stack([gaussian(operator, seed).sign() for seed in seeds], 1)
    images = operator.matmat(signs)
    value, error = mean_and_error(_columns(signs * images))
    square, square_error = mean_and_error(_columns(images.square()))
    return Trace(value, error, square, square_error, len(seeds))


@default_modes()
def xtrace(operator: Operator, *, seeds: Sequence[int]) -> tuple[float, float]:
    """Return the trace and its standard error from 2 x len(seeds) products, by XTrace.

    Each random vector is the test for a deflation by all the others: exact where the rank is less
    than their number.  Source: Epperly, Tropp and Webber (2024), with their normalisation.  Raises
    ArgumentError if there are more seeds than dimensions.
    """
    seeds = checked_seeds(seeds)
    n, p = len(seeds), operator.shape[0]
    if n > p:
        raise ArgumentError(
            f"seeds has {n} entries for a matrix of dimension {p}. Give at most {p}"
        )
    probes = torch.stack([gaussian(operator, seed) for seed in seeds], 1).double()
    probes *= p**0.5 / probes.norm(dim=0)
    Q, R = torch.linalg.qr(operator.matmat(probes.to(operator.dtype)).double())
    Z = operator.matmat(Q.to(operator.dtype)).double()
    H = Q.T @ Z
    W = Q.T @ probes
    # Column i of S is orthogonal to all columns of R but the i-th: leaving one out, in one go.
    S = torch.linalg.inv(R).T
    S = S / S.norm(dim=0)
    X = W - S * (S * W).sum(0)
    scale = (p - n + 1) / (p - W.square().sum(0) + (S * W).sum(0).square())
    T = Z.T @ probes
    quadratic = (X * (H @ X)).sum(0)
    samples = (
        H.trace()
        - (S * (H @ S)).sum(0)
        + scale * (-(T * X).sum(0) + quadratic + (W * S).sum(0) * (S * R).sum(0))
    )
    return mean_and_error(samples.cpu().numpy())


def _columns(products: torch.Tensor) -> np.ndarray:
    return products.sum(0, dtype=torch.float64).cpu().numpy()
