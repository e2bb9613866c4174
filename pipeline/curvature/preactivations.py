"""The output Hessian of all layers together, as the Gauss-Newton matrix of one shift of each.

A shift added to a layer's pre-activations u, the same for all examples, has the Gauss-Newton matrix
E[(dz/du)^T (diag(pi) - pi pi^T) (dz/du)]: what serves networks serves this too.  Source: D, section
on the full Hessian.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from pipeline.curvature.chunked import ChunkSum
from pipeline.curvature.eval_copy import eval_copy, unwrapped
from pipeline.curvature.given import Data, as_network_takes, inputs_and_labels
from pipeline.curvature.layer import checked_layer, input_and_output, patches
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.network import logits_in
from pipeline.curvature.parallel import sum_over_ranks
from pipeline.curvature.problem import Options, Problem
from pipeline.curvature.sandwich import gauss_newton_of
from pipeline.errors import ArgumentError
from pipeline.modes import default_modes


@dataclass(frozen=True)
class OutputHessian:
    """The output Hessian of some layers' stacked pre-activations, and the means of their inputs.

    ``operator`` (U, U) counts the layers' pre-activations as ``shapes``, row-major: (m,) or
    (positions..., m) of a linear layer, (m, height, width) of a convolution.  ``mean_inputs``
    (positions, n) are E[x] by layer, unfolded for a convolution.
    """

    operator: ChunkSum
    shapes: dict[str, torch.Size]
    mean_inputs: dict[str, torch.Tensor]


@default_modes()
def output_hessian(
    model: nn.Module, data: Data, *, layers: Sequence[str], **options: Unpack[Options]
) -> OutputHessian:
    """Return the output Hessian of ``layers`` together; options as ``hessian``.

    Raises as ``layer_hessian``, and NotLinearizedError for a convolution that is no product with
    its unfolded patches, or a layer whose first dimension is not that of the examples.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ArgumentError(f"layers is {layers!r}. Give a list of names, at least one")
    if len(set(map(str, layers))) < len(layers):
        raise ArgumentError(f"layers is {layers!r}. Name each layer once")
    for name in layers:
        checked_layer(model, name)
    model = eval_copy(model)
    plain = Problem(model, data, **options)
    inputs, _ = inputs_and_labels(data)
    seen = {name: _of_example(plain, name, inputs[:1]) for name in layers}
    shapes = {name: u.shape for name, (_, u) in seen.items()}
    shifted = _Shifted(model, shapes)
    problem = Problem(shifted, data, only=shifted.names, **options)
    means = {name: _mean_input(plain, name, x) for name, (x, _) in seen.items()}
    return OutputHessian(gauss_newton_of(problem), shapes, means)


@default_modes()
def kronecker_direction(found: OutputHessian, model: nn.Module, u: torch.Tensor) -> torch.Tensor:
    """Return w (p,) = stack over layers of sum_P u_P (x) E[x_P], E[x_P] with a 1 for the bias.

    ``u`` (U,) are pre-activations of all layers.  p counts all parameters of ``model``; those of
    other layers have zeros.
    """
    sizes = [shape.numel() for shape in found.shapes.values()]
    pieces = dict(zip(found.shapes, u.split(sizes), strict=True))
    rows = []
    for name, parameter in unwrapped(model).named_parameters():
        layer, _, kind = name.rpartition(".")
        if layer not in pieces or kind not in ("weight", "bias"):
            rows.append(torch.zeros_like(parameter).flatten())
            continue
        first = isinstance(unwrapped(model).get_submodule(layer), nn.Conv2d)  # outputs come first
        own = pieces[layer].view(found.shapes[layer])
        own = own.flatten(1) if first else own.reshape(-1, own.shape[-1]).T
        rows.append((own @ found.mean_inputs[layer]).flatten() if kind == "weight" else own.sum(1))
    return torch.cat([row.to(u) for row in rows])


@default_modes()
def longest_direction(found: OutputHessian, model: nn.Module) -> float:
    """Return the largest ||w||^2 of ``kronecker_direction`` of any unit vector u.

    It is the largest squared singular value, of any layer, of E[x_P] with a 1 for the bias, a row
    for each position P.
    """
    squares = []
    for name, mean in found.mean_inputs.items():
        x = mean.double()
        if unwrapped(model).get_submodule(name).bias is not None:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        squares.append(float(torch.linalg.matrix_norm(x, 2)) ** 2)
    return max(squares)


class _Shifted(nn.Module):
    """A network with a shift of some layers' pre-activations, zero but for differentiation."""

    def __init__(self, model: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self.model = model
        self.layers = list(shapes)
        like = next(model.parameters())
        self.shifts = nn.ParameterList([like.new_zeros(shape) for shape in shapes.values()])
        self.names = [f"shifts.{i}" for i in range(len(self.layers))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        handles = [
            self.model.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, shift=shift: output + shift
            )
            for name, shift in zip(self.layers, self.shifts, strict=True)
        ]
        try:
            return logits_in(self.model(x))
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def _of_example(
    problem: Problem, layer: str, example: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's input and output of an example, which every rank has."""
    network = problem.network
    x, u = input_and_output(network.module, layer, as_network_takes(example, network.theta))
    if len(u) != 1:
        raise NotLinearizedError("a layer whose first dimension is not that of the examples")
    patches(x, network.module.get_submodule(layer))
    return x[0], u[0]


@torch.no_grad()
def _mean_input(problem: Problem, layer: str, like: torch.Tensor) -> torch.Tensor:
    """Return E[x] (P, n); unfolding is linear, so that the mean comes first."""
    network = problem.network
    total = torch.zeros_like(like, dtype=torch.float64)
    for chunk in problem.chunks():
        x, _ = input_and_output(network.module, layer, chunk.inputs)
        total += x.sum(0, dtype=torch.float64)
    mean = (sum_over_ranks(total) / problem.examples).to(network.theta.dtype)
    return patches(mean[None], network.module.get_submodule(layer))[0]
