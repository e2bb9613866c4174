"""What fraction of the device's measured float32 peak the products reach: prints a table.

Runs on a GPU where there is one, else on the CPU: `PYTHONPATH=. python benchmarks/peak.py`.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from problems import problem
from torch.utils.flop_counter import FlopCounterMode

from pipeline.curvature import component, gauss_newton, hessian

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDE = 8192 if DEVICE.type == "cuda" else 2048  # of the square matrices that measure the peak
CALLS = 20
MATRICES = {"Hess": hessian, "G": gauss_newton, "B1": partial(component, name="B1")}


def main(networks: tuple[str, ...] = ("F-200^2", "LeNet5")) -> None:
    """Print a row per network, matrix and number of vectors."""
    torch.set_num_threads(2)
    A = torch.randn(SIDE, SIDE, device=DEVICE)
    peak = 2 * SIDE**3 / _seconds(lambda: A @ A)
    print(f"{DEVICE}: {peak / 1e9:.0f} GFLOP/s in a float32 matrix product\n")
    print("| network | matrix | vectors | eager or compiled | GFLOP/s | of the peak |")
    print("|---|---|---|---|---|---|")
    for network in networks:
        model, x, y = problem(network)
        model, data = model.to(DEVICE), (x.to(DEVICE), y.to(DEVICE))
        for name, make in MATRICES.items():
            eager = make(model, data)
            for compiled in (False, True):
                operator = make(model, data, compiled=True) if compiled else eager
                for k in (1, 8):
                    V = torch.randn(operator.shape[0], k, device=DEVICE)
                    flops = _flops(lambda A=eager, V=V: A @ V)  # compiled code cannot be counted
                    rate = flops / _seconds(lambda A=operator, V=V: A @ V)
                    how = "compiled" if compiled else "eager"
                    cells = (network, name, k, how, f"{rate / 1e9:.0f}", f"{rate / peak:.2f}")
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _seconds(call: Callable[[], object]) -> float:
    """Return the median time of a call, the device's work included."""
    times = []
    for _ in range(3 + CALLS):
        start = time.perf_counter()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]))


if __name__ == "__main__":
    main()
