"""Softmax cross-entropy: what curvature needs of it, free of cancellation on fitted networks.

At 1 - pi_k of 1e-7 the naive pi - y, or e_k - pi, has lost every digit in float32.  Here no
1 - pi_k is formed: in rows that sum to zero, the entry of the true class (of pi - y) or of the
likeliest class (of the kernel) is minus the sum of the others.  Their relative error is the
absolute error of the logits' differences, which float32 rounds at the logits' size, in the
hundreds, say: the differences are therefore corrected by what float64 makes of them.
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


def likeliest(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the (N, C) mask of each example's most probable class."""
    return label_mask(probabilities.argmax(-1), probabilities.shape[-1])


def loss_hessian_product(
    probabilities: torch.Tensor, anchor: torch.Tensor, u: torch.Tensor
) -> torch.Tensor:
    """Return (diag(pi) - pi pi^T) u row by row (..., N, C); ``anchor`` masks the likeliest classes.

    The kernel is blind to a constant added to a row: the anchor's entry is taken from it first, so
    that a network which is certain, rightly or wrongly, costs no digits.
    """
    return zero_sum(probabilities * centred(probabilities, anchor, u), anchor)


def centred(probabilities: torch.Tensor, anchor: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return u - pi . u row by row (..., N, C)."""
    u = u - (u * anchor).sum(-1, keepdim=True)
    return u - (probabilities * u).sum(-1, keepdim=True)


def zero_sum(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``rows`` with the masked entry of each set so that it sums to zero."""
    others = rows.masked_fill(mask, 0)
    return others - mask * others.sum(-1, keepdim=True)
