"""The two factors of a layer's Hessian in its Kronecker approximation."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn

from pipeline.curvature.given import Data
from pipeline.curvature.layer import checked_layer, layer_factors, layer_problem
from pipeline.curvature.parallel import sum_over_ranks
from pipeline.curvature.problem import Options
from pipeline.curvature.sums import sum_of_products
from pipeline.modes import default_modes


@dataclass(frozen=True)
class KroneckerFactors:
    """E[M] (m, m), E[x x^T] (n, n) and E[x] (n,) of a layer, in float64.

    Their entries have the network's own precision; the sums over examples, classes and positions
    are in float64.
    M sums over the positions of a convolution, E[x x^T] and E[x] average over examples and
    positions: E[M] (x) E[x x^T] is then near the layer's Hessian.
    """

    output_hessian: torch.Tensor
    autocorrelation: torch.Tensor
    mean_input: torch.Tensor


@default_modes()
def kronecker_factors(
    model: nn.Module, data: Data, *, layer: str, **options: Unpack[Options]
) -> KroneckerFactors:
    """Return the Kronecker factors of the weight of ``layer``.

    Source: D; KFAC-expand.  Raises as ``layer_hessian``, and NotLinearizedError for a convolution
    that is no product with its unfolded patches.
    """
    module = checked_layer(model, layer)
    problem = layer_problem(model, data, layer, **options)
    m, n = module.weight.shape[0], module.weight[0].numel()
    where = {"dtype": torch.float64, "device": problem.network.theta.device}
    M, xx = torch.zeros(m, m, **where), torch.zeros(n, n, **where)
    x, positions = torch.zeros(n, **where), torch.zeros((), **where)
    for chunk in problem.chunks():
        found = layer_factors(problem, layer, chunk)
        A, X = found.A.flatten(0, 2), found.inputs.flatten(0, 1)
        M += sum_of_products(A, A)
        xx += sum_of_products(X, X)
        x += X.sum(0, dtype=torch.float64)
        positions += len(X)
    for total in (M, xx, x, positions):
        sum_over_ranks(total)
    return KroneckerFactors(M / problem.examples, xx / positions, x / positions)
