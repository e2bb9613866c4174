"""Linear operators and their algebra: products; sums, multiples, deflation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import ArgumentError
from pipeline.modes import default_modes, outside_inference


def checked_columns(V: Any, operator: "LinearOperator") -> torch.Tensor:
    """Return ``V``; ArgumentError if it is no tensor (p, k) that the operator can multiply.

    It may be of any real type: it is converted to the operator's.
    """
    p = operator.shape[1]
    cure = f"Give a torch tensor ({p}, k) on {operator.device}; A @ v takes ({p},) too"
    if not isinstance(V, torch.Tensor):
        made = ", such as torch.as_tensor(V)" if hasattr(V, "__array__") else ""
        raise ArgumentError(f"V is a {type(V).__name__}. {cure}{made}")
    if V.ndim != 2 or V.shape[0] != p:
        shape = (*V.shape[:-1],) if V.ndim == 2 and V.shape[1] == 1 else tuple(V.shape)
        raise ArgumentError(f"V has shape {shape}. {cure}")
    if V.is_complex() or V.layout != torch.strided:
        raise ArgumentError(f"V is {V.dtype}, {V.layout}. It should be real and dense. {cure}")
    if V.device != operator.device:
        raise ArgumentError(f"V is on {V.device}. {cure}")
    return outside_inference(V)


class LinearOperator(ABC):
    """A symmetric (p, p) matrix known by its products.

    ``symmetric`` and ``positive`` (semidefinite) say what is known of it; ``vectors`` is how many
    columns are worth multiplying together.
    """

    symmetric = True
    positive = False
    vectors = 1

    def __init__(self, dimension: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (dimension, dimension)
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``: (p, k) -> (p, k)."""

    def __matmul__(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with one vector (p,) or with columns (p, k)."""
        single = isinstance(V, torch.Tensor) and V.ndim == 1
        V = checked_columns(V[:, None] if single else V, self)
        return self.matmat(V)[:, 0] if single else self.matmat(V)

    def __add__(self, other: "LinearOperator") -> "Combination":
        return Combination([(1.0, self), (1.0, other)])

    def __sub__(self, other: "LinearOperator") -> "Combination":
        return Combination([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: float) -> "Combination":
        return Combination([(float(factor), self)])

    __rmul__ = __mul__

    def __neg__(self) -> "Combination":
        return self * -1.0


class Combination(LinearOperator):
    """A sum of multiples of operators."""

    def __init__(self, terms: Sequence[tuple[float, LinearOperator]]) -> None:
        shapes = {term.shape for _, term in terms}
        if len(shapes) != 1:
            raise ArgumentError(f"operators of different shapes cannot be added: {sorted(shapes)}")
        first = terms[0][1]
        super().__init__(first.shape[0], first.dtype, first.device)
        self.terms = tuple(terms)
        self.positive = all(factor >= 0 and term.positive for factor, term in terms)

    @default_modes()
    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the sum of the terms' products."""
        return sum(factor * term.matmat(V) for factor, term in self.terms)


class Deflated(LinearOperator):
    """(I - U U^T) A (I - U U^T) for orthonormal columns ``U`` (p, d): A off the space of U."""

    def __init__(self, operator: LinearOperator, U: torch.Tensor) -> None:
        super().__init__(operator.shape[0], operator.dtype, operator.device)
        self.operator = operator
        self.U = U
        self.positive = operator.positive
        self.vectors = operator.vectors

    def project(self, V: torch.Tensor) -> torch.Tensor:
        """Return the part of the columns of ``V`` orthogonal to the space of U."""
        return V - self.U @ (self.U.T @ V)

    @default_modes()
    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``."""
        return self.project(self.operator.matmat(self.project(checked_columns(V, self))))


class Dense(LinearOperator):
    """An explicit symmetric matrix, for references and small problems."""

    def __init__(self, matrix: torch.Tensor, *, positive: bool = False) -> None:
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device)
        self.matrix = matrix
        self.positive = positive

    @default_modes()
    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``."""
        return self.matrix @ checked_columns(V, self).to(self.dtype)
