"""The PAC-Bayes bound's parts, against dense formulas, SciPy and D's printed rows."""

from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from pipeline.anatomy.pac_bayes import (
    PriorScales,
    binary_kl,
    complexity,
    error_bound,
    gaussian_kl,
    invert_binary_kl,
    sampled_limit,
)
from pipeline.reference.paper_d import PUBLISHED

SCALES = PriorScales(ceiling=0.1, steps=100)

# D's tables: bound, KL, stochastic error, (1/2) log lambda; |S| = 60000, delta = .025.
PRINTED: dict[str, list[float]] = {}
for one in PUBLISHED:
    if one.cube == "bounds":
        PRINTED.setdefault(one.row, []).append(one.number)


@pytest.mark.parametrize("row", PRINTED)
def test_the_bound_recomputes_the_printed_rows(row):
    bound, kl, error, half_log_lambda = PRINTED[row]
    index = SCALES.nearest(half_log_lambda)
    found = error_bound(kl, index, error, examples=60_000, delta=0.025)
    assert found == pytest.approx(bound, abs=5e-4)
    # A bound that ignored the KL, or took half of it, would be far away.
    assert abs(error_bound(kl / 2, index, error, examples=60_000, delta=0.025) - bound) > 1e-2


def test_the_prior_scale_is_admissible():
    assert SCALES.nearest(-1.1513) == 1  # c itself is not admissible
    assert SCALES.nearest(5.0) == 1
    assert SCALES.nearest(-1.3313) == 36
    for index in (1, 36, 400):
        half = SCALES.half_log_lambda(index)
        assert exp(2 * half) == pytest.approx(0.1 * exp(-index / 100))
        assert SCALES.nearest(half + 0.4 / 200) == index
        assert float(SCALES.index(torch.tensor(half, dtype=torch.float64))) == pytest.approx(index)


def test_the_kl_is_that_of_the_gaussians_one_by_one():
    draw = np.random.default_rng(0)
    scales, shifts, half = draw.uniform(0.1, 2, 4), draw.normal(size=4), -0.4
    prior = exp(half)

    def divergence(s, d):
        def integrand(x):
            return norm.pdf(x, d, s) * (norm.logpdf(x, d, s) - norm.logpdf(x, 0, prior))

        return quad(integrand, d - 12 * s, d + 12 * s, epsabs=1e-10)[0]

    exact = sum(divergence(s, d) for s, d in zip(scales, shifts, strict=True))
    found = gaussian_kl(
        torch.tensor((shifts**2).sum()), torch.tensor(scales).log(), torch.tensor(half).double()
    )
    assert float(found) == pytest.approx(exact, rel=1e-8)


def test_the_kl_vanishes_at_the_prior_and_nowhere_else():
    zero, half = torch.zeros((), dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
    same = torch.full((5,), -1.5, dtype=torch.float64)
    assert float(gaussian_kl(zero, same, half)) == 0
    for other in (same + 0.1, same - 0.1):
        assert float(gaussian_kl(zero, other, half)) > 0
    assert float(gaussian_kl(zero + 1, same, half)) == pytest.approx(exp(3) / 2)


@pytest.mark.parametrize("q", [0.0, 1e-9, 0.01, 0.3, 0.97, 1 - 1e-9])
@pytest.mark.parametrize("budget", [1e-9, 1e-4, 0.1, 2.0, 30.0])
def test_the_inverse_is_the_largest_p_within_the_budget(q, budget):
    p = invert_binary_kl(q, budget)
    assert q <= p <= 1
    below, above = max(q, p - 1e-9), p + 1e-9
    assert binary_kl(q, below) <= budget * (1 + 1e-9)
    assert above >= 1 or binary_kl(q, above) > budget


def test_the_inverse_at_its_edges():
    assert invert_binary_kl(0.0, 0.0) == 0.0
    assert invert_binary_kl(0.4, 0.0) == 0.4
    assert invert_binary_kl(1.0, 0.0) == 1.0
    assert invert_binary_kl(1.0, 0.5) == 1.0
    assert invert_binary_kl(0.5, float("inf")) == 1.0
    assert invert_binary_kl(0.0, 0.7) == pytest.approx(1 - exp(-0.7), abs=1e-12)
    for q, budget in [(-0.1, 0.1), (1.1, 0.1), (0.5, -1e-3), (float("nan"), 0.1), (0.5, np.nan)]:
        with pytest.raises(ValueError, match="lies in"):
            invert_binary_kl(q, budget)


def test_the_inverse_is_monotone():
    budgets = np.geomspace(1e-8, 10, 60)
    for q in (0.0, 0.02, 0.5, 0.99):
        values = [invert_binary_kl(q, budget) for budget in budgets]
        assert all(a <= b for a, b in pairwise(values))
    errors = np.linspace(0, 1, 60)
    for budget in (1e-4, 0.1, 1.0):
        values = [invert_binary_kl(q, budget) for q in errors]
        assert all(a <= b + 1e-12 for a, b in pairwise(values))


def test_the_bound_grows_with_each_of_its_terms():
    def bound(kl=4000.0, index=50, error=0.03, examples=60_000, delta=0.025):
        return error_bound(kl, index, error, examples=examples, delta=delta)

    assert bound() < min(
        bound(kl=4100.0), bound(index=5000), bound(error=0.031), bound(delta=0.001)
    )
    assert bound(examples=70_000) < bound()
    terms = (torch.tensor(0.0).double(), torch.tensor(1.0).double())
    assert float(complexity(*terms, examples=101, delta=0.5)) == pytest.approx(
        log(np.pi**2 * 101 / 3) / 100
    )


def test_the_sampled_limit_holds_as_often_as_it_says():
    draw = np.random.default_rng(1)
    truth, samples, delta = 0.04, 200, 0.2
    estimates = draw.binomial(samples, truth, size=4000) / samples
    limits = np.array([sampled_limit(error, samples=samples, delta=delta) for error in estimates])
    assert (limits < truth).mean() < delta / 2  # half of delta is for the other side
    assert np.mean(limits) < truth + 0.05
