"""Every operator of generated networks is the dense one, in blocks and one vector at a time."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random

import pytest
import torch
from elsewhere import ELSEWHERE, emulated
from generated_networks import Spec, spec
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.layer import layer_names
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.preactivations import output_hessian
from pipeline.errors import AnatomyError

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3}
SMALL = 1e-3  # of G's or Hess's norm: below it a matrix counts as rounding
OPERATORS = ("hessian", "gauss_newton", "residual", "component")
LEVELS = ("A1", "A2", "B1", "B2")


# --- dense float64 references: plain autograd, row by row -----------------------------------------


class Dense:
    """All matrices of a network in float64."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.model = model.double().eval().requires_grad_()
        self.inputs, self.labels = in_double(inputs), labels
        self.at = list(self.model.parameters())
        with sdpa_kernel(SDPBackend.MATH):
            logits = self.model(self.inputs.clone())
        self.pi = logits.detach().softmax(-1)
        self.J = rows_of(logits.flatten(), self.at).view(*logits.shape, -1)
        gradient = flat_gradient(F.cross_entropy(logits, labels), self.at, create_graph=True)
        self.hessian = rows_of(gradient, self.at)
        self.gauss_newton = gauss_newton_of(self.J, self.pi)
        self.residual = self.hessian - self.gauss_newton

    def place(self, layer: str) -> slice:
        """Return where a layer's weight lies among the parameters."""
        start = 0
        for name, parameter in self.model.named_parameters():
            if name == f"{layer}.weight":
                return slice(start, start + parameter.numel())
            start += parameter.numel()
        raise KeyError(layer)

    def levels(self) -> dict[str, torch.Tensor]:
        """Return A1, A2, B1, B2 by their definitions."""
        N, C = self.pi.shape
        g = (torch.eye(C, dtype=torch.float64) - self.pi[:, None]) @ self.J
        p = self.J.shape[-1]
        made = {name: torch.zeros(p, p, dtype=torch.float64) for name in LEVELS}
        for c in self.labels.unique():
            own = self.labels == c
            pi, g_c = self.pi[own], g[own]
            mass = pi.sum(0)
            mean = (pi[:, :, None] * g_c).sum(0) / mass[:, None]
            cross = torch.arange(C) != c
            centre = mass[cross] @ mean[cross] / mass[cross].sum()
            apart = (g_c - mean).flatten(0, 1) * pi.flatten().sqrt()[:, None]
            made["A1"] += mass[cross].sum() / N * torch.outer(centre, centre)
            made["A2"] += mass[c] / N * torch.outer(mean[c], mean[c])
            between = (mean - centre)[cross] * mass[cross].sqrt()[:, None]
            made["B1"] += between.T @ between / N
            made["B2"] += apart.T @ apart / N
        return made

    def output_hessian(self, layers: list[str]) -> torch.Tensor:
        """Return G of one shift of each layer's pre-activations, the same for all examples."""
        shifts: list[torch.Tensor] = []

        def shifted(_layer, _inputs, output):
            shifts.append(output.new_zeros(output.shape[1:]).requires_grad_())
            return output + shifts[-1]

        handles = [self.model.get_submodule(n).register_forward_hook(shifted) for n in layers]
        try:
            with sdpa_kernel(SDPBackend.MATH):
                logits = self.model(self.inputs.clone())
        finally:
            for handle in handles:
                handle.remove()
        return gauss_newton_of(rows_of(logits.flatten(), shifts).view(*logits.shape, -1), self.pi)


