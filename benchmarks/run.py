"""`make bench`: this project beside its peers, a process at a time, in turn: a table, a picture."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from problems import EXAMPLES

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
TASKS = {
    ("Hess", "product"): "Hess, one product",
    ("Hess", "block"): "Hess, block of 8",
    ("G", "product"): "G, one product",
    ("G", "block"): "G, block of 8",
    ("Hess", "quadrature"): "Hess, quadrature, 10 probes x 64 steps",
    ("Hess", "top"): "Hess, top 10 eigenpairs to 1e-4",
}
PEERS = ("curvlinops", "hessian-eigenthings")
# Beside the single product; of PRODUCTS_ALONE the first.
VARIANTS = ("ours, nothing kept", "ours, compiled", "curvlinops, compiled")
# Products alone: a quadrature of the large ones would take hours on a CPU, and the fitted one is
# there for its errors.
PRODUCTS_ALONE = ("VGG11", "ResNet18", "F-200^2 fitted")
# The peers take minutes for it.
LONG = ("LeNet5", "quadrature")
# Memory that a process has freed stays with it, for all contestants alike.
KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}


def main(rounds: int, networks: list[str]) -> None:
    """Run every contestant on every task in turn, some rounds, and write docs/benchmarks.*."""
    records: dict[tuple[str, str, str, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(rounds):
            for network, (matrix, task) in product(networks, TASKS):
                if turn and (network in PRODUCTS_ALONE or (network, task) == LONG):
                    continue
                for contestant in _contestants(network, task):
                    record = _one(contestant, network, matrix, task, cache, judged=turn == 0)
                    if record:
                        record["round"] = turn
                        records[network, matrix, task, contestant].append(record)
                        print(network, matrix, task, contestant, record, flush=True)
            # After each round, so that a long run that is cut short leaves its whole rounds.
            (DOCS / "benchmarks.md").write_text(_table(records, networks), encoding="utf-8")
            _picture(records, networks)


def _contestants(network: str, task: str) -> tuple[str, ...]:
    if network in PRODUCTS_ALONE:
        more = {"product": VARIANTS[:1], "block": ()}
        return ("ours", *PEERS, *more[task]) if task in more else ()
    return ("ours", *PEERS, *(VARIANTS if task == "product" else ()))


def _one(
    contestant: str, network: str, matrix: str, task: str, cache: str, *, judged: bool
) -> dict[str, float] | None:
    command = [sys.executable, "-W", "ignore", str(HERE / "worker.py"), contestant, network]
    command += [matrix, task, "yes" if judged else "no"]
    environment = os.environ | KEEP_FREED | {"BENCHMARK_CACHE": cache}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{contestant} failed: {done.stderr[-500:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _ratios(records, network: str, matrix: str, task: str, peer: str) -> np.ndarray:
    """Return peer's seconds over ours, of the rounds in which neither failed."""
    ours = {row["round"]: row["seconds"] for row in records[network, matrix, task, "ours"]}
    theirs = records[network, matrix, task, peer]
    return np.array([t["seconds"] / ours[t["round"]] for t in theirs if t["round"] in ours])


def _with_range(ratios: np.ndarray) -> str:
    median = f"{np.median(ratios):.2f}"
    return median if len(ratios) < 2 else f"{median} ({ratios.min():.2f} to {ratios.max():.2f})"


def _median(rows: list[dict[str, float]], key: str) -> float:
    return float(np.median([row[key] for row in rows if key in row]))


def _table(records, networks) -> str:
    rounds = max(len(rows) for rows in records.values())
    lines = [
        (HERE / "preface.md").read_text(encoding="utf-8"),
        f"This table: {', '.join(networks)}; {rounds} round{'s' if rounds > 1 else ''}.\n",
        "| network | task | contestant | time / ours, median (range) | gradients per vector "
        "| error | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    vectors = {"product": 1, "block": 8, "quadrature": 640}
    for network in networks:
        for (matrix, task), name in TASKS.items():
            for contestant in _contestants(network, task):
                rows = records[network, matrix, task, contestant]
                if not rows:
                    lines.append(f"| {network} | {name} | {contestant} | fails | | | |")
                    continue
                ratios = _ratios(records, network, matrix, task, contestant)
                cost = np.median([row["seconds"] / row["gradient"] for row in rows])
                each = f"{cost / vectors[task]:.2f}" if task in vectors else f"{cost:.0f} in all"
                lines.append(
                    f"| {network} | {name} | {contestant} | {_with_range(ratios)} | {each} "
                    f"| {_median(rows, 'error'):.1e} | {_median(rows, 'memory_mb'):.0f} |"
                )
    lines += ["", "| network | matrix | our block of 8 / eight single products |", "|---|---|---|"]
    for network, matrix in product(networks, ("Hess", "G")):
        rows = records[network, matrix, "block", "ours"]
        if rows:
            each = _with_range(np.array([row["of_singles"] for row in rows]))
            lines.append(f"| {network} | {matrix} | {each} |")
    return "\n".join(lines) + "\n"


def _picture(records, networks: list[str]) -> None:
    networks = [network for network in networks if network not in PRODUCTS_ALONE]
    if not networks:
        return
    size = (2 + 2.6 * len(networks), 3)
    figure, axes = plt.subplots(
        1, len(networks), figsize=size, sharey=True, layout="constrained", squeeze=False
    )
    for panel, network in zip(axes[0], networks, strict=True):
        for offset, peer in enumerate(PEERS):
            medians = [np.median(_ratios(records, network, *key, peer)) for key in TASKS]
            place = np.arange(len(TASKS)) + 0.35 * offset - 0.18
            panel.barh(place, medians, 0.33, label=peer)
        panel.axvline(1, color="0.3", lw=0.8, ls="--")
        panel.set(title=network, xlabel="time / ours", yticks=range(len(TASKS)))
        panel.set_yticklabels(TASKS.values(), fontsize=7)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=2)
    figure.savefig(DOCS / "figures" / "benchmarks.png", dpi=160)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or list(EXAMPLES))
