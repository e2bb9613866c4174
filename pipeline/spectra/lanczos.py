"""Lanczos with full reorthogonalisation, and Gauss quadrature of a spectrum from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from pipeline.arguments import checked_count, checked_seeds
from pipeline.modes import default_modes

IN_DOUBLE = 2**16  # columns of a basis that are held in float64 at once
IN_CACHE = 2**16  # columns of some vectors that a CPU's cache holds


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
    unnormalised next vector.  With a bounded basis only its last vectors are there, in no order.
    A Krylov space that was exhausted after ``length[i]`` < steps steps has zeros beyond.
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
    early the rest is NaN with weight 0.  Every step was orthogonalised against the ``kept`` ones
    before it: against all, where that is the number of steps.  ``orthogonality`` is the largest
    |entry| of Q Q^T - I of any probe's basis, as far as it is kept; NaN without one.
    """

    nodes: np.ndarray
    weights: np.ndarray
    dimension: int
    kept: int
    orthogonality: float = float("nan")

    def moment(self, degree: int) -> tuple[float, float]:
        """Return the estimate of trace(A^degree), and its standard error.

        For x uniform on the sphere of radius sqrt(n), x^T B x has the variance
        2 n / (n + 2) (trace(B^2) - trace(B)^2 / n); both traces are the quadrature's own, so that
        a single probe has an error too.
        """
        n, probes = self.dimension, len(self.nodes)
        value, square = (
            n * float(np.nansum(self.weights * self.nodes**power) / probes)
            for power in (degree, 2 * degree)
        )
        variance = 2 * n / (n + 2) * max(0.0, square - value**2 / max(1, n))
        return value, float(np.sqrt(variance / probes))


@default_modes()
def lanczos(
    operator: Operator, start: torch.Tensor, steps: int, *, keep: int | None = None
) -> Tridiagonal:
    """Return ``steps`` Lanczos steps from each of the columns of ``start`` (p, b).

    Every new vector is orthogonalised twice against those before it, as matrix products: without it
    converged eigenvalues reappear as copies.  ``keep`` bounds how many of the last ones are at
    hand; the basis takes b x keep x p numbers (default: all).
    """
    p, b = start.shape
    steps = min(steps, p)
    keep = steps if keep is None else max(2, min(keep, steps))
    basis = torch.zeros(b, keep, p, dtype=operator.dtype, device=operator.device)
    alpha = torch.zeros(b, steps, dtype=torch.float64, device=operator.device)
    beta = torch.zeros(b, steps, dtype=torch.float64, device=operator.device)
    q = start.T.to(operator.dtype)
    q = q / norms(q)[:, None].to(q.dtype)
    w = q
    for j in range(steps):
        basis[:, j % keep] = q
        w = operator.matmat(q.T).T
        alpha[:, j] = dots(w, q)
        # The first Gram-Schmidt pass needs the last two vectors alone: A q has no others.
        w = torch.addcmul(w, alpha[:, j : j + 1].to(w.dtype), q, value=-1)
        if j > 0:
            w.addcmul_(beta[:, j - 1 : j].to(w.dtype), basis[:, (j - 1) % keep], value=-1)
        # Row by row: on a CPU a batched product reads memory at half the speed.
        for v, Q in zip(w.split(1), basis[:, : j + 1], strict=True):
            v.addmm_(v @ Q.T, Q, alpha=-1)
        beta[:, j] = norms(w)
        # A norm of rounding size is an exhausted space: stop there with zeros, not with noise.
        scale = alpha[:, : j + 1].abs().amax(1) + beta[:, : j + 1].amax(1)
        alive = beta[:, j] > 50 * torch.finfo(operator.dtype).eps * scale
        beta[:, j] = torch.where(alive, beta[:, j], 0.0)
        q = w * torch.where(alive, 1 / beta[:, j], 0.0)[:, None].to(w.dtype)
    length = (
        steps - (beta[:, :-1] == 0).cummax(1)[0].sum(1)
        if steps > 1
        else torch.ones(b, device="cpu")
    )
    return Tridiagonal(
        alpha.cpu().numpy(), beta[:, :-1].cpu().numpy(), basis, w, length.cpu().numpy().astype(int)
    )


