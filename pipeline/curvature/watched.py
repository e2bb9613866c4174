"""An operator whose products are counted in a job's log: a long part shows how far it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.curvature.base import LinearOperator
from pipeline.curvature.recorded import Recorded
from pipeline.progress import Progress


class Watched(LinearOperator):
    """``operator``, each of its products a step of ``progress``, with ``note`` behind."""

    def __init__(self, operator: LinearOperator, progress: Progress, *, note: str = "") -> None:
        super().__init__(operator.shape[0], operator.dtype, operator.device)
        self.operator = operator
        self.positive = operator.positive
        self.vectors = operator.vectors
        self.progress = progress
        self.note = note

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``."""
        operator = self.operator
        found = isinstance(operator, Recorded) and operator.served < len(operator.places)
        product = operator.matmat(V)
        self.progress.advance(V.shape[1], note=self.note, found=found)
        return product


@contextmanager
def watched(
    operator: LinearOperator, *, label: str, total: int, at_most: bool = False
) -> Iterator[Watched]:
    """Give ``operator`` with its products counted, of which ``total`` are expected."""
    with Progress(total=total, label=f"{label}, products", at_most=at_most) as progress:
        yield Watched(operator, progress)
