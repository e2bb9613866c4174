"""The Gaussian posterior and its optimisation, against dense matrices and flat vectors."""

from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pipeline.anatomy import bounds
from pipeline.anatomy.bounds import (
    Task,
    basis_changes,
    bound_found,
    check_comparable,
    optimised,
    sampled_errors,
)
from pipeline.anatomy.eigenbasis import closed_output_hessians, layer_bases
from pipeline.anatomy.posterior import posterior_at
from pipeline.curvature.kronecker_factors import KroneckerFactors, kronecker_factors
from pipeline.data.examples import Examples
from pipeline.errors import AnatomyError
from pipeline.models.fnet import fnet
from pipeline.stages import METHODS, Bounds
from pipeline.streams import stream

SETTINGS = Bounds(epochs=6, lr=0.02, batch=16, basis_every=2, basis_decay=2, samples=50)


def blobs(count, seed, classes=2):
    """Return examples of classes apart by some noise, so that networks learn and err."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = 1.5 * torch.randn(classes, 9, generator=torch.Generator().manual_seed(99)).double()
    inputs = centres[labels] + torch.randn(count, 9, generator=draw).double()
    return Examples(inputs.view(count, 1, 3, 3), labels, tuple(map(str, range(classes))))


def network(seed, classes=2, kind="fnet"):
    torch.manual_seed(seed)
    if kind == "fnet":
        return fnet((1, 3, 3), classes, "none", width=5, depth=1).double().eval()
    layers = [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, classes)]
    return nn.Sequential(*layers).double().eval()


def task(method="base", settings=SETTINGS, count=70, kind="fnet", seed=3):
    train = blobs(count, seed=1)
    trained, initial = network(0, kind=kind), network(0, kind=kind)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(trained(train.inputs), train.labels).backward()
        optimiser.step()
    return Task(
        network=trained,
        initial=initial,
        train=train,
        test=blobs(400, seed=2),
        settings=settings,
        method=method,
        seed=seed,
        options={"chunk": 40},
        label="small",
    )


def dense_basis(found, model):
    """Return the posterior's basis as one orthogonal (p, p) matrix."""
    blocks = []
    for name, parameter in model.named_parameters():
        basis = found.basis_of(name)
        if basis is None or basis.left is None:
            blocks.append(torch.eye(parameter.numel(), dtype=torch.float64))
        elif parameter.ndim == 1:
            blocks.append(basis.left)
        else:
            blocks.append(torch.kron(basis.left, basis.right))
    return torch.block_diag(*blocks)


def flat(named):
    return torch.cat([tensor.detach().flatten() for tensor in named.values()])


