"""This project and its peers behind one face: products, quadrature, top eigenpairs."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import curvlinops
import hessian_eigenthings as he
import numpy as np
import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from hessian_eigenthings.algorithms.lanczos import lanczos
from hessian_eigenthings.algorithms.spectral_density import spectral_density
from hessian_eigenthings.loss_fns import standard
from scipy.sparse.linalg import eigsh
from torch import nn

from pipeline.curvature import gauss_newton, hessian
from pipeline.spectra import lanczos_quadrature, top_eigenpairs


@dataclass(frozen=True)
class Pairs:
    """Top eigenpairs as a contestant returns them: values (k,), vectors (p, k)."""

    values: np.ndarray
    vectors: torch.Tensor


class Contestant(Protocol):
    """What the benchmark asks of each library; NotImplementedError where it has no such thing."""

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """Return A v."""

    def block(self, V: torch.Tensor) -> torch.Tensor:
        """Return A V."""

    def quadrature(self, probes: int, steps: int) -> np.ndarray:
        """Return the nodes (probes, steps)."""

    def top(self, k: int, tolerance: float) -> Pairs:
        """Return the k largest eigenpairs, residuals at most tolerance times the largest."""


class Ours:
    """This project."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, matrix: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        make = {"Hess": hessian, "G": gauss_newton}[matrix]
        self.operator = make(model, (x, y), **self.options)

    def product(self, v: torch.Tensor) -> torch.Tensor:
        return self.operator @ v

    block = product

    def quadrature(self, probes: int, steps: int) -> np.ndarray:
        return lanczos_quadrature(self.operator, steps=steps, seeds=range(probes)).nodes

    def top(self, k: int, tolerance: float) -> Pairs:
        found = top_eigenpairs(self.operator, k, tolerance=tolerance)
        return Pairs(found.values, found.vectors)


class Curvlinops:
    """curvlinops-for-pytorch, the data as one batch."""

    compiled = False

    def __init__(self, matrix: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        kind = {
            "Hess": curvlinops.HessianLinearOperator,
            "G": curvlinops.GGNLinearOperator,
        }[matrix]
        loss = nn.CrossEntropyLoss(reduction="mean")
        parameters = list(model.parameters())
        self.operator = kind(model, loss, parameters, [(x, y)], check_deterministic=False)
        if self.compiled:
            # It has no switch for this: its product of a batch, compiled as a user would.
            self.operator._mp = torch.compile(self.operator._mp)

    def product(self, v: torch.Tensor) -> torch.Tensor:
        return self.operator @ v

    block = product

    def quadrature(self, probes: int, steps: int) -> np.ndarray:
        torch.manual_seed(0)
        return np.stack([fast_lanczos(self.operator, steps)[0].numpy() for _ in range(probes)])

    def top(self, k: int, tolerance: float) -> Pairs:
        # curvlinops leaves eigenpairs to SciPy.
        start = np.random.default_rng(0).standard_normal(self.operator.shape[0])
        values, vectors = eigsh(
            self.operator.to_scipy(), k, which="LA", tol=tolerance, v0=start.astype(np.float32)
        )
        return Pairs(values[::-1], torch.from_numpy(vectors[:, ::-1].copy()))


class OursCompiled(Ours):
    """This project with compiled products."""

    options: ClassVar[dict[str, Any]] = {"compiled": True}


class OursRecomputed(Ours):
    """This project with no memory for kept chunks."""

    options: ClassVar[dict[str, Any]] = {"memory_gb": 0.0}


class CurvlinopsCompiled(Curvlinops):
    """curvlinops-for-pytorch with its batch product compiled."""

    compiled = True


class Eigenthings:
    """hessian-eigenthings, the data as one batch."""

    def __init__(self, matrix: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        self.steps = 16
        loss = nn.CrossEntropyLoss()
        if matrix == "Hess":
            self.operator: Any = he.operators.HessianOperator(
                model, [(x, y)], standard.supervised_loss(loss)
            )
        else:
            self.operator = he.operators.GGNOperator(
                model,
                [(x, y)],
                standard.supervised_forward,
                standard.supervised_loss_of_output(loss),
            )

    def product(self, v: torch.Tensor) -> torch.Tensor:
        return self.operator.matvec(v).detach()

    def block(self, V: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.product(v) for v in V.T], 1)

    def quadrature(self, probes: int, steps: int) -> np.ndarray:
        found = spectral_density(self.operator, num_runs=probes, lanczos_steps=steps, seed=0)
        return found.raw_eigenvalues.numpy()

    def top(self, k: int, tolerance: float) -> Pairs:
        # It does not restart.  The first call, which is the warm-up, finds how many steps it needs;
        # later ones take that number at once, as a user who knew it would.
        while True:
            found = lanczos(
                self.operator, k=k, max_iter=self.steps, which="LA", seed=0, reorthogonalize=True
            )
            if found.residuals.max() <= tolerance * found.eigenvalues.abs().max():
                return Pairs(found.eigenvalues.numpy(), found.eigenvectors.T)
            self.steps += 4


CONTESTANTS = {
    "ours": Ours,
    "ours, compiled": OursCompiled,
    "ours, nothing kept": OursRecomputed,
    "curvlinops": Curvlinops,
    "curvlinops, compiled": CurvlinopsCompiled,
    "hessian-eigenthings": Eigenthings,
}
