"""A layer's anatomy against dense references; the whole Hessian's Kronecker parts; the theory."""

import numpy as np
import pytest
import torch
from reference import dense_gauss_newton, dense_hessian, relative
from test_layer import block, dense, layers_of
from torch import nn

from pipeline.anatomy.full_kronecker import full_kronecker
from pipeline.anatomy.layerwise import Network, decoupling_error, layer_anatomy, singular_values
from pipeline.anatomy.rowspace import centred_rowspace, later_weights, rowspace_overlap
from pipeline.anatomy.theory import overlap_limit, two_layer
from pipeline.curvature import layer_hessian
from pipeline.curvature.base import Dense
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.layer import layer_names
from pipeline.curvature.linearize import NotLinearizedError
from pipeline.curvature.preactivations import (
    kronecker_direction,
    longest_direction,
    output_hessian,
)
from pipeline.errors import AnatomyError
from pipeline.stages import Layers
from pipeline.streams import stream


def network(problem, **settings):
    model, inputs, labels = problem
    return Network(
        model=model,
        data=(inputs, labels),
        classes=model(inputs[:1]).shape[1],
        settings=Layers(tolerance=1e-10, **settings),
        seed=0,
        room=2**30,
        options={"chunk": 5},
        wrap=lambda operator, name: operator,
    )


def test_each_layer_is_its_dense_self(problem):
    model, inputs, labels = problem
    Hess = dense_hessian(model, inputs, labels)
    for layer in layers_of(model):
        found = layer_anatomy(network(problem, rank=8, index=4), layer)
        A = block(Hess, model, layer)
        values = torch.linalg.eigvalsh(A).flip(0)
        k = len(found.eigenvalues)
        assert k > 3
        assert np.allclose(found.eigenvalues, values[:k].numpy(), atol=1e-9 * float(values[0]))
        factors = kronecker_factors(model, (inputs, labels), layer=layer)
        K = torch.kron(factors.output_hessian, factors.autocorrelation)
        expected = torch.linalg.eigvalsh(K).flip(0)[:k]
        assert np.allclose(found.kronecker.eigenvalues, expected, atol=1e-12 * float(values[0]))
        assert found.kronecker.decoupling_error == pytest.approx(
            relative(A, K) * float(K.norm() / A.norm()), rel=1e-6
        )
        top = torch.linalg.eigh(K).eigenvectors.flip(1)
        for k, overlap in enumerate(found.kronecker.overlap, start=1):
            expected = (found.eigenvectors[:, :k].T @ top[:, :k]).square().sum() / k
            assert overlap == pytest.approx(float(expected), rel=1e-5), k
        h = found.eigenvectors[:, 1].view(found.outputs, found.inputs)
        U = torch.linalg.eigh(factors.output_hessian).eigenvectors.flip(1)
        V = torch.linalg.eigh(factors.autocorrelation).eigenvectors.flip(1)
        assert found.kronecker.correspondence_output[1, 0] == pytest.approx(
            float((U[:, 0] @ h).norm() ** 2), rel=1e-6
        )
        assert found.kronecker.correspondence_input[1, 0] == pytest.approx(
            float((h @ V[:, 0]).norm() ** 2), rel=1e-6
        )
        # All shares of an eigenvector sum to its length.
        whole = layer_anatomy(network(problem, rank=8, index=500), layer).kronecker
        assert np.allclose(whole.correspondence_output.sum(1), 1)
        assert np.allclose(whole.correspondence_input.sum(1), 1)
        sigma = torch.linalg.svdvals(h).numpy()[:4]
        assert np.allclose(found.singular_values[1, : len(sigma)], sigma)
        mean = factors.mean_input
        cosine = float((V[:, 0] @ mean) ** 2 / (mean @ mean))
        assert found.kronecker.mean_alignment == pytest.approx(cosine, rel=1e-6)


def test_pairs_below_their_residuals_are_lost():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    # Two examples: a layer Hessian of rank 4 at most.
    inputs, labels = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.arange(2)
    found = layer_anatomy(network((model, inputs, labels), rank=10), "1")
    assert len(found.eigenvalues) == found.eigenvectors.shape[1] == 4


def test_memory_bounds_the_rank():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    inputs, labels = torch.randn(40, 1, 5, 6, dtype=torch.float64), torch.arange(40) % 3
    ample = network((model, inputs, labels))
    assert len(layer_anatomy(ample, "1").eigenvalues) == 25
    narrow = Network(**vars(ample) | {"room": 600 * 8 * 2 * 30})
    assert len(layer_anatomy(narrow, "1").eigenvalues) == 5


