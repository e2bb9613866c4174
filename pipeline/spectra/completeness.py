"""Search for eigenvalues that a converged Krylov basis missed, with a stated confidence.

In exact arithmetic a Krylov space contains one vector of each eigenspace, so it misses copies of a
repeated eigenvalue, and at a loose tolerance members of a cluster.  The search divides the space
into three orthogonal parts: the wanted Ritz vectors U; further, well resolved Ritz vectors X; and
the rest.  C is the compression of A to the rest, T = diag(t) holds the Ritz values of X, and the
rows of R are their residuals.

1. A random unit vector r of the rest starts Lanczos on C, with the orthonormal polynomials p_i.  If
   C has an eigenvalue above y, which exceeds all Ritz values of C, its unit eigenvector v satisfies
   |p_i(y) (v . r)| < 1 for every i.  (v . r)^2 exceeds ``least_weight`` with the stated confidence.
   Hence C has no such eigenvalue once p_i(y)^2 > 1 / least_weight (van Dorsselaer, Hochstenbach and
   van der Vorst, 2000; Kuczynski and Wozniakowski, 1992, bound the same probability a priori).
2. If y = limit - lambda_max(R^T (limit - T)^-1 R), no eigenvalue of A in the complement of U
   exceeds ``limit``: the Schur complement of limit - A is positive there.

``limit`` is the smallest wanted value plus the tolerance.  The same vectors serve the lower end,
with -A in place of A.
"""

from enum import Enum

import numpy as np
import torch

from pipeline.spectra.krylov import Krylov, Ritz
from pipeline.spectra.lanczos import norms

SHARE = 1 / 20  # of the distance from limit to C that limit - y may take; tuned on the benchmark
FEWEST_STEPS = 8  # steps of the search for which the basis should have memory


class Outcome(Enum):
    """Outcome of a search: nothing is missing, the basis has improved, or products ran out."""

    COMPLETE = "complete"
    IMPROVED = "improved"
    UNDECIDED = "undecided"


class End:
    """One end of the spectrum: ``sign`` is 1 for the largest values and -1 for the smallest.

    ``limit`` and ``y`` are those of the module's docstring for the matrix sign * A.  The Cholesky
    pivots d_i of y - T, for the Lanczos matrix T, give p_i(y) / p_(i-1)(y) = d_i / beta_i.
    """

    def __init__(self, sign: int, limit: float, y: float, weight: float) -> None:
        self.sign, self.limit, self.y, self.weight = sign, limit, y, weight
        self.polynomial = 1.0
        self.coupling = 0.0
        self.reached = False  # a Ritz value of C is y or more
        self.excluded = False  # C has no eigenvalue of y or more

    def advance(self, alpha: float, beta: float) -> None:
        """Take one Lanczos step into account; ``beta`` is 0 if the Krylov space is invariant."""
        if self.reached or self.excluded:
            return
        pivot = self.y - self.sign * alpha - self.coupling
        self.reached = bool(pivot <= 0)
        if self.reached:
            return
        self.coupling = beta**2 / pivot
        self.polynomial *= pivot / beta if beta else np.inf
        self.excluded = self.polynomial**2 * self.weight > 1

    def beyond(self, found: Ritz) -> int:
        """Return how many Ritz values are beyond the limit."""
        return int((self.sign * found.values > self.limit).sum())


def search(
    krylov: Krylov, found: Ritz, k: int, bottom: int, *, slack: float, risk: float, most: int
) -> tuple[Outcome, int]:
    """Search for values more than ``slack`` beyond the ``k`` largest and ``bottom`` smallest.

    Returns the outcome and the number of products, at most ``most``.  ``risk`` is the largest
    probability of COMPLETE if such a value exists.
    """
    products = 0
    # A copy of the last wanted value, within the tolerance, may exceed the first y.
    for share, part in ((SHARE, 0.8), (None, 0.2)):
        kept, ends = _divided(krylov, found, k, bottom, slack, share, part * risk)
        if len(kept) < krylov.filled or krylov.size - krylov.filled < FEWEST_STEPS:
            krylov.cut(found, kept)
        first = krylov.filled
        krylov.start(1)
        while products < most:
            if krylov.filled == krylov.size:
                krylov.drop(first)
            krylov.expand()
            products += 1
            invariant = _advance(krylov, ends)
            if all(end.excluded for end in ends):
                return Outcome.COMPLETE, products
            reached = [end for end in ends if end.reached]
            extended = krylov.ritz() if reached else found
            if invariant or any(end.beyond(extended) > end.beyond(found) for end in reached):
                return Outcome.IMPROVED, products
            if reached and share:
                found = extended
                break
        else:
            break
    return Outcome.UNDECIDED, products


def least_weight(n: int, risk: float) -> float:
    """Return the value that (v . r)^2 exceeds with probability 1 - ``risk`` in n dimensions.

    r is uniform on the unit sphere, so the density of v . r is at most sqrt(n / 2 pi).
    """
    return np.pi / (2 * n) * risk**2


def _divided(
    krylov: Krylov,
    found: Ritz,
    k: int,
    bottom: int,
    slack: float,
    share: float | None,
    risk: float,
) -> tuple[np.ndarray, list[End]]:
    """Return the places of U and X among the Ritz values, and the ends to search.

    X grows from the wanted values inwards as long as limit - y is, at both ends, at most ``share``
    of the distance from the limit to the next Ritz value; without ``share``, half of ``slack``.
    """
    values, n = found.values, len(found.values)
    gram = krylov.residual_gram(found, np.arange(n))
    places = {1: k - 1, -1: n - bottom}  # of the innermost wanted values
    signs = [sign for sign, count in ((1, k), (-1, bottom)) if count]
    limits = {sign: sign * values[places[sign]] + slack for sign in signs}
    inner = list(range(k, n - bottom))
    X: list[int] = []

    def loss(sign: int, chosen: list[int]) -> float:
        return _loss(gram[np.ix_(chosen, chosen)], limits[sign] - sign * values[chosen])

    def fits(chosen: list[int]) -> bool:
        left = values[[i for i in inner if i not in chosen]]
        return all(
            loss(sign, chosen)
            <= (share * (limits[sign] - (sign * left).max()) if share else slack / 2)
            for sign in signs
        )

    for sign in signs:
        for i in inner[::sign]:
            if len(X) + k + bottom >= krylov.size - 2 or len(X) + 1 >= len(inner):
                break
            if i in X or not fits([*X, i]):
                break
            X.append(i)
    kept = np.r_[:k, sorted(X), n - bottom : n].astype(int)
    weight = least_weight(krylov.Q.shape[1] - len(kept), risk / len(signs))
    return kept, [End(s, limits[s], limits[s] - loss(s, X), weight) for s in signs]


def _loss(gram: np.ndarray, distances: np.ndarray) -> float:
    """Return lambda_max(R^T D^-1 R) for D = diag(distances) and R R^T = gram."""
    if not len(gram):
        return 0.0
    scale = 1 / np.sqrt(distances)
    return float(torch.linalg.eigvalsh(torch.from_numpy(gram * np.outer(scale, scale)))[-1])


def _advance(krylov: Krylov, ends: list[End]) -> bool:
    """Take the last step into account; return whether the Krylov space of r is invariant."""
    row = krylov.filled - 1
    length = norms(krylov.next)[0]
    length = torch.where(length > krylov.least(), length, 0.0)
    alpha, beta = torch.stack([krylov.T[row, row], length]).tolist()
    for end in ends:
        end.advance(alpha, beta)
    return beta == 0
