"""Lanczos with full reorthogonalisation, and Gauss quadrature of a spectrum from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal


class Operator(Protocol):
    """All that this package knows of a matrix."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of V (p, k)."""


@dataclass(frozen=True)
class Tridiagonal:
    """Lanczos run on b starting vectors side by side, ``steps`` each.

    A Q = Q T + beta_last q_last e_last^T for every starting vector: ``alpha`` (b, steps) and
    ``beta`` (b, steps - 1) are T in float64, ``basis`` is Q^T (b, steps, p), ``last`` (b, p) the
    unnormalised next vector.  A Krylov space that was exhausted after ``length[i]`` < steps steps
    has zeros beyond.
    """

    alpha: np.ndarray
    beta: np.ndarray
    basis: torch.Tensor
    last: torch.Tensor
    length: np.ndarray


@dataclass(frozen=True)
class Quadrature:
    """Gauss quadrature of a spectral density, a row per probe.

    ``nodes`` and ``weights`` are (probes, steps) float64; the weights of a probe sum to 1, and
    sum(weights * nodes**j) estimates trace(A^j) / dimension.  Where a Krylov space was exhausted
    early the rest is NaN with weight 0.
    """

    nodes: np.ndarray
    weights: np.ndarray
    dimension: int


def lanczos(operator: Operator, start: torch.Tensor, steps: int) -> Tridiagonal:
    """Return ``steps`` Lanczos steps from each of the columns of ``start`` (p, b).

    Every new vector is orthogonalised twice against all before it, as matrix products: without it
    converged eigenvalues reappear as copies.  The basis takes b x steps x p numbers.
    """
    p, b = start.shape
    steps = min(steps, p)
    basis = torch.zeros(b, steps, p, dtype=operator.dtype, device=operator.device)
    alpha = torch.zeros(b, steps, dtype=torch.float64, device=operator.device)
    beta = torch.zeros(b, steps, dtype=torch.float64, device=operator.device)
    q = start.T.to(operator.dtype)
    q = q / _norms(q)[:, None].to(q.dtype)
    w = q
    for j in range(steps):
        basis[:, j] = q
        w = operator.matmat(q.T).T
        alpha[:, j] = (w * q).sum(1, dtype=torch.float64)
        # The first Gram-Schmidt pass needs the last two vectors alone: A q has no others.
        w = w - alpha[:, j : j + 1].to(w.dtype) * q
        if j > 0:
            w = w - beta[:, j - 1 : j].to(w.dtype) * basis[:, j - 1]
        w = orthogonalised(w, basis[:, : j + 1], passes=1)
        beta[:, j] = _norms(w)
        # A norm of rounding size is an exhausted space: stop there with zeros, not with noise.
        scale = alpha[:, : j + 1].abs().amax(1) + beta[:, : j + 1].amax(1)
        alive = beta[:, j] > 50 * torch.finfo(operator.dtype).eps * scale
        beta[:, j] = torch.where(alive, beta[:, j], 0.0)
        q = torch.where(alive[:, None], w / beta[:, j : j + 1].to(w.dtype), 0.0)
    length = steps - (beta[:, :-1] == 0).cummax(1)[0].sum(1) if steps > 1 else torch.ones(b)
    return Tridiagonal(
        alpha.cpu().numpy(), beta[:, :-1].cpu().numpy(), basis, w, length.cpu().numpy().astype(int)
    )


def orthogonalised(w: torch.Tensor, basis: torch.Tensor, *, passes: int = 2) -> torch.Tensor:
    """Return rows ``w`` (b, p) less their parts in the spans of ``basis`` (b, j, p)."""
    for _ in range(passes):
        # Row by row: on a CPU a batched product reads memory at half the speed.
        rows = [torch.addmv(v, Q.T, Q @ v, alpha=-1) for v, Q in zip(w, basis, strict=True)]
        w = torch.stack(rows)
    return w


def lanczos_quadrature(operator: Operator, *, steps: int, seeds: Sequence[int]) -> Quadrature:
    """Return the Gauss quadrature of ``operator``'s spectrum from one Gaussian probe per seed.

    An operator with a ``project`` method (a deflated one) has its probes projected, so that the
    quadrature speaks of the complement alone; ``dimension`` counts it.
    """
    start = torch.stack([gaussian(operator, seed) for seed in seeds], 1)
    dimension = operator.shape[0]
    if hasattr(operator, "project"):
        start = operator.project(start)
        dimension -= operator.U.shape[1]
    found = lanczos(operator, start, min(steps, dimension))
    nodes = np.full((len(seeds), steps), np.nan)
    weights = np.zeros((len(seeds), steps))
    for i, m in enumerate(found.length):
        values, vectors = eigh_tridiagonal(found.alpha[i, :m], found.beta[i, : m - 1])
        nodes[i, :m] = values
        weights[i, :m] = vectors[0] ** 2
    return Quadrature(nodes, weights, dimension)


def gaussian(operator: Operator, seed: int) -> torch.Tensor:
    """Return a standard Gaussian vector (p,), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    return probe.to(operator.device, operator.dtype)


def _norms(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(1, dtype=torch.float64).sqrt()