def reference(problem, Q):
    """Return mean, log scales, (1/2) log lambda and KL, in the fixed basis Q: flat and by hand."""
    settings, n = problem.settings, len(problem.train)
    shapes = {name: p.shape for name, p in problem.network.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    w0 = flat(dict(problem.initial.named_parameters()))
    mean = flat(dict(problem.network.named_parameters()))
    scale, rho = (Q.T @ mean).abs().log(), torch.tensor(-3.0, dtype=torch.float64)
    slots = [torch.zeros_like(x) for x in (mean, scale, rho)]

    def divergence(mean, scale, rho):
        p = MultivariateNormal(w0, (2 * rho).exp() * torch.eye(len(w0), dtype=torch.float64))
        covariance = Q @ torch.diag((2 * scale).exp()) @ Q.T
        return kl_divergence(MultivariateNormal(mean, covariance), p)

    for epoch in range(1, settings.epochs + 1):
        drops = sum(epoch - 1 >= round(f * settings.epochs) for f in settings.drop_at)
        rate = settings.lr * 0.1**drops
        noise = torch.Generator().manual_seed(stream(3, "bounds", "noise", epoch))
        order = torch.Generator().manual_seed(stream(3, "bounds", "order", epoch))
        for chosen in torch.randperm(n, generator=order).split(settings.batch):
            leaves = [x.clone().requires_grad_(True) for x in (mean, scale, rho)]
            drawn = [torch.randn(s, generator=noise, dtype=torch.float64) for s in sizes]
            w = leaves[0] + Q @ (leaves[1].exp() * torch.cat(drawn))
            pieces = zip(shapes.items(), w.split(sizes), strict=True)
            weights = {name: piece.view(shape) for (name, shape), piece in pieces}
            inputs = problem.train.inputs[chosen]
            logits = torch.func.functional_call(problem.network, weights, (inputs,))
            loss = nn.functional.cross_entropy(logits, problem.train.labels[chosen])
            j = 100 * (log(0.1) - 2 * leaves[2])
            B = divergence(*leaves) + 2 * j.log() + log(pi**2 * n / (6 * 0.025))
            gradients = torch.autograd.grad(loss + (B / (n - 1) / 2).sqrt(), leaves)
            for x, slot, g in zip((mean, scale, rho), slots, gradients, strict=True):
                slot.mul_(0.9).add_(0.1 * g**2)
                x -= rate * g / (slot.sqrt() + 1e-8)
            rho.clamp_(max=(log(0.1) - 0.01) / 2)
    return mean, scale, rho, float(divergence(mean, scale, rho))


@pytest.mark.parametrize(
    ("method", "kind"), [("base", "fnet"), ("appr", "fnet"), ("appr", "convolution")]
)
def test_the_posterior_is_that_of_a_dense_computation(method, kind, tmp_path):
    problem = task(method, kind=kind)
    found = optimised(problem, tmp_path / "state", save_every=1e9)
    Q = dense_basis(found, problem.network)
    identity = torch.eye(len(Q), dtype=torch.float64)
    assert torch.allclose(Q.T @ Q, identity, atol=1e-12)
    assert torch.equal(Q, identity) == (method == "base")
    mean, scale, rho, kl = reference(problem, Q)
    assert torch.allclose(flat(found.mean), mean, atol=1e-8)
    assert torch.allclose(flat(found.log_scale), scale, atol=1e-8)
    assert float(found.half_log_lambda.detach()) == pytest.approx(float(rho), abs=1e-8)
    assert float(found.kl(problem.centre).detach()) == pytest.approx(kl, rel=1e-8)
    start = posterior_at(problem.network, problem.bases(), half_log_lambda=-3.0)
    assert (flat(start.mean) - mean).norm() > 1e-2  # it did move
    assert (flat(start.log_scale) - scale).norm() > 1e-2


def test_the_basis_is_the_kronecker_eigenbasis_largest_curvature_first():
    problem = task("appr", kind="convolution")
    for layer, basis in problem.bases().items():
        factors = kronecker_factors(problem.network, problem.train, layer=layer)
        pairs = (
            (factors.output_hessian, basis.left, basis.output_values),
            (factors.autocorrelation, basis.right, basis.input_values),
        )
        for factor, vectors, values in pairs:
            assert torch.allclose(factor @ vectors, vectors * values, atol=1e-10 * values[0])
            assert bool((values.diff() <= 0).all())
    assert set(problem.bases()) == {"0", "3"}


def test_a_rotation_keeps_norms_and_the_kl():
    problem = task("appr")
    start = posterior_at(problem.network, problem.bases(), half_log_lambda=-2.0)
    standard = posterior_at(problem.network, {}, half_log_lambda=-2.0)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in problem.network.named_parameters():
        basis = start.basis_of(name)
        V = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        W = basis.rotated(V)
        assert not torch.allclose(W, V)
        assert float(W.norm()) == pytest.approx(float(V.norm()), rel=1e-12)
        assert torch.allclose(basis.coordinates(W), V, atol=1e-12)
        standard.log_scale[name] = start.log_scale[name]
    before, after = (float(q.kl(problem.centre).detach()) for q in (standard, start))
    assert after == pytest.approx(before, rel=1e-12)


def test_a_sample_has_the_posteriors_covariance():
    problem = task("appr")
    start = posterior_at(problem.network, problem.bases(), half_log_lambda=-3.0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = torch.stack([flat(start.sample(draw)) for _ in range(20_000)])
    Q = dense_basis(start, problem.network)
    expected = Q @ torch.diag((2 * flat(start.log_scale)).exp()) @ Q.T
    assert float((rows.T.cov() - expected).norm() / expected.norm()) < 0.05
    assert torch.allclose(rows.mean(0), flat(start.mean), atol=0.05)


def test_appr_with_identity_factors_is_base(monkeypatch, tmp_path):
    base = optimised(task("base"), tmp_path / "base", save_every=1e9)

    def diagonal(model, data, *, layer, **options):
        m, n = model.get_submodule(layer).weight.shape
        # Eigenvectors are the identity, in an order that equal eigenvalues would leave open.
        M, xx = (torch.linspace(2, 1, size).double().diag() for size in (m, n))
        return KroneckerFactors(M, xx, xx[0])

    monkeypatch.setattr("pipeline.anatomy.eigenbasis.kronecker_factors", diagonal)
    appr = optimised(task("appr"), tmp_path / "appr", save_every=1e9)
    assert torch.equal(appr.bases["fc1"].left, torch.eye(5).double())
    assert torch.equal(appr.bases["fc1"].right, torch.eye(9).double())
    assert torch.allclose(flat(appr.mean), flat(base.mean), atol=1e-13)
    assert torch.allclose(flat(appr.log_scale), flat(base.log_scale), atol=1e-13)


def test_new_bases_keep_the_covariances_diagonal():
    problem = task("iter")
    start = posterior_at(problem.network, problem.bases(), half_log_lambda=-3.0)
    old, scales = dense_basis(start, problem.network), flat(start.log_scale)
    other = layer_bases(network(8), problem.train, standard=False, closed_form=False, options={})
    start.change_bases(other)
    new = dense_basis(start, problem.network)
    assert not torch.allclose(old, new)
    covariance = new.T @ old @ torch.diag((2 * scales).exp()) @ old.T @ new
    assert torch.allclose((2 * flat(start.log_scale)).exp(), covariance.diagonal(), rtol=1e-10)


def test_the_bases_change_when_they_should():
    settings = Bounds(epochs=2000)
    assert list(basis_changes(settings, "appr")) == []
    assert list(basis_changes(settings, "iter")) == list(range(11, 2001, 10))
    assert list(basis_changes(settings, "iter-m")) == list(range(11, 2001, 10))
    decayed = list(basis_changes(settings, "iter-d"))
    assert decayed == [*range(11, 402, 10), 501, 601, 701, 801, 1801]


def test_the_closed_form_is_ds_two_layer_theory():
    problem = task()
    W2 = problem.network.fc2.weight.detach()
    logits = problem.network(problem.train.inputs).detach()
    A = 0.0
    for z in logits:
        p = z.softmax(-1)
        A = A + (p.diag() - torch.outer(p, p)) / len(logits)
    M = W2.T @ A @ W2
    found = closed_output_hessians(problem.network, problem.train)
    assert torch.allclose(found["fc2"], A, atol=1e-12)
    assert torch.allclose(found["fc1"], (M + M.diagonal().diag()) / 4, atol=1e-12)
    # Through random masks, half of them zero, in the mean.
    draw = torch.Generator().manual_seed(0)
    masks = (torch.rand(40_000, 5, generator=draw) < 0.5).double()
    sampled = torch.einsum("ki,ij,kj->ij", masks, M, masks) / len(masks)
    assert float((sampled - found["fc1"]).norm() / found["fc1"].norm()) < 0.03
    with pytest.raises(AnatomyError, match=r"knows no Conv2d \(0\).*iter-m"):
        closed_output_hessians(network(0, kind="convolution"), problem.train)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_optimisation_ends_where_an_uninterrupted_one_ends(method, tmp_path, monkeypatch):
    whole = optimised(task(method), tmp_path / "whole", save_every=1e9)
    state, one_epoch = tmp_path / "killed", bounds._one_epoch

    def killed(problem, posterior, optimiser, epoch):
        if epoch == 4:  # after the first change of bases, before the second
            raise KeyboardInterrupt
        return one_epoch(problem, posterior, optimiser, epoch)

    monkeypatch.setattr(bounds, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        optimised(task(method), state, save_every=0)
    monkeypatch.setattr(bounds, "_one_epoch", one_epoch)
    resumed = optimised(task(method), state, save_every=1e9)
    for key, tensor in whole.state().items():
        assert torch.equal(resumed.state()[key], tensor), key
    assert sampled_errors(task(method), whole) == sampled_errors(task(method), resumed)


def test_a_state_that_is_not_whole_is_begun_anew(tmp_path, capsys):
    whole = optimised(task("base"), tmp_path / "state", save_every=1e9)
    (tmp_path / "state").write_bytes(b"")
    again = optimised(task("base"), tmp_path / "state", save_every=1e9)
    assert "state, left in scratch, is not whole" in capsys.readouterr().err
    for key, tensor in whole.state().items():
        assert torch.equal(again.state()[key], tensor), key


@pytest.mark.parametrize("method", METHODS)
def test_the_bound_is_above_the_error_on_held_out_data(method, tmp_path):
    settings = Bounds(epochs=40, lr=0.02, batch=50, samples=400)
    problem = task(method, settings, count=600)
    found = bound_found(problem, optimised(problem, tmp_path / "state", save_every=1e9))
    assert found.stochastic_error_test < found.bound_of_estimate < found.bound < 1
    assert found.mean_error_test < found.bound
    assert found.stochastic_error_train < found.stochastic_error_limit
    j = round(100 * (log(0.1) - 2 * found.half_log_lambda))
    assert j >= 1
    assert exp(2 * found.half_log_lambda) == pytest.approx(0.1 * exp(-j / 100))
    # Pinsker's inequality, from the printed formula: a little above the inverted bound.
    B = (found.kl + 2 * log(j) + log(pi**2 * 600 / (6 * 0.025))) / 599
    assert found.bound <= found.stochastic_error_limit + sqrt(B / 2)
    assert found.bound_of_estimate > found.stochastic_error_train + B / 4


def test_the_sampled_errors_are_the_mean_over_networks(tmp_path):
    problem = task(settings=SETTINGS.model_copy(update={"samples": 3000}))
    start = posterior_at(problem.network, {}, half_log_lambda=-3.0)
    draw = torch.Generator().manual_seed(5)
    wrong = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(2000):
            sample = start.sample(draw)
            for place, some in enumerate((problem.train, problem.test)):
                logits = torch.func.functional_call(problem.network, sample, (some.inputs,))
                wrong[place] += (logits.argmax(-1) != some.labels).double().mean() / 2000
    found = sampled_errors(problem, start)
    errors = [error for error, _ in found]
    assert errors == pytest.approx(wrong.tolist(), abs=0.01)
    assert min(errors) > 0.02


def test_the_standard_error_is_the_spread_of_independent_samples():
    start = posterior_at(task().network, {}, half_log_lambda=-3.0)
    settings = SETTINGS.model_copy(update={"samples": 40})
    found = np.array(
        [sampled_errors(task(settings=settings, seed=seed), start) for seed in range(60)]
    )
    spread, stderr = found[:, :, 0].std(0, ddof=1), found[:, :, 1].mean(0)
    assert (spread / 1.4 < stderr).all()
    assert (stderr < 1.4 * spread).all()


def test_what_training_changed_beside_the_parameters_is_refused():
    check_comparable(network(0), network(1))
    trained, initial = (fnet((1, 3, 3), 2, "batch", width=5, depth=1) for _ in range(2))
    check_comparable(trained.eval(), initial.eval())
    trained.train()(torch.randn(8, 1, 3, 3))
    with pytest.raises(AnatomyError, match=r"bn1.running_mean.*BatchNorm"):
        check_comparable(trained.eval(), initial.eval())
