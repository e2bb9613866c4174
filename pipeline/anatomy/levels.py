"""The spectra of A1, A2 and B1, whole, from the Gram matrix of the class-pair vectors."""

import torch

from pipeline.curvature.class_pairs import PairGram


def centre_weights(found: PairGram) -> torch.Tensor:
    """Return W (C, m) with g_c = sum_pairs W g_{c,k}, from the pairs (c, c): rows as classes.

    g_c is the mean over cross classes, but p_c g_c = -p_cc g_cc, so that one vector a class tells
    it.  A class without examples has a row of zeros.
    """
    W = torch.zeros(len(found.shares), len(found.pairs), dtype=torch.float64)
    outside = _outside(found)
    for place, (c, k) in enumerate(found.pairs):
        if c == k and outside[c] > 0:
            W[c, place] = -found.shares[c, c] / outside[c]
    return W


def centre_eigenvalues(found: PairGram) -> dict[str, torch.Tensor]:
    """Return all C eigenvalues of A1 and of A2, the largest first, from the pairs (c, c)."""
    W = centre_weights(found)
    own = torch.zeros_like(W)
    for place, (c, k) in enumerate(found.pairs):
        if c == k:
            own[c, place] = found.shares[c, c].sqrt()
    return {
        "A1": _eigenvalues(_outside(found).sqrt()[:, None] * W, found),
        "A2": _eigenvalues(own, found),
    }


def cross_eigenvalues(found: PairGram) -> torch.Tensor:
    """Return all C(C - 2) eigenvalues of B1 that can be other than zero, from all C^2 pairs."""
    classes = len(found.shares)
    centres, outside = centre_weights(found), _outside(found)
    rows = []
    for place, (c, k) in enumerate(found.pairs):
        if c == k or not outside[c] > 0:
            continue
        row = -centres[c]
        row[place] += 1
        rows.append(found.shares[c, k].sqrt() * row)
    if not rows:
        return torch.zeros(0, dtype=torch.float64)
    return _eigenvalues(torch.stack(rows), found)[: classes * max(0, classes - 2)]


def _outside(found: PairGram) -> torch.Tensor:
    """Return p_c / N (C,): a sum without the class's own share, which would round it away."""
    return found.shares.clone().fill_diagonal_(0).sum(1)


def _eigenvalues(rows: torch.Tensor, found: PairGram) -> torch.Tensor:
    """Return the eigenvalues of sum_r (row_r g)(row_r g)^T, the largest first."""
    gram = rows @ found.gram @ rows.T
    return torch.linalg.eigvalsh((gram + gram.T) / 2).flip(0).clamp_min(0)
