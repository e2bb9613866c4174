"""A network's PAC-Bayes bound: the posterior optimised, then its error sampled."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from pipeline.anatomy.eigenbasis import LayerBasis, layer_bases
from pipeline.anatomy.pac_bayes import PriorScales, complexity, error_bound, sampled_limit
from pipeline.anatomy.posterior import Posterior, posterior_at
from pipeline.curvature.problem import Options
from pipeline.data.examples import Examples
from pipeline.device import release
from pipeline.errors import AnatomyError
from pipeline.prior import highest_half_log_lambda
from pipeline.progress import progress, say
from pipeline.spectra.lanczos import mean_and_error
from pipeline.stages import Bounds
from pipeline.streams import stream
from pipeline.training.checkpoint import State, save_state, waiting_state
from pipeline.training.loop import evaluate
from pipeline.training.schedule import learning_rate


@dataclass(frozen=True)
class Task:
    """A network whose bound is sought, trained on ``train``, and how.

    ``initial`` is the same network before training: its parameters are the prior's centre.
    ``method`` is one of ``stages.METHODS``.
    """

    network: nn.Module
    initial: nn.Module
    train: Examples
    test: Examples
    settings: Bounds
    method: str
    seed: int
    options: Options
    label: str

    @property
    def scales(self) -> PriorScales:
        """The prior's admissible scales."""
        return PriorScales(self.settings.prior_ceiling, self.settings.prior_steps)

    @property
    def centre(self) -> dict[str, torch.Tensor]:
        """The prior's centre, by parameter."""
        return {name: p.detach() for name, p in self.initial.named_parameters()}

    def bases(self, mean: dict[str, torch.Tensor] | None = None) -> dict[str, LayerBasis]:
        """Return the method's bases at the network, or with ``mean`` for its parameters."""
        network = self.network
        if mean is not None:
            network = copy.deepcopy(network)
            network.load_state_dict(mean, strict=False)
        return layer_bases(
            network,
            self.train,
            standard=self.method == "base",
            closed_form=self.method == "iter-m",
            options=self.options,
        )


@dataclass(frozen=True)
class BoundFound:
    """A posterior's bound on its test error, and what it is made of.

    ``bound`` holds with probability 1 - delta - delta' over training set and samples;
    ``bound_of_estimate`` takes the sampled error for the true one, as D's printed rows do.
    ``mean_error_*`` are of the network with the posterior's mean, ``deterministic_error_*`` of the
    trained one.
    """

    bound: float
    bound_of_estimate: float
    kl: float
    half_log_lambda: float
    stochastic_error_train: float
    stochastic_error_train_stderr: float
    stochastic_error_test: float
    stochastic_error_test_stderr: float
    stochastic_error_limit: float
    mean_error_train: float
    mean_error_test: float
    deterministic_error_train: float
    deterministic_error_test: float


def check_comparable(network: nn.Module, initial: nn.Module) -> None:
    """Refuse a network with something learned that is no parameter, such as BatchNorm's statistics.

    Prior and posterior are Gaussians over parameters: what else the data have shaped would make the
    networks that the bound speaks of depend on the training set.
    """
    before = dict(initial.named_buffers())
    learned = [name for name, buffer in network.named_buffers() if not buffer.equal(before[name])]
    if learned:
        raise AnatomyError(
            f"training changed {', '.join(learned)}, which are no parameters: a PAC-Bayes bound "
            "would not hold. Leave networks with BatchNorm out of the blocks whose cubes name "
            "bounds"
        )


def optimised(task: Task, state_file: Path, *, save_every: float) -> Posterior:
    """Return the posterior that minimises loss + sqrt(complexity / 2), by RMSprop.

    The state goes to ``state_file`` after an epoch, every ``save_every`` seconds and at the end;
    where a whole one is found there, the search goes on from it and ends bit for bit the same.
    Raises FloatingPointError where the objective is no longer finite.  Source: D.
    """
    settings = task.settings
    posterior = posterior_at(
        task.network, task.bases(), half_log_lambda=settings.start_half_log_lambda
    )
    groups = [{"params": some} for some in posterior.parameter_groups]
    optimiser = torch.optim.RMSprop(groups, settings.lr, alpha=settings.smoothing)
    done, objectives = 0, [math.nan]
    if found := waiting_state(state_file):
        posterior.restore(found.network)
        optimiser.load_state_dict(found.optimiser)
        done = found.epoch
        say(f"{task.label}: going on after epoch {done}")
    changes, saved = set(basis_changes(settings, task.method)), time.monotonic()
    for epoch in progress(
        range(done + 1, settings.epochs + 1),
        total=settings.epochs,
        done=done,
        label=task.label,
        status=lambda: f"objective {objectives[-1]:.4f}",
    ):
        if epoch in changes:
            posterior.change_bases(task.bases(posterior.mean))
        objectives.append(_one_epoch(task, posterior, optimiser, epoch))
        if not math.isfinite(objectives[-1]):
            raise FloatingPointError(f"the objective is {objectives[-1]} in epoch {epoch}")
        if time.monotonic() - saved >= save_every or epoch == settings.epochs:
            save_state(state_file, State(epoch, posterior.state(), optimiser.state_dict(), []))
            saved = time.monotonic()
    optimiser.zero_grad()
    return posterior


