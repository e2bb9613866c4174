import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

from pipeline.curvature.base import Deflated, Dense
from pipeline.spectra import density, lanczos_quadrature, top_eigenpairs, trace_estimate
from pipeline.spectra.lanczos import gaussian, lanczos
from pipeline.spectra.outliers import count_outliers
from pipeline.spectra.powerlaw import fit_power_law
from pipeline.spectra.smoothing import kernel_width, log_density, per_unit


def with_spectrum(values, seed=0, dtype=torch.float64):
    """Return a random symmetric operator with the given eigenvalues."""
    torch.manual_seed(seed)
    values = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))[0]
    return Dense((Q * values @ Q.T).to(dtype))


SPECTRA = {
    "spread": np.linspace(-1, 3, 60),
    "outliers": np.r_[np.full(50, 0.01) * np.arange(50), 5, 7, 100],
    "clustered": np.r_[np.linspace(1, 1.001, 20), np.linspace(0, 0.5, 40)],
    "many zeros": np.r_[np.zeros(55), 1, 2, 3, 4],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_lanczos_relation_and_orthogonality(name):
    A = with_spectrum(SPECTRA[name])
    start = torch.stack([gaussian(A, seed) for seed in (1, 2)], 1)
    found = lanczos(A, start, 30)
    for i, m in enumerate(found.length):
        Q = found.basis[i, :m].T
        T = torch.from_numpy(
            np.diag(found.alpha[i, :m])
            + np.diag(found.beta[i, : m - 1], 1)
            + np.diag(found.beta[i, : m - 1], -1)
        )
        left = A @ Q - Q @ T
        scale = np.abs(SPECTRA[name]).max()
        assert (Q.T @ Q - torch.eye(m, dtype=torch.float64)).abs().max() < 1e-13
        assert left[:, :-1].abs().max() < 1e-13 * scale
        if m == 30:
            assert (left[:, -1] - found.last[i]).abs().max() < 1e-13 * scale
        else:
            # The Krylov space is exhausted: as many steps as distinct eigenvalues.
            assert m == len(np.unique(SPECTRA[name].round(12)))
            assert left.abs().max() < 1e-12 * scale


def test_no_eigenvalue_is_reported_twice():
    # Without reorthogonalisation the largest reappears several times in as many steps.
    values = np.r_[np.linspace(0, 1, 200), 1000]
    nodes = lanczos_quadrature(
        with_spectrum(values, dtype=torch.float32), steps=80, seeds=[0]
    ).nodes
    assert (nodes > 500).sum() == 1


@pytest.mark.parametrize("name", SPECTRA)
def test_quadrature_matches_moments(name):
    values = SPECTRA[name]
    A = with_spectrum(values)
    found = lanczos_quadrature(A, steps=20, seeds=range(200))
    assert np.allclose(found.weights.sum(1), 1)
    # Each probe's quadrature is exact for its own moments, up to degree 2 * 20 - 1 ...
    start = gaussian(A, 0)
    start = start / start.norm()
    power = start
    for degree in range(1, 6):
        power = A @ power
        moment = np.nansum(found.weights[0] * found.nodes[0] ** degree)
        assert moment == pytest.approx(float(start @ power), rel=1e-10)
    # ... and their mean estimates the spectrum's, within five standard errors.
    for degree in (1, 2):
        samples = np.nansum(found.weights * found.nodes**degree, axis=1)
        error = samples.std(ddof=1) / np.sqrt(len(samples))
        assert abs(samples.mean() - (values**degree).mean()) < 5 * error


def test_quadrature_of_a_deflated_operator_speaks_of_the_rest():
    values = np.r_[np.linspace(0, 1, 50), 10, 20]
    A = with_spectrum(values)
    pairs = top_eigenpairs(A, 2, tolerance=1e-10)
    found = lanczos_quadrature(Deflated(A, pairs.vectors), steps=25, seeds=[0, 1])
    assert found.dimension == 50
    assert np.nanmax(found.nodes) <= 1 + 1e-8
    assert np.nanmin(found.nodes) >= -1e-8


def test_probes_are_independent_streams():
    A = with_spectrum(SPECTRA["spread"])
    two = lanczos_quadrature(A, steps=10, seeds=[5, 6])
    three = lanczos_quadrature(A, steps=10, seeds=[5, 6, 7])
    assert np.allclose(two.nodes, three.nodes[:2], rtol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("k", [1, 4, 9])
def test_eigenpairs_agree_with_scipy_and_with_their_residuals(name, k):
    A = with_spectrum(SPECTRA[name])
    found = top_eigenpairs(A, k, tolerance=1e-9, basis=24)
    expected = np.sort(eigsh(A.matrix.numpy(), k, which="LA")[0])[::-1]
    assert found.converged.all()
    assert np.allclose(found.values, expected, atol=1e-8 * np.abs(SPECTRA[name]).max())
    residuals = (A @ found.vectors - found.vectors * torch.from_numpy(found.values)).norm(dim=0)
    assert np.allclose(found.residuals, residuals, atol=1e-12 * np.abs(SPECTRA[name]).max())
    assert torch.allclose(
        found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), atol=1e-12
    )


def test_a_pair_that_ran_out_of_products_is_not_converged():
    A = with_spectrum(np.linspace(0, 1, 400))
    found = top_eigenpairs(A, 10, tolerance=1e-10, basis=15, max_products=30)
    assert not found.converged.all()
    assert (found.residuals[~found.converged] > 1e-10).all()


def test_eigenpairs_in_float32_carry_an_honest_residual():
    A = with_spectrum(np.r_[np.linspace(0, 1, 300), 5, 50], dtype=torch.float32)
    found = top_eigenpairs(A, 2, tolerance=1e-5)
    assert np.allclose(found.values, [50, 5], rtol=1e-5)
    again = (A @ found.vectors - found.vectors * torch.tensor(found.values).float()).norm(dim=0)
    assert np.allclose(found.residuals, again, atol=1e-5 * 50)


def test_trace_is_within_its_error():
    values = np.linspace(-1, 4, 80)
    found = trace_estimate(with_spectrum(values), seeds=range(60))
    assert found.standard_error > 0
    assert abs(found.value - values.sum()) < 5 * found.standard_error
    assert np.isnan(trace_estimate(with_spectrum(values), seeds=[0]).standard_error)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12, unique=True),
    st.integers(2, 40),
)
def test_a_density_integrates_to_one_and_keeps_the_mean(nodes, steps):
    nodes = np.array([nodes])
    weights = np.random.default_rng(0).dirichlet(np.ones(nodes.shape[1]))[None]
    width = kernel_width(-5, 5, steps)
    grid = np.linspace(-5 - 8 * width, 5 + 8 * width, 4000)
    y = density(nodes, weights, grid, width=width)[0]
    assert np.trapezoid(y, grid) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(y * grid, grid) == pytest.approx((nodes * weights).sum(), abs=1e-5)
    log_grid = np.linspace(-7 - 8 * width, 1 + 8 * width, 4000)
    logs = log_density(nodes, weights, log_grid, width=width)[0]
    assert np.trapezoid(logs, log_grid) == pytest.approx(1, abs=1e-6)


