"""Images that pass through memory piece by piece, where all of them would not fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Streamed:
    """Rows of images that are read, prepared and put on a device whenever they are asked for.

    It stands for a tensor (N, channels, height, width): ``[...]`` and ``split`` give tensors,
    ``part`` the same for some rows, unread.  ``read(rows)`` returns images as a ``Source`` does,
    ``prepare`` makes of them what a network sees, on their device; ``example`` is one's shape.
    """

    read: Callable[[np.ndarray], torch.Tensor]
    rows: np.ndarray
    prepare: Callable[[torch.Tensor], torch.Tensor]
    example: torch.Size
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """The shape of all rows together."""
        return torch.Size([len(self), *self.example])

    def __getitem__(self, chosen: int | slice | torch.Tensor) -> torch.Tensor:
        """Return rows by number, slice, indices or mask, as a tensor's first axis has them."""
        rows = self.part(chosen).rows
        if not rows.size:
            return torch.empty((0, *self.example), dtype=self.dtype, device=self.device)
        images = self.read(np.atleast_1d(rows)).to(self.device)
        images = self.prepare(images).to(self.dtype)
        return images if rows.ndim else images[0]

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Yield ``size`` rows at a time, in order; one empty piece where there are none."""
        for start in range(0, max(1, len(self)), size):
            yield self[start : start + size]

    def part(self, chosen: int | slice | torch.Tensor) -> "Streamed":
        """Return the same with some of the rows."""
        if isinstance(chosen, torch.Tensor):
            chosen = chosen.cpu().numpy()
        return replace(self, rows=self.rows[chosen])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Streamed":
        """Return the same whose rows come to a device, in ``dtype``."""
        return replace(self, device=torch.device(device), dtype=dtype or self.dtype)


Inputs = torch.Tensor | Streamed


def part(inputs: Inputs, chosen: slice | torch.Tensor) -> Inputs:
    """Return some rows of ``inputs``; where they are streamed, unread."""
    return inputs.part(chosen) if isinstance(inputs, Streamed) else inputs[chosen]
