"""Sums over chunks of examples, each kept linearised within a budget, or recomputed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.curvature.base import LinearOperator
from pipeline.curvature.memory import GIB, refuse_beyond_memory
from pipeline.curvature.parallel import refused_together, sum_over_ranks
from pipeline.curvature.problem import VECTORS, Chunk, Problem
from pipeline.curvature.tangent import NotLinearisedError
from pipeline.device import rounding
from pipeline.errors import AnatomyError, TooLittleMemoryError
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
    """A chunk linearised once: its product, and the bytes that stay taken for it.

    ``again`` is the same product with nothing taken: the chunk is linearised at each one.
    """

    product: Product
    held: int
    again: Product | None = None


Keep = Callable[[Chunk, bool], Kept]  # the flag: with operations in place written out


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
        apart = problem.alone and kept == len(self.products)
        self.vectors = 1 if apart else problem.vectors

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
        V = V.to(self.dtype)
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
    piece = None
    for chunk in problem.chunks():
        reference = recompute(chunk)
        if linear and (always or per_example * len(chunk) <= left):
            piece = _checked(problem, chunk, keep, reference)
            linear = found = found or piece is not None
            if not found:
                say_once("the network cannot be linearised: every product differentiates it anew")
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
            products.append(piece.product)
        else:
            products.append(piece.again if piece and piece.again else reference)
        piece = None  # its memory, where it is not kept, before anything else takes some
    if keep and products:
        _refuse_untrue(problem, products[0], linearised=found)
    return products, kept


def _refuse_untrue(problem: Problem, product: Product, *, linearised: bool) -> None:
    """Raise AnatomyError where the network's derivatives are not what they should be.

    PyTorch's own second derivative of a fused weight normalisation is not symmetric; nor are
    products with a part under no_grad, which only one of its two modes leaves out.
    """
    u, v = _random(problem, 2)
    with torch.no_grad():
        Au, Av = product(u[None])[0], product(v[None])[0]
    one, other = (float(a.double() @ b.double()) for a, b in ((u, Av), (v, Au)))
    allowed = max(ASYMMETRY, rounding(u.device, u.dtype) ** 0.5)
    # Of a diverged network all are NaN: its products are refused where they are used.
    if abs(one - other) > allowed * float(Av.double().norm()):
        raise AnatomyError(
            "the network's second derivatives, as PyTorch makes them, are no symmetric matrix: "
            f"u^T A v is {one:.6g} and v^T A u {other:.6g}. Write what PyTorch fuses, such as "
            "weight_norm, and what runs under torch.no_grad as plain tensor operations"
        )
    if not linearised and problem.network.hides_a_derivative(problem.inputs[:1]):
        raise AnatomyError(
            "the network's second derivatives would miss a part: one of its autograd.Functions is "
            "marked once_differentiable. Give it a backward of tensor operations without that"
        )


def _random(problem: Problem, count: int) -> torch.Tensor:
    """Return ``count`` normal vectors (count, p), the same at every call."""
    theta = problem.network.theta
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(count, len(theta), generator=generator, dtype=theta.dtype)
    return made.to(theta.device)


def _checked(problem: Problem, chunk: Chunk, keep: Keep, reference: Product) -> Kept | None:
    """Return the kept chunk if its product, asked twice, is the recomputed one; otherwise None.

    A network that works in place can give a linearisation that is wrong, or wrong the second time.
    """
    v = _random(problem, 1)
    with torch.no_grad():
        expected = reference(v)
        allowed = rounding(v.device, v.dtype) ** 0.5 * expected.norm()
        for pure in (False, True):
            try:
                piece = keep(chunk, pure)
            except NotLinearisedError:
                continue
            if all((piece.product(v) - expected).norm() <= allowed for _ in range(2)):
                return piece
            del piece
    return None
