"""S's two synthetic matrices, and their picture: `python docs/synthetic.py` draws it anew."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from pipeline.curvature.base import Dense
from pipeline.spectra import density, lanczos_quadrature, top_eigenpairs
from pipeline.spectra.outliers import count_outliers
from pipeline.spectra.smoothing import kernel_width, log_density

PROBES = range(10)


def spiked_wishart() -> Dense:
    """Return X + Z Z^T / 2000, 2000 x 2000: Z Gaussian, X with the eigenvalues 5, 4 and 3."""
    Z = torch.randn(2000, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = Z @ Z.T / 2000
    A.diagonal()[:3] += torch.tensor([5.0, 4.0, 3.0], dtype=torch.float64)
    return Dense(A, positive=True)


def pareto() -> Dense:
    """Return Z Z^T / 1000 for Z (500, 1000) with entries of the Pareto(1) law, 1 and above."""
    uniform = torch.rand(500, 1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    Z = 1 / (1 - uniform)
    return Dense(Z @ Z.T / 1000, positive=True)


def main(file: Path) -> None:
    """Draw Lanczos estimates over the exact spectra."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    A = spiked_wishart()
    exact = np.linalg.eigvalsh(A.matrix.numpy())
    found = lanczos_quadrature(A, steps=128, seeds=PROBES)
    width = kernel_width(exact[0], exact[-1], 128)
    grid = np.linspace(-0.3, 7, 1000)
    left.hist(exact, bins=120, density=True, color="0.8", label="exact eigenvalues")
    left.plot(grid, density(found.nodes, found.weights, grid, width=width).mean(0), label="Lanczos")
    outliers = count_outliers(top_eigenpairs(A, 16, tolerance=1e-6).values)
    left.axvline(outliers.edge, ls="--", lw=0.7, color="0.25", label="edge of the bulk")
    left.set(
        yscale="log",
        ylim=(1e-4, 1e3),
        xlabel="eigenvalue",
        ylabel="density",
        title=f"spiked, 128 steps: {outliers.count} outliers",
    )
    left.legend(frameon=False, loc="upper right")
    A = pareto()
    exact = np.linalg.eigvalsh(A.matrix.numpy())
    found = lanczos_quadrature(A, steps=256, seeds=PROBES)
    logs = np.log10(exact)
    grid = np.linspace(logs.min() - 0.5, logs.max() + 0.5, 1000)
    right.hist(logs, bins=60, density=True, color="0.8")
    right.plot(grid, log_density(found.nodes, found.weights, grid, width=0.1).mean(0))
    right.set(
        yscale="log",
        ylim=(1e-4, 10),
        xlabel="log10 eigenvalue",
        ylabel="density (1/decade)",
        title="Pareto(1), 256 steps",
    )
    figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main(Path(__file__).parent / "figures" / "synthetic.png")
