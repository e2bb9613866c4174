"""What layers, overlaps, random networks and bounds cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from pipeline.anatomy import theory
from pipeline.anatomy.bounds import basis_changes
from pipeline.anatomy.full_kronecker import rounds
from pipeline.anatomy.layerwise import EXACT, fitting, pairs_asked
from pipeline.config import Config
from pipeline.curvature.base import Dense
from pipeline.curvature.layer import COPIES, WHOLE
from pipeline.plan.cost import Cost
from pipeline.plan.costs import EIGH, PART, PLAIN, SET_UP, WIDE, Room, eigenpairs_cost
from pipeline.plan.facts import LayerFacts, NetworkFacts
from pipeline.stages import Theory

FACTORS = 4  # copies of a layer's two Kronecker factors while their eigenproblems are solved


def layers_cost(config: Config, network: NetworkFacts, room: Room, *, examples: int) -> Cost:
    """Return what the layers of one checkpoint on one split cost: products with single layers."""
    layers = _chosen(config, network)
    single = [_layer_cost(config, network, room, layer, examples) for layer in layers]
    each = examples * network.product("Hess", kept=room.kept(network, examples))
    shifts = sum(layer.outputs * layer.positions for layer in layers)
    full = config.layers.full
    both = [
        replace(cost + Cost(SET_UP, SET_UP * each), work=cost.work + room.taken(network, examples))
        for cost in (
            _whole_cost(config, "the whole Hessian", network.parameters, room, each, pairs=[full]),
            _whole_cost(
                config,
                "the output Hessian",
                max(1, shifts),
                room,
                each,
                pairs=rounds(full, max(1, shifts)),
            ),
        )
    ]
    total = sum([*single, *both], Cost(held=room.loaded(network, examples)))
    vectors = sum(_pairs(config, layer, room) * layer.weights for layer in layers) * room.itemsize
    return replace(
        total,
        host=vectors,
        disk=vectors + PART,
        scratch=sum(cost.scratch for cost in single),
        notes=total.notes + room.notes(network, examples),
    )


def _chosen(config: Config, network: NetworkFacts) -> list[LayerFacts]:
    names = config.layers.names
    return [layer for layer in network.layers if names is None or layer.name in names]


def _asked(config: Config, layer: LayerFacts) -> int:
    return pairs_asked(config.layers, outputs=layer.outputs, weights=layer.weights)


def _pairs(config: Config, layer: LayerFacts, room: Room) -> int:
    """Return how many eigenpairs of a layer are found, if all of them are known in the end."""
    return _fitting(config, _asked(config, layer), layer.weights, room)


def _fitting(config: Config, asked: int, size: int, room: Room) -> int:
    """Return how many eigenpairs of a matrix are looked for: those whose basis has room."""
    dtype = getattr(torch, config.compute.dtype)
    like = Dense(torch.empty(size, 0, dtype=dtype, device="meta"))
    return fitting(asked, like, int(room.basis))


def _whole_cost(
    config: Config, name: str, size: int, room: Room, each: float, *, pairs: Sequence[int]
) -> Cost:
    """Return the cost of the eigenpairs of the whole network: ``pairs`` of them in each round.

    Fewer are computed if their basis exceeds the memory budget; no round follows then.
    """
    fit = [_fitting(config, asked, size, room) for asked in pairs]
    done = 1 + sum(k == asked for k, asked in zip(fit[:-1], pairs[:-1], strict=True))
    cost = sum((eigenpairs_cost(size, k, room, each) for k in fit[:done]), Cost())
    fewer = f"compute.basis_gb has room for {fit[0]} eigenpairs of {name}, fewer than layers.full"
    return replace(cost, notes=(fewer,) if fit[0] < pairs[0] else ())


def _layer_cost(
    config: Config, network: NetworkFacts, room: Room, layer: LayerFacts, examples: int
) -> Cost:
    m, n = layer.outputs, layer.inputs
    k = _pairs(config, layer, room)
    route = layer_route(network, room, layer, examples)
    probes = layer.weights if layer.weights <= EXACT else config.layers.probes
    products = SET_UP + probes
    checked = examples * (network.product("Hess", kept=0) + network.product("G", kept=0))
    shapes = 4 * k * layer.weights * min(m, n)  # singular values alone
    pairs = eigenpairs_cost(layer.weights, k, room, route.each)
    made = route.made + 2 * factors_flop(network, layer, examples)
    notes = ()
    if k < _asked(config, layer):
        notes = (f"compute.basis_gb has room for {k} eigenpairs of {layer.name}, fewer than asked",)
    return Cost(
        pairs.passes + products,
        pairs.flop + products * route.each + checked + made + EIGH * (m**3 + n**3) + shapes,
        work=max(pairs.work + route.held, FACTORS * (m**2 + n**2) * WIDE),
        scratch=(pairs.passes + products) * layer.weights * room.itemsize,
        notes=notes,
    )


@dataclass(frozen=True)
class Route:
    """How a layer is multiplied: FLOPs ``each`` time and as it is ``made``, bytes ``held``."""

    each: float
    made: float
    held: float


def layer_route(network: NetworkFacts, room: Room, layer: LayerFacts, examples: int) -> Route:
    """Return the cost of products with a layer's Hessian over so many examples.

    By its factors where they fit; where not, by small chunks' own matrices if these do; otherwise
    what does not fit is differentiated anew.
    """
    m, n, C, size = layer.outputs, layer.inputs, network.classes, layer.weights
    each_example = layer.positions * (n + C * m) * room.itemsize
    own = examples / room.processes
    factors = each_example * own
    pass_bytes = min(room.at_once, COPIES * factors)
    chunk = max(1, min(room.chunk, own, room.at_once // (COPIES * each_example)))
    matrices = ceil(own / chunk) * size**2
    if size <= WHOLE and matrices * room.itemsize <= room.chunks < factors:
        made = examples * 2 * C * (layer.positions * size + size**2)
        each = room.processes * 2 * matrices
        return Route(each, made, matrices * room.itemsize + pass_bytes)
    kept = min(1.0, room.chunks / factors)
    closed = 4 * layer.positions * (size + C * m)  # X, A, A^T and X^T in turn
    again = 4 * network.forward  # at most, of the first layer
    each = examples * (kept * closed + (1 - kept) * again)
    return Route(each, 0.0, min(room.chunks, factors) + pass_bytes)


def factors_flop(network: NetworkFacts, layer: LayerFacts, examples: int) -> float:
    """Return the FLOPs of a layer's Kronecker factors: a backward pass for each class, at most."""
    m, n, C = layer.outputs, layer.inputs, network.classes
    passes = network.forward * (1 + C)
    return examples * (passes + 2 * layer.positions * (C * m**2 + n**2))


