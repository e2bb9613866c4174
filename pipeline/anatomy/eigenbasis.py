"""Bases in which a posterior is diagonal: each layer's Kronecker eigenbasis, never formed."""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.curvature.given import Data
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.layer import layer_names
from pipeline.curvature.problem import Options
from pipeline.errors import AnatomyError
from pipeline.progress import say

PASSING = (nn.Identity, nn.Dropout, nn.Flatten)
BATCH = 1000


@dataclass(frozen=True)
class LayerBasis:
    """An orthonormal basis u_i (x) v_j of a layer's weight (m, n), and u_i of its bias.

    ``left`` (m, m) and ``right`` (n, n) have the u_i and v_j for columns; None: the standard basis.
    ``output_values`` (m,) and ``input_values`` (n,) multiply to the curvature along u_i (x) v_j:
    eigenvalues of the factors E[M] and E[x x^T], or their diagonals in the standard basis.
    """

    left: torch.Tensor | None
    right: torch.Tensor | None
    output_values: torch.Tensor
    input_values: torch.Tensor

    def rotated(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the weight (m, n), or bias (m,), that has these coordinates: U_M V U_x^T."""
        return _between(self.left, coordinates, self.right)

    def coordinates(self, values: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of a weight (m, n) or bias (m,): U_M^T W U_x."""
        return _between(_turned(self.left), values, _turned(self.right))

    def variances_in(self, other: "LayerBasis", variances: torch.Tensor) -> torch.Tensor:
        """Return variances along the vectors of ``other`` of noise with ``variances`` along own."""
        left, right = _overlaps(other.left, self.left), _overlaps(other.right, self.right)
        return _between(left, variances, right)

    def curvature(self, *, bias: bool) -> torch.Tensor:
        """Return the curvature along each coordinate of the weight (m, n), or of the bias (m,)."""
        values = self.output_values.clamp_min(0)
        return values if bias else torch.outer(values, self.input_values.clamp_min(0))


def _between(
    left: torch.Tensor | None, values: torch.Tensor, right: torch.Tensor | None
) -> torch.Tensor:
    if left is not None:
        values = left @ values
    if right is not None and values.ndim == 2:
        values = values @ right.T
    return values


def _turned(basis: torch.Tensor | None) -> torch.Tensor | None:
    return None if basis is None else basis.T


def _overlaps(new: torch.Tensor | None, old: torch.Tensor | None) -> torch.Tensor | None:
    """Return the squared cosines of new vectors (rows) with old ones, None of equal bases."""
    if new is None and old is None:
        return None
    turned = old if new is None else new.T if old is None else new.T @ old
    return turned.square()


def layer_bases(
    model: nn.Module, data: Data, *, standard: bool, closed_form: bool, options: Options
) -> dict[str, LayerBasis]:
    """Return a basis for each linear and convolution layer that has Kronecker factors, by name.

    ``standard`` keeps the standard basis, with the curvature along it; ``closed_form`` takes E[M]
    from ``closed_output_hessians``.  Layers without factors (applied more than once, grouped) are
    left out, as are parameters of other modules.  Source: D, PAC-Bayes bounds.
    """
    closed = closed_output_hessians(model, data) if closed_form else {}
    dtype = next(model.parameters()).dtype
    bases = {}
    for layer in layer_names(model):
        try:
            factors = kronecker_factors(model, data, layer=layer, **options)
        except AnatomyError as error:
            say(f"{layer} keeps the standard basis: {error}")
            continue
        M, xx = closed.get(layer, factors.output_hessian), factors.autocorrelation
        if standard:
            bases[layer] = LayerBasis(None, None, M.diagonal().clone(), xx.diagonal().clone())
            continue
        (mu, U), (nu, V) = (torch.linalg.eigh(factor) for factor in (M, xx))
        bases[layer] = LayerBasis(
            U.flip(1).to(dtype).contiguous(),
            V.flip(1).to(dtype).contiguous(),
            mu.flip(0),
            nu.flip(0),
        )
    return bases


@torch.no_grad()
def closed_output_hessians(model: nn.Module, data: Data) -> dict[str, torch.Tensor]:
    """Return each layer's output Hessian (m, m), float64, in D's closed form, by name.

    Behind linear layers and ReLU, M = W^T M' W from the next layer's M', and a ReLU that lets each
    unit pass at random, half of the time, makes (M + diag M) / 4 of it; at the logits M is
    E[diag(pi) - pi pi^T].  Of a two-layer network this is D's M*.  Raises AnatomyError where other
    modules stand behind a layer.  Source: D, theory and PAC-Bayes bounds (Iter.M).
    """
    if not isinstance(model, nn.Sequential):
        raise AnatomyError(
            f"the output Hessian's closed form is asked for of a {type(model).__name__}, which is "
            "no plain nn.Sequential. Take iter-m out of bounds.methods"
        )
    M = _loss_hessian(model, data)
    own, found = set(layer_names(model)), {}
    for name, module in reversed(model._modules.items()):
        if isinstance(module, nn.Linear):
            if name in own:
                found[name] = M
            weight = module.weight.double()
            M = weight.T @ M @ weight
        elif isinstance(module, nn.ReLU):
            M = (M + M.diagonal().diag()) / 4
        elif not isinstance(module, PASSING):
            raise AnatomyError(
                f"the output Hessian's closed form knows no {type(module).__name__} ({name}), only "
                "linear layers and ReLU. Take iter-m out of bounds.methods"
            )
    return found


def _loss_hessian(model: nn.Module, data: Data) -> torch.Tensor:
    """Return E[diag(pi) - pi pi^T] (C, C) over all examples, in float64."""
    inputs = data[0] if isinstance(data, tuple) else data.inputs
    total: torch.Tensor | float = 0.0
    for some in inputs.split(BATCH):
        pi = model(some).double().softmax(-1)
        total = total + pi.sum(0).diag() - pi.T @ pi
    return total / len(inputs)
