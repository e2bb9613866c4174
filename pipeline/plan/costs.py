"""What a training, a spectrum and a hierarchy cost: an account of what their jobs will do."""

from dataclasses import dataclass, replace
from math import inf

import torch

from pipeline.anatomy.hierarchy import BLOCKS, CHECKED, GRAM_COPIES, chosen_classes
from pipeline.anatomy.spectrum import LEAST_ROOM, dense_bytes
from pipeline.config import Config
from pipeline.curvature.gram import factor_bytes
from pipeline.curvature.levels import PARTS, Weights
from pipeline.curvature.memory import GIB, budget, pass_budget
from pipeline.curvature.problem import GUESS
from pipeline.device import SHARE_FOR_DATA
from pipeline.plan.cost import Cost
from pipeline.plan.facts import NetworkFacts
from pipeline.recipes import Recipe
from pipeline.spectra.eigenpairs import basis_size
from pipeline.training.loop import EVALUATION_BATCH

# Products when an operator is made: two each for recording, for a recomputed product and for the
# first half of the list, one single and a block of two.
SET_UP = 9
# Products of the search for missed eigenvalues: 4 to 8 at an end for ten pairs, as measured.
SEARCH = 10
OF_A_PASS = 4  # vectors as long as the parameters that a pass has of its own, at most
EIGH = 9  # n^3 FLOPs of a symmetric eigenproblem with its vectors (Golub and Van Loan, 8.3)
WIDE = 8  # bytes of a float64 number
PLAIN = 4  # bytes of a float32 number
PART = 50_000  # bytes of a part's labels and provenance: those of the default experiment's spectra


