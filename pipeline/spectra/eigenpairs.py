"""Extreme eigenpairs by thick-restart Lanczos, each with its measured residual."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.lanczos import Operator, gaussian, orthogonalised


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs, algebraically largest first.

    ``values`` (k,) and ``residuals`` (k,) = ||A v - lambda v|| are float64; ``vectors`` (p, k) has
    orthonormal columns; ``converged`` (k,) marks residuals within tolerance; ``products`` counts
    the vectors multiplied in all.
    """

    values: np.ndarray
    vectors: torch.Tensor
    residuals: np.ndarray
    converged: np.ndarray
    products: int


def top_eigenpairs(
    operator: Operator,
    k: int,
    *,
    tolerance: float = 1e-4,
    seed: int = 0,
    basis: int | None = None,
    max_products: int = 1000,
) -> Eigenpairs:
    """Return the ``k`` algebraically largest eigenpairs.

    ``tolerance`` bounds a converged residual relative to the largest absolute Ritz value.  A Krylov
    basis of ``basis`` vectors (default 2 k + 20) grows, is cut back to its best Ritz vectors, and
    grows again, until k pairs converge or ``max_products`` are spent (Wu and Simon, 2000).  The
    images of the basis are kept beside it, so that residuals are measured without a further
    product: together they take 2 x basis x p numbers.  Of an exactly repeated eigenvalue a Krylov
    space from one vector holds one copy, and rounding may add some: fewer copies than there are
    can be returned.
    """
    p = operator.shape[0]
    size = min(p, basis or 2 * k + 20)
    k = min(k, size)
    krylov = _Krylov(operator, size, seed)
    products = 0
    while True:
        products += krylov.grow()
        values, S = krylov.ritz()
        residuals = krylov.residuals(values[:k], S[:, :k])
        scale = np.abs(values).max()
        converged = residuals <= tolerance * scale
        if converged.all() or size == p or products >= max_products:
            vectors = krylov.combine(krylov.Q, S[:, :k]).T
            return Eigenpairs(values[:k], vectors, residuals, converged, products)
        # Keeping more than k restarts better: the gap that drives convergence is then wider.
        krylov.restart(values, S, min(k + (size - k) // 2, size - 2))


class _Krylov:
    """An orthonormal basis Q (rows), its images W = Q A, and the projection T = Q A Q^T."""

    def __init__(self, operator: Operator, size: int, seed: int) -> None:
        p = operator.shape[0]
        self.operator, self.size, self.seed = operator, size, seed
        self.Q = torch.zeros(size, p, dtype=operator.dtype, device=operator.device)
        self.W = torch.zeros_like(self.Q)
        self.T = np.zeros((size, size))
        self.next = gaussian(operator, seed)
        self.filled = 0

    def grow(self) -> int:
        """Fill the basis by Lanczos steps; return the number of products."""
        first = self.filled
        for j in range(first, self.size):
            self.Q[j] = self._direction(j)
            self.W[j] = self.operator.matmat(self.Q[j][:, None])[:, 0]
            column = (self.Q[: j + 1] @ self.W[j]).double().cpu().numpy()
            self.T[: j + 1, j] = self.T[j, : j + 1] = column
            self.next = orthogonalised(self.W[j][None], self.Q[None, : j + 1])[0]
        self.filled = self.size
        return self.size - first

    def _direction(self, j: int) -> torch.Tensor:
        w = self.next
        norm = torch.linalg.vector_norm(w)
        tiny = 50 * torch.finfo(w.dtype).eps * np.abs(self.T).max()
        if j > 0 and norm <= tiny:
            # An invariant subspace: go on from a fresh direction, uncoupled to what is found.
            w = gaussian(self.operator, self.seed + j)
            w = orthogonalised(w[None], self.Q[None, :j])[0]
            norm = torch.linalg.vector_norm(w)
        return w / norm

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values, the largest first, and their coordinates in the basis."""
        values, S = np.linalg.eigh(self.T)
        return values[::-1].copy(), S[:, ::-1].copy()

    def residuals(self, values: np.ndarray, S: np.ndarray) -> np.ndarray:
        """Return ||A v - lambda v|| of Ritz pairs, from the kept images."""
        vectors, images = self.combine(self.Q, S), self.combine(self.W, S)
        shifts = torch.as_tensor(values[:, None], dtype=self.Q.dtype, device=self.Q.device)
        difference = images - shifts * vectors
        return torch.linalg.vector_norm(difference, dim=1, dtype=torch.float64).cpu().numpy()

    def combine(self, rows: torch.Tensor, S: np.ndarray) -> torch.Tensor:
        """Return S^T rows."""
        return torch.as_tensor(S.T.copy(), dtype=rows.dtype, device=rows.device) @ rows

    def restart(self, values: np.ndarray, S: np.ndarray, kept: int) -> None:
        """Cut the basis back to its ``kept`` best Ritz vectors."""
        for rows in (self.Q, self.W):
            rows[:kept] = self.combine(rows, S[:, :kept])
        self.T[:] = 0.0
        self.T[np.arange(kept), np.arange(kept)] = values[:kept]
        self.filled = kept
