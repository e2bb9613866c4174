"""All eigenvalues of A1, A2 and B1 by several routes, in turn: a table in docs/hierarchy.md."""

import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from problems import problem
from torch import nn

from pipeline.anatomy.levels import centre_eigenvalues, cross_eigenvalues
from pipeline.curvature import component, gauss_newton
from pipeline.curvature.class_pairs import PairGram, all_pairs, pair_gram
from pipeline.spectra import top_eigenpairs

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = (1, 8, 32)
Values = dict[str, np.ndarray]
Route = Callable[[nn.Module, torch.Tensor, torch.Tensor], Values]
HEAD = """# The levels of G: what their eigenvalues cost

`make bench` writes this page. All eigenvalues of A1 (C), A2 (C) and B1 (C(C - 2)) of {name}, {n}
examples, C = {classes}, p = {p}, float32, two CPU threads, {rounds} rounds in turn; medians
(range).

* *Gram matrix*: this project's route, C - 1 retained backward passes over each class (the last
  vector of a class is minus the sum of its others).
* *class by class*: the same passes in a loop, a graph retained for C backward calls per class;
  *accurate*: its probabilities from a forward in float64, as this project's are where a logit
  exceeds 64.
* *pair by pair*: C^2 backward passes over all the data, as S's authors' code makes them.
* *products*: `top_eigenpairs` on the three operators, as where a Gram matrix of C^2 vectors does
  not fit: it needs one product at least for each of the C^2 eigenvalues.
* *error*: of the eigenvalues, against the same in float64, over the largest of each component.

| route | time / ours | gradients | error |
|---|---|---|---|
"""
TAKE_OVER = """
Where the C^2 vectors do not fit in memory at once, the passes are made over again for each block of
parameters. Times in those of one block; one round; *take over*: the blocks that take as long as
products. The workflow stops at 8 blocks (`anatomy/hierarchy.py`): B1's density then comes from a
quadrature, which is cheaper than either. So it does if 64 C^4 bytes exceed `compute.basis_gb`:
1 GiB at C = 64, 6 GiB at C = 100. The pairs of up to `hierarchy.classes` classes are always
computed.

| classes | 1 block | 8 blocks | 32 blocks | products | take over |
|---|---|---|---|---|---|
"""


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, blocks: int = 1) -> Values:
    """The Gram matrix of the class-pair vectors, in so many blocks of parameters."""
    pairs = all_pairs(range(model(x[:1]).shape[1]))
    numbers = len(pairs) * sum(parameter.numel() for parameter in model.parameters())
    room = 4 * -(-numbers // blocks) + 4 * len(pairs)
    return _values(pair_gram(model, (x, y), pairs, room=room))


def class_by_class(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, accurate: bool = False
) -> Values:
    """One forward per class, retained for a backward call per cross class."""
    double = copy.deepcopy(model).double() if accurate else None
    parameters = list(model.parameters())
    rows, shares = [], []
    for c in range(model(x[:1]).shape[1]):
        logits = model(x[y == c])
        pi = logits.detach().softmax(-1)
        if double is not None:
            with torch.no_grad():
                pi = double(x[y == c].double()).softmax(-1).to(pi.dtype)
        shares.append(pi.sum(0) / len(y))
        for k in range(pi.shape[1]):
            away = torch.eye(pi.shape[1])[k] - pi
            cotangent = pi[:, k : k + 1] / pi[:, k].sum() * away
            found = torch.autograd.grad(logits, parameters, cotangent, retain_graph=True)
            rows.append(torch.cat([piece.flatten() for piece in found]))
    return _of_rows(torch.stack(rows), torch.stack(shares))


def pair_by_pair(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Values:
    """A forward and a backward pass over all the data for each class pair."""
    parameters = list(model.parameters())
    rows, classes = [], model(x[:1]).shape[1]
    shares = torch.zeros(classes, classes)
    for c, k in all_pairs(range(classes)):
        logits = model(x)
        pi = logits.detach().softmax(-1)
        weights = pi[:, k] * (y == c)
        shares[c, k] = weights.sum() / len(y)
        cotangent = (weights / weights.sum())[:, None] * (torch.eye(classes)[k] - pi)
        found = torch.autograd.grad(logits, parameters, cotangent)
        rows.append(torch.cat([piece.flatten() for piece in found]))
    return _of_rows(torch.stack(rows), shares)


def products(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Values:
    """Eigenpairs from products with the operators."""
    classes = model(x[:1]).shape[1]
    G = component(model, (x, y), name="G")
    counts = {"A1": classes, "A2": classes, "B1": classes * (classes - 2)}
    return {
        name: top_eigenpairs(G.named(name), count, tolerance=1e-4).values
        for name, count in counts.items()
    }


ROUTES: dict[str, Route] = {
    "Gram matrix (ours)": ours,
    "class by class": class_by_class,
    "class by class, accurate": partial(class_by_class, accurate=True),
    "pair by pair": pair_by_pair,
    "products": products,
}


def _of_rows(rows: torch.Tensor, shares: torch.Tensor) -> Values:
    rows = rows.double()
    pairs = tuple(all_pairs(range(len(shares))))
    return _values(PairGram(pairs, rows @ rows.T, shares.double()))


def _values(found: PairGram) -> Values:
    values = centre_eigenvalues(found) | {"B1": cross_eigenvalues(found)}
    return {name: value.numpy() for name, value in values.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _products(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rounds: int) -> list[str]:
    """Return the table of one product with a component, beside one with G."""
    own = component(model, (x, y), name="G")
    operators = {"G, by its own operator": gauss_newton(model, (x, y))}
    operators |= {name: own.named(name) for name in ("A1", "B2", "G-A1")}
    v = torch.randn(own.shape[0])
    ratios: dict[str, list[float]] = {name: [] for name in operators}
    for _ in range(1 + 3 * rounds):  # the first one warms up
        times = {
            name: np.median([_seconds(lambda A=A: A @ v) for _ in range(9)])
            for name, A in operators.items()
        }
        for name, seconds in times.items():
            ratios[name].append(seconds / times["G, by its own operator"])
    lines = ["", "| one product | time / G's |", "|---|---|"]
    for name, found in ratios.items():
        kept = np.array(found[1:])
        spread = f"({kept.min():.2f} to {kept.max():.2f})"
        lines.append(f"| {name} | {np.median(kept):.2f} {spread} |")
    return lines


def _take_over(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[str]:
    """Return the table of the Gram matrix in blocks beside products, for two numbers of classes."""
    twice = copy.deepcopy(model)
    head = list(twice.modules())[-1]
    with torch.no_grad():
        head.weight = nn.Parameter(head.weight.repeat(2, 1) + 0.01 * torch.randn(20, 84))
        head.bias = nn.Parameter(head.bias.repeat(2))
    lines = [TAKE_OVER.rstrip()]
    for network, labels in ((model, y), (twice, y + 10 * (torch.arange(len(y)) % 2))):
        routes: list[Route] = [*(partial(ours, blocks=count) for count in BLOCKS), products]
        times = np.array([_seconds(partial(made, network, x, labels)) for made in routes])
        cells = " | ".join(f"{ratio:.1f}" for ratio in times / times[0])
        equal = times[-1] / times[-2] * BLOCKS[-1]
        lines.append(f"| {network(x[:1]).shape[1]} | {cells} | {equal:.0f} |")
    return lines


def main(rounds: int, name: str = "LeNet5") -> None:
    """Run every route in turn, some rounds, and write the table."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(2)
    model, x, y = problem(name)
    exact = ours(model.double(), x.double(), y)
    model.float()

    def gradient() -> None:
        nn.functional.cross_entropy(model(x), y).backward()

    errors = {}
    for route, made in ROUTES.items():
        found = made(model, x, y)  # the warm-up
        errors[route] = max(np.abs(found[k] - exact[k]).max() / exact[k].max() for k in exact)
    times: dict[str, list[float]] = {route: [] for route in (*ROUTES, "gradient")}
    for _ in range(rounds):
        times["gradient"].append(np.median([_seconds(gradient) for _ in range(9)]))
        for route, made in ROUTES.items():
            times[route].append(_seconds(lambda made=made: made(model, x, y)))
    own = np.array(times["Gram matrix (ours)"])
    p = sum(parameter.numel() for parameter in model.parameters())
    sizes = {"n": len(x), "classes": model(x[:1]).shape[1], "p": f"{p:,}", "rounds": rounds}
    lines = [HEAD.format(name=name, **sizes).rstrip()]
    for route in ROUTES:
        ratio = np.array(times[route]) / own
        gradients = np.median(np.array(times[route]) / times["gradient"])
        lines.append(
            f"| {route} | {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) "
            f"| {gradients:.1f} | {errors[route]:.1e} |"
        )
    lines += _products(model, x, y, rounds)
    lines += _take_over(model, x, y)
    (DOCS / "hierarchy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]))
