"""Random two-layer networks: the output Hessian beside what D's theory says of it.

x ~ N(0, I_d), d = n^(1 + a); W1 (n, d) ~ N(0, 1/d), W2 (C, n) ~ N(0, 1/n), no bias, ReLU between.
"""

from dataclasses import dataclass
from math import asin, pi

import torch

from pipeline.anatomy.rowspace import rowspace_overlap
from pipeline.streams import stream

INPUTS = ("gaussian", "rectified")
BATCH = 250


@dataclass(frozen=True)
class TwoLayer:
    """A random network's overlap with the predicted space, lambda_C / lambda_{C-1}, M*'s error."""

    overlap_predicted: float
    eigenvalue_ratio: float
    relative_error: float


def two_layer(
    *,
    width: int,
    classes: int,
    exponent: float,
    examples: int,
    inputs: str,
    seed: int,
    device: torch.device,
) -> TwoLayer:
    """Return what a network of ``width`` n shows, expectations being over ``examples`` inputs.

    ``inputs`` is "gaussian", or "rectified" for x = max(N(0, I), 0).  Source: D.
    """
    draw = torch.Generator().manual_seed(stream(seed, "theory", inputs, width))
    d = round(width ** (1 + exponent))
    W1 = torch.randn(width, d, generator=draw).to(device) / d**0.5
    W2 = (torch.randn(classes, width, generator=draw).to(device) / width**0.5).double()
    M = torch.zeros(width, width, dtype=torch.float64, device=device)
    A = torch.zeros(classes, classes, dtype=torch.float64, device=device)
    for start in range(0, examples, BATCH):
        x = torch.randn(min(BATCH, examples - start), d, generator=draw).to(device)
        u = (x.relu() if inputs == "rectified" else x) @ W1.T
        probabilities = (u.relu().double() @ W2.T).softmax(-1)
        root = probabilities.sqrt()
        # A_i^(1/2) W2 D_i, a row for each example and class.
        centred = W2 - (probabilities @ W2)[:, None]
        rows = root[:, :, None] * centred * (u > 0)[:, None]
        M += (rows.flatten(0, 1).T @ rows.flatten(0, 1)) / examples
        A += (probabilities.sum(0).diag() - probabilities.T @ probabilities) / examples
    values, vectors = torch.linalg.eigh(M)
    values = values.flip(0)
    predicted = W2.T @ A @ W2
    predicted = (predicted + predicted.diagonal().diag()) / 4
    return TwoLayer(
        overlap_predicted=rowspace_overlap(vectors.flip(1), W2),
        eigenvalue_ratio=float(values[classes - 1] / values[classes - 2]),
        relative_error=float((M - predicted).norm() / M.norm()),
    )


def overlap_limit(inputs: str) -> float:
    """Return what ``overlap_predicted`` tends to as the width grows.

    1 for Gaussian inputs.  Rectified ones have a mean, so that unit j is on with a probability q_j
    of its own, Phi of a normal variable of variance 1 / (pi - 1): the top space is that of
    diag(q) W2^T, at (E q)^2 / E[q^2] from the predicted one.  Source: docs/method.md.
    """
    if inputs == "gaussian":
        return 1.0
    return 0.25 / (0.25 + asin(1 / pi) / (2 * pi))