def test_the_decoupling_error_is_estimated_where_the_layer_is_large():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 4)).double()
    inputs, labels = torch.randn(60, 1, 6, 6, dtype=torch.float64), torch.arange(60) % 4
    A = layer_hessian(model, (inputs, labels), layer="1")
    factors = kronecker_factors(model, (inputs, labels), layer="1")
    H = dense(A)
    K = torch.kron(factors.output_hessian, factors.autocorrelation)
    exact = float((K - H).norm() / H.norm())
    values, vectors = (t.flip(-1) for t in torch.linalg.eigh(H))
    known = values[:50].numpy(), vectors[:, :50]
    found, _ = decoupling_error(A, factors, *known, seeds=list(range(20)))
    assert found == pytest.approx(exact, rel=0.05)
    every, error = decoupling_error(A, factors, values.numpy(), vectors, seeds=[0, 1])
    assert every == pytest.approx(exact, rel=1e-6)
    assert error < 1e-6 * exact
    # The standard error is the spread of independent estimates: without pairs, and with ten.
    same = Dense(H)  # products of the network would take most of the test's time
    for count in (0, 10):
        some = values[:count].numpy(), vectors[:, :count]
        seeds = [list(range(100 + 10 * i, 110 + 10 * i)) for i in range(40)]
        estimates = np.array([decoupling_error(same, factors, *some, seeds=own) for own in seeds])
        spread = (estimates[:, 0] - exact).std()
        assert spread / 1.5 < estimates[:, 1].mean() < 1.5 * spread


def test_the_output_hessian_is_that_of_a_shared_shift(problem):
    model, inputs, labels = problem
    layers = layers_of(model)
    found = output_hessian(model, (inputs, labels), layers=layers, chunk=5)
    H = dense(found.operator)
    assert relative(H, H.T) < 1e-12
    # Of vectors, each layer's block is E[M], and also what G has for the bias.
    G = dense_gauss_newton(model, inputs)
    start = 0
    for layer in layers:
        outputs = model.get_submodule(layer).weight.shape[0]
        positions = found.shapes[layer].numel() // outputs
        own = H[start : start + outputs * positions, start : start + outputs * positions]
        start += outputs * positions
        factors = kronecker_factors(model, (inputs, labels), layer=layer)
        if positions == 1:
            assert relative(own, factors.output_hessian) < 1e-12
            assert torch.allclose(found.mean_inputs[layer][0], factors.mean_input)
        biases = own.view(outputs, positions, outputs, positions).sum((1, 3))
        assert relative(biases, _bias_block(G, model, layer)) < 1e-12
    assert start == len(H)


def _bias_block(G, model, layer):
    start = 0
    for name, parameter in model.named_parameters():
        if name == f"{layer}.bias":
            return G[start : start + parameter.numel(), start : start + parameter.numel()]
        start += parameter.numel()
    raise KeyError(layer)


def test_of_a_single_example_kronecker_parts_are_the_whole_of_g(problem):
    model, inputs, labels = problem
    one = (model, inputs[:1], labels[:1])
    found = output_hessian(*one[:1], one[1:], layers=layers_of(model))
    sigma, U = torch.linalg.eigh(dense(found.operator))
    W = torch.stack([kronecker_direction(found, model, u) for u in U.T], 1)
    G = dense_gauss_newton(model, inputs[:1])
    # BatchNorm's own parameters are of no layer.
    own = [n for n, p in model.named_parameters() for _ in range(p.numel())]
    kept = torch.tensor([not name.startswith("bn") for name in own])
    assert relative((W * sigma @ W.T)[kept][:, kept], G[kept][:, kept]) < 1e-10


def test_full_kronecker_pairs_are_the_dense_ones_in_order(problem):
    model, inputs, labels = problem
    found = full_kronecker(network(problem, full=4), layers_of(model))
    exact, vectors = (t.flip(-1) for t in torch.linalg.eigh(dense_hessian(model, inputs, labels)))
    assert np.allclose(found.true, exact[:4], atol=1e-4 * float(exact[0]))
    parts = output_hessian(model, (inputs, labels), layers=layers_of(model))
    sigma, U = (t.flip(-1) for t in torch.linalg.eigh(dense(parts.operator)))
    W = torch.stack([kronecker_direction(parts, model, u) for u in U.T], 1)
    values = sigma * W.square().sum(0)
    assert float(W.square().sum(0).max()) <= longest_direction(parts, model) * (1 + 1e-9)
    order = values.argsort(descending=True)[:4]
    assert np.allclose(found.approximate, values[order], rtol=1e-3)
    basis = torch.linalg.qr(W[:, order])[0]
    for k, overlap in enumerate(found.overlap, start=1):
        expected = (vectors[:, :k].T @ basis[:, :k]).square().sum() / k
        assert overlap == pytest.approx(float(expected), rel=1e-2), k


