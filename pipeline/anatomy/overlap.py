"""Overlap of eigenspaces: how much of one subspace lies in another."""

import torch


def eigenspace_overlap(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return ||U_k^T V_k||_F^2 / k (K,) in float64 for the first k columns, k = 1 to K.

    ``U`` and ``V`` are (p, K) with orthonormal columns; the overlap is 1 for equal spaces and on
    average k / p for random ones.  Source: D.
    """
    return from_cosines(U.T @ V)


def from_cosines(cosines: torch.Tensor) -> torch.Tensor:
    """Return the same from the inner products (K, K) of the two bases."""
    shared = cosines.double().square().cumsum(0).cumsum(1).diagonal()
    return shared / torch.arange(1, len(shared) + 1, device=shared.device)
