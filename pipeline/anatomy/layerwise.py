"""One layer's anatomy: eigenpairs of its Hessian, reshaped, beside its Kronecker factors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.anatomy.kronecker import kronecker_cosines, top_products
from pipeline.anatomy.overlap import from_cosines
from pipeline.anatomy.rowspace import later_weights, rowspace_overlap
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.given import Data
from pipeline.curvature.kronecker_factors import KroneckerFactors, kronecker_factors
from pipeline.curvature.layer import checked_layer, layer_hessian
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.memory import refuse_basis_beyond_memory
from pipeline.curvature.problem import Options
from pipeline.curvature.watched import watched
from pipeline.progress import say
from pipeline.spectra.eigenpairs import basis_size, top_eigenpairs
from pipeline.spectra.lanczos import gaussian, root_ratio
from pipeline.stages import Layers
from pipeline.streams import stream

BEYOND = 1.25  # of its outputs, up to which D sees the overlap grow; the rest shows it fall
PRODUCTS = 12  # a pair, at most: what has not converged by then lies below rounding
EXACT = 1000  # weights of a layer that is multiplied whole for its decoupling error
CLOSED_FORM = {"closed form": 1.0, "both": 0.5, "autograd": 0.0}


@dataclass(frozen=True)
class Network:
    """A network, its examples, and how its layers are dissected.

    ``room`` bounds a Krylov basis, in bytes; ``wrap`` may replace an operator, given with its name,
    by one with the same products.
    """

    model: nn.Module
    data: Data
    classes: int
    settings: Layers
    seed: int
    room: int
    options: Options
    wrap: Callable[[LinearOperator, str], LinearOperator]


@dataclass(frozen=True)
class KroneckerAnatomy:
    """What the factors E[M] (m, m) and E[x x^T] (n, n) tell of a layer.

    Eigenvalues are the largest first.  ``overlap`` (K,) compares the product's top eigenspaces with
    the layer's; ``correspondence_output`` (K, index) has ||u_j^T Mat(h_i)||^2 of the leading u_j,
    ``correspondence_input`` (K, index) ||Mat(h_i) v_j||^2.
    """

    output_hessian: np.ndarray
    autocorrelation: np.ndarray
    mean_alignment: float
    rowspace_overlap: float
    eigenvalues: np.ndarray
    overlap: np.ndarray
    decoupling_error: float
    decoupling_error_stderr: float
    correspondence_output: np.ndarray
    correspondence_input: np.ndarray


@dataclass(frozen=True)
class LayerAnatomy:
    """What is known of a layer with weight (outputs, inputs), of ``asked`` eigenpairs.

    ``eigenvalues`` (K,) and ``residuals`` (K,) are of the layer's Hessian, ``eigenvectors``
    (outputs x inputs, K) its leading ones, ``singular_values`` (K, .) theirs as matrices.
    ``kronecker`` is None for a convolution that is no product with its unfolded patches.
    """

    outputs: int
    inputs: int
    asked: int
    complete: bool
    closed_form: float
    residual_share: float
    eigenvalues: np.ndarray
    residuals: np.ndarray
    eigenvectors: torch.Tensor
    singular_values: np.ndarray
    kronecker: KroneckerAnatomy | None


def layer_anatomy(network: Network, layer: str) -> LayerAnatomy:
    """Return a layer's anatomy.  Raises as ``layer_hessian`` and ``top_eigenpairs``."""
    settings = network.settings
    module = checked_layer(network.model, layer)
    m, n = module.weight.shape[0], module.weight[0].numel()
    operator = layer_hessian(network.model, network.data, layer=layer, **network.options)
    asked = pairs_asked(settings, outputs=m, weights=m * n)
    k = fitting(asked, operator, network.room)
    refuse_basis_beyond_memory(operator, 2 * basis_size(k), network.room)
    recorded, most = network.wrap(operator, f"layer-{layer}"), max(1000, PRODUCTS * k)
    with watched(recorded, label=f"{layer} eigenpairs", total=most, at_most=True) as counted:
        pairs = top_eigenpairs(
            counted,
            k,
            tolerance=settings.tolerance,
            seed=stream(network.seed, "layers", layer),
            max_products=most,
        )
    if not pairs.complete:
        say(f"{layer}: eigenvalues may be missing among the {k} largest")
    # An eigenvalue below its residual cannot be distinguished from zero; its eigenvector is
    # arbitrary.
    known = pairs.converged & (pairs.values > pairs.residuals)
    kept = leading(known)
    if kept < asked:
        say(f"{layer}: {kept} eigenpairs known of {asked} asked for ({k} fit compute.basis_gb)")
    values, vectors = pairs.values[:kept], pairs.vectors[:, :kept]
    try:
        factors = kronecker_factors(network.model, network.data, layer=layer, **network.options)
    except NotLinearizedError:
        kronecker = None
    else:
        kronecker = _kronecker(network, layer, operator, factors, values, vectors)
    return LayerAnatomy(
        outputs=m,
        inputs=n,
        asked=asked,
        complete=pairs.complete,
        closed_form=CLOSED_FORM[operator.route],
        residual_share=operator.residual_share,
        eigenvalues=values,
        residuals=pairs.residuals[:kept],
        eigenvectors=vectors.cpu(),
        singular_values=singular_values(vectors, m)[:, : settings.index],
        kronecker=kronecker,
    )


