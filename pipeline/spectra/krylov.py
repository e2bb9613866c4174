"""A Krylov basis with its images, grown block by block and cut back to Ritz vectors."""

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

    W = T Q + last next holds but for rounding: ``next`` (block, p) is what the last images have
    outside the basis, ``last`` (basis, block) how they couple to it.  Nothing inside a step waits
    for the device: a vector that breaks down becomes a row of zeros, ``alive`` knows of it, and a
    look at convergence sees to it.
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
        self.fresh = 0
        self._start_afresh()

    def grow(self, k: int, bottom: int, tolerance: float) -> int:
        """Grow the basis until its extreme pairs seem converged or it is full.

        Returns the number of products.
        """
        first = looked = self.filled
        multiplied, beside, near = 0, False, False
        while self.filled + self.block <= self.size:
            self._expand(after_restart=self.filled == first)
            every = max(CHECK_EVERY * self.block, self.filled // 20)  # looks grow dearer
            if self.filled - looked >= (every // 3 if near else every) or beside:
                multiplied += self.filled - looked
                beside = self._broke_down()
                if beside:
                    self._start_afresh()  # an invariant subspace is found: look beside it
                elif self.filled > k + bottom:
                    worst, scale = self._estimated(k, bottom)
                    if worst <= tolerance * scale:
                        return multiplied
                    near = self.Q.device.type == "cpu" and worst <= NEAR * tolerance * scale
                looked = self.filled
        return multiplied + self.filled - looked

    def _expand(self, *, after_restart: bool) -> None:
        """Take ``next`` into the basis and multiply it."""
        j, b = self.filled, self.block
        new = slice(j, j + b)
        L = self._orthonormalised(j)
        self.W[new] = self.operator.matmat(self.Q[new].T).T
        coupling = self.last[:j] @ L
        self.T[:j, new], self.T[new, :j] = coupling, coupling.T
        inner = torch.stack([dots(self.Q[new], w.expand(b, -1)) for w in self.W[new]])
        self.T[new, new] = (inner + inner.T) / 2
        # The first Gram-Schmidt pass takes the couplings that T tells; a second, full one then
        # removes what rounding left.
        told = 0 if after_restart else max(0, j - b)
        couplings = self.T[told : j + b, new].to(self.W.dtype)
        w = torch.addmm(self.W[new], couplings.T, self.Q[told : j + b], alpha=-1)
        self.next = orthogonalised(w, self.Q[: j + b])
        self.last.zero_()
        self.last[new] = torch.eye(b, dtype=torch.float64, device=self.last.device)
        self.filled += b

    def _orthonormalised(self, j: int) -> torch.Tensor:
        """Put ``next``, made orthonormal, into rows j on; return L with next = L rows."""
        L = torch.zeros(self.block, self.block, dtype=torch.float64, device=self.T.device)
        least = self._least()
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
        if bool((norms(self.next) > self._least()).any()):
            return False
        alive = self.alive[: self.filled].cpu().numpy()
        last = np.flatnonzero(alive).max(initial=-1) + 1
        self.filled = int(-(-last // self.block) * self.block)  # whole blocks
        return True

    def _least(self) -> torch.Tensor:
        """Return the length up to which a new vector is taken for rounding."""
        return BREAKDOWN * torch.finfo(self.Q.dtype).eps * self.T.diagonal().abs().amax()

    def _refuse_infinite(self) -> None:
        if not bool(torch.isfinite(self.T[: self.filled, : self.filled]).all()):
            raise FloatingPointError("products are not finite")

    def _start_afresh(self) -> None:
        """Set ``next`` to random vectors, uncoupled to what is found."""
        generator = torch.Generator().manual_seed(self.seed + self.fresh)
        self.fresh += 1
        shape = (self.block, self.Q.shape[1])
        w = torch.randn(shape, generator=generator, dtype=self.Q.dtype).to(self.Q.device)
        known = self.Q[: self.filled]
        w = orthogonalised(orthogonalised(w, known), known)
        # As long as the matrix is large, so that it does not pass for rounding.
        scale = self.T.diagonal().abs().amax().clamp(min=1) / norms(w)
        self.next = w * scale[:, None].to(w.dtype)
        self.last.zero_()

    def _estimated(self, k: int, bottom: int) -> tuple[float, float]:
        """Return the largest estimated residual of the extreme pairs, and the largest value."""
        found = self.ritz()
        ends = found.ends(k, bottom)
        if len(ends) < k + bottom or not len(ends):
            return np.inf, 0.0
        last = self.last[: self.filled].cpu().numpy()
        outside = (self.next @ self.next.T).double().cpu().numpy()
        parts = found.coordinates[:, ends].T @ last
        squares = np.einsum("ki,ij,kj->k", parts, outside, parts).max()
        return float(np.sqrt(max(0.0, squares))), float(np.abs(found.values).max())

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
        """Cut the basis back to the given Ritz vectors; ``worst`` is the worst wanted one's place.

        Where subspaces seemed invariant, the basis grows on with what that pair lacks.
        """
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
        if self.fresh > 1:
            self._turn_to_residual(worst)

    def _turn_to_residual(self, i: int) -> None:
        """Set ``next`` to the residual of Ritz vector ``i``, and random vectors beside it.

        A subspace that seemed invariant was so but for BREAKDOWN rounding units, all in one
        direction, which no random vector brings back.
        """
        self._start_afresh()
        known, images = self.Q[: self.filled], self.W[: self.filled]
        value = self.T[i, i].to(known.dtype)
        residual = (images[i] - value * known[i])[None]
        length = norms(residual)
        if not bool(length > 0):
            return
        unit = orthogonalised(orthogonalised(residual / length.to(known.dtype), known), known)
        unit /= norms(unit).to(known.dtype)
        scale = norms(self.next[:1])
        self.next[0] = unit[0] * scale.to(known.dtype)
        # What all pairs' images have in that direction, which lies outside the basis.
        self.last[: self.filled, 0] = (images @ unit[0]).double() / scale

    def _weights(self, found: Ritz, which: np.ndarray) -> torch.Tensor:
        """Return what makes Ritz vectors of the basis, a row for each."""
        S = torch.as_tensor(found.coordinates[:, which].T.copy(), dtype=self.Q.dtype)
        return S.to(self.Q.device)

    def _columns(self) -> Iterator[slice]:
        """Yield the columns piece by piece: whole, what is made of a basis takes its room again."""
        p = self.Q.shape[1]
        return (slice(start, start + COLUMNS) for start in range(0, p, COLUMNS))