@pytest.mark.parametrize("full", [2, 3, 6])
def test_large_products_of_small_eigenvalues_are_found(full):
    torch.manual_seed(1)
    layers = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    model = nn.Sequential(*layers).double()
    model[0].weight.data -= model[0].weight.data.mean(1, keepdim=True)
    model[4].weight.data *= 3
    # The inputs' mean is long: a small share of the first layer in a pair counts for much.
    data = torch.randn(20, 6, dtype=torch.float64) + 5, torch.arange(20) % 3
    names = layers_of(model)
    parts = output_hessian(model, data, layers=names)
    sigma, U = (t.flip(-1) for t in torch.linalg.eigh(dense(parts.operator)))
    W = torch.stack([kronecker_direction(parts, model, u) for u in U.T], 1)
    values = sigma * W.square().sum(0)
    assert set(values.argsort(descending=True)[:full].tolist()) != set(range(full))
    found = full_kronecker(network((model, *data), full=full), names)
    expected = values.sort(descending=True).values[:full]
    assert np.allclose(found.approximate[: found.sure], expected[: found.sure], rtol=1e-3)
    assert found.sure == full


def test_products_that_are_not_sure_are_counted_out(monkeypatch, problem):
    monkeypatch.setattr("pipeline.anatomy.full_kronecker.MOST", 1)
    found = full_kronecker(network(problem, full=2), layers_of(problem[0]))
    assert found.sure < len(found.approximate)


def sequences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)).double()
    return model, torch.randn(6, 3, 4, dtype=torch.float64), torch.arange(6) % 3


def test_sequences_count_their_positions():
    model, inputs, labels = sequences()
    found = output_hessian(model, (inputs[:1], labels[:1]), layers=["0", "3"])
    sigma, U = torch.linalg.eigh(dense(found.operator))
    W = torch.stack([kronecker_direction(found, model, u) for u in U.T], 1)
    assert relative(W * sigma @ W.T, dense_gauss_newton(model, inputs[:1])) < 1e-10
    assert len(layer_anatomy(network((model, inputs, labels)), "0").eigenvalues) > 3


class Odd(nn.Module):
    """Layers on windows, with a tied weight, a weight looked at, an operation in place."""

    def __init__(self):
        super().__init__()
        self.windows, self.inner = nn.Linear(3, 4), nn.Linear(12, 6)
        self.tied, self.last = nn.Linear(12, 6), nn.Linear(6, 3)
        self.tied.weight = self.inner.weight

    def forward(self, x):
        x = self.windows(x.reshape(-1, 3)).reshape(len(x), 12)
        x = self.inner(x.to(self.inner.weight.dtype)) + self.tied(x)
        return self.last(x.relu_())


def test_what_is_odd_about_a_layer_is_told_or_borne():
    torch.manual_seed(0)
    model = Odd().double()
    inputs, labels = torch.randn(5, 9, dtype=torch.float64), torch.arange(5) % 3
    Hess = dense_hessian(model, inputs, labels)
    windows = layer_anatomy(network((model, inputs, labels)), "windows")
    assert (windows.closed_form, windows.kronecker) == (0, None)
    exact = torch.linalg.eigvalsh(block(Hess, model, "windows")).flip(0)
    count = len(windows.eigenvalues)
    assert np.allclose(windows.eigenvalues, exact[:count], atol=1e-8 * float(exact[0]))
    assert layer_names(model) == ["windows", "inner", "last"]
    with pytest.raises(AnatomyError, match="layer is 'tied', no linear"):
        layer_anatomy(network((model, inputs, labels)), "tied")
    with pytest.raises(NotLinearizedError, match="first dimension"):
        output_hessian(model, (inputs, labels), layers=["windows", "last"])
    output_hessian(model, (inputs, labels), layers=["inner", "last"])


def test_an_operation_in_place_behind_a_layer_changes_no_input():
    torch.manual_seed(0)

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            u = x * 1
            made = self.a(u)
            return self.b(made + u.relu_())

    model = Behind().double()
    inputs, labels = torch.randn(7, 4, dtype=torch.float64), torch.arange(7) % 3
    found = kronecker_factors(model, (inputs, labels), layer="a")
    assert relative(found.autocorrelation, inputs.T @ inputs / 7) < 1e-12


def test_a_layer_behind_dead_units_has_nothing_to_know():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    model[1].bias.data.fill_(-1e6)
    inputs, labels = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.arange(5) % 3
    for layer in ("1", "3"):
        found = layer_anatomy(network((model, inputs, labels), rank=5), layer)
        assert len(found.eigenvalues) == found.eigenvectors.shape[1] == 0
        assert found.asked == 5
        assert np.isnan(found.kronecker.decoupling_error)


