import numpy as np
import pytest
import synthetic
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

from pipeline.curvature.base import Deflated, Dense
from pipeline.spectra import density, lanczos_quadrature, top_eigenpairs, trace_estimate
from pipeline.spectra.lanczos import gaussian, lanczos, orthogonality, root_ratio
from pipeline.spectra.outliers import count_outliers
from pipeline.spectra.powerlaw import fit_power_law
from pipeline.spectra.semicircle import Semicircle, fit_semicircle
from pipeline.spectra.smoothing import kernel_width, log_density, per_unit
from pipeline.spectra.trace import xtrace


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


def test_a_lost_orthogonality_is_seen():
    Q = torch.zeros(4, 2**16 + 9)
    Q[0, 0] = Q[1, -1] = Q[2, 5] = 1
    assert orthogonality(Q) == 0  # the row of zeros stands for an exhausted space
    Q[2, -1] = 1e-3  # beyond the first block of columns
    assert orthogonality(Q) == pytest.approx(1e-3)
    A = with_spectrum(SPECTRA["outliers"], dtype=torch.float32)
    assert 0 < lanczos_quadrature(A, steps=30, seeds=[0, 1]).orthogonality < 1e-5


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


REPEATED = np.r_[np.linspace(0, 1, 300), [5, 5, 5, 7, 7, 9], [-3, -3, -2]]


@pytest.mark.parametrize("block", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_ends_with_repeated_eigenvalues(block, dtype):
    A = with_spectrum(REPEATED, dtype=dtype)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-5
    found = top_eigenpairs(A, 7, bottom=3, tolerance=tolerance, block=block)
    assert found.converged.all()
    assert found.bottom == 3
    expected = np.sort(REPEATED)[::-1]
    expected = np.r_[expected[:7], expected[-3:]]
    if block == 1:
        # One vector is sure to meet one copy of each; rounding may add the others.
        assert set(found.values[:3].round(3)) >= {9, 7}
        assert found.values[-1] == pytest.approx(-3, rel=1e-5)
        assert np.abs(found.values[:, None] - REPEATED).min(1).max() < 100 * tolerance
    else:
        assert np.allclose(found.values, expected, atol=100 * tolerance)
    U = found.vectors.double()
    assert (U.T @ U - torch.eye(10, dtype=torch.float64)).abs().max() < 1e-5
    residuals = A @ found.vectors - found.vectors * torch.from_numpy(found.values).to(dtype)
    assert np.allclose(found.residuals, residuals.norm(dim=0), atol=2 * tolerance)


@pytest.mark.parametrize("block", [1, 2])
def test_more_pairs_than_the_rank_end_in_zeros(block):
    A = with_spectrum(np.r_[np.zeros(500), np.arange(1, 8)], dtype=torch.float32)
    found = top_eigenpairs(A, 12, tolerance=1e-5, block=block)
    assert found.converged.all()
    assert np.allclose(found.values, [7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0], atol=1e-4)


@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e9])
def test_scale_changes_nothing(scale):
    values = np.r_[np.zeros(297), 1, 2, 3]
    A = with_spectrum(scale * values, dtype=torch.float32)
    found = top_eigenpairs(A, 6, tolerance=1e-4)
    assert found.converged.all()
    assert found.products < 120
    assert np.allclose(found.values / scale, [3, 2, 1, 0, 0, 0], atol=1e-4)
    quadrature = lanczos_quadrature(A, steps=8, seeds=[0])
    assert (np.nan_to_num(quadrature.nodes / scale) > 2.9).sum() == 1


@pytest.mark.parametrize("rank", [0, 10])
def test_a_low_rank_costs_few_products(rank):
    A = with_spectrum(np.r_[np.zeros(600 - rank), np.arange(1, rank + 1)], dtype=torch.float32)
    found = top_eigenpairs(A, 40, tolerance=1e-4)
    assert found.converged.all()
    assert found.products < 120
    assert np.allclose(found.values, np.r_[np.arange(rank, 0, -1), np.zeros(40 - rank)], atol=1e-3)


@pytest.mark.parametrize("block", [1, 2])
def test_pairs_of_a_low_rank_come_close_to_rounding(block):
    """What a space lacks that seems invariant lies in one direction, up to 6e-6 of it."""
    rank = [0.0418, 0.0415, 0.041, 0.0403, 0.0357, 0.0326, 0.0313, 0.0306, 0.029]
    A = with_spectrum(np.r_[np.zeros(151), rank], dtype=torch.float32)
    for seed in range(10):
        found = top_eigenpairs(A, 4, tolerance=1e-6, block=block, seed=seed)
        assert found.converged.all(), (seed, found.residuals / rank[0])
        again = (A @ found.vectors - found.vectors * torch.tensor(found.values).float()).norm(dim=0)
        assert np.allclose(found.residuals, again, atol=2e-7 * rank[0])