def singular_values(vectors: torch.Tensor, outputs: int) -> np.ndarray:
    """Return the singular values (K, .), largest first, of columns (m n, K) as (m, n) matrices."""
    matrices = vectors.T.reshape(vectors.shape[1], outputs, len(vectors) // outputs)
    return torch.linalg.svdvals(matrices).double().cpu().numpy()


def decoupling_error(
    operator: LinearOperator,
    factors: KroneckerFactors,
    values: np.ndarray,
    vectors: torch.Tensor,
    seeds: list[int],
) -> tuple[float, float]:
    """Return ||K - A|| / ||A||, K = E[M] (x) E[x x^T], Frobenius, and its standard error.

    Exact for up to EXACT weights.  Otherwise exact on the known eigenpairs of A, and on what is
    orthogonal to them estimated from a random vector for each of ``seeds``.  The standard error is
    that of a ratio of means, to first order; zero where the error is exact.
    """
    M, xx = factors.output_hessian, factors.autocorrelation
    error = square = 0.0
    exact = operator.shape[0] <= EXACT
    if exact:
        probes = torch.eye(operator.shape[0], dtype=vectors.dtype, device=vectors.device)
    else:
        for value, v in zip(values, vectors.T, strict=True):
            error += float((_times(M, xx, v) - value * v.double()).square().sum())
            square += float(value**2)
        probes = torch.stack([gaussian(operator, seed) for seed in seeds], 1)
        probes = probes - vectors @ (vectors.T @ probes)
    pairs = zip(probes.T, operator.matmat(probes).T, strict=True)
    samples = np.array(
        [
            (
                float((_times(M, xx, v) - image).square().sum()),
                float(image.double().square().sum()),
            )
            for v, image in pairs
        ]
    )
    errors, squares = samples.T
    ratio, stderr = root_ratio(errors, squares, known=(error, square))
    return ratio, 0.0 if exact and np.isfinite(ratio) else stderr


def _times(M: torch.Tensor, xx: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return (M (x) xx) v in float64."""
    return (M @ v.reshape(len(M), -1).double() @ xx).flatten()


def pairs_asked(settings: Layers, *, outputs: int, weights: int) -> int:
    """Return how many eigenpairs of a layer its settings ask for."""
    return min(settings.rank or min(int(BEYOND * outputs), settings.most), weights)


def fitting(asked: int, operator: LinearOperator, room: int) -> int:
    """Return how many pairs to find: as asked, if ``room`` bytes hold a basis and its images."""
    bases = room // (2 * operator.shape[0] * operator.dtype.itemsize)
    fit = (bases - basis_size(0)) // (basis_size(1) - basis_size(0))
    return max(1, min(asked, fit))


def leading(known: np.ndarray) -> int:
    """Return how many are known before the first that is not."""
    return len(known) if known.all() else int(known.argmin())


def _kronecker(
    network: Network,
    layer: str,
    operator: LinearOperator,
    factors: KroneckerFactors,
    values: np.ndarray,
    vectors: torch.Tensor,
) -> KroneckerAnatomy:
    settings = network.settings
    mu, U = _eigenpairs(factors.output_hessian)
    nu, V = _eigenpairs(factors.autocorrelation)
    products, places = top_products(mu, nu, len(values))
    m, n = len(mu), len(nu)
    U32, V32 = U.to(vectors), V.to(vectors)
    matrices = vectors.T.reshape(vectors.shape[1], m, n)
    mean = factors.mean_input
    S = later_weights(network.model, layer)
    seeds = [stream(network.seed, "decoupling", layer, i) for i in range(settings.probes)]
    decoupling, stderr = decoupling_error(operator, factors, values, vectors, seeds)
    return KroneckerAnatomy(
        output_hessian=mu,
        autocorrelation=nu,
        mean_alignment=float((V[:, 0] @ mean).square() / mean.square().sum()),
        rowspace_overlap=np.nan if S is None else rowspace_overlap(U, S),
        eigenvalues=products,
        overlap=from_cosines(kronecker_cosines(vectors, U32, V32, places)).cpu().numpy(),
        decoupling_error=decoupling,
        decoupling_error_stderr=stderr,
        correspondence_output=_shares(U32.T[: settings.index] @ matrices, 2),
        correspondence_input=_shares(matrices @ V32[:, : settings.index], 1),
    )


def _eigenpairs(factor: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """Return the eigenvalues of a semidefinite matrix, largest first, and its eigenvectors."""
    values, vectors = torch.linalg.eigh(factor)
    return values.flip(0).clamp_min(0).cpu().numpy(), vectors.flip(1)


def _shares(turned: torch.Tensor, axis: int) -> np.ndarray:
    return turned.square().sum(axis, dtype=torch.float64).cpu().numpy()
