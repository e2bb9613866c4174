"""Sums over chunks of examples, each kept linearised within a budget, or recomputed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.curvature.base import LinearOperator, checked_columns
from pipeline.curvature.linearize import LinearizedFunction, NotLinearizedError
from pipeline.curvature.memory import GIB, refuse_beyond_memory
from pipeline.curvature.parallel import refused_together, sum_over_ranks
from pipeline.curvature.problem import VECTORS, Chunk, Problem
from pipeline.device import rounding
from pipeline.errors import AnatomyError, TooLittleMemoryError
from pipeline.modes import default_modes
from pipeline.progress import say_once

# Of ||A v||, from which on derivatives are wrong, not rounded: float32 products of ResNet18 are
# 6e-4 off float64, those of weight_norm a third off symmetry.
ASYMMETRY = 0.01

# Rows that are transposed at once, of some eight columns: half a MB.
TRANSPOSED = 16384

# Rows (k, p) -> (k, p), in one pass over the chunk, with the chunk's own weight.
Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Kept:
    """A chunk linearized once: its product, and the bytes kept for it between products.

    ``again`` is the same product with nothing kept: the chunk is linearized at each one.
    ``recorded_elsewhere`` is the linearized function if another network was recorded for it.
    """

    product: Product
    held: int
    again: Product | None = None
    recorded_elsewhere: LinearizedFunction | None = None


Keep = Callable[[Chunk, bool], Kept]  # the flag: operations in place are written as new values


class ChunkSum(LinearOperator):
    """A sum over chunks; ``kept`` of them stay linearised, the others are made at each product."""

    def __init__(
        self, problem: Problem, products: Sequence[Product], *, kept: int, positive: bool
    ) -> None:
        super().__init__(**problem.about)
        self.products = tuple(products)
        self.kept = kept
        self.positive = positive
        # Where nothing shares a pass, a block would only be copied once more.
        shares = problem.vectorize() or (problem.shares_recomputed() and kept < len(products))
        self.vectors = problem.vectors if shares else 1

    @default_modes()
    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """Return the product with the columns of ``V``, chunk by chunk in a fixed order.

        Raises TooLittleMemoryError if the device runs out of memory: fewer columns in a pass, or
        smaller chunks, would change the last digits.
        """
        try:
            return sum_over_ranks(self._of_own_share(V)).T
        except torch.OutOfMemoryError as error:
            also = "" if self.vectors == 1 else ", compute.vectors"
            raise TooLittleMemoryError(
                f"out of memory on {self.device} in a product with {self.vectors} vectors at a "
                f"time. Lower compute.memory_gb{also} or compute.chunk"
            ) from error

    def _of_own_share(self, V: torch.Tensor) -> torch.Tensor:
        # Rows that lie contiguous, coming and going: copies across them cost as much as a small
        # network's product, and of all columns at once more than of a few.
        V = checked_columns(V, self).to(self.dtype)
        if not V.shape[1]:
            return V.T
        group = self.vectors
        if V.device.type == "cpu":  # which reads its lines once for some columns
            group *= -(-VECTORS // group)
        with torch.no_grad():
            if V.shape[1] <= self.vectors:
                return self._sum(_transposed(V))
            sums = V.new_empty(V.shape[1], len(V))
            for some, places in zip(V.split(group, 1), sums.split(group), strict=True):
                rows = _transposed(some).split(self.vectors)
                for row, place in zip(rows, places.split(self.vectors), strict=True):
                    place.copy_(self._sum(row))
        return sums

    def _sum(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the products with ``rows`` (k, p), which share a pass over the data."""
        if not self.products:  # a rank without examples
            return torch.zeros_like(rows)
        total = self.products[0](rows)
        for product in self.products[1:]:
            total = total + product(rows)
        return total


def _transposed(V: torch.Tensor) -> torch.Tensor:
    """Return V^T of a (p, k), contiguous.

    On a CPU by blocks that its cache holds: PyTorch's own copy of a few columns of row-major V
    takes half as long again.
    """
    if V.device.type != "cpu" or V.T.is_contiguous():
        return V.T.contiguous()
    rows = V.new_empty(V.shape[::-1])
    for some, place in zip(V.split(TRANSPOSED), rows.split(TRANSPOSED, 1), strict=True):
        place.copy_(some.T)
    return rows


def chunk_products(
    problem: Problem,
    *,
    keep: Keep | None,
    recompute: Callable[[Chunk], Product],
    always: bool = False,
) -> tuple[list[Product], int]:
    """Return each chunk's product, and how many are kept: as many as the memory budget allows.

    Those that do not fit are recomputed, or, where they are ``always`` linearised, have their
    ``again``.  One product is held to symmetry; without ``keep`` none is kept, and none held to it.
    Raises TooLittleMemoryError if the device runs out of memory.
    """
    device = problem.network.theta.device
    with refused_together(device):
        try:
            return _made(problem, keep, recompute, always)
        except torch.OutOfMemoryError as error:
            raise TooLittleMemoryError(
                f"out of memory on {device} with {problem.chunk} examples at a time and "
                f"{problem.memory / GIB:.2g} GiB for kept chunks. Lower compute.chunk or "
                "compute.memory_gb, or set compute.stream to true"
            ) from error


