"""A Kronecker product's eigenpairs from its factors', never formed."""

import heapq

import numpy as np
import torch


def top_products(left: np.ndarray, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``k`` largest products left_i right_j, and their places (k, 2), largest first.

    Both lists are non-negative, largest first.  A heap holds the next candidate of each row, so
    that k log k products are looked at, not all.
    """
    k = min(k, len(left) * len(right))
    values, places = np.empty(k), np.empty((k, 2), dtype=int)
    heap = [(-left[0] * right[0], 0, 0)] if k else []
    for order in range(k):
        value, i, j = heapq.heappop(heap)
        values[order], places[order] = -value, (i, j)
        if j + 1 < len(right):
            heapq.heappush(heap, (-left[i] * right[j + 1], i, j + 1))
        if j == 0 and i + 1 < len(left):
            heapq.heappush(heap, (-left[i + 1] * right[0], i + 1, 0))
    return values, places


def kronecker_cosines(
    vectors: torch.Tensor, U: torch.Tensor, V: torch.Tensor, places: np.ndarray
) -> torch.Tensor:
    """Return the inner products (K, K') of ``vectors`` (m n, K) with u_i (x) v_j, (i, j) in places.

    <h, u (x) v> = u^T Mat(h) v for columns u of ``U`` (m, .) and v of ``V`` (n, .).
    """
    if not len(places):
        return vectors.new_zeros(vectors.shape[1], 0)
    i, j = (torch.as_tensor(places[:, axis], device=U.device) for axis in (0, 1))
    matrices = vectors.T.reshape(vectors.shape[1], len(U), len(V))
    # Columns that occur among the places alone: often a few of many.
    left, inverse = i.unique(return_inverse=True)
    turned = U[:, left].T @ matrices  # (K, few, n)
    return torch.stack([turned[:, a] @ V[:, b] for a, b in zip(inverse, j, strict=True)], 1)
