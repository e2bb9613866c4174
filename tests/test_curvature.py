import copy
import shutil

import curvlinops
import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from torch import nn

from pipeline.curvature import gauss_newton, hessian, residual
from pipeline.curvature import linearize as linearize_module
from pipeline.curvature.base import Deflated, Dense
from pipeline.curvature.codegen import needed
from pipeline.curvature.linearize import LinearizedFunction
from pipeline.curvature.network import FlatNetwork
from pipeline.curvature.operations import with_sums_in_products
from pipeline.errors import AnatomyError
from pipeline.models.fnet import fnet

CHUNK = 5  # 13 examples: the last chunk holds 3


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


def test_each_operator_is_its_dense_matrix(problem):
    model, inputs, labels = problem
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    data = (inputs, labels)
    assert relative(dense(hessian(model, data, chunk=CHUNK)), Hess) < 1e-12
    assert relative(dense(gauss_newton(model, data, chunk=CHUNK)), G) < 1e-12
    assert relative(dense(residual(model, data, chunk=CHUNK)), Hess - G) < 1e-12


def test_operators_are_symmetric_and_add_up(problem):
    model, inputs, labels = problem
    data = (inputs, labels)
    parts = [dense(f(model, data, chunk=CHUNK)) for f in (hessian, gauss_newton, residual)]
    for matrix in parts:
        assert relative(matrix, matrix.T) < 1e-13
    assert relative(parts[1] + parts[2], parts[0]) < 1e-13
    assert torch.linalg.eigvalsh(parts[1]).min() > -1e-13


def test_residual_of_a_piecewise_linear_network_has_zero_diagonal(problem):
    model, inputs, labels = problem
    H = dense(residual(model, (inputs, labels)))
    assert H.norm() > 1e-3
    assert H.diagonal().abs().max() < 1e-15 * H.norm() * len(H)


def test_a_short_last_chunk_weighs_by_its_examples(one_problem):
    model, inputs, labels = one_problem
    whole = dense(hessian(model, (inputs, labels), chunk=13))
    for chunk in (1, 4, 12):
        assert relative(dense(hessian(model, (inputs, labels), chunk=chunk)), whole) < 1e-13


def test_agrees_with_curvlinops(problem):
    model, inputs, labels = problem
    data = [(inputs[:8], labels[:8]), (inputs[8:], labels[8:])]
    loss = nn.CrossEntropyLoss(reduction="mean")
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for ours, theirs in (
        (hessian, curvlinops.HessianLinearOperator),
        (gauss_newton, curvlinops.GGNLinearOperator),
    ):
        other = theirs(model, loss, list(model.parameters()), data, check_deterministic=False)
        assert relative(ours(model, (inputs, labels)) @ v, other @ v) < 1e-12


@pytest.mark.parametrize("operator", [hessian, gauss_newton, residual])
@pytest.mark.parametrize("memory_gb", [None, 0.0])
def test_vectors_that_share_a_pass_equal_single_products(one_problem, operator, memory_gb):
    model, inputs, labels = one_problem
    made = {
        k: operator(model, (inputs, labels), chunk=CHUNK, vectors=k, memory_gb=memory_gb)
        for k in (1, 3)
    }
    V = torch.randn(made[1].shape[0], 4, dtype=torch.float64)
    single = torch.stack([made[1] @ v for v in V.T], 1)
    assert torch.equal(made[1] @ V, single)
    assert relative(made[3] @ V, single) < 1e-14


class InPlace(nn.Module):
    """A residual network that adds, activates and (if asked) assigns in place."""

    def __init__(self, assigns):
        super().__init__()
        self.one, self.two, self.assigns = nn.Linear(6, 6), nn.Linear(6, 3), assigns

    def forward(self, x):
        x = x.flatten(1)
        skip = self.one(x)
        out = self.one(torch.tanh(skip))
        out += skip
        out = nn.functional.leaky_relu(out, 0.3, inplace=True)
        if self.assigns:
            halves = torch.zeros_like(out)
            halves[:, :3] = out[:, 3:]
            halves[:, 3:] = torch.tanh(out[:, :3])
            out = halves
        return self.two(out)


@pytest.mark.parametrize("kind", ["adds", "assigns", "silu"])
def test_networks_that_work_in_place_or_bend_are_right_each_time(kind):
    torch.manual_seed(0)
    if kind == "silu":
        model = nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 3)).double()
    else:
        model = InPlace(kind == "assigns").double()
    inputs, labels = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    for operator, expected in ((hessian, Hess), (gauss_newton, G), (residual, Hess - G)):
        A = operator(model, (inputs, labels), chunk=4)
        for _ in range(2):
            assert relative(dense(A), expected) < 1e-12
            assert relative(A @ torch.ones(len(G), dtype=G.dtype), expected.sum(1)) < 1e-12


