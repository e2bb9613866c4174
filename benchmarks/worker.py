"""One contestant, one problem, one task, in a process of its own: prints a line of JSON."""

import json
import resource
import sys
import time

import numpy as np
import torch
from contestants import CONTESTANTS
from problems import problem

from pipeline.curvature import gauss_newton, hessian

THREADS = 2
FEWEST, SECONDS = 3, 2.0  # calls timed: so many, or for so long; a quadrature is timed once
BLOCK, PROBES, STEPS, PAIRS, TOLERANCE = 8, 10, 64, 10, 1e-4


def main(contestant: str, network: str, matrix: str, task: str, judged: str) -> None:
    """Measure and print seconds (median), peak memory and, if ``judged`` is yes, the error."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(THREADS)
    model, x, y = problem(network)
    p = sum(parameter.numel() for parameter in model.parameters())
    gradient = _median(lambda: _gradient(model, x, y))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = CONTESTANTS[contestant](matrix, model, x, y)
    V = torch.randn(p, BLOCK, generator=torch.Generator().manual_seed(0))
    v = V[:, 0].clone()
    calls = {
        "product": lambda: made.product(v),
        "block": lambda: made.block(V),
        "quadrature": lambda: made.quadrature(PROBES, STEPS),
        "top": lambda: made.top(PAIRS, TOLERANCE),
    }
    if task == "quadrature":
        calls["product"]()  # the warm-up
        start = time.perf_counter()
        result = calls[task]()
        seconds = time.perf_counter() - start
    else:
        result = calls[task]()
        seconds = _median(calls[task])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    record = {"seconds": seconds, "gradient": gradient, "memory_mb": peak / 1024}
    if judged == "yes":
        exact = {"Hess": hessian, "G": gauss_newton}[matrix](model.double(), (x.double(), y))
        record["error"] = _error(task, result, exact, V)
    print(json.dumps(record))


def _gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()


def _median(call) -> float:
    call()
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _error(task: str, result, exact, V: torch.Tensor) -> float:
    """Return the relative error against float64: of products, the largest node, or residuals."""
    if task in ("product", "block"):
        expected = exact @ (V[:, 0] if task == "product" else V).double()
        return float((result.double() - expected).norm() / expected.norm())
    if task == "quadrature":
        # Copies of the largest eigenvalue, which an exact quadrature has once, on top of its error.
        from pipeline.spectra import top_eigenpairs

        largest = top_eigenpairs(exact, 1, tolerance=1e-9).values[0]
        copies = (np.abs(result / largest - 1) < 1e-3).sum(1).max()
        return float(np.abs(result.max(1) / largest - 1).max() + (copies - 1))
    vectors = torch.linalg.qr(result.vectors.double())[0]
    images = exact @ vectors
    values = (vectors * images).sum(0)
    return float((images - vectors * values).norm(dim=0).max() / values.max())


if __name__ == "__main__":
    main(*sys.argv[1:])
