"""A Krylov basis with its images, extended block by block and cut back to Ritz vectors."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.spectra.lanczos import Operator, dots, norms, orthogonalised

CHECK_EVERY = 3  # blocks between looks at convergence; a look waits for the device
NEAR = 10  # times the tolerance: from there on looks at a CPU come thrice as often
COLUMNS = 2**18  # of a basis that are combined at once
BREAKDOWN = 50  # of rounding units: a new vector shorter than this, in ||A||, is noise


@dataclass(frozen=True)
class Ritz:
    """Ritz values, the largest first, and their coordinates (basis, values) in the basis."""

    values: np.ndarray
    coordinates: np.ndarray

    def ends(self, top: int, bottom: int) -> np.ndarray:
        """Return the places of the ``top`` largest values, then of the ``bottom`` smallest."""
        n = len(self.values)
        return np.r_[: min(top, n), max(top, n - bottom) : n]


class Krylov:
    """An orthonormal basis Q (rows), its images W = Q A, and the projection T = Q A Q^T.

    ``next`` (block, p) holds the directions that extend the basis; its rows are orthogonal to Q.
    With one start W = T Q + last next up to rounding, where ``last`` (basis, block) couples the
    images to ``next``, and T and the residuals follow from the recurrence.  After a second start
    the residuals span several directions, so T and the residuals are computed from the images.
    Nothing inside a step waits for the device: a vector that breaks down becomes a row of zeros,
    which ``alive`` marks, and the next look at convergence removes it.
    """

    def __init__(self, operator: Operator, size: int, block: int, seed: int) -> None:
        p = operator.shape[0]
        where = {"dtype": torch.float64, "device": operator.device}
        self.operator, self.size, self.block, self.seed = operator, size, block, seed
        self.Q = torch.empty(size, p, dtype=operator.dtype, device=operator.device)
        self.W = torch.empty_like(self.Q)
        self.T = torch.zeros(size, size, **where)
        self.last = torch.zeros(size, block, **where)
        self.alive = torch.zeros(size, dtype=torch.bool, device=operator.device)
        self.filled = 0
        self.starts = 0
        self.start(block)

    def grow(self, k: int, bottom: int, tolerance: float) -> int:
        """Grow the basis until its extreme pairs seem converged or it is full.

        Returns the number of products.
        """
        first = looked = self.filled
        multiplied, beside, near = 0, False, False
        while self.filled + self.block <= self.size:
            self.expand(after_restart=self.filled == first)
            every = max(CHECK_EVERY * self.block, self.filled // 20)  # looks grow dearer
            if self.filled - looked >= (every // 3 if near else every) or beside:
                multiplied += self.filled - looked
                beside = self._broke_down()
                if beside:
                    self.start(self.block)  # the basis is invariant: search its complement
                elif self.filled > k + bottom:
                    worst, scale = self._estimated(k, bottom)
                    if worst <= tolerance * scale:
                        return multiplied
                    near = self.Q.device.type == "cpu" and worst <= NEAR * tolerance * scale
                looked = self.filled
        return multiplied + self.filled - looked

    def expand(self, *, after_restart: bool = False) -> None:
        """Append ``next`` to the basis and multiply it."""
        j, b = self.filled, len(self.next)
        new = slice(j, j + b)
        L = self._orthonormalised(j)
        self.W[new] = self.operator.matmat(self.Q[new].T).T
        coupling = self.last[:j, :b] @ L
        self.T[:j, new], self.T[new, :j] = coupling, coupling.T
        inner = torch.stack([dots(self.Q[new], w.expand(b, -1)) for w in self.W[new]])
        self.T[new, new] = (inner + inner.T) / 2
        if self.starts > 1:
            measured = (self.Q[:j] @ self.W[new].T).double()
            self.T[:j, new], self.T[new, :j] = measured, measured.T
        # The first Gram-Schmidt pass uses the couplings in T; a second, full one then removes
        # what rounding left.
        coupled = 0 if after_restart or self.starts > 1 else max(0, j - b)
        couplings = self.T[coupled : j + b, new].to(self.W.dtype)
        w = torch.addmm(self.W[new], couplings.T, self.Q[coupled : j + b], alpha=-1)
        self.next = orthogonalised(w, self.Q[: j + b])
        self.last.zero_()
        self.last[new, :b] = torch.eye(b, dtype=torch.float64, device=self.last.device)
        self.filled += b

    def _orthonormalised(self, j: int) -> torch.Tensor:
        """Put ``next``, made orthonormal, into rows j on; return L with next = L rows."""
        b = len(self.next)
        L = torch.zeros(b, b, dtype=torch.float64, device=self.T.device)
        least = self.least()
        for i, w in enumerate(self.next):
            if i:
                before = self.Q[j : j + i]
                L[i, :i] = dots(before, w.expand_as(before))
                w = orthogonalised(orthogonalised(w[None], before), self.Q[: j + i])[0]
            length = norms(w[None])[0]
            alive = length > least
            L[i, i] = torch.where(alive, length, 0.0)
            torch.mul(w, torch.where(alive, 1 / length, 0.0).to(w.dtype), out=self.Q[j + i])
            self.alive[j + i] = alive
        return L

    def _broke_down(self) -> bool:
        """Return whether nothing is left outside the basis; rows of zeros are then given back."""
        self._refuse_infinite()
        if bool((norms(self.next) > self.least()).any()):
            return False
        alive = self.alive[: self.filled].cpu().numpy()
        self.filled = int(np.flatnonzero(alive).max(initial=-1)) + 1
        return True

    def least(self) -> torch.Tensor:
        """Return the length up to which a new vector counts as rounding noise."""
        return BREAKDOWN * torch.finfo(self.Q.dtype).eps * self.T.diagonal().abs().amax()

    def _refuse_infinite(self) -> None:
        if not bool(torch.isfinite(self.T[: self.filled, : self.filled]).all()):
            raise FloatingPointError("products are not finite")

    def start(self, count: int) -> None:
        """Set ``next`` to ``count`` random vectors orthogonal to the basis.

        Their seed is ``seed`` plus the number of earlier starts.
        """
        generator = torch.Generator().manual_seed(self.seed + self.starts)
        self.starts += 1
        shape = (count, self.Q.shape[1])
        w = torch.randn(shape, generator=generator, dtype=self.Q.dtype, device="cpu")
        w = w.to(self.Q.device)
        known = self.Q[: self.filled]
        w = orthogonalised(orthogonalised(w, known), known)
        # Their length is the norm of the matrix, so that they do not count as rounding noise.
        scale = self.T.diagonal().abs().amax().clamp(min=1) / norms(w)
        self.next = w * scale[:, None].to(w.dtype)
        self.last.zero_()

    def _estimated(self, k: int, bottom: int) -> tuple[float, float]:
        """Return the largest estimated residual of the extreme pairs, and the largest value."""
        found = self.ritz()
        ends = found.ends(k, bottom)
        if len(ends) < k + bottom or not len(ends):
            return np.inf, 0.0
        squares = self.residual_gram(found, ends).diagonal().max()
        return float(np.sqrt(max(0.0, squares))), float(np.abs(found.values).max())

    def residual_gram(self, found: Ritz, which: np.ndarray) -> np.ndarray:
        """Return the inner products of the residuals A v - lambda v of Ritz vectors v."""
        if self.starts == 1:
            outside = (self.next @ self.next.T).double().cpu().numpy()
            parts = found.coordinates[:, which].T @ self.last[: self.filled].cpu().numpy()
            return parts @ outside @ parts.T
        S = self._weights(found, which)
        SV = S * torch.as_tensor(found.values[which, None], dtype=S.dtype, device=S.device)
        gram = torch.zeros(len(which), len(which), dtype=torch.float64, device=S.device)
        for columns in self._columns():
            R = S @ self.W[: self.filled, columns] - SV @ self.Q[: self.filled, columns]
            gram += (R @ R.T).double()
        return gram.cpu().numpy()

    def ritz(self) -> Ritz:
        """Return the Ritz pairs."""
        self._refuse_infinite()
        alive = self.alive[: self.filled].cpu().numpy()
        T = self.T[: self.filled, : self.filled].cpu()[alive][:, alive]
        # PyTorch's solver: NumPy's would wake a second pool of threads, which slows the products.
        values, S = torch.linalg.eigh(T)
        coordinates = np.zeros((self.filled, len(values)))
        coordinates[alive] = S.flip(1).numpy()
        return Ritz(values.flip(0).numpy(), coordinates)

    def pairs(self, found: Ritz, which: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return Ritz vectors v as rows, and ||A v - lambda v|| from the kept images."""
        S = self._weights(found, which)
        values = torch.as_tensor(found.values[which, None], dtype=S.dtype, device=S.device)
        vectors = self.Q.new_empty(len(which), self.Q.shape[1])
        lengths = []
        for columns in self._columns():
            vectors[:, columns] = S @ self.Q[: self.filled, columns]
            images = S @ self.W[: self.filled, columns]
            lengths.append(norms(images.addcmul_(vectors[:, columns], values, value=-1)))
        return vectors, torch.stack(lengths).norm(dim=0).cpu().numpy()

    def restart(self, found: Ritz, which: np.ndarray, worst: int) -> None:
        """Cut the basis back to the given Ritz vectors and extend it by the residual of one.

        After one start all residuals are parallel to ``next``.  After several, ``next`` becomes the
        residual of the vector at place ``worst`` of ``which``.
        """
        self.cut(found, which)
        if self.starts > 1:
            self._turn_to_residual(worst)

    def cut(self, found: Ritz, which: np.ndarray) -> None:
        """Cut the basis back to the given Ritz vectors."""
        kept, S = len(which), self._weights(found, which)
        for rows in (self.Q, self.W):
            for columns in self._columns():
                rows[:kept, columns] = S @ rows[: self.filled, columns]
        last = torch.as_tensor(found.coordinates[:, which].T, device=self.last.device)
        self.last[:kept] = last @ self.last[: self.filled]
        self.T.zero_()
        self.T.diagonal()[:kept] = torch.as_tensor(found.values[which], device=self.T.device)
        self.alive[:kept] = True
        self.filled = kept

    def drop(self, first: int) -> None:
        """Drop the rows from ``first`` to the last but one, which moves to ``first``."""
        end = self.filled - 1
        for rows in (self.Q, self.W, self.alive):
            rows[first] = rows[end]
        row = self.T[end, :first].clone()
        self.T[first, first] = self.T[end, end]
        self.T[first, :first], self.T[:first, first] = row, row
        self.filled = first + 1

    def _turn_to_residual(self, i: int) -> None:
        """Set ``next`` to the residual of Ritz vector ``i``, followed by random vectors.

        A subspace that seemed invariant may still lack BREAKDOWN rounding units in one direction,
        which a random vector would not contain.
        """
        self.start(self.block)
        known, images = self.Q[: self.filled], self.W[: self.filled]
        value = self.T[i, i].to(known.dtype)
        residual = (images[i] - value * known[i])[None]
        length = norms(residual)
        if not bool(length > 0):
            return
        unit = orthogonalised(orthogonalised(residual / length.to(known.dtype), known), known)
        unit /= norms(unit).to(known.dtype)
        self.next[0] = unit[0] * norms(self.next[:1]).to(known.dtype)

    def _weights(self, found: Ritz, which: np.ndarray) -> torch.Tensor:
        """Return what makes Ritz vectors of the basis, a row for each."""
        S = torch.as_tensor(found.coordinates[:, which].T.copy(), dtype=self.Q.dtype, device="cpu")
        return S.to(self.Q.device)

    def _columns(self) -> Iterator[slice]:
        """Yield the columns piece by piece: whole, what is made of a basis takes its room again."""
        p = self.Q.shape[1]
        return (slice(start, start + COLUMNS) for start in range(0, p, COLUMNS))