@pytest.mark.parametrize("assigns", [False, True])
def test_a_map_whose_mutations_are_written_out_is_the_same(assigns):
    torch.manual_seed(0)
    network = FlatNetwork(InPlace(assigns).double())
    inputs, theta = torch.randn(9, 6, dtype=torch.float64), network.theta
    linearized = LinearizedFunction(network.logits, compiled=False)
    v = torch.randn_like(theta)
    for _ in range(2):
        at = linearized.at(theta, inputs, functional=True, vectorize=lambda: True)
        value, along = torch.func.jvp(lambda at: network.logits(at, inputs), (theta,), (v,))
        for _ in range(2):
            assert relative(at.jvp(v[None])[0], along) < 1e-14
            assert torch.equal(at.relinearize(theta, inputs)(v[None]), at.jvp(v[None]))
        assert relative(at.value, value) < 1e-14


def test_shapes_are_checked(one_problem):
    model, inputs, labels = one_problem
    A = hessian(model, (inputs, labels))
    with pytest.raises(ValueError, match=r"^V has shape \(\d+, 3\)"):
        A @ torch.ones(A.shape[0] - 1, 3, dtype=A.dtype)


def test_compiled_products_equal_eager_ones(one_problem):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    model, inputs, labels = one_problem
    A, compiled = (hessian(model, (inputs, labels), compiled=c) for c in (False, True))
    V = torch.randn(A.shape[0], 3, dtype=torch.float64)
    assert relative(compiled @ V, A @ V) < 1e-13
    assert relative(compiled @ V[:, 0], A @ V[:, 0]) < 1e-13