def test_density_ignores_an_exhausted_space():
    grid = np.linspace(-1, 2, 500)
    y = density(np.array([[0.5, np.nan]]), np.array([[1.0, 0.0]]), grid, width=0.05)
    assert np.trapezoid(y[0], grid) == pytest.approx(1, abs=1e-9)


def test_a_power_law_is_recovered():
    x = np.logspace(-3, 0, 50)
    law = fit_power_law(x, 2e-4 * x**-2.7, low=1e-2, high=1)
    assert law.exponent == pytest.approx(-2.7)
    assert law.coefficient == pytest.approx(2e-4)
    assert law.r_squared == pytest.approx(1)
    noisy = fit_power_law(x, 2e-4 * x**-2.7 * np.where(np.arange(50) % 2, 2, 0.5), low=1e-2, high=1)
    assert noisy.r_squared < 0.99
    assert np.isnan(fit_power_law(x, x, low=2, high=3).exponent)


def test_change_of_measure_from_log_to_linear():
    # A density x**-2 on [1, 10], normalised, is x**-1 * ln 10 per decade.
    logs = np.linspace(0, 1, 200)
    x = 10**logs
    assert np.allclose(per_unit(x**-1 * np.log(10), logs), x**-2)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (np.r_[10, 9, 8, 7, np.linspace(1.0, 0.8, 8)], 4),
        (np.r_[np.linspace(1, 0.5, 12)], 0),
        (np.geomspace(100, 1, 12), 0),
        (np.r_[50, np.linspace(1, 0.9, 10)], 1),
        (np.exp(-np.cumsum(np.r_[0, 1.75, 1.43, 1.27, 1.16, 1.08, 1.02, 0.97])), 0),
        (np.array([]), 0),
        (np.array([3.0, 2.0]), 0),
        (np.r_[5, 4, np.linspace(0.3, 0.25, 9), -0.1, -3], 2),
    ],
)
def test_outliers_end_at_the_most_isolated_gap(values, count):
    found = count_outliers(values)
    assert found.count == count
    if len(values):
        assert found.edge == values[count]
