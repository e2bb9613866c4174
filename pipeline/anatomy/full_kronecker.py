"""The whole Hessian's top eigenpairs from Kronecker parts, beside the true ones."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.anatomy.layerwise import Network
from pipeline.anatomy.overlap import eigenspace_overlap
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.preactivations import kronecker_direction, output_hessian
from pipeline.curvature.second_order import hessian
from pipeline.spectra.eigenpairs import Eigenpairs, top_eigenpairs
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
    k = network.settings.full
    found = output_hessian(network.model, network.data, layers=layers, **network.options)
    parts = _top(network, found.operator, k, "output")
    W = torch.stack([kronecker_direction(found, network.model, u) for u in parts.vectors.T], 1)
    squares = W.double().square().sum(0).cpu().numpy()
    values = parts.values * squares
    order = np.argsort(-values, kind="stable")
    basis = torch.linalg.qr(W[:, torch.as_tensor(order.copy(), device=W.device)].double())[0]
    operator = hessian(network.model, network.data, **network.options)
    true = _top(network, network.wrap(operator, "Hess"), k, "Hess")
    count = min(basis.shape[1], true.vectors.shape[1])
    overlap = eigenspace_overlap(true.vectors[:, :count].double(), basis[:, :count])
    return FullKronecker(
        true=np.where(true.converged, true.values, np.nan),
        approximate=values[order],
        overlap=overlap.cpu().numpy(),
    )


def _top(network: Network, operator: LinearOperator, k: int, name: str) -> Eigenpairs:
    seed = stream(network.seed, "full", name)
    return top_eigenpairs(operator, k, tolerance=TOLERANCE, seed=seed)