def test_what_is_dropped_from_a_tangent_changes_no_bit(one_problem, monkeypatch):
    model, inputs, labels = one_problem
    V = torch.randn(sum(p.numel() for p in model.parameters()), 3, dtype=torch.float64)
    sizes = []
    original = linearize_module.as_function

    def counted(operations, inputs, outputs):
        sizes.append(len(needed(operations, outputs)))
        return original(operations, inputs, outputs)

    monkeypatch.setattr(linearize_module, "SPLITS", linearize_module._Recent(0))
    monkeypatch.setattr(linearize_module, "as_function", counted)
    monkeypatch.setattr(linearize_module, "with_sums_in_products", lambda operations, _: operations)
    lean = hessian(model, (inputs, labels))
    monkeypatch.setattr(
        linearize_module, "without_idle_sums", lambda operations, end, zeros: (operations, end)
    )
    complete = hessian(model, (inputs, labels))
    assert min(sizes[: len(sizes) // 2]) < min(sizes[len(sizes) // 2 :])
    assert torch.equal(lean @ V[:, 0], complete @ V[:, 0])


@pytest.mark.parametrize("memory_gb", [None, 0.0])
@pytest.mark.parametrize("weight", [float("nan"), 1e38])
def test_a_network_that_overflows_has_products_that_are_not_finite(weight, memory_gb):
    model = fnet((1, 3, 3), 3, "none", width=4, depth=2)
    with torch.no_grad():
        next(model.parameters()).fill_(weight)
    data = (torch.randn(6, 1, 3, 3), torch.arange(6) % 3)
    for operator in (hessian, gauss_newton, residual):
        A = operator(model, data, memory_gb=memory_gb)
        assert not (A @ torch.ones(A.shape[0])).isfinite().all()


def test_a_network_that_adds_a_product_to_itself_is_linearised():
    class Doubled(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return z + z

    torch.manual_seed(0)
    model = nn.Sequential(Doubled(6, 5, bias=False), nn.Tanh(), Doubled(5, 3, bias=False)).double()
    inputs, labels = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3
    A = hessian(model, (inputs, labels))
    assert A.kept == 1
    v = torch.randn(A.shape[0], dtype=A.dtype)
    assert relative(A @ v, dense_hessian(model, inputs, labels) @ v) < 1e-12


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_sum_goes_into_its_product_unless_something_is_written_between(
    writes, functional, monkeypatch
):
    theta, v = torch.randn(2, 9, dtype=torch.float64)
    B, lists = torch.randn(3, 3, dtype=torch.float64), []

    def function(at):
        A = at.view(3, 3).clone()
        product = A @ B
        if writes:
            A.mul_(2)
        return product + A

    def seen(operations, wanted):
        lists.append(with_sums_in_products(operations, wanted))
        return lists[-1]

    monkeypatch.setattr(linearize_module, "with_sums_in_products", seen)
    linearized = LinearizedFunction(function, compiled=False)
    at = linearized.at(theta, functional=functional, vectorize=lambda: True)
    expected = torch.func.jvp(function, (theta,), (v,))[1]
    assert relative(at.jvp(v[None])[0], expected) < 1e-14
    fused = torch.ops.aten.addmm.default in {operation.function for operation in lists[0]}
    assert fused == (functional or not writes)


@pytest.mark.parametrize("operator", [hessian, gauss_newton, residual])
def test_a_network_is_followed_once_for_all_chunks_of_one_shape(one_problem, operator, monkeypatch):
    model, inputs, labels = one_problem
    recorded = []
    original = linearize_module.record
    monkeypatch.setattr(linearize_module, "SPLITS", linearize_module._Recent(9))
    monkeypatch.setattr(
        linearize_module, "record", lambda *inputs: recorded.append(1) or original(*inputs)
    )
    for _ in range(2):  # nor is it recorded again for a second operator
        A = operator(model, (inputs, labels), chunk=CHUNK)
        assert A.kept == len(A.products) == 3
        assert len(recorded) == 2
    Hess, G = dense_hessian(model, inputs, labels), dense_gauss_newton(model, inputs)
    expected = {hessian: Hess, gauss_newton: G, residual: Hess - G}[operator]
    assert relative(dense(A), expected) < 1e-12


class Scaled(nn.Sequential):
    """A network with a factor that no attribute of its modules shows."""

    def __init__(self, factor):
        super().__init__(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.scaled = lambda h: factor * h

    def forward(self, x):
        return super().forward(self.scaled(x))


@pytest.mark.parametrize("operator", [hessian, gauss_newton, residual])
def test_networks_that_differ_in_a_closure_share_no_list(operator, monkeypatch):
    data, products = (torch.randn(9, 6), torch.arange(9) % 3), []
    for size in (9, 0):  # with and without lists of other networks
        monkeypatch.setattr(linearize_module, "SPLITS", linearize_module._Recent(size))
        for factor in (1.0, 1 + 1e-4):
            torch.manual_seed(0)
            A = operator(Scaled(factor), data)
            products.append(A @ torch.ones(A.shape[0]))
    assert torch.equal(products[0], products[2])
    assert torch.equal(products[1], products[3])
    assert not torch.equal(products[0], products[1])


def test_algebra(one_problem):
    model, inputs, labels = one_problem
    A, G = hessian(model, (inputs, labels)), gauss_newton(model, (inputs, labels))
    v = torch.randn(A.shape[0], dtype=A.dtype)
    assert relative((2 * A - G + -A) @ v, A @ v - G @ v) < 1e-13
    assert (2 * G + G).positive
    assert not (A - G).positive
    U = torch.linalg.qr(torch.randn(len(v), 3, dtype=A.dtype))[0]
    P = torch.eye(len(v), dtype=A.dtype) - U @ U.T
    assert relative(dense(Deflated(A, U)), P @ dense(A) @ P) < 1e-12
    with pytest.raises(ValueError, match="different shapes"):
        A + Dense(torch.eye(2))


@pytest.mark.parametrize("mode", [True, False])
def test_an_analysis_leaves_the_network_as_it_was(one_problem, mode):
    model, inputs, labels = one_problem
    model.train(mode)
    before = copy.deepcopy(model.state_dict())
    dense(hessian(model, (inputs, labels)))
    dense(gauss_newton(model, (inputs, labels)))
    assert model.training is mode
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_fitted_network_loses_no_accuracy_in_float32():
    # The true class leads by 16 nats: 1 - pi_y is about 1e-7, and pi - y in float32 is noise.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    inputs = torch.randn(9, 6, dtype=torch.float64)
    with torch.no_grad():
        model[2].weight *= 20
        logits = model(inputs)
        labels = logits.argmax(-1)
        gap = logits.topk(2).values
        inputs = inputs[(gap[:, 0] - gap[:, 1]) > 1]
        labels = labels[(gap[:, 0] - gap[:, 1]) > 1]
        gap = model(inputs).topk(2).values
        model[2].weight *= 16 / (gap[:, 0] - gap[:, 1]).min()
        model[2].bias *= 0
        likely = 1 - model(inputs).softmax(-1).gather(1, labels[:, None])
    assert 1e-9 < likely.max() < 1e-6
    single = copy.deepcopy(model).float()
    for operator in (hessian, gauss_newton, residual):
        exact = dense(operator(model, (inputs, labels)))
        assert exact.norm() > 0
        assert relative(dense(operator(single, (inputs.float(), labels))), exact) < 1e-5


def test_large_logits_lose_no_accuracy_either():
    # Logits in the hundreds, as of a wide network grown certain: float32 rounds them at 1e-5.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 3)).double()
    inputs = torch.randn(40, 6, dtype=torch.float64)
    with torch.no_grad():
        labels = model(inputs).argmax(-1)
        gap = model(inputs).topk(2).values
        model[2].weight *= 16 / (gap[:, 0] - gap[:, 1]).median()
        model[2].bias += 900
    single = copy.deepcopy(model).float()
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    model = copy.deepcopy(single).double()  # the same weights, rounded
    inputs = inputs.float().double()
    for operator in (hessian, gauss_newton, residual):
        for memory_gb in (None, 0.0):
            exact = operator(model, (inputs, labels)) @ v
            found = operator(single, (inputs.float(), labels), memory_gb=memory_gb) @ v.float()
            assert relative(found, exact) < 5e-6


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "labels run from 0 to 3"),
        (torch.tensor([0, -1]), "labels run from -1"),
        (torch.tensor([0]), "2 inputs and 1 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(AnatomyError, match=message):
        hessian(nn.Linear(4, 3), (torch.randn(2, 4), labels))
