"""Extreme eigenpairs by thick-restart Lanczos, each with its measured residual."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.lanczos import Operator, gaussian, orthogonalised

CHECK_EVERY = 3  # steps between looks at convergence: a look costs less than a product


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
        products += krylov.grow(k, 0.5 * tolerance)
        values, S = krylov.ritz()
        residuals = krylov.residuals(values[:k], S[:, :k])
        scale = np.abs(values).max()
        converged = residuals <= tolerance * scale
        if converged.all() or krylov.filled == p or products >= max_products:
            vectors = krylov.combine(krylov.Q, S[:, :k]).T
            return Eigenpairs(values[:k], vectors, residuals, converged, products)
        if krylov.filled == size:
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
        self.last = np.zeros(size)  # how the basis couples to ``next``: Q^T A = T Q^T + next last^T
        self.filled = 0

    def grow(self, k: int, tolerance: float) -> int:
        """Grow the basis by Lanczos steps until k pairs seem converged or it is full.

        Returns the number of products.
        """
        first = self.filled
        for j in range(first, self.size):
            self._couple(j)
            self.W[j] = self.operator.matmat(self.Q[j][:, None])[:, 0]
            self.T[j, j] = float((self.Q[j] * self.W[j]).sum(dtype=torch.float64))
            # The first Gram-Schmidt pass takes the couplings that T tells; a second, full one then
            # removes what rounding left.
            told = max(0, j - 1) if j > first else 0
            couplings = torch.as_tensor(self.T[told : j + 1, j], dtype=self.W.dtype)
            w = self.W[j] - couplings.to(self.W.device) @ self.Q[told : j + 1]
            self.next = orthogonalised(w[None], self.Q[None, : j + 1], passes=1)[0]
            self.filled = j + 1
            if j - first >= k // 2 and (j - first) % CHECK_EVERY == 0 and self._seems(k, tolerance):
                break
        return self.filled - first

    def _couple(self, j: int) -> None:
        """Set basis vector j along ``next``, and its couplings in T to those before it."""
        w = self.next
        norm = float(torch.linalg.vector_norm(w, dtype=torch.float64))
        if j > 0 and norm <= 50 * torch.finfo(w.dtype).eps * np.abs(self.T).max():
            # An invariant subspace: go on from a fresh direction, uncoupled to what is found.
            w = gaussian(self.operator, self.seed + j)
            w = orthogonalised(w[None], self.Q[None, :j])[0]
            self.Q[j] = w / torch.linalg.vector_norm(w)
            norm = 0.0
        else:
            self.Q[j] = w / norm
        self.T[:j, j] = self.T[j, :j] = norm * self.last[:j]
        self.last = np.zeros(self.size)
        self.last[j] = 1.0

    def _seems(self, k: int, tolerance: float) -> bool:
        """Return whether the estimated residuals of k pairs are within tolerance."""
        values, S = self.ritz()
        beta = float(torch.linalg.vector_norm(self.next))
        return len(values) > k and bool(
            (beta * np.abs(S[-1, :k]) <= tolerance * np.abs(values).max()).all()
        )

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values, the largest first, and their coordinates in the basis."""
        # PyTorch's solver: NumPy's would wake a second pool of threads, which slows the products.
        values, S = torch.linalg.eigh(torch.from_numpy(self.T[: self.filled, : self.filled]))
        return values.flip(0).numpy(), S.flip(1).numpy()

    def residuals(self, values: np.ndarray, S: np.ndarray) -> np.ndarray:
        """Return ||A v - lambda v|| of Ritz pairs, from the kept images."""
        vectors, images = self.combine(self.Q, S), self.combine(self.W, S)
        shifts = torch.as_tensor(values[:, None], dtype=self.Q.dtype, device=self.Q.device)
        difference = images - shifts * vectors
        return torch.linalg.vector_norm(difference, dim=1, dtype=torch.float64).cpu().numpy()

    def combine(self, rows: torch.Tensor, S: np.ndarray) -> torch.Tensor:
        """Return S^T rows."""
        S = torch.as_tensor(S.T.copy(), dtype=rows.dtype, device=rows.device)
        return S @ rows[: S.shape[1]]

    def restart(self, values: np.ndarray, S: np.ndarray, kept: int) -> None:
        """Cut the basis back to its ``kept`` best Ritz vectors."""
        for rows in (self.Q, self.W):
            rows[:kept] = self.combine(rows, S[:, :kept])
        self.T[:] = 0.0
        self.T[np.arange(kept), np.arange(kept)] = values[:kept]
        self.last[:kept] = S[-1, :kept]
        self.filled = kept