@pytest.mark.parametrize("block", [1, 3, 8])
def test_a_matrix_no_larger_than_its_basis_is_solved_whole(block):
    values = np.r_[np.arange(8), 7, 7.0]
    A = with_spectrum(values)
    for k, bottom in ((2, 0), (9, 1), (10, 0), (10, 3)):
        found = top_eigenpairs(A, k, bottom=bottom, block=block)
        expected = np.sort(values)[::-1]
        low = min(bottom, 10 - k)
        assert np.allclose(found.values, np.r_[expected[:k], expected[10 - low :]], atol=1e-12)
        assert found.converged.all()
        assert found.bottom == low
    rest = Deflated(A, top_eigenpairs(A, 10).vectors)
    assert np.isnan(lanczos_quadrature(rest, steps=4, seeds=[0]).nodes).all()


def test_what_cannot_be_solved_is_refused():
    A = with_spectrum(np.linspace(0, 1, 100))
    with pytest.raises(ValueError, match="too small for 5 pairs in blocks of 4"):
        top_eigenpairs(A, 5, basis=10, block=4)
    broken = Dense(torch.full((100, 100), torch.nan))
    for solve in (
        lambda: top_eigenpairs(broken, 5),
        lambda: top_eigenpairs(broken, 60),
        lambda: lanczos_quadrature(broken, steps=5, seeds=[0]),
    ):
        with pytest.raises(FloatingPointError, match="not finite"):
            solve()


def test_hundreds_of_pairs_converge_by_restarts():
    values = np.exp(-np.arange(900) / 60)
    found = top_eigenpairs(with_spectrum(values), 250, tolerance=1e-9)
    assert found.converged.all()
    assert np.allclose(found.values, values[:250], atol=1e-12)
    assert found.products < 700


def test_a_bounded_basis_keeps_the_density():
    values = np.r_[np.linspace(0, 1, 300), np.linspace(2, 9, 12)]
    A = with_spectrum(values, dtype=torch.float32)
    whole = lanczos_quadrature(A, steps=60, seeds=range(8))
    few = lanczos_quadrature(A, steps=60, seeds=range(8), basis_bytes=5 * 4 * len(values))
    assert (whole.kept, few.kept) == (60, 5)
    grid = np.linspace(-1, 10, 500)
    width = kernel_width(0, 9, 60)
    heights = [density(q.nodes, q.weights, grid, width=width).mean(0) for q in (whole, few)]
    assert np.trapezoid(np.abs(heights[0] - heights[1]), grid) < 0.02
    # What it gives up: without the whole basis, extreme eigenvalues come back as copies.
    copies = [(np.abs(q.nodes[0] - 9) < 1e-3).sum() for q in (whole, few)]
    assert copies[0] == 1 < copies[1]


def test_outliers_and_bulk_of_a_spiked_wishart_matrix():
    # Spikes t of X move to t + t/(t - 1), outside the bulk on [0, 4]: free probability.
    A = synthetic.spiked_wishart()
    exact = np.linalg.eigvalsh(A.matrix.numpy())[::-1]
    pairs = top_eigenpairs(A, 16, tolerance=1e-6)
    assert np.allclose(pairs.values, exact[:16], atol=1e-5)
    assert np.allclose(pairs.values[:3], [6.25, 16 / 3, 4.5], rtol=0.03)
    assert count_outliers(pairs.values).count == 3
    found = lanczos_quadrature(A, steps=128, seeds=range(10))
    grid = np.linspace(-0.5, 7, 700)
    width = kernel_width(0, 7, 128)
    estimate = density(found.nodes, found.weights, grid, width=width).mean(0)
    whole = density(exact[None], np.full((1, 2000), 1 / 2000), grid, width=width)[0]
    assert np.trapezoid(np.abs(estimate - whole), grid) < 0.1


def test_log_spectrum_of_a_heavy_tailed_matrix():
    A = synthetic.pareto()
    exact = np.linalg.eigvalsh(A.matrix.numpy())
    found = lanczos_quadrature(A, steps=256, seeds=range(10))
    grid = np.linspace(-1, np.log10(exact[-1]) + 1, 600)
    estimate = log_density(found.nodes, found.weights, grid, width=0.1).mean(0)
    whole = log_density(exact[None], np.full((1, 500), 1 / 500), grid, width=0.1)[0]
    assert np.trapezoid(np.abs(estimate - whole), grid) < 0.1
    # Squares of Pareto(1) variables have tail index 1/2: the largest eigenvalues are about them.
    law = fit_power_law(10**grid, per_unit(whole, grid), low=1e3, high=exact[-1] / 10)
    assert law.exponent == pytest.approx(-1.5, abs=0.15)


