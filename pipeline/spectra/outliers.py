"""How many eigenvalues stand apart from the bulk: a number by a stated criterion."""

from dataclasses import dataclass

import numpy as np

# A gap parts outliers from the bulk where, on a logarithmic axis, it is this many standard
# deviations above the mean of the spacings below it.  The first spacing at the soft edge of a
# random matrix is at most 3.4 above the next five (zeros of the Airy function, if they are sharp).
ISOLATION = 4.0
FEWEST_SPACINGS = 6
LEAST_SPREAD = 0.1  # of the mean spacing: equal spacings, as of a lattice, isolate nothing


@dataclass(frozen=True)
class Outliers:
    """``count`` eigenvalues lie above ``edge``, the largest eigenvalue of the bulk."""

    count: int
    edge: float


def count_outliers(values: np.ndarray) -> Outliers:
    """Return the outliers among the largest eigenvalues, sorted from the largest.

    They end at the most isolated gap: the one that is, in log lambda, the most standard deviations
    above the mean of the spacings of the given positive eigenvalues below it, at least
    ``FEWEST_SPACINGS`` of them.  Where that is less than ``ISOLATION`` there are no outliers.  Of k
    eigenvalues at most k - 1 - FEWEST_SPACINGS can be found to be outliers.
    """
    spacings = -np.diff(np.log(values[values > 0]))
    isolation = [_isolation(spacings, gap) for gap in range(len(spacings) - FEWEST_SPACINGS)]
    if isolation and max(isolation) >= ISOLATION:
        count = int(np.argmax(isolation)) + 1
        return Outliers(count, float(values[count]))
    return Outliers(0, float(values[0]) if len(values) else float("nan"))


def _isolation(spacings: np.ndarray, gap: int) -> float:
    below = spacings[gap + 1 :]
    mean = below.mean()
    return (spacings[gap] - mean) / max(below.std(), LEAST_SPREAD * mean)
