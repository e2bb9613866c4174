"""Extreme eigenpairs by thick-restart Lanczos, each with its measured residual."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.arguments import checked_count, checked_number
from pipeline.errors import ArgumentError
from pipeline.modes import default_modes
from pipeline.spectra.completeness import Outcome, search
from pipeline.spectra.krylov import Krylov, Ritz
from pipeline.spectra.lanczos import Operator, norms

FLOOR = 50  # rounding units of the largest value: what residuals fall to, and no further
ROOM = 20  # vectors of a basis beyond twice the pairs asked for; tuned on F-200^2 and LeNet5

LEAST_SEARCH = 50  # products that a search may take; as many as the pairs took, if that is more


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs, algebraically largest first; the last ``bottom`` of them are the smallest.

    ``values`` (k,) and ``residuals`` (k,) = ||A v - lambda v|| are float64.  ``vectors`` (p, k) has
    orthonormal columns.  ``converged`` (k,) marks residuals within tolerance.  ``products`` counts
    all vectors multiplied, the search included.  ``complete``: all pairs converged, and no
    eigenvalue that is not returned exceeds the last of the largest, or undercuts the first of the
    smallest, by more than the tolerance.  If one does, ``complete`` is True with a probability of
    at most 1 - ``confidence``.  ``confidence`` is 1 if all eigenvalues are known, and None if
    there was no search.
    """

    values: np.ndarray
    vectors: torch.Tensor
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    bottom: int = 0
    complete: bool = False
    confidence: float | None = None


def most_products(k: int) -> int:
    """Return the default limit of products for ``k`` pairs."""
    return max(1000, 50 * k)


def basis_size(k: int) -> int:
    """Return the default number of basis vectors for ``k`` pairs; as many images are kept."""
    return 2 * k + ROOM


@default_modes()
def top_eigenpairs(
    operator: Operator,
    k: int,
    *,
    bottom: int = 0,
    tolerance: float = 1e-4,
    confidence: float | None = 0.99,
    seed: int = 0,
    block: int = 1,
    basis: int | None = None,
    max_products: int | None = None,
) -> Eigenpairs:
    """Return the ``k`` algebraically largest eigenpairs, and the ``bottom`` smallest.

    A Krylov basis of ``basis`` vectors grows, is cut back to its best Ritz vectors and grows again,
    until all pairs converge (thick-restart Lanczos; Wu and Simon, 2000).  Then a random vector in
    the complement searches for missed eigenvalues, such as copies of a repeated one; if there are
    any, they join the basis and the iteration goes on (``pipeline.spectra.completeness``).  A
    matrix not larger than its basis is solved by a dense method.

    Parameters
    ----------
    operator : symmetric (p, p) operator.
    k, bottom : numbers of pairs; p in all at most, the largest first.
    tolerance : a pair converges if its residual is at most tolerance * max |Ritz value|.
    confidence : probability that the search finds an eigenvalue that is missing; None omits it.
    seed : seed of the random vectors.
    block : vectors multiplied together in every step; finds ``block`` copies of an eigenvalue at
        once.
    basis : vectors in the basis (default 2 (k + bottom) + 20 + 2 (block - 1)).  Basis and images
        take 2 * basis * p numbers.
    max_products : limit, checked when the basis is full (default max(1000, 50 (k + bottom))).

    Raises
    ------
    ArgumentError : an argument is out of range, or the basis is smaller than the pairs and two
        blocks.
    FloatingPointError : a product is not finite.
    """
    p = operator.shape[0]
    k = min(checked_count(k, "k"), p)
    bottom = min(checked_count(bottom, "bottom", least=0), p - k)
    tolerance = checked_number(tolerance, "tolerance", above=0)
    if confidence is not None:
        confidence = checked_number(confidence, "confidence", above=0, below=1)
    seed = checked_count(seed, "seed", least=0)
    block = checked_count(block, "block", most=p)
    size = basis_size(k + bottom) + 2 * (block - 1)
    if basis is not None:
        size = checked_count(basis, "basis")
    limit = most_products(k + bottom)
    if max_products is not None:
        limit = checked_count(max_products, "max_products")
    if p <= size:
        return _whole(operator, k, bottom, tolerance)
    size = _in_blocks(size, k + bottom, block)
    krylov = Krylov(operator, size, block, seed)
    products, searches, before = 0, 0, np.inf
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
        outcome = None
        if converged.all() and len(ends) == k + bottom and confidence and products < limit:
            searches += 1
            # The shares sum to 1 over all searches; most calls need only the first.
            share = 0.8 if searches == 1 else 0.2 / (searches * (searches - 1))
            outcome, multiplied = search(
                krylov,
                found,
                k,
                bottom,
                slack=max(tolerance * scale, torch.finfo(torch.float64).tiny),
                risk=share * (1 - confidence),
                most=min(limit - products, max(products, LEAST_SEARCH)),
            )
            products += multiplied
        done = (converged.all() or stuck) and len(ends) == k + bottom
        if outcome is Outcome.IMPROVED:
            found = krylov.ritz()
            ends, before = found.ends(k, bottom), np.inf
        elif done or products >= limit:
            return Eigenpairs(
                found.values[ends],
                vectors.T,
                residuals,
                converged,
                products,
                bottom=max(0, len(ends) - k),
                complete=outcome is Outcome.COMPLETE,
                confidence=confidence if outcome else None,
            )
        if krylov.filled + block > size or outcome:
            kept = _kept(found, k, bottom, size, block)
            krylov.restart(found, kept, int(np.flatnonzero(kept == ends[residuals.argmax()])[0]))


def _in_blocks(size: int, pairs: int, block: int) -> int:
    """Return the size in whole blocks; raise if it is less than the pairs and two blocks."""
    whole = size - size % block
    if whole < pairs + 2 * block:
        raise ArgumentError(
            f"basis is {size}, which is too small for {pairs} pairs in blocks of {block}. Give at "
            f"least {pairs + 3 * block}"
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
    return Eigenpairs(
        chosen,
        V,
        residuals,
        converged,
        p,
        bottom=bottom,
        complete=bool(converged.all()),
        confidence=1.0,
    )


def _kept(found: Ritz, k: int, bottom: int, size: int, block: int) -> np.ndarray:
    """Return which Ritz pairs to keep: more than asked for, as the gap that drives is then wider.

    What is over goes to the two ends in proportion.
    """
    room = size - k - bottom
    count = min(k + bottom + room // 2, size - 2 * block)
    count -= (count - size) % block  # so that whole blocks fill the rest
    low = round(count * bottom / (k + bottom))
    return found.ends(count - low, low)