def orthogonalised(w: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return rows ``w`` (b, p) less their parts in the span of orthonormal rows (j, p)."""
    return torch.addmm(w, w @ basis.T, basis, alpha=-1)


@default_modes()
def lanczos_quadrature(
    operator: Operator, *, steps: int, seeds: Sequence[int], basis_bytes: int | None = None
) -> Quadrature:
    """Return the Gauss quadrature of ``operator``'s spectrum from one Gaussian probe per seed.

    An operator with a ``project`` method (a deflated one) has its probes projected, so that the
    quadrature speaks of the complement alone; ``dimension`` counts it.  As many probes go side by
    side as the operator likes to multiply together and ``basis_bytes`` has room for.  Where one
    basis alone has none, its last vectors stay at hand, as many as fit (``kept``): nodes may then
    repeat, while the weight of each group of copies, and so the density, stays right (Chen, Trogdon
    and Ubaru, 2021).  Raises ArgumentError if ``steps`` or ``basis_bytes`` is less than 1 or
    ``seeds`` are not distinct whole numbers, and FloatingPointError if products are not finite.
    """
    steps = checked_count(steps, "steps")
    seeds = checked_seeds(seeds)
    if basis_bytes is not None:
        basis_bytes = checked_count(basis_bytes, "basis_bytes")
    dimension = operator.shape[0]
    if hasattr(operator, "project"):
        dimension -= operator.U.shape[1]
    steps_made = min(steps, dimension)
    room = steps
    if basis_bytes is not None:
        room = max(2, basis_bytes // (operator.shape[0] * operator.dtype.itemsize))
    together = getattr(operator, "vectors", 1)
    if basis_bytes is not None:
        together = max(1, min(together, room // max(1, steps_made)))
    nodes = np.full((len(seeds), steps), np.nan)
    weights = np.zeros((len(seeds), steps))
    if not dimension:
        return Quadrature(nodes, weights, 0, kept=steps)
    misses = []
    for first in range(0, len(seeds), together):
        group = seeds[first : first + together]
        start = torch.stack([gaussian(operator, seed) for seed in group], 1)
        if hasattr(operator, "project"):
            start = operator.project(start)
        found = lanczos(operator, start, steps_made, keep=room)
        misses += [orthogonality(Q) for Q in found.basis]
        for i, m in enumerate(found.length):
            if not np.isfinite(found.alpha[i, :m]).all():
                raise FloatingPointError("products are not finite")
            values, vectors = eigh_tridiagonal(found.alpha[i, :m], found.beta[i, : m - 1])
            nodes[first + i, :m] = values
            weights[first + i, :m] = vectors[0] ** 2
        del found  # its basis, before the next group's is made
    return Quadrature(nodes, weights, dimension, min(room, steps), max(misses))


def orthogonality(rows: torch.Tensor) -> float:
    """Return the largest |entry| of Q Q^T - I for rows Q (j, p), summed in float64.

    A row of zeros, which stands for an exhausted Krylov space, is no miss.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for some in rows.split(IN_DOUBLE, dim=1):
        gram += some.double() @ some.double().T
    return float((gram - gram.diagonal().round().diag()).abs().max())


def gaussian(operator: Operator, seed: int) -> torch.Tensor:
    """Return a standard Gaussian vector (p,), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64, device="cpu")
    return probe.to(operator.device, operator.dtype)


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norms of rows (k, p), summed in float64."""
    pieces = [
        torch.linalg.vector_norm(some, dim=1, dtype=torch.float64) for some in _in_cache(rows)
    ]
    return torch.stack(pieces).norm(dim=0)


def dots(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the inner products of rows with the ``others`` (k, p), one by one, in float64."""
    pairs = zip(_in_cache(rows), _in_cache(others), strict=True)
    return torch.stack([(a * b).sum(1, dtype=torch.float64) for a, b in pairs]).sum(0)


def _in_cache(rows: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return rows in pieces that a CPU's cache holds: of 2 million columns in half the time."""
    return [rows] if rows.is_cuda else rows.split(IN_CACHE, dim=1)


def root_ratio(
    errors: np.ndarray, squares: np.ndarray, *, known: tuple[float, float] = (0.0, 0.0)
) -> tuple[float, float]:
    """Return sqrt(mean(errors) / mean(squares)) and its standard error to first order.

    ``known`` are exact shares that are added to the two means.  The error is NaN for one sample.
    """
    error, square = errors.mean() + known[0], squares.mean() + known[1]
    if not square > 0:
        return np.nan, np.nan
    ratio = float((error / square) ** 0.5)
    if not error > 0:
        return ratio, 0.0
    _, stderr = mean_and_error(errors / error - squares / square)
    return ratio, ratio / 2 * stderr


def mean_and_error(samples: np.ndarray) -> tuple[float, float]:
    """Return the mean of independent samples and its standard error, NaN for a single one."""
    error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
    return float(samples.mean()), float(error)
