"""Extreme eigenpairs by thick-restart Lanczos, each with its measured residual."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.lanczos import Operator, gaussian, orthogonalised


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs, algebraically largest first.

    ``values`` (k,) and ``residuals`` (k,) = ||A v - lambda v||, measured by a product, are float64;
    ``vectors`` (p, k) has orthonormal columns; ``converged`` (k,) marks residuals within tolerance;
    ``products`` counts the vectors multiplied in all.
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
    grows again, until k pairs converge or ``max_products`` are spent (Wu and Simon, 2000).
    """
    p = operator.shape[0]
    size = min(p, basis or 2 * k + 20)
    k = min(k, size)
    Q = torch.zeros(size, p, dtype=operator.dtype, device=operator.device)
    T = np.zeros((size, size))
    w = gaussian(operator, seed)
    kept = products = 0
    while True:
        w, beta, spent = _grow(operator, Q, T, w, kept, seed)
        products += spent
        values, S = np.linalg.eigh(T)
        order = np.argsort(values)[::-1]
        values, S = values[order], S[:, order]
        scale = np.abs(values).max()
        estimates = beta * np.abs(S[-1, :k])
        # Half the tolerance: the measured residual adds rounding to the estimate.
        if (estimates <= 0.5 * tolerance * scale).all() or size == p or products >= max_products:
            break
        # Keeping more than k restarts better: the gap that drives convergence is then wider.
        kept = min(k + (size - k) // 2, size - 2)
        Q[:kept] = torch.as_tensor(S[:, :kept].T, dtype=Q.dtype, device=Q.device) @ Q
        T[:] = 0.0
        T[np.arange(kept), np.arange(kept)] = values[:kept]
    vectors = (torch.as_tensor(S[:, :k].T, dtype=Q.dtype, device=Q.device) @ Q).T
    vectors = torch.linalg.qr(vectors)[0]
    return _measured(operator, vectors, tolerance, scale, products)


def _grow(
    operator: Operator, Q: torch.Tensor, T: np.ndarray, w: torch.Tensor, kept: int, seed: int
) -> tuple[torch.Tensor, float, int]:
    """Fill rows ``kept`` ... of the basis Q and the projection T = Q A Q^T; start from ``w``.

    Returns the next direction, its norm, and the number of products.
    """
    size = len(Q)
    tiny = 10 * torch.finfo(Q.dtype).eps
    for j in range(kept, size):
        norm = float(torch.linalg.vector_norm(w, dtype=torch.float64))
        if norm <= tiny * max(np.abs(T).max(), 1e-300) and j > 0:
            # An invariant subspace: go on from a fresh direction, uncoupled to what is found.
            w = gaussian(operator, seed + j)
            w = orthogonalised(w[None], Q[None, :j])[0]
            norm = float(torch.linalg.vector_norm(w, dtype=torch.float64))
        Q[j] = w / norm
        w = operator.matmat(Q[j][:, None])[:, 0]
        T[: j + 1, j] = T[j, : j + 1] = (Q[: j + 1] @ w).double().cpu().numpy()
        w = orthogonalised(w[None], Q[None, : j + 1])[0]
    return w, float(torch.linalg.vector_norm(w, dtype=torch.float64)), size - kept


def _measured(
    operator: Operator, vectors: torch.Tensor, tolerance: float, scale: float, products: int
) -> Eigenpairs:
    images = operator.matmat(vectors)
    values = (vectors * images).sum(0, dtype=torch.float64)
    residuals = torch.linalg.vector_norm(
        images - vectors * values.to(vectors.dtype), dim=0, dtype=torch.float64
    )
    order = values.argsort(descending=True)
    residuals = residuals[order].cpu().numpy()
    return Eigenpairs(
        values=values[order].cpu().numpy(),
        vectors=vectors[:, order],
        residuals=residuals,
        converged=residuals <= tolerance * scale,
        products=products + vectors.shape[1],
    )
