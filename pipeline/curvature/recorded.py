"""An operator whose products are written down, so that a killed job need not make them again.

The methods of ``spectra`` choose nothing by chance or by the clock: given the same products they
repeat themselves to the last bit.  A rerun is therefore served from the record until it ends.
"""

import struct
import time
import zlib
from pathlib import Path
from typing import BinaryIO

import torch

from pipeline.atomic import storing
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.parallel import least_over_ranks, ranks
from pipeline.progress import say

RECORD_ABOVE = 0.5  # seconds a vector: quicker products are sooner made again than written down
HEADER = struct.Struct("<QII")  # columns, checksum of the input, checksum of the product


class Recorded(LinearOperator):
    """``operator``, its products appended to ``file`` if they are slow, and taken from there first.

    A record that is torn, damaged or of another input ends what is taken: the rest is made anew.
    """

    def __init__(self, operator: LinearOperator, file: Path) -> None:
        super().__init__(operator.shape[0], operator.dtype, operator.device)
        self.operator = operator
        self.positive = operator.positive
        self.vectors = operator.vectors
        self.file = file.with_name(f"{file.name}-{ranks()[0]}")
        places = self._places()
        self.places = places[: least_over_ranks(len(places), operator.device)]
        self.served = 0
        self.recording: bool | None = True if self.places else None  # None: not decided yet
        if self.places:
            say(f"going on after {len(self.places)} recorded products")

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``, from the record as far as it goes."""
        if self.served < len(self.places):
            start, columns, given, _ = self.places[self.served]
            if columns == V.shape[1] and given == _checksum(V):
                self.served += 1
                return self._read(start, columns).to(self.device)
            say("the recorded products are of another input: made anew from here")
            self.places = self.places[: self.served]
        begun = time.monotonic()
        product = self.operator.matmat(V)
        if self.recording is None:
            self.recording = self._is_slow(begun, V.shape[1])
        if self.recording:
            self._append(V, product)
        return product

    def _is_slow(self, begun: float, columns: int) -> bool:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        slow = time.monotonic() - begun >= RECORD_ABOVE * columns
        # The ranks' clocks differ, and all must come to the same answer.
        return bool(least_over_ranks(int(slow), self.device))

    def _append(self, V: torch.Tensor, product: torch.Tensor) -> None:
        end = self.places[-1][3] if self.places else 0
        body, given = _bytes(product), _checksum(V)
        with storing(self.file), self._opened() as file:
            file.truncate(end)
            file.seek(end)
            file.write(HEADER.pack(V.shape[1], given, zlib.crc32(body)))
            file.write(body)
            place = (end + HEADER.size, V.shape[1], given, file.tell())
        self.places.append(place)
        self.served += 1

    def _opened(self) -> BinaryIO:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        return self.file.open("r+b" if self.file.exists() else "w+b")

    def _places(self) -> list[tuple[int, int, int, int]]:
        """Return (start, columns, checksum of the input, end) of every whole record."""
        places: list[tuple[int, int, int, int]] = []
        if not self.file.exists():
            return places
        row = self.shape[0] * self.dtype.itemsize
        with self.file.open("rb") as file:
            while len(head := file.read(HEADER.size)) == HEADER.size:
                columns, given, made = HEADER.unpack(head)
                start = file.tell()
                body = file.read(columns * row) if columns <= self.shape[0] else b""
                if len(body) < columns * row or zlib.crc32(body) != made:
                    break
                places.append((start, columns, given, file.tell()))
        return places

    def _read(self, start: int, columns: int) -> torch.Tensor:
        with self.file.open("rb") as file:
            file.seek(start)
            body = bytearray(file.read(columns * self.shape[0] * self.dtype.itemsize))
        return torch.frombuffer(body, dtype=self.dtype).view(columns, self.shape[0]).T


def _bytes(V: torch.Tensor) -> memoryview:
    return memoryview(V.T.contiguous().cpu().numpy()).cast("B")


def _checksum(V: torch.Tensor) -> int:
    return zlib.crc32(_bytes(V))
