"""How many eigenvalues stand apart from the bulk: a number by a stated criterion."""

from dataclasses import dataclass

import numpy as np

# A gap parts outliers from the bulk where, on a logarithmic axis, it is this many times the mean
# spacing of the eigenvalues below it.  At the soft edge of a random matrix the first spacing is
# about 1.4 times the mean of the next ones (zeros of the Airy function); 3 is well beyond that.
ISOLATION = 3.0
FEWEST_SPACINGS = 4


@dataclass(frozen=True)
class Outliers:
    """``count`` eigenvalues lie above ``edge``, the largest eigenvalue of the bulk."""

    count: int
    edge: float


def count_outliers(values: np.ndarray) -> Outliers:
    """Return the outliers among the largest eigenvalues, sorted from the largest.

    They end at the most isolated gap: the one whose width, in log lambda, is the largest multiple
    of the mean spacing of the given positive eigenvalues below it, at least ``FEWEST_SPACINGS`` of
    them.  Where no gap is ``ISOLATION`` times that mean, there are no outliers.  Of k eigenvalues
    at most k - 1 - FEWEST_SPACINGS can be found to be outliers.
    """
    if len(values) == 0:
        return Outliers(0, float("nan"))
    spacings = -np.diff(np.log(values[values > 0]))
    gaps = np.arange(max(0, len(spacings) - FEWEST_SPACINGS))
    below = np.array([spacings[gap + 1 :].mean() for gap in gaps])
    isolation = spacings[gaps] / np.maximum(below, np.finfo(float).tiny)
    if len(gaps) == 0 or isolation.max() < ISOLATION:
        return Outliers(0, float(values[0]))
    last = int(isolation.argmax())
    return Outliers(last + 1, float(values[last + 1]))
