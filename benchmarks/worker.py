"""One contestant, one problem, one task, in a process of its own: prints a line of JSON."""

import json
import resource
import sys
import time

import numpy as np
import torch
from contestants import CONTESTANTS
from problems import once, problem

from pipeline.curvature import gauss_newton, hessian

THREADS = 2
FEWEST, SECONDS = 3, 2.0  # calls timed: so many, and for so long; a quadrature is timed once
ENOUGH = 20.0  # seconds of calls of which fewer will do
BLOCK, PROBES, STEPS, PAIRS, TOLERANCE = 8, 10, 64, 10, 1e-4
JUDGED = 2  # columns of a block that are held to float64, whose products take minutes


def main(contestant: str, network: str, matrix: str, task: str, judged: str) -> None:
    """Measure and print seconds (median), peak memory and, if ``judged`` is yes, the error."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(THREADS)
    model, x, y = problem(network)
    p = sum(parameter.numel() for parameter in model.parameters())
    _gradient(model, x, y)
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
    if task == "block" and contestant == "ours":
        record["of_singles"] = _of_singles(made, V)
    if judged == "yes":

        def exact():
            return {"Hess": hessian, "G": gauss_newton}[matrix](model.double(), (x.double(), y))

        if task in ("product", "block"):
            columns = V[:, :JUDGED].double()
            judge = once(f"{network} {matrix}", lambda: {"exact": (exact() @ columns).contiguous()})
            record["error"] = _product_error(result, judge["exact"])
        else:
            record["error"] = _error(task, result, exact())
    print(json.dumps(record))


def _gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()


def _median(call) -> float:
    times: list[float] = []
    while sum(times) < SECONDS or (len(times) < FEWEST and sum(times) < ENOUGH):
        times.append(_time(call))
    return float(np.median(times))


def _of_singles(made, V: torch.Tensor) -> float:
    """Return the time of a block as a multiple of its columns' single products, median of pairs."""
    columns = V.unbind(1)
    pairs: list[tuple[float, float]] = []
    while np.sum(pairs) < 2 * SECONDS or len(pairs) < FEWEST:
        block = _time(lambda: made.block(V))
        pairs.append((block, _time(lambda: [made.product(v) for v in columns])))
    return float(np.median([block / singles for block, singles in pairs]))


def _time(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _product_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the error of a product (p,) or of a block's first columns, relative to float64's."""
    found = result.reshape(len(result), -1)[:, :JUDGED].double()
    expected = exact[:, : found.shape[1]]
    return float((found - expected).norm() / expected.norm())


def _error(task: str, result, exact) -> float:
    """Return the relative error against float64: of the largest node, or of residuals."""
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
