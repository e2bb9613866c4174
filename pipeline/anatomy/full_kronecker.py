"""The whole Hessian's top eigenpairs from Kronecker parts, beside the true ones."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.anatomy.layerwise import Network, fitting, leading
from pipeline.anatomy.overlap import eigenspace_overlap
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.memory import refuse_basis_beyond_memory
from pipeline.curvature.preactivations import (
    OutputHessian,
    kronecker_direction,
    longest_direction,
    output_hessian,
)
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
MOST = 8  # pairs of the output Hessian at most, for each one asked for; tuned on LeNet5


@dataclass(frozen=True)
class FullKronecker:
    """Eigenvalues of Hess (k,), of their approximation (k,), and the overlap for each k.

    ``sure`` counts the leading entries of ``approximate`` that no other product can exceed.
    """

    true: np.ndarray
    approximate: np.ndarray
    overlap: np.ndarray
    sure: int


@dataclass(frozen=True)
class Approximation:
    """The largest sigma_i ||w_i||^2 (k,), and their w_i orthonormalised in that order (p, k)."""

    values: np.ndarray
    basis: torch.Tensor
    sure: int


def full_kronecker(network: Network, layers: list[str]) -> FullKronecker:
    """Return Hess's top pairs beside (sigma_i ||w_i||^2, w_i), w_i orthonormalised in order.

    w_i = stack_L(u_i^(L) (x) E[x^(L)]), (sigma_i, u_i) the output Hessian's top pairs.  Source: D.
    """
    found = _approximate(network, layers)
    release()  # the output Hessian, and copies of the w_i: a basis of Hess needs the room
    operator = hessian(network.model, network.data, **network.options)
    true = _top(network, operator, "Hess", network.settings.full)
    count = min(found.basis.shape[1], leading(true.converged))
    overlap = eigenspace_overlap(true.vectors[:, :count].double(), found.basis[:, :count])
    return FullKronecker(
        true=np.where(true.converged, true.values, np.nan),
        approximate=found.values,
        overlap=overlap.cpu().numpy(),
        sure=found.sure,
    )


def _approximate(network: Network, layers: list[str]) -> Approximation:
    """Return the largest products sigma_i ||w_i||^2.

    They need not belong to the largest sigma. More pairs (sigma_i, u_i) are computed until no
    missed product can exceed one that is returned: it is at most the smallest computed sigma times
    the largest ||w||^2 of any unit u. ``sure`` is smaller where ``MOST`` or the memory ends that.
    """
    full = network.settings.full
    output = output_hessian(network.model, network.data, layers=layers, **network.options)
    longest, dimension = longest_direction(output, network.model), output.operator.shape[0]
    for asked in rounds(full, dimension):
        parts = _top(network, output.operator, "output", asked)
        kept = leading(parts.converged)
        sigma = parts.values[:kept]
        vectors = parts.vectors[:, :kept].T
        squares = [_direction(output, network, u).square().sum() for u in vectors]
        values = sigma * np.array([float(square) for square in squares])
        order = np.argsort(-values, kind="stable")[:full]
        bound = longest * max(0.0, sigma[-1]) if 0 < kept < dimension else 0.0
        sure = int((values[order] >= bound).sum())
        if sure == min(full, dimension) or kept < asked:
            break
    if sure < len(order):
        say(f"eigenvalues from Kronecker parts: {sure} of {len(order)} are surely the largest")
    # Without a converged pair the first one stands for the basis, as for Hess.
    chosen = parts.vectors.T[order if kept else [0]]
    W = torch.stack([_direction(output, network, u) for u in chosen], 1)
    return Approximation(values[order], torch.linalg.qr(W)[0], sure)


def rounds(full: int, dimension: int) -> list[int]:
    """Return how many pairs of the output Hessian are computed, at most, in each round."""
    most = min(MOST * full, dimension)
    counts = [full]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


def _direction(output: OutputHessian, network: Network, u: torch.Tensor) -> torch.Tensor:
    return kronecker_direction(output, network.model, u).double()


def _top(network: Network, operator: LinearOperator, name: str, asked: int) -> Eigenpairs:
    k = fitting(asked, operator, network.room)
    if k < asked:
        say(f"whole {name}: {k} eigenpairs of {asked} fit compute.basis_gb")
    refuse_basis_beyond_memory(operator, 2 * basis_size(k), network.room)
    recorded, most = network.wrap(operator, f"whole-{name}-{asked}"), most_products(k)
    with watched(recorded, label=f"whole {name} eigenpairs", total=most, at_most=True) as counted:
        return top_eigenpairs(
            counted, k, tolerance=TOLERANCE, seed=stream(network.seed, "full", name)
        )
