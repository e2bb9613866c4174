"""The semicircle law of the same mean and variance as a spectrum, to set beside a power law."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Semicircle:
    """density = 2 sqrt(radius^2 - (x - centre)^2) / (pi radius^2), zero outside."""

    centre: float
    radius: float

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return the density at ``x``."""
        inside = np.maximum(self.radius**2 - (x - self.centre) ** 2, 0)
        return 2 * np.sqrt(inside) / (np.pi * self.radius**2)


def fit_semicircle(values: np.ndarray, weights: np.ndarray) -> Semicircle:
    """Return the law with the mean and the variance of weighted eigenvalues: radius 2 sigma."""
    known = np.isfinite(values) & (weights > 0)
    values, shares = values[known], weights[known] / weights[known].sum()
    centre = float(shares @ values)
    return Semicircle(centre, 2 * float(np.sqrt(shares @ (values - centre) ** 2)))