def basis_changes(settings: Bounds, method: str) -> Iterator[int]:
    """Yield the epochs, counted from 1, before which the bases are made anew.

    Iter: every ``basis_every`` epochs; Iter(D): where the rate drops, the interval grows by
    ``basis_decay``.  Source: D and its public code.
    """
    if method in ("base", "appr"):
        return
    interval = settings.basis_every
    due, rate = 1 + interval, learning_rate(settings, 1)
    for epoch in range(1, settings.epochs + 1):
        before, rate = rate, learning_rate(settings, epoch)
        if method == "iter-d" and rate < before:
            interval *= settings.basis_decay
        if epoch == due:
            yield epoch
            due += interval


def _one_epoch(
    task: Task, posterior: Posterior, optimiser: torch.optim.Optimizer, epoch: int
) -> float:
    """Take a step for each batch, in random order; return the mean objective."""
    settings, scales, centre = task.settings, task.scales, task.centre
    rate = learning_rate(settings, epoch)
    for group, share in zip(optimiser.param_groups, (settings.mean_share, 1.0), strict=True):
        group["lr"] = share * rate
    # The same noise and order for all methods, so that their bounds differ by the method alone.
    noise = _generator(task, "noise", epoch)
    shuffle = torch.Generator().manual_seed(stream(task.seed, "bounds", "order", epoch))
    examples, total = len(task.train), 0.0
    order = torch.randperm(examples, generator=shuffle).to(task.train.labels.device)
    for chosen in order.split(settings.batch):
        optimiser.zero_grad()
        loss = F.cross_entropy(_logits(task, posterior, noise, chosen), task.train.labels[chosen])
        index = scales.index(posterior.half_log_lambda)
        terms = {"examples": examples, "delta": settings.delta}
        objective = loss + (complexity(posterior.kl(centre), index, **terms) / 2).sqrt()
        objective.backward()
        optimiser.step()
        with torch.no_grad():
            posterior.half_log_lambda.clamp_(max=highest_half_log_lambda(settings))
        total = total + objective.detach() * len(chosen)
    return float(total) / examples


def _logits(
    task: Task, posterior: Posterior, noise: torch.Generator, chosen: torch.Tensor
) -> torch.Tensor:
    """Return the logits of some training examples, of a network drawn from the posterior."""
    return functional_call(task.network, posterior.sample(noise), (task.train.inputs[chosen],))


def _generator(task: Task, *name: str | int) -> torch.Generator:
    device = task.train.inputs.device
    return torch.Generator(device).manual_seed(stream(task.seed, "bounds", *name))


def bound_found(task: Task, posterior: Posterior) -> BoundFound:
    """Return the bound of a posterior: its prior's scale made admissible, its error sampled."""
    settings, scales, examples = task.settings, task.scales, len(task.train)
    index = scales.nearest(float(posterior.half_log_lambda.detach()))
    half_log_lambda = scales.half_log_lambda(index)
    release()  # what the search took: float64 copies need the room
    kl = _kl_in_double(task, posterior, half_log_lambda)
    (error, stderr), (test_error, test_stderr) = sampled_errors(task, posterior)
    limit = sampled_limit(error, samples=settings.samples, delta=settings.sampling_delta)
    terms = {"examples": examples, "delta": settings.delta}
    mean = copy.deepcopy(task.network)
    mean.load_state_dict({name: w.detach() for name, w in posterior.mean.items()}, strict=False)
    accuracies = {
        f"{name}_error_{split}": 1 - evaluate(network, getattr(task, split))[1]
        for name, network in (("mean", mean), ("deterministic", task.network))
        for split in ("train", "test")
    }
    return BoundFound(
        bound=error_bound(kl, index, limit, **terms),
        bound_of_estimate=error_bound(kl, index, error, **terms),
        kl=kl,
        half_log_lambda=half_log_lambda,
        stochastic_error_train=error,
        stochastic_error_train_stderr=stderr,
        stochastic_error_test=test_error,
        stochastic_error_test_stderr=test_stderr,
        stochastic_error_limit=limit,
        **accuracies,
    )


def _kl_in_double(task: Task, posterior: Posterior, half_log_lambda: float) -> float:
    exact = posterior.double()
    exact.half_log_lambda.fill_(half_log_lambda)
    return float(exact.kl({name: w.double() for name, w in task.centre.items()}))


@torch.no_grad()
def sampled_errors(
    task: Task, posterior: Posterior
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the posterior's mean error on training and on test examples, with standard errors.

    Each of ``samples`` draws is a network and, for it, a batch of each split, drawn with
    replacement: independent numbers in [0, 1], as the confidence of their mean asks for.
    """
    settings = task.settings
    draw = _generator(task, "samples")
    device = task.train.inputs.device
    wrong = torch.zeros(2, settings.samples, dtype=torch.float64, device=device)
    label = f"{task.label}, sampling"
    for i in progress(range(settings.samples), total=settings.samples, label=label):
        sample = posterior.sample(draw)
        for place, examples in enumerate((task.train, task.test)):
            chosen = torch.randint(len(examples), (settings.batch,), generator=draw, device=device)
            logits = functional_call(task.network, sample, (examples.inputs[chosen],))
            wrong[place, i] = (logits.argmax(-1) != examples.labels[chosen]).double().mean()
    train, test = (mean_and_error(errors) for errors in wrong.cpu().numpy())
    return train, test
