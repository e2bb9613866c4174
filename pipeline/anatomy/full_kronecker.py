"""The whole Hessian's top eigenpairs from Kronecker parts, beside the true ones."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.anatomy.layerwise import Network, fitting, leading
from pipeline.anatomy.overlap import eigenspace_overlap
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.memory import refuse_basis_beyond_memory
from pipeline.curvature.preactivations import kronecker_direction, output_hessian
from pipeline.curvature.second_order import hessian
from pipeline.curvature.watched import watched
from pipeline.device import release
from pipeline.progress import say
from pipeline.spectra.eigenpairs import (
    Eigenpairs,
    basis_size,
    most_products,
    top_eigenpairs,
)
from pipeline.streams import stream

TOLERANCE = 1e-4  # of both sides' pairs: well below what the approximation misses


@dataclass(frozen=True)
class FullKronecker:
    """Eigenvalues of Hess (k,), of their approximation (k,), and the overlap for each k."""

    true: np.ndarray
    approximate: np.ndarray
    overlap: np.ndarray


def full_kronecker(network: Network, layers: list[str]) -> FullKronecker:
    """Return Hess's top pairs beside (sigma_i ||w_i||^2, w_i), w_i orthonormalised in order.

    w_i = stack_L(u_i^(L) (x) E[x^(L)]), (sigma_i, u_i) the output Hessian's top pairs.  Source: D.
    """
    values, basis = _approximate(network, layers)
    release()  # the output Hessian, and copies of the w_i: a basis of Hess needs the room
    operator = hessian(network.model, network.data, **network.options)
    true = _top(network, operator, "Hess")
    count = min(basis.shape[1], leading(true.converged))
    overlap = eigenspace_overlap(true.vectors[:, :count].double(), basis[:, :count])
    return FullKronecker(
        true=np.where(true.converged, true.values, np.nan),
        approximate=values,
        overlap=overlap.cpu().numpy(),
    )


def _approximate(network: Network, layers: list[str]) -> tuple[np.ndarray, torch.Tensor]:
    """Return sigma_i ||w_i||^2, the largest first, and the w_i orthonormalised in that order."""
    found = output_hessian(network.model, network.data, layers=layers, **network.options)
    parts = _top(network, found.operator, "output")
    kept = leading(parts.converged)
    vectors = parts.vectors[:, : max(1, kept)].T
    W = torch.stack([kronecker_direction(found, network.model, u) for u in vectors], 1)
    values = (parts.values[: W.shape[1]] * W.double().square().sum(0).cpu().numpy())[:kept]
    order = np.argsort(-values, kind="stable")
    ordered = W[:, torch.as_tensor(order, device=W.device)]
    return values[order], torch.linalg.qr(ordered.double())[0]


def _top(network: Network, operator: LinearOperator, name: str) -> Eigenpairs:
    k = fitting(network.settings.full, operator, network.room)
    if k < network.settings.full:
        say(f"whole {name}: {k} eigenpairs of {network.settings.full} fit compute.basis_gb")
    refuse_basis_beyond_memory(operator, 2 * basis_size(k), network.room)
    recorded, most = network.wrap(operator, f"whole-{name}"), most_products(k)
    with watched(recorded, label=f"whole {name} eigenpairs", total=most, at_most=True) as counted:
        return top_eigenpairs(
            counted, k, tolerance=TOLERANCE, seed=stream(network.seed, "full", name)
        )
