"""Softmax cross-entropy: what curvature needs of it, free of cancellation on fitted networks.

At 1 - pi_y of 1e-7 the naive pi - y has lost every digit in float32.  Here no 1 - pi_y is formed:
the true class's entry is minus the sum of the others.  Their relative error is the absolute error
of the logits' differences, which float32 rounds at the logits' size, in the hundreds, say: the
differences are therefore corrected by what float64 makes of them.
"""

import torch


def label_mask(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the (N, C) mask of each example's true class."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


def relative_logits(
    logits: torch.Tensor, mask: torch.Tensor, correction: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Return z - z_y (N, C), which has the same softmax, plus a constant ``correction``."""
    return logits - (logits * mask).sum(-1, keepdim=True) + correction


def loss_residual(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return pi - y (N, C), the derivative of each example's loss by its logits."""
    return zero_sum(logits.softmax(-1), mask)


def loss_hessian_product(
    probabilities: torch.Tensor, mask: torch.Tensor, u: torch.Tensor
) -> torch.Tensor:
    """Return (diag(pi) - pi pi^T) u row by row, all (N, C).

    The kernel is blind to a constant added to a row, so that u_y may be taken from it first.
    """
    u = u - (u * mask).sum(-1, keepdim=True)
    mean = (probabilities * u).sum(-1, keepdim=True)
    return zero_sum(probabilities * (u - mean), mask)


def zero_sum(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``rows`` with the true class's entry set so that each row sums to zero."""
    others = rows.masked_fill(mask, 0)
    return others - mask * others.sum(-1, keepdim=True)
