"""The output Hessian of all layers together, as the Gauss-Newton matrix of one shift of each.

A shift added to a layer's pre-activations u, the same for all examples, has the Gauss-Newton matrix
E[(dz/du)^T (diag(pi) - pi pi^T) (dz/du)]: what serves networks serves this too.  Source: D, section
on the full Hessian.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from pipeline.curvature.chunked import ChunkSum
from pipeline.curvature.layer import checked_layer, input_and_output, patches
from pipeline.curvature.parallel import sum_over_ranks
from pipeline.curvature.problem import Data, Options, Problem
from pipeline.curvature.sandwich import gauss_newton_of


@dataclass(frozen=True)
class OutputHessian:
    """The output Hessian of some layers' stacked pre-activations, and the means of their inputs.

    ``operator`` (U, U) counts each layer's pre-activations as outputs x positions, row-major;
    ``mean_inputs`` (positions, inputs) are E[x] by layer, unfolded for a convolution.
    """

    operator: ChunkSum
    layers: tuple[str, ...]
    shapes: dict[str, tuple[int, int]]  # outputs, positions
    mean_inputs: dict[str, torch.Tensor]


def output_hessian(
    model: nn.Module, data: Data, *, layers: Sequence[str], **options: Unpack[Options]
) -> OutputHessian:
    """Return the output Hessian of ``layers`` together; options as ``hessian``.

    Raises as ``layer_hessian``, and NotLinearisedError for a convolution that is no product with
    its unfolded patches.
    """
    plain = Problem(model, data, **options)
    modules = {name: checked_layer(model, name) for name in layers}
    outputs = {name: _example_output(plain, name) for name in layers}
    means = {name: _mean_input(plain, name) for name in layers}
    shifted = copy.deepcopy(model)
    for name in layers:
        parent, _, own = name.rpartition(".")
        owner = shifted.get_submodule(parent)
        setattr(owner, own, _Shifted(owner.get_submodule(own), outputs[name]))
    problem = Problem(shifted, data, only=[f"{name}.shift" for name in layers], **options)
    sizes = {name: modules[name].weight.shape[0] for name in layers}
    return OutputHessian(
        operator=gauss_newton_of(problem),
        layers=tuple(layers),
        shapes={name: (sizes[name], outputs[name].numel() // sizes[name]) for name in layers},
        mean_inputs=means,
    )


def kronecker_direction(found: OutputHessian, model: nn.Module, u: torch.Tensor) -> torch.Tensor:
    """Return w (p,) = stack over layers of sum_P u_P (x) E[x_P], E[x_P] with a 1 for the bias.

    ``u`` (U,) are pre-activations of all layers.  p counts all parameters of ``model``; those of
    other layers have zeros.
    """
    sizes = [outputs * positions for outputs, positions in found.shapes.values()]
    pieces = dict(zip(found.layers, u.split(sizes), strict=True))
    rows = []
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        if layer not in pieces or kind not in ("weight", "bias"):
            rows.append(torch.zeros_like(parameter).flatten())
            continue
        own = pieces[layer].view(found.shapes[layer])
        rows.append((own @ found.mean_inputs[layer]).flatten() if kind == "weight" else own.sum(1))
    return torch.cat([row.to(u) for row in rows])


class _Shifted(nn.Module):
    """A layer with a shift of its pre-activations, zero but for differentiation."""

    def __init__(self, layer: nn.Module, output: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.shift = nn.Parameter(torch.zeros_like(output))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.shift


@torch.no_grad()
def _example_output(problem: Problem, layer: str) -> torch.Tensor:
    """Return the layer's pre-activations of the first example."""
    module = problem.network.module
    return input_and_output(module, layer, problem.inputs[:1])[1][0]


@torch.no_grad()
def _mean_input(problem: Problem, layer: str) -> torch.Tensor:
    """Return E[x] (P, n); unfolding is linear, so that the mean comes first."""
    network = problem.network
    total = torch.zeros((), dtype=torch.float64, device=network.theta.device)
    for chunk in problem.chunks():
        x, _ = input_and_output(network.module, layer, chunk.inputs)
        total = total + x.sum(0, dtype=torch.float64)
    mean = (sum_over_ranks(total) / problem.examples).to(network.theta.dtype)
    return patches(mean[None], network.module.get_submodule(layer))[0]
