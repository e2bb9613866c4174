"""The PAC-Bayes bound of a Gaussian posterior beside a Gaussian prior: pure functions.

Prior P = N(w_0, lambda I), lambda = c exp(-j / b) with an integer j >= 1; posterior Q, a Gaussian
with a diagonal covariance in some orthonormal basis.  With probability 1 - delta over the training
set S, for all j and Q at once,

    kl(error on S || error) <= (KL(Q || P) + 2 log j + log(pi^2 |S| / 6 delta)) / (|S| - 1)

Source: D, PAC-Bayes bounds (which prints KL(P || Q), a misprint), after Dziugaite and Roy (2017).
"""

from dataclasses import dataclass
from math import expm1, inf, isfinite, log, log1p, pi, sqrt

import torch
from scipy.optimize import brentq

ALMOST_ONE = 1 - 2.0**-53  # the largest double below 1
ROOT_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PriorScales:
    """The prior's admissible variances c exp(-j / b), j = 1, 2, ...: ``ceiling`` c, ``steps`` b."""

    ceiling: float
    steps: float

    def index(self, half_log_lambda: torch.Tensor) -> torch.Tensor:
        """Return j of (1/2) log lambda, not rounded: b log(c / lambda)."""
        return self.steps * (log(self.ceiling) - 2 * half_log_lambda)

    def half_log_lambda(self, index: float) -> float:
        """Return (1/2) log lambda of an index."""
        return (log(self.ceiling) - index / self.steps) / 2

    def nearest(self, half_log_lambda: float) -> int:
        """Return the admissible index nearest to b log(c / lambda), 1 at least."""
        return max(1, round(float(self.index(torch.tensor(half_log_lambda, dtype=torch.float64)))))


def gaussian_kl(
    distance: torch.Tensor, log_scale: torch.Tensor, half_log_lambda: torch.Tensor
) -> torch.Tensor:
    """Return KL(Q || P) in nats, of the coordinates whose log standard deviations are given.

    ``distance`` is ||w - w_0||^2 over the same coordinates: no rotation changes it, so that w need
    not be known in the posterior's basis.
    """
    ratio = 2 * (log_scale - half_log_lambda)  # log(s^2 / lambda)
    away = distance * torch.exp(-2 * half_log_lambda)
    return ((torch.expm1(ratio) - ratio).sum() + away) / 2


def complexity(
    kl: torch.Tensor, index: torch.Tensor, *, examples: int, delta: float
) -> torch.Tensor:
    """Return the right-hand side of the bound on kl(error on S || error), in nats."""
    union = 2 * torch.log(index) + log(pi**2 * examples / (6 * delta))
    return (kl + union) / (examples - 1)


def binary_kl(q: float, p: float) -> float:
    """Return kl(q || p) of two coins in nats, infinite where p excludes what q allows."""
    if (p == 0 and q > 0) or (p == 1 and q < 1):
        return inf
    heads = q * log(q / p) if q > 0 else 0.0
    # log((1 - q) / (1 - p)) without the cancellation in 1 - p.
    tails = (1 - q) * (log1p(-q) - log1p(-p)) if q < 1 else 0.0
    return max(0.0, heads + tails)


def invert_binary_kl(q: float, budget: float) -> float:
    """Return the largest p with kl(q || p) <= ``budget``, to 1e-9.

    Brent's method between q and Pinsker's q + sqrt(budget / 2), which kl exceeds.  Raises
    ValueError where q is no probability or the budget is negative.
    """
    if not 0 <= q <= 1 or not budget >= 0:
        raise ValueError(
            f"kl inverted at q = {q}, budget {budget}: q lies in [0, 1], budget is >= 0"
        )
    high = min(q + sqrt(budget / 2), ALMOST_ONE)
    if high <= q or not isfinite(budget) or binary_kl(q, high) <= budget:
        return 1.0 if high == ALMOST_ONE else max(q, high)
    if q == 0:
        return -expm1(-budget)
    return brentq(lambda p: binary_kl(q, p) - budget, q, high, xtol=ROOT_TOLERANCE)


def sampled_limit(error: float, *, samples: int, delta: float) -> float:
    """Return what an error estimated from so many independent draws is below, sure to 1 - delta.

    Source: D, after Langford and Caruana (2001): kl(estimate || error) <= log(2 / delta) / samples.
    """
    return invert_binary_kl(error, log(2 / delta) / samples)


def error_bound(kl: float, index: int, error: float, *, examples: int, delta: float) -> float:
    """Return the bound on Q's error, given its ``error`` on the training set."""
    terms = (torch.tensor(value, dtype=torch.float64) for value in (kl, float(index)))
    return invert_binary_kl(error, float(complexity(*terms, examples=examples, delta=delta)))
