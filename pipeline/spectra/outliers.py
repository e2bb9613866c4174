"""How many eigenvalues stand apart from the bulk: a number by a stated criterion."""

from dataclasses import dataclass

import numpy as np

# A gap parts outliers from the bulk where, on a logarithmic axis, it is this many times the mean
# spacing of the eigenvalues below it.  At the soft edge of a random matrix the first spacing is
# about 1.5 times the mean of the next five (zeros of the Airy function), with a deviation of about
# half of that.
ISOLATION = 2.5
FEWEST_SPACINGS = 6


@dataclass(frozen=True)
class Outliers:
    """``count`` eigenvalues lie above ``edge``, the largest eigenvalue of the bulk."""

    count: int
    edge: float


def count_outliers(values: np.ndarray) -> Outliers:
    """Return the outliers among the largest eigenvalues, sorted from the largest.

    They end at the lowest isolated gap: one whose width, in log lambda, is at least ``ISOLATION``
    times the mean spacing of the given positive eigenvalues below it, at least ``FEWEST_SPACINGS``
    of them.  Without such a gap there are no outliers.  Of k eigenvalues at most
    k - 1 - FEWEST_SPACINGS can be found to be outliers.
    """
    spacings = -np.diff(np.log(values[values > 0]))
    for gap in range(len(spacings) - FEWEST_SPACINGS - 1, -1, -1):
        if spacings[gap] > ISOLATION * spacings[gap + 1 :].mean():
            return Outliers(gap + 1, float(values[gap + 1]))
    return Outliers(0, float(values[0]) if len(values) else float("nan"))
