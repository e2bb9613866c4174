"""A power law fitted to a density on logarithmic axes."""

from dataclasses import dataclass

import numpy as np

from pipeline.arguments import checked_number
from pipeline.errors import ArgumentError


@dataclass(frozen=True)
class PowerLaw:
    """density = coefficient * x**exponent for ``low`` <= x <= ``high``, with the fit's R^2."""

    coefficient: float
    exponent: float
    r_squared: float
    low: float
    high: float


def fit_power_law(x: np.ndarray, density: np.ndarray, *, low: float, high: float) -> PowerLaw:
    """Return the least-squares line through (log10 x, log10 density) within [low, high].

    R^2 is that of the line on logarithmic axes, as S reports it.  Fewer than three points give NaN.
    Raises ArgumentError if ``low`` or ``high`` is not finite, or the shapes differ.
    """
    low, high = checked_number(low, "low"), checked_number(high, "high")
    if np.shape(x) != np.shape(density):
        raise ArgumentError(
            f"x and density have the shapes {np.shape(x)} and {np.shape(density)}. Give equal ones"
        )
    inside = (x >= low) & (x <= high) & (density > 0)
    if inside.sum() < 3:
        return PowerLaw(np.nan, np.nan, np.nan, low, high)
    log_x, log_y = np.log10(x[inside]), np.log10(density[inside])
    slope, intercept = np.polyfit(log_x, log_y, 1)
    left = ((log_y - intercept - slope * log_x) ** 2).sum()
    return PowerLaw(
        coefficient=float(10**intercept),
        exponent=float(slope),
        r_squared=float(1 - left / ((log_y - log_y.mean()) ** 2).sum()),
        low=low,
        high=high,
    )
