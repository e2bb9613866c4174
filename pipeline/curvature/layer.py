"""The Hessian of one layer's weight: a product in closed form, without automatic differentiation.

Logits of a ReLU or max-pool network are piecewise linear in one weight matrix, so that the layer's
Hessian is its Gauss-Newton part.  With x the layer's input, u its pre-activations at each of its
positions P (one for a linear layer on vectors, one for each patch of a convolution),

    (1/N) sum_i B_i^T B_i,   B_i = sum_P A_iP (x) x_iP,   A_i = S_i^(1/2) dz_i/du_i

and S_i^(1/2) = diag(sqrt pi) - sqrt(pi) pi^T.  Source: D; docs/method.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import nn
from torch.func import vjp
from torch.nn import functional as F

from pipeline.curvature.attention import plain_attention
from pipeline.curvature.chunked import ChunkSum, Kept, Product, chunk_products
from pipeline.curvature.derivatives import Map, map_rows
from pipeline.curvature.eval_copy import unwrapped
from pipeline.curvature.given import Data
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.loss import likeliest
from pipeline.curvature.memory import pass_budget
from pipeline.curvature.problem import Chunk, Options, Problem
from pipeline.curvature.reverse import Reversed
from pipeline.curvature.sandwich import recomputed_gauss_newton
from pipeline.curvature.second_order import tangent_of_gradient
from pipeline.errors import AnatomyError, ArgumentError
from pipeline.modes import default_modes

COPIES = 3  # of a chunk's factors, at most, while they are made
# Weights of a layer whose chunks may be kept as matrices, where their factors do not fit. Those of
# LeNet5's convolutions take as long to make as 13 products that differentiate the network anew, and
# eigenpairs take a hundred.
WHOLE = 3000
IN_CACHE = 100  # examples whose rows of a matrix are made at once


class LayerHessian(ChunkSum):
    """The Hessian (m n, m n) of a layer's weight (m, n), row-major.

    ``route`` says how it is multiplied: "closed form", "autograd", or "both" where the closed form
    fits memory for some chunks alone.  ``residual_share`` is ||H v|| / ||G v|| of a random v:
    rounding for a piecewise-linear network, whose layer Hessian is G's block; otherwise the product
    is the true layer Hessian's, by autograd.
    """

    route: str
    residual_share: float


@default_modes()
def layer_hessian(
    model: nn.Module, data: Data, *, layer: str, **options: Unpack[Options]
) -> LayerHessian:
    """Return the Hessian of the weight of ``layer``, an nn.Linear or nn.Conv2d of ``model``.

    ``layer`` is its ``named_modules()`` name.  ``memory_gb`` bounds the factors of the closed form;
    other options as ``hessian``.  Raises AnatomyError where there is no such layer, or where it is
    applied more than once.
    """
    problem = layer_problem(model, data, layer, **options)
    matrix_bytes = len(problem.network.theta) ** 2 * problem.network.theta.dtype.itemsize
    whole = _is_kept_whole(problem, matrix_bytes)
    if whole:
        problem.bytes_per_example = -(-matrix_bytes // problem.chunk)

    def keep(chunk: Chunk, functional: bool) -> Kept:
        factors = layer_factors(problem, layer, chunk)
        if whole:
            matrix = factors.matrix(examples=problem.examples)
            return Kept(lambda rows: rows @ matrix, matrix.nbytes)  # it is symmetric
        return Kept(partial(factors.product, examples=problem.examples), factors.held)

    def recompute(chunk: Chunk) -> Product:
        return recomputed_gauss_newton(problem, chunk)

    products, kept = chunk_products(problem, keep=keep, recompute=recompute)
    made = LayerHessian(problem, products, kept=kept, positive=True)
    made.route = {0: "autograd", len(products): "closed form"}.get(kept, "both")
    made.residual_share = _residual_share(problem, made)
    if made.residual_share > torch.finfo(made.dtype).eps ** 0.5:
        true = tangent_of_gradient(problem, fixed_residual=False)
        whole = LayerHessian(problem, true.products, kept=true.kept, positive=False)
        whole.route, whole.residual_share = "autograd", made.residual_share
        return whole
    return made


def layer_problem(model: nn.Module, data: Data, layer: str, **options: Unpack[Options]) -> Problem:
    """Return the problem of one layer's weight; raises as ``layer_hessian``.

    Its chunks are small enough for their factors, of which a pass takes some copies.
    """
    checked_layer(model, layer)
    problem = Problem(model, data, only=(f"{layer}.weight",), **options)
    problem.bytes_per_example = _bytes_per_example(problem, layer)
    fit = pass_budget(problem.network.theta.device) // (COPIES * problem.bytes_per_example)
    problem.chunk = max(1, min(problem.chunk, fit))
    return problem


def checked_layer(model: nn.Module, layer: str) -> nn.Linear | nn.Conv2d:
    """Return the module ``layer``; ArgumentError if the network has no such layer.

    Its weight must be a parameter of its own: not tied to another's, not made from others.
    """
    known = layer_names(model)
    if not isinstance(layer, str) or layer not in known:
        raise ArgumentError(
            f"layer is {layer!r}, no linear or 2d convolution layer of the network. Name one of "
            f"{', '.join(known) or 'none, for it has none'}"
        )
    return unwrapped(model).get_submodule(layer)


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of all linear and 2d convolution layers that have a weight of their own."""
    model = unwrapped(model)
    own = dict(model.named_parameters())
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and f"{name}.weight" in own
    ]