def test_traces_agree_with_xtrace_and_with_quadrature():
    values = 1 / np.arange(1, 301) ** 1.5
    A = with_spectrum(values)
    scores = []
    for run in range(60):
        value, error = xtrace(A, seeds=range(100 * run, 100 * run + 10))
        scores.append((value - values.sum()) / error)
    assert abs(np.mean(scores)) < 0.8
    assert 0.6 < np.std(scores) < 2.5
    assert xtrace(with_spectrum(np.r_[np.zeros(90), 3, 2, 1]), seeds=range(5))[0] == pytest.approx(
        6
    )
    pairs = top_eigenpairs(A, 20, tolerance=1e-10)
    rest = Deflated(A, pairs.vectors)
    trace = trace_estimate(rest, seeds=range(1000, 1100))
    bulk = lanczos_quadrature(rest, steps=20, seeds=range(100))
    for degree, (value, error) in enumerate(
        [(trace.value, trace.standard_error), (trace.square, trace.square_standard_error)], start=1
    ):
        exact = (values[20:] ** degree).sum()
        assert abs(value - exact) < 4 * error
        value, error = bulk.moment(degree)
        assert abs(value - exact) < 4 * error
        # The error that a formula gives is the one that probes show.
        each = bulk.dimension * np.nansum(bulk.weights * bulk.nodes**degree, axis=1)
        assert error == pytest.approx(each.std(ddof=1) / 10, rel=0.3)


def test_a_semicircle_is_recovered():
    law = Semicircle(0.5, 2.0)
    x = np.linspace(-1.5, 2.5, 4001)
    found = fit_semicircle(x, law.density(x))
    assert found.centre == pytest.approx(0.5)
    assert found.radius == pytest.approx(2.0, rel=1e-3)
    assert np.trapezoid(law.density(x), x) == pytest.approx(1, abs=1e-4)


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


def test_a_tolerance_below_rounding_does_not_cost_all_products():
    A = with_spectrum(np.r_[np.linspace(0, 1, 300), 5, 50], dtype=torch.float32)
    found = top_eigenpairs(A, 4, tolerance=1e-9)
    assert found.products < 200
    assert not found.converged.any()
    assert np.allclose(found.values[:2], [50, 5], rtol=1e-5)
    assert (found.residuals < 1e-5 * 50).all()


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
        (np.r_[5, 4, np.linspace(0.3, 0.25, 9), -0.1, -3], 2),
    ],
)
def test_outliers_end_at_the_most_isolated_gap(values, count):
    found = count_outliers(values)
    assert found.count == count
    assert found.edge == values[count]


def test_a_count_of_outliers_says_how_certain_it_is():
    # One eigenvalue far above eight, these above the bulk: the criterion has two gaps to end at.
    found = count_outliers(np.r_[80, 9, 8.6, 8, 7.7, 7.4, 7, 6.8, 6.5, np.linspace(1, 0.8, 11)])
    assert (found.fewest, found.most) == (1, 9)
    assert found.count in (1, 9)
    assert (found.edge_low, found.edge_high) == (1, 9)
    assert found.edge in (1, 9)
    copies = count_outliers(np.r_[9, np.ones(8)])
    assert (copies.count, copies.fewest, copies.most) == (1, 1, 1)
    plain = count_outliers(np.r_[10, 9, 8, 7, np.linspace(1.0, 0.8, 8)])
    assert (plain.count, plain.fewest, plain.most) == (4, 4, 4)
    assert plain.edge_low == plain.edge == plain.edge_high == 1
    none = count_outliers(np.linspace(2, 1, 12))
    assert none.edge_low == none.edge == none.edge_high == 2


@pytest.mark.parametrize(
    "values", [[], [3.0], [5.0, 1.0], np.linspace(9, 2, 7), [9.0] * 7 + [-1.0]]
)
def test_outliers_of_too_few_eigenvalues_are_not_counted(values):
    found = count_outliers(np.array(values))
    assert all(np.isnan(value) for value in vars(found).values())


def test_eight_eigenvalues_are_enough_to_count():
    assert count_outliers(np.r_[9, np.linspace(1, 0.9, 7)]).count == 1
    assert count_outliers(np.linspace(2, 1, 8)).count == 0


def test_the_error_of_a_ratio_is_the_spread_of_independent_ones():
    draw = np.random.default_rng(0)
    for known in ((0.0, 0.0), (0.5, 2.0)):
        squares = draw.chisquare(5, (400, 30))
        errors = 0.1 * squares + 0.2 * draw.chisquare(3, squares.shape)
        pairs = zip(errors, squares, strict=True)
        found = np.array([root_ratio(*pair, known=known) for pair in pairs])
        assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.15)
        mean = (0.1 * 5 + 0.2 * 3 + known[0]) / (5 + known[1])
        assert found[:, 0].mean() == pytest.approx(mean**0.5, rel=0.01)
    assert np.isnan(root_ratio(np.ones(1), np.ones(1))[1])
    assert np.isnan(root_ratio(np.ones(3), np.zeros(3))).all()
