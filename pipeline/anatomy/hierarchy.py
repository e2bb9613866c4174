"""The three-level hierarchy of one network: G = A1 + A2 + B1 + B2, each with its spectrum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pipeline.anatomy.embedding import Embedding, embed
from pipeline.anatomy.levels import centre_eigenvalues, centre_weights, cross_eigenvalues
from pipeline.config import Hierarchy as Settings
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.class_pairs import PairGram, all_pairs, pair_gram
from pipeline.curvature.components import Component, component
from pipeline.curvature.given import HasExamples
from pipeline.curvature.gram import squared_norms
from pipeline.curvature.levels import PARTS, Weights
from pipeline.curvature.memory import refuse_basis_beyond_memory, refuse_beyond_memory
from pipeline.curvature.problem import Options
from pipeline.curvature.sandwich import gauss_newton
from pipeline.curvature.watched import Watched
from pipeline.device import release
from pipeline.progress import Progress
from pipeline.spectra.lanczos import Quadrature, gaussian, lanczos_quadrature, root_ratio
from pipeline.streams import stream

CHECKED = 2  # vectors that the identity is checked with
GRAM_COPIES = 8  # matrices of the size of a Gram matrix that its solution takes, at most
BLOCKS = 8  # of parameters, for which all pairs are made over again: a quadrature costs as much

Wrap = Callable[[LinearOperator, str], LinearOperator]  # by name: with a record on disk, say


@dataclass(frozen=True)
class Network:
    """A network with ``classes`` outputs on some examples, and how to dissect it.

    ``room`` bounds in bytes the vectors on the device, and the Gram matrices in main memory;
    ``wrap`` is put around each operator that is multiplied often.
    """

    model: nn.Module
    data: HasExamples
    classes: int
    settings: Settings
    seed: int
    room: int
    options: Options = field(default_factory=lambda: Options())
    wrap: Wrap = lambda operator, _: operator

    def signs(self, operator: LinearOperator) -> torch.Tensor:
        """Return the sign vectors (p, trace_probes) of the trace estimates."""
        seeds = [stream(self.seed, "trace", i) for i in range(self.settings.trace_probes)]
        return torch.stack([gaussian(operator, seed).sign() for seed in seeds], 1)

    def quadrature(self, operator: LinearOperator, name: str, shown: Progress) -> Quadrature:
        """Return the quadrature of an operator; all have the same probes."""
        release()
        refuse_basis_beyond_memory(operator, self.settings.steps * operator.vectors, self.room)
        return lanczos_quadrature(
            Watched(self.wrap(operator, name), shown, note=f"({name})"),
            steps=self.settings.steps,
            seeds=[stream(self.seed, "probe", i) for i in range(self.settings.probes)],
            basis_bytes=self.room,
        )


@dataclass(frozen=True)
class Estimate:
    """A number, or an array of them, and its standard error: zero where it is exact."""

    value: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Hierarchy:
    """What is known of the levels of G of one network.

    ``shares`` (C, C) are p_ck / N.  ``eigenvalues`` has A1's and A2's, all C of each, and B1's, all
    C(C - 2), where their Gram matrix fits.  ``traces`` are by component; ``within`` (C, C) is B2's,
    split by class pair.  ``quadratures`` are by component or knockout, ``of_class`` those of B2_c.
    ``pairs`` are the class pairs with their Gram matrix; ``embedding`` has the centres of their
    classes first, then the pairs.  ``identity_error`` is ||(A1 + A2 + B1 + B2 - G) V|| / ||G V||,
    with its standard error over the columns of V.
    """

    shares: np.ndarray
    eigenvalues: dict[str, np.ndarray]
    traces: dict[str, Estimate]
    within: Estimate
    quadratures: dict[str, Quadrature]
    of_class: dict[int, Quadrature]
    pairs: PairGram
    embedding: Embedding
    embedding_seed: int
    identity_error: float
    identity_error_stderr: float


def hierarchy(network: Network) -> Hierarchy:
    """Return the hierarchy.  Raises FloatingPointError where products are not finite."""
    settings, classes = network.settings, network.classes
    chosen = chosen_classes(classes, settings.classes)
    operator = component(network.model, network.data, name="G", **network.options)
    error, error_stderr = identity_error(network, operator)
    pairs = _pairs(network, all_pairs(chosen))
    if len(chosen) == classes:
        centres = whole = pairs
    else:
        centres = _pairs(network, [(c, c) for c in range(classes)])
        whole = _pairs(network, all_pairs(range(classes))) if _all_fit(network, operator) else None
    eigenvalues = centre_eigenvalues(centres)
    if whole:
        eigenvalues["B1"] = cross_eigenvalues(whole)
    traces, within = _traces(network, operator, eigenvalues, whole)
    names = ["G", *([] if whole else ["B1"]), "B2", *settings.knockouts]
    distinct = len({Weights.of(name) for name in names})
    products = (distinct + len(chosen)) * settings.probes * min(settings.steps, operator.shape[0])
    with Progress(total=products, label="spectra of the levels, products") as shown:
        quadratures = _quadratures(network, operator, names, shown)
        of_class = {c: _of_class(network, operator, c, shown) for c in chosen}
    seed = stream(network.seed, "tsne") % 2**32
    return Hierarchy(
        shares=pairs.shares.numpy(),
        eigenvalues={name: values.numpy() for name, values in eigenvalues.items()},
        traces=traces,
        within=within,
        quadratures=quadratures,
        of_class=of_class,
        pairs=pairs,
        embedding=_embedding(pairs, chosen, settings.perplexity or len(chosen), seed),
        embedding_seed=seed,
        identity_error=error,
        identity_error_stderr=error_stderr,
    )


def chosen_classes(classes: int, count: int) -> list[int]:
    """Return ``count`` of the classes, the same for every network; all where there are no more."""
    if classes <= count:
        return list(range(classes))
    generator = np.random.default_rng(stream(0, "hierarchy", "classes", classes))
    return sorted(generator.choice(classes, count, replace=False).tolist())


def identity_error(network: Network, operator: Component) -> tuple[float, float]:
    """Return ||(A1 + A2 + B1 + B2 - G) V|| / ||G V|| and its standard error.

    Each of the five matrices is multiplied by itself.
    """
    seeds = [stream(network.seed, "identity", i) for i in range(CHECKED)]
    V = torch.stack([gaussian(operator, seed) for seed in seeds], 1)
    options = network.options | {"memory_gb": 0.0}  # the components' own chunks are kept
    expected = gauss_newton(network.model, network.data, **options) @ V
    if not bool(torch.isfinite(expected).all()):
        raise FloatingPointError("products are not finite")
    found = torch.stack([operator.named(part) @ V for part in PARTS]).sum(0)
    errors, squares = (
        columns.double().square().sum(0).cpu().numpy() for columns in (found - expected, expected)
    )
    return root_ratio(errors, squares)


def _all_fit(network: Network, operator: Component) -> bool:
    """Return whether the Gram matrix of all class pairs, and their vectors, fit the budget."""
    pairs = network.classes**2
    vectors = pairs * operator.shape[0] * operator.dtype.itemsize
    gram = GRAM_COPIES * 8 * pairs**2
    if gram > network.room or vectors > BLOCKS * network.room:
        return False
    what = f"the Gram matrix of {pairs} class pairs"
    refuse_beyond_memory(gram, torch.device("cpu"), what, "Lower compute.basis_gb")
    return True


def _pairs(network: Network, pairs: Sequence[tuple[int, int]]) -> PairGram:
    found = pair_gram(network.model, network.data, pairs, room=network.room, **network.options)
    if not bool(torch.isfinite(found.gram).all()):
        raise FloatingPointError("the class-pair vectors are not finite")
    return found


def _traces(
    network: Network,
    operator: Component,
    eigenvalues: dict[str, torch.Tensor],
    whole: PairGram | None,
) -> tuple[dict[str, Estimate], Estimate]:
    """Return the traces of all components, and B2's by class pair: exact where that is cheap."""
    known = {name: float(values.sum()) for name, values in eigenvalues.items()}
    if whole and len(network.data.labels) * network.classes <= network.settings.exact:
        norms = squared_norms(network.model, network.data, **network.options).cpu()
        means = whole.shares * whole.gram.diagonal().view_as(whole.shares)
        within = _mean((norms - means)[None].clamp_min(0).numpy(), exact=True)
        known["B2"] = float(within.value.sum())
        known["G"] = sum(known.values())
        return {name: _mean(np.array([v]), exact=True) for name, v in known.items()}, within
    between, samples = (
        found.double().cpu().numpy() for found in operator.traces(network.signs(operator))
    )
    by_name = {"A1": between[:, 0], "A2": between[:, 1], "B1": between[:, 2]}
    by_name |= {name: np.full(len(between), value) for name, value in known.items()}
    by_name["B2"] = samples.sum((1, 2))
    by_name["G"] = np.sum(list(by_name.values()), axis=0)
    traces = {name: _mean(values, exact=name in known) for name, values in by_name.items()}
    return traces, _mean(samples, exact=False)


