"""How many eigenvalues stand apart from the bulk: a number by a stated criterion."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ArgumentError

# A gap parts outliers from the bulk where, on a logarithmic axis, it is this many standard
# deviations above the mean of the spacings below it.  The first spacing at the soft edge of a
# random matrix is at most 3.4 above the next five (zeros of the Airy function, if they are sharp).
ISOLATION = 4.0
FEWEST_SPACINGS = 6
LEAST_SPREAD = 0.1  # of the mean spacing: equal spacings, as of a lattice, isolate nothing


@dataclass(frozen=True)
class Outliers:
    """``count`` eigenvalues lie above ``edge``, the largest eigenvalue of the bulk.

    ``fewest`` and ``most`` are the counts by the other gaps that satisfy the criterion: where they
    differ, the spectrum has outliers in several steps, and the count is that uncertain.  So is the
    edge, from ``edge_low`` (of ``most``) to ``edge_high`` (of ``fewest``).  All are NaN if the
    eigenvalues are too few for the criterion.
    """

    count: float
    edge: float
    fewest: float
    most: float
    edge_low: float
    edge_high: float


def count_outliers(values: np.ndarray) -> Outliers:
    """Return the outliers among the largest eigenvalues, sorted from the largest.

    A gap's isolation is by how many standard deviations it exceeds, in log lambda, the mean of the
    spacings of the given positive eigenvalues below it, at least ``FEWEST_SPACINGS`` of them.
    Outliers can end at gaps of isolation ``ISOLATION`` or more, and are counted to the most
    isolated one; without any there are none.  Of k eigenvalues at most k - 1 - FEWEST_SPACINGS can
    be found to be outliers: of fewer than FEWEST_SPACINGS + 2 positive ones none are counted (NaN).
    Raises ArgumentError if values are not finite or not sorted.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all() or (np.diff(values) > 0).any():
        raise ArgumentError(f"values is {values}. Give finite eigenvalues, the largest first")
    spacings = -np.diff(np.log(values[values > 0]))
    gaps = range(len(spacings) - FEWEST_SPACINGS)
    if not gaps:
        return Outliers(*[np.nan] * 6)
    isolation = np.array([_isolation(spacings, gap) for gap in gaps])
    if not (isolation >= ISOLATION).any():
        highest = float(values[0])
        return Outliers(0, highest, 0, 0, highest, highest)
    counts = np.flatnonzero(isolation >= ISOLATION) + 1
    found = int(np.argmax(isolation)) + 1, int(counts.min()), int(counts.max())
    edge, high, low = (float(values[count]) for count in found)
    count, fewest, most = found
    return Outliers(count, edge, fewest, most, edge_low=low, edge_high=high)


def _isolation(spacings: np.ndarray, gap: int) -> float:
    below = spacings[gap + 1 :]
    mean = below.mean()
    spread = max(below.std(), LEAST_SPREAD * mean)
    if spread == 0:  # copies of one eigenvalue below
        return np.inf if spacings[gap] > 0 else 0.0
    return (spacings[gap] - mean) / spread
