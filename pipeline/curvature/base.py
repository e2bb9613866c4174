"""Linear operators and their algebra: products; sums, multiples, deflation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


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
        if V.shape[0] != self.shape[1] or V.ndim not in (1, 2):
            raise ValueError(
                f"a {self.shape} operator cannot multiply a tensor of shape {tuple(V.shape)}: give "
                f"({self.shape[1]},) or ({self.shape[1]}, k)"
            )
        return self.matmat(V[:, None])[:, 0] if V.ndim == 1 else self.matmat(V)

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
            raise ValueError(f"operators of different shapes cannot be added: {sorted(shapes)}")
        first = terms[0][1]
        super().__init__(first.shape[0], first.dtype, first.device)
        self.terms = tuple(terms)
        self.positive = all(factor >= 0 and term.positive for factor, term in terms)

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

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``."""
        return self.project(self.operator.matmat(self.project(V)))


class Dense(LinearOperator):
    """An explicit symmetric matrix, for references and small problems."""

    def __init__(self, matrix: torch.Tensor, *, positive: bool = False) -> None:
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device)
        self.matrix = matrix
        self.positive = positive

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``."""
        return self.matrix @ V
