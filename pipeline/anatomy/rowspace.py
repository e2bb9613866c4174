"""Where D's theory has the output Hessian's top eigenvectors: the later weights' row space."""

import torch
from torch import nn

from pipeline.anatomy.overlap import eigenspace_overlap

PASSING = (nn.ReLU, nn.Identity, nn.Dropout)
ROUNDING = 1e-6  # of S: a shorter sum of its rows is zero


def later_weights(model: nn.Module, layer: str) -> torch.Tensor | None:
    """Return S (C, m), the product of the weights after ``layer``, those of BatchNorm included.

    None where the network is no plain sequence, or where other than linear layers, ReLU and
    BatchNorm follow.  Source: D.
    """
    if not isinstance(model, nn.Sequential) or layer not in model._modules:
        return None
    # Not named_children(), which leaves out a module that stands there twice.
    names, modules = zip(*model._modules.items(), strict=True)
    module = model.get_submodule(layer)
    S = torch.eye(module.weight.shape[0], dtype=module.weight.dtype, device=module.weight.device)
    if isinstance(module, nn.Conv2d):
        return None
    for later in modules[names.index(layer) + 1 :]:
        if isinstance(later, nn.Linear):
            S = later.weight.detach() @ S
        elif isinstance(later, nn.BatchNorm1d) and later.running_var is not None:
            scale = (later.running_var + later.eps).rsqrt()
            S = (scale if later.weight is None else scale * later.weight.detach())[:, None] * S
        elif not isinstance(later, PASSING):
            return None
    return S


def rowspace_overlap(U: torch.Tensor, S: torch.Tensor) -> float:
    """Return the overlap of eigenvectors ``U`` (m, .) with the row space of ``S`` less 1^T S.

    The first C - 1 of U count.  With nothing but linear layers behind, the output Hessian's range
    is {S^T c: sum c = 0}; D takes the row space less 1^T S, which is the same where S S^T is near a
    multiple of the identity, as for random weights.  NaN where S is zero.
    """
    if not bool(S.any()):
        return float("nan")
    basis = centred_rowspace(S)
    count = basis.shape[1]
    return float(eigenspace_overlap(U[:, :count].to(basis), basis)[-1])


def centred_rowspace(S: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis (m, C - 1) of the row space of ``S`` (C, m) less 1^T S."""
    S = S.double()
    away = S.sum(0)
    square = away @ away
    away = away if square > (ROUNDING * S.norm()) ** 2 else torch.zeros_like(away)
    rows = S - torch.outer(S @ away, away) / square.clamp_min(torch.finfo(S.dtype).tiny)
    _, _, V = torch.linalg.svd(rows, full_matrices=False)
    return V[: min(len(S) - 1, S.shape[1])].T
