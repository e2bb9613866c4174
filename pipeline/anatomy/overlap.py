"""Overlap of eigenspaces: how much of one subspace lies in another."""

import torch

from pipeline.errors import ArgumentError
from pipeline.modes import default_modes

ORTHONORMAL = 1e-3  # largest |entry| of U^T U - I; 100 times that of eigenvectors in float32


@default_modes()
def eigenspace_overlap(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return ||U_k^T V_k||_F^2 / k (K,) in float64 for the first k columns, k = 1 to K.

    ``U`` and ``V`` are (p, K) with orthonormal columns; the overlap is 1 for equal spaces and on
    average k / p for random ones.  Source: D.  Raises ArgumentError if a basis is no matrix of
    orthonormal columns, or their shapes, dtypes or devices differ.
    """
    for name, basis in (("U", U), ("V", V)):
        _check_orthonormal(name, basis)
    for what in ("shape", "dtype", "device"):
        one, other = getattr(U, what), getattr(V, what)
        if one != other:
            raise ArgumentError(f"U has the {what} {one} and V {other}. Give bases of equal {what}")
    return from_cosines(U.T @ V)


def from_cosines(cosines: torch.Tensor) -> torch.Tensor:
    """Return the same from the inner products (K, K) of the two bases."""
    shared = cosines.double().square().cumsum(0).cumsum(1).diagonal()
    return shared / torch.arange(1, len(shared) + 1, device=shared.device)


def _check_orthonormal(name: str, basis: torch.Tensor) -> None:
    if not isinstance(basis, torch.Tensor) or basis.ndim != 2 or not basis.is_floating_point():
        shown = tuple(basis.shape) if hasattr(basis, "shape") else repr(basis)[:60]
        raise ArgumentError(f"{name} is {shown}. Give a tensor of floats, (p, K)")
    gram = (basis.T @ basis).double()
    miss = float((gram - torch.eye(len(gram), device=gram.device)).abs().max()) if len(gram) else 0
    if not miss <= ORTHONORMAL:  # NaN, too
        raise ArgumentError(
            f"{name} has columns that are not orthonormal: |{name}^T {name} - I| is up to "
            f"{miss:.2g}. Give an orthonormal basis, such as torch.linalg.qr({name})[0]"
        )