@dataclass(frozen=True)
class LayerFactors:
    """What a layer's Hessian is made of, for a chunk of examples.

    ``inputs`` (N, P, n) are the layer's inputs, ``A`` (N, C, P, m) as in this module's formula.
    """

    inputs: torch.Tensor
    A: torch.Tensor

    @property
    def held(self) -> int:
        """The bytes that both take."""
        return self.inputs.nbytes + self.A.nbytes

    def product(self, rows: torch.Tensor, *, examples: int) -> torch.Tensor:
        """Return the product with ``rows`` (k, m n), a sum over the chunk over ``examples``."""
        k, (N, C, P, m) = len(rows), self.A.shape
        X = self.inputs.reshape(N * P, -1)
        U = (X @ rows.view(k * m, -1).T).view(N, P, k, m)
        U = U.transpose(2, 3).reshape(N, P * m, k)
        A = self.A.view(N, C, P * m)
        W = A.transpose(1, 2) @ (A @ U)
        W = W.view(N, P, m, k).transpose(2, 3).reshape(N * P, k * m)
        return (W.T @ X).view(k, -1) / examples

    def matrix(self, *, examples: int) -> torch.Tensor:
        """Return the chunk's part of the Hessian (m n, m n): sum_i B_i^T B_i / ``examples``."""
        C, m, n = self.A.shape[1], self.A.shape[3], self.inputs.shape[2]
        total = self.A.new_zeros(m * n, m * n)
        for A, x in zip(self.A.split(IN_CACHE), self.inputs.split(IN_CACHE), strict=True):
            B = A.transpose(2, 3).reshape(len(A), C * m, -1) @ x
            B = B.view(len(A) * C, m * n)
            total.addmm_(B.T, B)
        return total / examples