def _mean(samples: np.ndarray, *, exact: bool) -> Estimate:
    """Return the mean over the first axis."""
    mean = samples.mean(0)
    if exact:
        return Estimate(mean, np.zeros_like(mean))
    return Estimate(mean, samples.std(0, ddof=1) / np.sqrt(len(samples)))


def _quadratures(
    network: Network, operator: Component, names: Sequence[str], shown: Progress
) -> dict[str, Quadrature]:
    made: dict[Weights, Quadrature] = {}
    for name in names:
        weights = Weights.of(name)
        if weights not in made:  # G-A1-A2-B1 is B2
            made[weights] = network.quadrature(operator.named(name), name, shown)
    return {name: made[Weights.of(name)] for name in names}


def _of_class(
    network: Network, operator: Component, true_class: int, shown: Progress
) -> Quadrature:
    """Return the quadrature of B2_c."""
    of_class = operator.named("B2").of_class(true_class)
    return network.quadrature(of_class, f"B2-class{true_class}", shown)


def _embedding(pairs: PairGram, chosen: Sequence[int], perplexity: float, seed: int) -> Embedding:
    centres = centre_weights(pairs)[list(chosen)]
    rows = torch.cat([centres, torch.eye(len(pairs.pairs), dtype=torch.float64)])
    return embed((rows @ pairs.gram @ rows.T).numpy(), perplexity=perplexity, seed=seed)