def overlap_cost(
    config: Config,
    network: NetworkFacts,
    room: Room,
    layers_room: Room,
    *,
    pairs: int,
    sides: int,
    together: int,
) -> Cost:
    """Return what comparing ``pairs`` of ``sides`` networks costs.

    ``together`` of them are held where not all fit ``room``; the layers' jobs, which found the
    eigenspaces, had ``layers_room``.
    """
    layers = _chosen(config, network)
    found = [(_pairs(config, layer, layers_room), layer.weights) for layer in layers]
    largest = max((k * weights for k, weights in found), default=0) * room.itemsize
    held = sides * largest if sides * largest <= room.basis else together * largest
    return Cost(
        flop=pairs * sum(2 * k**2 * weights for k, weights in found),
        work=held,
        host=sides * network.state * PLAIN,
        disk=PART,
        scratch=pairs * sum(k for k, _ in found) * WIDE,
    )


def bounds_cost(
    config: Config, network: NetworkFacts, room: Room, *, method: str, train: int, test: int
) -> Cost:
    """Return what one bound costs: its optimisation's gradients, its bases, its samples."""
    settings, p = config.bounds, network.parameters
    layers, standard = network.layers, method == "base"
    turned = sum(2 * x.weights * (x.outputs + x.inputs) for x in layers) * (not standard)
    steps = settings.epochs * ceil(train / settings.batch)
    sampled = settings.samples * (2 * settings.batch * network.forward + turned)
    bases = 1 + len(list(basis_changes(settings, method)))
    basis = sum(factors_flop(network, x, train) for x in layers)
    solved = sum(EIGH * (x.outputs**3 + x.inputs**3) for x in layers) * (not standard)
    squares = sum(x.outputs**2 + x.inputs**2 for x in layers) * (not standard)
    factors = max(
        (x.positions * (x.inputs + network.classes * x.outputs) for x in layers), default=0
    )
    at_once = COPIES * min(room.chunk, train) * factors * room.itemsize
    # Mean and scales, each with a gradient and RMSprop's average; a sample and what it is made of.
    numbers = 6 * p + 4 * p + 2 * squares + 2 * settings.batch * network.activations
    return Cost(
        passes=settings.epochs,
        flop=settings.epochs * train * network.gradient
        + 3 * steps * turned
        + bases * (basis + solved)
        + sampled,
        held=(room.images(network, train) + room.images(network, test) + 2 * p) * room.itemsize,
        work=numbers * room.itemsize + min(room.at_once, at_once),
        disk=PART,
        scratch=(4 * p + squares) * room.itemsize,
    )


def theory_cost(settings: Theory) -> Cost:
    """Return what the random two-layer networks cost."""
    flop = work = 0.0
    for n in settings.widths:
        d, C = round(n ** (1 + settings.exponent)), settings.classes
        passes = settings.examples * (2 * n * d + 2 * C * n + 2 * C * n**2)
        flop += len(theory.INPUTS) * len(settings.seeds) * (passes + EIGH * n**3)
        rows = 2 * theory.BATCH * C * n
        work = max(work, n * d * PLAIN + (rows + 4 * n**2) * WIDE)
    return Cost(flop=flop, work=work, disk=PART)
