"""Extreme eigenpairs by thick-restart Lanczos, each with its measured residual."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.krylov import Krylov, Ritz
from pipeline.spectra.lanczos import Operator, norms

FLOOR = 50  # rounding units of the largest value: what residuals fall to, and no further
ROOM = 20  # vectors of a basis beyond twice the pairs asked for; tuned on F-200^2 and LeNet5


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs, algebraically largest first; the last ``bottom`` of them are the smallest.

    ``values`` (k,) and ``residuals`` (k,) = ||A v - lambda v|| are float64; ``vectors`` (p, k) has
    orthonormal columns; ``converged`` (k,) marks residuals within tolerance; ``products`` counts
    the vectors multiplied in all.
    """

    values: np.ndarray
    vectors: torch.Tensor
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    bottom: int = 0


def most_products(k: int) -> int:
    """Return how many products may be spent on ``k`` pairs where nobody says."""
    return max(1000, 50 * k)


def basis_size(k: int) -> int:
    """Return the vectors in the basis for ``k`` pairs; each has its image beside it."""
    return 2 * k + ROOM


def top_eigenpairs(
    operator: Operator,
    k: int,
    *,
    bottom: int = 0,
    tolerance: float = 1e-4,
    seed: int = 0,
    block: int = 1,
    basis: int | None = None,
    max_products: int | None = None,
) -> Eigenpairs:
    """Return the ``k`` algebraically largest eigenpairs, and the ``bottom`` smallest.

    ``tolerance`` bounds a converged residual relative to the largest absolute Ritz value.  A Krylov
    basis of ``basis`` vectors (default ``basis_size``) grows, is cut back to its best Ritz vectors,
    and grows again, until all pairs converge, or rounding lets none come closer, or
    ``max_products`` (default ``most_products``; counted when the basis is full) are spent
    (Wu and Simon, 2000).  Converged pairs stay in the basis, so that later ones cannot repeat them.
    The basis has its images beside it, so that residuals are measured without a further product:
    together they take 2 x basis x p numbers.  A matrix not larger than its basis is solved whole.

    Clustered eigenvalues are found one by one, zero ones too, whatever the rank.  An eigenvalue
    repeated exactly is found as often as it occurs up to ``block`` times, where ``block`` vectors
    start together and every step multiplies so many.  Raises ValueError where the basis has no room
    for the pairs and two blocks, FloatingPointError where products are not finite.
    """
    p = operator.shape[0]
    k = min(k, p)
    bottom = min(bottom, p - k)
    size = basis or basis_size(k + bottom) + 2 * (block - 1)
    if p <= size:
        return _whole(operator, k, bottom, tolerance)
    size = _in_blocks(size, k + bottom, block)
    limit = max_products or most_products(k + bottom)
    krylov = Krylov(operator, size, block, seed)
    products, before = 0, np.inf
    while True:
        products += krylov.grow(k, bottom, 0.9 * tolerance)
        found = krylov.ritz()
        ends = found.ends(k, bottom)
        vectors, residuals = krylov.pairs(found, ends)
        scale = np.abs(found.values).max()
        converged = residuals <= tolerance * scale
        worst = residuals.max(initial=0)
        # Rounding keeps the residuals of large matrices above a tolerance that is near it.
        stuck = 0.9 * before < worst <= FLOOR * torch.finfo(operator.dtype).eps * scale
        before = worst
        done = (converged.all() or stuck) and len(ends) == k + bottom
        if done or products >= limit:
            low = max(0, len(ends) - k)
            return Eigenpairs(found.values[ends], vectors.T, residuals, converged, products, low)
        if krylov.filled + block > size:
            kept = _kept(found, k, bottom, size, block)
            krylov.restart(found, kept, int(np.flatnonzero(kept == ends[residuals.argmax()])[0]))


def _in_blocks(size: int, pairs: int, block: int) -> int:
    """Return the size of a basis in whole blocks, if it has room for the pairs and two of them."""
    whole = size - size % block
    if whole < pairs + 2 * block:
        raise ValueError(
            f"a basis of {size} vectors is too small for {pairs} pairs in blocks of {block}: give "
            f"at least {pairs + 3 * block}"
        )
    return whole


def _whole(operator: Operator, k: int, bottom: int, tolerance: float) -> Eigenpairs:
    """Return the pairs from the dense matrix."""
    p = operator.shape[0]
    identity = torch.eye(p, dtype=operator.dtype, device=operator.device)
    A = operator.matmat(identity)
    if not bool(torch.isfinite(A).all()):
        raise FloatingPointError("products are not finite")
    values, V = torch.linalg.eigh((A + A.T).double() / 2)
    found = Ritz(values.flip(0).cpu().numpy(), np.zeros((0, p)))
    ends = found.ends(k, bottom)
    V = V.flip(1)[:, torch.as_tensor(ends, device=V.device)].to(A.dtype)
    chosen = found.values[ends]
    scaled = V * torch.as_tensor(chosen, dtype=V.dtype, device=V.device)
    residuals = norms((A @ V - scaled).T).cpu().numpy()
    converged = residuals <= tolerance * np.abs(found.values).max()
    return Eigenpairs(chosen, V, residuals, converged, p, bottom)


def _kept(found: Ritz, k: int, bottom: int, size: int, block: int) -> np.ndarray:
    """Return which Ritz pairs to keep: more than asked for, as the gap that drives is then wider.

    What is over goes to the two ends in proportion.
    """
    room = size - k - bottom
    count = min(k + bottom + room // 2, size - 2 * block)
    count -= (count - size) % block  # so that whole blocks fill the rest
    low = round(count * bottom / (k + bottom))
    return found.ends(count - low, low)