@dataclass(frozen=True)
class Room:
    """Bytes of a device, of main memory, and the budgets of jobs on the device.

    ``data`` is what a split's images may take before they are streamed.  ``processes`` share the
    examples; ``itemsize`` is of the numbers that curvature is made of.
    """

    device: float
    main: float
    chunks: float
    basis: float
    at_once: float
    data: float
    processes: int
    itemsize: int
    chunk: int
    vectors: int

    def kept(self, network: NetworkFacts, examples: int) -> float:
        """Return the share of the examples that is surely kept linearised, in whole chunks."""
        own = examples / self.processes
        fit = max(1.0, min(self.chunk, own, self.at_once // self._each(network)))
        chunks = self.chunks // (self._each(network) * fit)
        return min(1.0, chunks * fit / own)

    def taken(self, network: NetworkFacts, examples: int) -> float:
        """Return the bytes of kept chunks, and of a pass over one beside them, at most."""
        pieces = min(self.chunk, examples / self.processes) * self.vectors
        vectors = OF_A_PASS * network.parameters * self.itemsize
        at_once = min(self.at_once, self._each(network) * pieces) + vectors
        own = examples / self.processes
        return min(self.chunks, self._each(network) * own) + at_once

    def notes(self, network: NetworkFacts, examples: int) -> tuple[str, ...]:
        """Return what to say where chunks may not all be kept, or images are streamed."""
        notes = []
        if self.kept(network, examples) < 1:
            notes += ["linearised chunks may not all fit: what does not is made anew every time"]
        if not self.images(network, examples):
            size = examples * network.inputs / 1e9  # a byte for each number
            notes += [
                "images are streamed: those of ImageNet and folders from decoded copies in "
                f"<results>/data, which all jobs share, of {size:.3g} GB on disk for these examples"
            ]
        return tuple(notes)

    def images(self, network: NetworkFacts, examples: int) -> float:
        """Return how many numbers of a split's images are held: none where they are streamed."""
        numbers = examples * network.inputs
        return numbers if numbers * PLAIN <= self.data else 0

    def loaded(self, network: NetworkFacts, examples: int) -> float:
        """Return the bytes of a network and of its examples."""
        return (network.parameters + self.images(network, examples)) * self.itemsize

    def _each(self, network: NetworkFacts) -> float:
        return GUESS * network.activations * self.itemsize


def room_of(config: Config, stage: str, *, device_gb: float) -> Room:
    """Return what a stage's jobs have: a GPU of ``device_gb`` GiB, or the memory they ask for."""
    compute, asked = config.compute, getattr(config.resources, stage)
    main = asked.mem_mb * 1e6
    device = device_gb * GIB if on_gpu(config, stage) else main
    kind = torch.device("cuda" if on_gpu(config, stage) else "cpu")
    spread = stage in ("spectrum", "hierarchy", "layers")
    data = {True: 0.0, False: inf, "auto": SHARE_FOR_DATA * min(device, main)}
    return Room(
        device=device,
        main=main,
        chunks=budget(compute.memory_gb, kind),
        basis=budget(compute.basis_gb, kind),
        at_once=pass_budget(kind),
        data=data[compute.stream],
        processes=max(1, asked.gpu) if spread else 1,
        itemsize=getattr(torch, compute.dtype).itemsize,
        chunk=compute.chunk,
        vectors=compute.vectors,
    )


def on_gpu(config: Config, stage: str) -> bool:
    """Return whether a stage's jobs are to run on a GPU."""
    device = config.compute.device
    asked = device == "auto" and getattr(config.resources, stage).gpu > 0
    return asked or device.startswith("cuda")


def train_cost(
    recipe: Recipe, network: NetworkFacts, room: Room, *, train: int, test: int, kept: bool
) -> Cost:
    """Return what a training costs: gradients, and an evaluation after each epoch.

    Its checkpoints are ``kept``, or deleted once a sweep is decided.
    """
    images = room.images(network, train) + room.images(network, test)
    checkpoints = len(recipe.checkpoints) * network.state * PLAIN
    evaluations = (recipe.epochs + 1) * (train + test) * network.forward
    states = 3 if recipe.momentum else 2  # weights, gradients, momenta
    # What an evaluation frees as it goes on is counted too.
    held = max(2 * min(recipe.batch, train), min(EVALUATION_BATCH, max(train, test)))
    return Cost(
        passes=recipe.epochs,
        flop=recipe.epochs * train * network.gradient + evaluations,
        held=(images + network.parameters) * PLAIN,
        work=((states - 1) * network.parameters + held * network.activations) * PLAIN,
        disk=checkpoints if kept else 0,
        waiting=0 if kept else checkpoints,
        scratch=checkpoints + (states - 1) * network.state * PLAIN,
    )


def spectrum_cost(config: Config, network: NetworkFacts, room: Room, *, examples: int) -> Cost:
    """Return what the spectra of one checkpoint on one split cost."""
    spectra = [_matrix_cost(config, network, room, m, examples) for m in config.spectrum.matrices]
    loaded = Cost(held=room.loaded(network, examples), disk=PART)
    total = sum(spectra, replace(loaded, notes=room.notes(network, examples)))
    # Records wait until the part is written.
    return replace(total, scratch=sum(cost.scratch for cost in spectra))


def _matrix_cost(
    config: Config, network: NetworkFacts, room: Room, matrix: str, examples: int
) -> Cost:
    settings, p = config.spectrum, network.parameters
    each = examples * network.product(matrix, kept=room.kept(network, examples))
    taken, factors = room.taken(network, examples), examples * network.classes
    small = matrix == "G" and room.processes == 1 and factors <= min(p, settings.exact)
    gram = factor_bytes(examples, network.classes, p, getattr(torch, config.compute.dtype))
    if small and gram <= room.basis:
        backward = examples * (network.forward + network.classes * network.backward)
        solved = 2 * factors**2 * p + EIGH * factors**3
        products = SET_UP + settings.top[matrix]
        flop = backward + products * each + solved
        return Cost(network.classes + products, flop, 0, taken + gram)
    if p <= settings.exact and dense_bytes(p) <= room.basis:
        products = SET_UP + p + settings.top[matrix]
        return Cost(products, products * each + EIGH * p**3, 0, taken + dense_bytes(p))
    cost = _lanczos_cost(config, network, room, matrix, each)
    return replace(cost, work=cost.work + taken)


def _lanczos_cost(
    config: Config, network: NetworkFacts, room: Room, matrix: str, each: float
) -> Cost:
    """Return the cost by Lanczos of a matrix whose products take ``each`` FLOPs."""
    settings, p = config.spectrum, network.parameters
    k = settings.top[matrix] + settings.bottom.get(matrix, 0)
    pairs = eigenpairs_cost(p, k, room, each)
    fit = room.basis // (2 * p * room.itemsize) - k
    notes = ()
    if fit < min(p, k + LEAST_ROOM):
        notes = (f"compute.basis_gb has no room for spectrum.top of {matrix}: the job will refuse",)
    elif fit < min(p, basis_size(k)):
        notes = (f"compute.basis_gb holds under 2 k + 20 vectors of {matrix}: more products",)
    bulk = quadrature_cost(p, settings.probes, settings.steps, room, each)
    products = settings.trace_probes + SET_UP
    return Cost(
        pairs.passes + bulk.passes + products,
        pairs.flop + bulk.flop + products * each,
        work=max(pairs.work, k * p * room.itemsize + bulk.work),
        scratch=(pairs.passes + bulk.passes + products) * p * room.itemsize,
        notes=notes,
    )


def eigenpairs_cost(p: int, k: int, room: Room, each: float) -> Cost:
    """Return the estimated cost of ``k`` extreme eigenpairs: a full basis and a search."""
    size = min(p, basis_size(k))
    products = min(p, size + SEARCH)
    bases = min(room.basis, 2 * size * p * room.itemsize)
    flop = products * each + 2 * p * products**2 + EIGH * size**3
    return Cost(products, flop, work=bases + k * p * room.itemsize)


def quadrature_cost(p: int, probes: int, steps: int, room: Room, each: float) -> Cost:
    """Return the cost of a quadrature: its products, Gram-Schmidt, and the check of its basis."""
    steps = min(steps, p)
    basis = min(room.basis, min(probes, room.vectors) * steps * p * room.itemsize)
    return Cost(probes * steps, probes * (steps * each + 4 * p * steps**2), work=basis)


def hierarchy_cost(config: Config, network: NetworkFacts, room: Room, *, examples: int) -> Cost:
    """Return what the levels of G of one checkpoint on one split cost."""
    settings, p, C = config.hierarchy, network.parameters, network.classes
    kept = room.kept(network, examples)
    each = examples * network.component(kept=kept)
    chosen = len(chosen_classes(C, settings.classes))
    gram, vectors = GRAM_COPIES * WIDE * C**4, C**2 * p * room.itemsize
    fits = gram <= room.basis and vectors <= BLOCKS * room.basis
    whole = chosen == C or fits
    names = ["G", "B2", *settings.knockouts, *([] if whole else ["B1"])]
    quadratures = len({Weights.of(name) for name in names})
    one = quadrature_cost(p, settings.probes, settings.steps, room, each)
    # B2_c sees the examples of its class alone, and is made anew at each product.
    again = examples / C * network.component(kept=0)
    of_class = quadrature_cost(p, settings.probes, settings.steps, room, again)
    checks = SET_UP + CHECKED * (1 + len(PARTS))
    levels = [one] * quadratures + [replace(of_class, passes=of_class.passes / C)] * chosen
    total = sum(levels, Cost(checks, checks * each))
    total += _pairs_cost(network, room, examples, chosen, whole=whole)
    total += _traces_cost(config, network, examples, kept, whole=whole)
    pairs = max(chosen**2, C**2 if whole else C)
    return replace(
        total,
        held=room.loaded(network, examples),
        work=total.work + room.taken(network, examples),
        host=GRAM_COPIES * WIDE * pairs**2,
        disk=PART + WIDE * (chosen**4 + 2 * settings.probes * settings.steps * len(levels)),
        scratch=len(levels) * settings.probes * settings.steps * p * room.itemsize,
        notes=room.notes(network, examples),
    )


def _pairs_cost(
    network: NetworkFacts, room: Room, examples: int, chosen: int, *, whole: bool
) -> Cost:
    """Return the cost of the class-pair vectors' Gram matrices."""
    p, C = network.parameters, network.classes
    cost = Cost()
    sets = [(C**2, C - 1.0)] if whole or chosen == C else []  # vectors, backward passes
    if chosen < C:
        sets += [(chosen**2, chosen**2 / C), (C, 1.0)]
    for vectors, passes in sets:
        size = vectors * p * room.itemsize
        blocks = max(1, -(-size // room.basis))
        flop = blocks * examples * (network.forward + passes * network.backward)
        cost += Cost(blocks * passes, flop + 2 * vectors**2 * p, work=min(size, room.basis))
    return cost


def _traces_cost(
    config: Config, network: NetworkFacts, examples: int, kept: float, *, whole: bool
) -> Cost:
    """Return the cost of the levels' traces."""
    settings, C = config.hierarchy, network.classes
    if whole and examples * C <= settings.exact:
        return Cost(C, examples * (network.forward + C * network.backward))
    pushed = examples * network.pushed(kept=kept)
    return Cost(settings.trace_probes, settings.trace_probes * pushed)