def layer_factors(problem: Problem, layer: str, chunk: Chunk) -> LayerFactors:
    """Return the factors of a chunk: a backward pass for each class, down to the layer alone."""
    network, inputs = problem.network, chunk.inputs
    module = network.module.get_submodule(layer)
    with torch.no_grad():
        x, u = input_and_output(network.module, layer, inputs)
        if len(u) != len(chunk):
            raise NotLinearizedError("a layer whose first dimension is not that of the examples")

        def logits_of(shift: torch.Tensor) -> torch.Tensor:
            handle = module.register_forward_hook(lambda _m, _i, output: output + shift)
            try:
                return network(inputs)
            finally:
                handle.remove()

        logits, pull = _pulled_back(problem, logits_of, torch.zeros_like(u))
        pi = chunk.relative(logits).softmax(-1)
        unit = torch.eye(pi.shape[1], dtype=pi.dtype, device=pi.device)
        cotangents = unit[:, None, :].expand(-1, len(pi), -1)  # (C, N, C)
        parts = [
            map_rows(pull, some, vectorize=not (problem.plain or problem.one_by_one))
            for some in cotangents.split(problem.vectors)
        ]
        J = _by_position(torch.cat(parts).transpose(0, 1), module)  # (N, C, P, m)
        # J_k - sum_j pi_j J_j, without the cancellation of a certain network.
        over = (..., None, None)
        J = J - (likeliest(pi)[over] * J).sum(1, keepdim=True)
        J = J - (pi[over] * J).sum(1, keepdim=True)
        return LayerFactors(patches(x, module), pi.sqrt()[over] * J)


def _pulled_back(problem: Problem, function: Map, at: torch.Tensor) -> tuple[torch.Tensor, Map]:
    """Return a function's value at a point and its J^T."""
    if problem.plain:
        found = Reversed(function, at)
        return found.value, found.pull
    value, pull = vjp(function, at)
    return value, lambda u: pull(u)[0]


def input_and_output(
    network: nn.Module, layer: str, inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what goes into a layer and what comes out of it.

    Raises AnatomyError where the layer is not applied once.
    """
    module = network.get_submodule(layer)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_module: nn.Module, args: tuple, named: dict, made: torch.Tensor) -> None:
        # A copy: an operation in place may follow.
        seen.append((next(iter((*args, *named.values()))).clone(), made))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        with plain_attention():
            network(inputs)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise AnatomyError(
            f"layer {layer!r} is applied {len(seen)} times in a pass, not once as a layer's "
            "Hessian needs. Name another"
        )
    return seen[0]


def _by_position(u: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return pre-activations (N, C, m, height, width), or (N, C, ..., m), as (N, C, P, m)."""
    if isinstance(module, nn.Conv2d):
        u = u.movedim(2, -1)
    return u.reshape(*u.shape[:2], -1, u.shape[-1]).contiguous()


def patches(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return a layer's inputs as (N, P, n), a convolution's unfolded.

    Raises NotLinearizedError where patches are not all there is to a convolution.
    """
    if not isinstance(module, nn.Conv2d):
        return x.reshape(len(x), -1, x.shape[-1])
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise NotLinearizedError("a convolution with groups, or padded otherwise than by zeros")
    unfolded = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return unfolded.transpose(1, 2).contiguous()


def _is_kept_whole(problem: Problem, matrix_bytes: int) -> bool:
    """Return whether the chunks' own matrices fit the memory for them, and their factors do not."""
    count = len(problem.labels)
    matrices = -(-count // problem.chunk) * matrix_bytes
    factors = count * problem.bytes_per_example
    return len(problem.network.theta) <= WHOLE and matrices <= problem.memory < factors


def _bytes_per_example(problem: Problem, layer: str) -> int:
    """Return the bytes of an example's factors."""
    if not len(problem.inputs):
        return 1  # a rank without examples
    module = problem.network.module.get_submodule(layer)
    with torch.no_grad():
        _, u = input_and_output(problem.network.module, layer, problem.inputs[:1])
    outputs = module.weight.shape[0]
    positions = u[0].numel() // outputs
    inputs = module.weight[0].numel()
    return positions * (inputs + problem.classes * outputs) * u.dtype.itemsize


def _residual_share(problem: Problem, G: ChunkSum) -> float:
    """Return ||H v|| / ||G v|| for a random v, zero where both are."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(G.shape[0], generator=generator, dtype=torch.float64, device="cpu")
    v = v.to(G.device, G.dtype)
    H = tangent_of_gradient(problem, fixed_residual=True, once=True)
    ours, other = (H @ v).norm(), (G @ v).norm()
    return float(ours / other) if other > 0 else float(ours)
