"""Where D's theory has the output Hessian's top eigenvectors: the later weights' row space."""

import torch
from torch import nn

from pipeline.anatomy.overlap import eigenspace_overlap

PASSING = (nn.ReLU, nn.Identity, nn.Dropout)


def later_weights(model: nn.Module, layer: str) -> torch.Tensor | None:
    """Return S (C, m), the product of the weights after ``layer``, those of BatchNorm included.

    None where the network is no plain sequence, or where other than linear layers, ReLU and
    BatchNorm follow.  Source: D.
    """
    names = [name for name, _ in model.named_children()]
    if not isinstance(model, nn.Sequential) or layer not in names:
        return None
    module = model.get_submodule(layer)
    S = torch.eye(module.weight.shape[0], dtype=module.weight.dtype, device=module.weight.device)
    if isinstance(module, nn.Conv2d):
        return None
    for later in list(model)[names.index(layer) + 1 :]:
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

    The first C - 1 of U count.  1^T S is where the output Hessian vanishes: probabilities sum to 1.
    """
    basis = centred_rowspace(S)
    count = basis.shape[1]
    return float(eigenspace_overlap(U[:, :count].to(basis), basis)[-1])


def centred_rowspace(S: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis (m, C - 1) of the row space of ``S`` (C, m) less 1^T S."""
    S = S.double()
    away = S.sum(0) / S.sum(0).norm()
    rows = S - (S @ away)[:, None] * away
    _, _, V = torch.linalg.svd(rows, full_matrices=False)
    return V[: min(len(S) - 1, S.shape[1])].T