def test_later_weights_multiply_and_stop_at_what_is_not_linear():
    torch.manual_seed(0)
    bn = nn.BatchNorm1d(4, affine=False)
    bn.running_var.uniform_(0.5, 2)
    a, b = nn.Linear(5, 4), nn.Linear(4, 3)
    plain = nn.Sequential(a, nn.ReLU(), bn, b).eval()
    expected = b.weight / (bn.running_var + bn.eps).sqrt()
    assert torch.allclose(later_weights(plain, "0"), expected)
    assert torch.equal(later_weights(plain, "3"), torch.eye(3))
    act, c = nn.ReLU(), nn.Linear(4, 4)
    shared = nn.Sequential(a, act, c, act, b)
    assert torch.equal(later_weights(shared, "2"), b.weight)
    assert torch.equal(later_weights(shared, "4"), torch.eye(3))
    smooth = nn.Sequential(a, nn.Tanh(), b)
    assert later_weights(smooth, "0") is None
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    assert later_weights(pooled, "0") is None
    assert torch.equal(later_weights(pooled, "3"), torch.eye(3))


def test_the_row_space_is_without_the_direction_of_the_sum():
    torch.manual_seed(0)
    S = torch.randn(4, 7, dtype=torch.float64)
    basis = centred_rowspace(S)
    assert basis.shape == (7, 3)
    assert torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    assert float((basis.T @ S.sum(0)).abs().max()) < 1e-12
    # Within the row space: nothing is left outside it.
    rows = torch.linalg.qr(S.T)[0]
    assert torch.allclose(rows @ (rows.T @ basis), basis)
    assert rowspace_overlap(torch.cat([basis, S.sum(0)[:, None]], 1), S) == pytest.approx(1)
    # Rows that sum to zero have no such direction.
    centred = S - S.mean(0)
    U = torch.linalg.svd(centred, full_matrices=False)[2].T
    assert rowspace_overlap(U, centred) == pytest.approx(1)
    assert np.isnan(rowspace_overlap(U, 0 * S))


def small_theory(width, inputs, seed=0):
    return two_layer(
        width=width, classes=4, exponent=0.1, examples=1500, inputs=inputs, seed=seed,
        device=torch.device("cpu"),
    )  # fmt: skip


def test_the_theory_holds_better_with_width_and_not_for_rectified_inputs():
    widths = (32, 128, 512)
    gaussian = [small_theory(w, "gaussian") for w in widths]
    rectified = [small_theory(w, "rectified") for w in widths]
    assert gaussian[-1].overlap_predicted > 0.99
    missing = [1 - found.overlap_predicted for found in gaussian]
    assert missing[2] < missing[1] / 2 < missing[0] / 4
    ratios = [found.eigenvalue_ratio for found in gaussian]
    assert ratios[2] < ratios[1] < ratios[0] < 1
    assert gaussian[-1].relative_error < 0.1
    assert rectified[-1].overlap_predicted == pytest.approx(overlap_limit("rectified"), abs=0.03)
    assert rectified[-1].relative_error > 0.3


def test_the_limit_for_rectified_inputs_is_the_measured_one():
    assert overlap_limit("gaussian") == 1
    assert overlap_limit("rectified") == pytest.approx(0.829, abs=5e-4)


def test_the_two_layer_network_is_dissected_as_any_other():
    """Its output Hessian, against this project's factors of the same network and inputs."""
    width, classes, d = 16, 3, round(16**1.1)
    draw = torch.Generator().manual_seed(stream(0, "theory", "gaussian", width))
    W1 = torch.randn(width, d, generator=draw) / d**0.5
    W2 = torch.randn(classes, width, generator=draw) / width**0.5
    x = torch.randn(100, d, generator=draw)
    first, last = nn.Linear(d, width, bias=False), nn.Linear(width, classes, bias=False)
    first.weight.data, last.weight.data = W1, W2
    model = nn.Sequential(first, nn.ReLU(), last).double()
    data = x.double(), torch.arange(100) % classes
    M = kronecker_factors(model, data, layer="0").output_hessian
    values, vectors = (t.flip(-1) for t in torch.linalg.eigh(M))
    found = two_layer(
        width=width, classes=classes, exponent=0.1, examples=100, inputs="gaussian", seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    expected = rowspace_overlap(vectors, W2)
    assert found.overlap_predicted == pytest.approx(expected, rel=1e-4)
    assert found.eigenvalue_ratio == pytest.approx(float(values[2] / values[1]), rel=1e-4)


def test_singular_values_are_of_matrices_in_row_major_order():
    M = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])) / 5
    assert np.allclose(singular_values(M.flatten()[:, None], 2), [[1, 0]], atol=1e-7)