def in_double(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


def gauss_newton_of(J: torch.Tensor, pi: torch.Tensor) -> torch.Tensor:
    K = torch.diag_embed(pi) - pi[:, :, None] * pi[:, None, :]
    return torch.einsum("ncp,nck,nkq->pq", J, K, J) / len(pi)


def flat_gradient(value, at, **options):
    found = torch.autograd.grad(value, at, materialize_grads=True, allow_unused=True, **options)
    return torch.cat([piece.reshape(-1) for piece in found])


def rows_of(values, at):
    zero = torch.zeros(sum(parameter.numel() for parameter in at), dtype=torch.float64)
    return torch.stack(
        [
            flat_gradient(value, at, retain_graph=True) if value.requires_grad else zero
            for value in values
        ]
    ).detach()


# --- our operators --------------------------------------------------------------------------------


class Comparison:
    """The operators of one network against its dense matrices; ``found`` lists what differs."""

    def __init__(self, made: Spec, *, thorough: bool = False) -> None:
        self.model, self.data = made.network(), made.data()
        self.how = {"chunk": made.chunk, "vectors": 3}
        self.thorough, self.found, self.refused = thorough, [], []
        self.dense = Dense(made.network(), self.data[0].clone(), self.data[1])
        self.dtype = next(self.model.parameters()).dtype
        p = self.dense.J.shape[-1]
        self.V = self.columns(p)

    def columns(self, size: int) -> torch.Tensor:
        """Return some random vectors as columns."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(size, 5, generator=generator).to(self.dtype)

    def whole(self, recomputed: Sequence[str]) -> None:
        """Compare the operators of all parameters, and J and J^T; recomputed only those named."""
        dense, scale = self.dense, float(self.dense.gauss_newton.norm())
        levels = dense.levels()
        for memory_gb in (None, 0.0):
            how = self.how | {"memory_gb": memory_gb}
            for make in (hessian, gauss_newton, residual):
                name = f"{make.__name__}, {memory_gb}"
                if memory_gb is None or make.__name__ in recomputed:
                    with self.noted(name):
                        A = make(self.model, self.data, **how)
                        self.products(name, A, getattr(dense, make.__name__), scale)
            if memory_gb is not None and "component" not in recomputed:
                continue
            with self.noted(f"component, {memory_gb}"):
                A = component(self.model, self.data, name="G-A1", **how)
                matrix = dense.gauss_newton - levels["A1"]
                self.products(f"G-A1, {memory_gb}", A, matrix, scale)
                for level in LEVELS:
                    matrix = levels[level]
                    columns = self.V[:, :3]
                    ours = A.named(level) @ columns
                    self.compare(f"{level}, {memory_gb}", ours, matrix @ columns.double(), scale)
                self.jacobians(f"{memory_gb}", A.jacobians)

    def layers(self) -> None:
        """Compare the operators of each layer that is applied once to all examples."""
        counts = uses(self.dense.model, self.dense.inputs)
        for layer in layer_names(self.model):
            if counts[layer] != 1:
                continue
            own, M = self.dense.place(layer), self.dense.output_hessian([layer])
            matrix = self.dense.hessian[own, own]
            for memory_gb in (None, 0.0):
                how = self.how | {"memory_gb": memory_gb}
                name = f"layer {layer}, {memory_gb}"
                with self.noted(name):
                    A = layer_hessian(self.model, self.data, layer=layer, **how)
                    self.products(name, A, matrix, float(matrix.norm()))
                name = f"output of {layer}, {memory_gb}"
                with self.noted(name), suppress(NotLinearizedError):  # of padded convolutions
                    A = output_hessian(self.model, self.data, layers=[layer], **how).operator
                    self.products(name, A, M, float(M.norm()))

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Note refusals, and raw errors as differences; ``name`` is what was made."""
        try:
            yield
        except AnatomyError as error:
            self.refused.append(f"{name}: {error}")
        except NotLinearizedError:
            raise
        except Exception as error:
            self.found.append(f"{name}: raw {type(error).__name__}: {str(error)[:300]}")

    def products(self, name: str, A, matrix: torch.Tensor, scale: float) -> None:
        """Compare an operator's products: in blocks of each kind, and one by one."""
        size = len(matrix)
        V = torch.eye(size, dtype=self.dtype) if self.thorough else self.columns(size)
        alone = V if self.thorough else V[:, -1:]
        kinds = {
            "block": (lambda: A @ V, V),  # three columns, and what is left
            "by columns": (lambda: A.matmat(V[:, :2].T.contiguous().T), V[:, :2]),
            "one by one": (lambda: torch.stack([A @ v for v in alone.T], 1), alone),
        }
        for kind, (product, columns) in kinds.items():
            self.compare(f"{name}, {kind}", product(), matrix @ columns.double(), scale)

    def jacobians(self, name: str, found) -> None:
        """Compare J and J^T of every chunk."""
        start, scale = 0, float(self.dense.J.norm())
        for ours in found:
            J = self.dense.J[start : start + len(ours.probabilities)]
            start += len(J)
            u = torch.randn(2, *J.shape[:2], generator=torch.Generator().manual_seed(3))
            u, rows = u.to(self.dtype), self.V[:, :2].T.contiguous()
            pushed = torch.einsum("ncp,kp->knc", J, rows.double())
            pulled = torch.einsum("ncp,knc->kp", J, u.double())
            for kind, of in (("block", lambda f, r: f(r)), ("one by one", each)):
                self.compare(f"J, {name}, {kind}", of(ours.push, rows), pushed, scale)
                self.compare(f"J^T, {name}, {kind}", of(ours.pull, u), pulled, scale)

    def compare(self, name: str, ours: torch.Tensor, expected: torch.Tensor, scale: float) -> None:
        size = float(expected.norm())
        error = float((ours.double() - expected).norm())
        if not error <= TOLERANCES[self.dtype] * (size + SMALL * max(scale, 1)):
            self.found.append(f"{name}: off by {error / (size or 1):.2g}")


def differences(
    made: Spec,
    *,
    layers: bool = True,
    recomputed: Sequence[str] = OPERATORS,
    thorough: bool = False,
) -> tuple[list[str], list[str]]:
    """Return where our operators of a network differ from the dense ones, and what was refused."""
    ours = Comparison(made, thorough=thorough)
    inputs, state = ours.data[0].clone(), copy.deepcopy(ours.model.state_dict())
    ours.whole(recomputed)
    if layers:
        ours.layers()
    if not torch.equal(ours.data[0], inputs):
        ours.found.append("the inputs were changed")
    if not all(torch.equal(x, state[name]) for name, x in ours.model.state_dict().items()):
        ours.found.append("the network was changed")
    return ours.found, ours.refused


def uses(model: nn.Module, inputs: torch.Tensor) -> dict[str, int]:
    """Return how often each module is applied."""
    counts = {name: 0 for name, _ in model.named_modules()}
    handles = []
    for name, module in model.named_modules():

        def count(_module, _inputs, _output, name=name):
            counts[name] += 1

        handles.append(module.register_forward_hook(count))
    try:
        model(inputs.clone())  # with gradients, which keeps to the modules' plain form
    finally:
        for handle in handles:
            handle.remove()
    return counts


def each(function, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([function(row[None]) for row in rows])


def hold_generated(seeds: range) -> None:
    """Hold the networks of ``seeds`` to their dense matrices; at most a tenth may be refused."""
    different, refusals = [], []
    for seed in seeds:
        made = spec(Random(seed))
        found, refused = differences(
            made, layers=seed % 4 == 0, recomputed=[OPERATORS[seed % len(OPERATORS)]]
        )
        different += [f"{made}: {'; '.join(found[:4])}"] if found else []
        refusals += [f"{made}: {refused[0]}"] if refused else []
    assert not different, "\n".join(different)
    assert len(refusals) <= 0.1 * len(seeds), "\n".join(refusals)


def test_every_operator_of_generated_networks_is_the_dense_one():
    hold_generated(range(50))


@pytest.mark.slow
def test_every_operator_of_many_generated_networks_is_the_dense_one():
    hold_generated(range(50, 1050))


# It says that nothing is copied to a network on meta; here it is.
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("seed", range(5))
def test_operators_of_generated_networks_meet_no_other_device(seed, monkeypatch):
    made = spec(Random(seed))
    model, (inputs, labels) = made.network(), made.data()
    dense = Dense(made.network(), inputs.clone(), labels)
    V = torch.randn(dense.J.shape[-1], 5, generator=torch.Generator().manual_seed(2))
    V, how = V.to(inputs.dtype), {"chunk": made.chunk}
    with emulated(monkeypatch):
        there = model.to(ELSEWHERE), (inputs.to(ELSEWHERE), labels.to(ELSEWHERE))
        W = V.to(ELSEWHERE)
        for make in (hessian, gauss_newton, residual):
            expected = getattr(dense, make.__name__) @ V.double()
            for memory_gb in (None, 0.0):
                A = make(*there, memory_gb=memory_gb, **how)
                for ours in (A @ W, torch.stack([A @ w for w in W.T], 1)):
                    error = float((ours.cpu().double() - expected).norm())
                    size = float(expected.norm() + SMALL * dense.hessian.norm())
                    assert error <= TOLERANCES[V.dtype] * size, (made, make.__name__, memory_gb)


COMPILED = [
    Spec(
        (
            "nn.Conv2d(1, 2, 3, padding=1, padding_mode='circular')",
            "nn.Tanh()",
            "nn.Conv2d(2, 2, 3, padding=1, padding_mode='circular')",
            "lambda h: h.mean((2, 3))",
            "nn.Linear(2, 3)",
        ),
        (1, 4, 4),
    ),
    Spec(
        (
            "nn.Conv2d(1, 4, 3, padding=1)",
            "nn.Tanh()",
            "lambda h: assigned(h, torch.zeros_like, put((slice(None), slice(2))))",
            "nn.Conv2d(4, 2, 3)",
            "lambda h: h.flatten(1)",
            "nn.Linear(8, 3)",
        ),
        (1, 4, 4),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("made", COMPILED)
def test_compiled_blocks_are_their_single_products(made):
    model, data = made.network(), made.data()
    expected = Dense(made.network(), *data)
    for make in (hessian, gauss_newton):
        A, matrix = make(model, data, chunk=4, compiled=True), getattr(expected, make.__name__)
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        for ours in (A @ identity, torch.stack([A @ v for v in identity], 1)):
            assert float((ours - matrix).norm() / matrix.norm()) < 1e-9