def _made(
    problem: Problem, keep: Keep | None, recompute: Callable[[Chunk], Product], always: bool
) -> tuple[list[Product], int]:
    products: list[Product] = []
    left, kept, linear, found = problem.memory, 0, keep is not None, False
    per_example: float = problem.bytes_per_example
    trial = _Trial(problem)
    piece = None
    for chunk in problem.chunks():
        reference = recompute(chunk)
        if linear and (always or per_example * len(chunk) <= left):
            piece = trial.linearized(chunk, keep, reference)
            linear = found = found or piece is not None
            if not found:
                say_once("the network cannot be linearized: every product differentiates it again")
        if piece:
            per_example = piece.held / len(chunk)  # the guess gives way to the measurement
        if piece and piece.held <= left:
            left, kept = left - piece.held, kept + 1
            refuse_beyond_memory(
                problem.memory - left,
                problem.network.theta.device,
                f"keeping {kept} linearised chunks",
                "Lower compute.memory_gb",
            )
            kind, product = "kept", piece.product
        elif piece and piece.again:
            kind, product = "again", piece.again
        else:
            kind, product = "recomputed", reference
        piece = None  # its memory, if it is not kept, before anything else takes some
        products.append(product)
        if keep:
            trial.products(product, (kind, len(chunk)))
    if keep and products and not found and problem.network.hides_a_derivative(problem.inputs[:1]):
        raise AnatomyError(
            "the network's second derivatives would miss a part: one of its autograd.Functions is "
            "marked once_differentiable. Give it a backward of tensor operations without that"
        )
    return products, kept


class _Trial:
    """Checks of the products of a new operator, with two random vectors."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.pair = _random(problem, 2)
        self.allowed = rounding(self.pair.device, self.pair.dtype) ** 0.5
        self.tried: set[tuple[str, int]] = set()  # a kind of product, the length of its chunk

    @torch.no_grad()
    def linearized(self, chunk: Chunk, keep: Keep, reference: Product) -> Kept | None:
        """Return the chunk linearized if its product is the recomputed one; otherwise None.

        A network that works in place can give a linearization that is wrong, or wrong the second
        time. The list of another network of the same structure is recorded again if its product
        differs.
        """
        expected = reference(self.pair[1:])
        for functional in (False, True):
            for _ in range(2):
                try:
                    piece = keep(chunk, functional)
                except NotLinearizedError:
                    break
                if self._agrees(piece.product, expected, ("kept", len(chunk))):
                    return piece
                if piece.recorded_elsewhere is None:
                    break
                piece.recorded_elsewhere.forget()
                del piece
        return None

    @torch.no_grad()
    def products(self, product: Product, kind: tuple[str, int]) -> None:
        """Try a product that is not kept, with nothing to compare it to but itself."""
        if kind not in self.tried:
            self._agrees(product, product(self.pair[1:]), kind)

    def _agrees(self, product: Product, expected: torch.Tensor, kind: tuple[str, int]) -> bool:
        """Return whether the product of one vector is the expected one.

        The first product of a kind is asked for a block too. If it is another one, vectors go one
        by one. Raises AnatomyError if it is not symmetric.
        """
        v = self.pair[1:]
        first = kind not in self.tried
        shared = first and self.problem.vectorize()  # otherwise a block is its single products
        if kind[0] == "kept" and (shared or not first) and not self._same(product(v), expected):
            return False
        if not first:
            return True
        block = self._block(product)
        if block is None or not self._same(block[1:], expected):
            if not self._same(product(v), expected):
                return False  # it changes from call to call
            self.problem.one_by_one = True
            say_once("vectors go one by one: the network gives other products of several together")
            block = product(self.pair)
        self.tried.add(kind)
        _refuse_asymmetric(self.pair, block)
        return True

    def _block(self, product: Product) -> torch.Tensor | None:
        try:
            return product(self.pair)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # vmap has no rule for an operation
            return None

    def _same(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        # Of a diverged network all are NaN: its products are refused when they are used.
        return not bool((one - other).norm() > self.allowed * other.norm())


def _refuse_asymmetric(pair: torch.Tensor, images: torch.Tensor) -> None:
    """Raise AnatomyError if the product is not symmetric.

    PyTorch's own second derivative of a fused weight normalisation is not; nor are products with a
    part under no_grad, which only one of its two modes leaves out.
    """
    (u, v), (Au, Av) = pair, images
    one, other = (float(a.double() @ b.double()) for a, b in ((u, Av), (v, Au)))
    allowed = max(ASYMMETRY, rounding(u.device, u.dtype) ** 0.5)
    if abs(one - other) > allowed * float(Av.double().norm()):
        raise AnatomyError(
            "the network's second derivatives, as PyTorch makes them, are no symmetric matrix: "
            f"u^T A v is {one:.6g} and v^T A u {other:.6g}. Write what PyTorch fuses, such as "
            "weight_norm, and what runs under torch.no_grad as plain tensor operations"
        )


def _random(problem: Problem, count: int) -> torch.Tensor:
    """Return ``count`` random vectors (count, p), the same at every call."""
    theta = problem.network.theta
    generator = torch.Generator().manual_seed(0)
    # Uniform numbers: normal ones take as long as half a product of a perceptron.
    made = torch.empty(count, len(theta), dtype=theta.dtype, device=torch.device("cpu"))
    return made.uniform_(-1, 1, generator=generator).to(theta.device)
