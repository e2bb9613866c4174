"""What a job's cost depends on: a data set's sizes and a network's, without training or data."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.catalogue import SOURCES
from pipeline.config import Dataset, Model
from pipeline.curvature.layer import input_and_output, layer_names
from pipeline.curvature.memory import activation_bytes
from pipeline.data.examples import open_source
from pipeline.errors import AnatomyError
from pipeline.image_size import image_size
from pipeline.models.registry import build


@dataclass(frozen=True)
class DataFacts:
    """A data set's images (channels, height, width) as read, its classes and its splits' sizes."""

    shape: tuple[int, ...]
    classes: int
    train: int
    test: int

    def examples(self, split: str, n_per_class: int) -> int:
        """Return how many examples of a split a run sees."""
        if split == "train" and n_per_class:
            return n_per_class * self.classes
        return getattr(self, split)


@dataclass(frozen=True)
class LayerFacts:
    """A layer with weight (outputs, inputs), applied at ``positions`` of each example."""

    name: str
    outputs: int
    inputs: int
    positions: int

    @property
    def weights(self) -> int:
        """How many numbers its weight has."""
        return self.outputs * self.inputs


@dataclass(frozen=True)
class NetworkFacts:
    """A network on a data set: sizes in numbers, costs in FLOPs (two for each multiply-add).

    ``parameters`` is p, ``state`` what a checkpoint holds, ``inputs`` the numbers of an example,
    ``activations`` those of its layers' outputs.  ``forward`` is one example's forward,
    ``backward`` what its gradient takes beyond.
    """

    parameters: int
    state: int
    inputs: int
    classes: int
    activations: int
    forward: int
    backward: int
    layers: tuple[LayerFacts, ...]

    @property
    def gradient(self) -> int:
        """The FLOPs of an example's gradient."""
        return self.forward + self.backward

    def product(self, matrix: str, *, kept: float) -> float:
        """Return an example's FLOPs of a product with "G", "Hess" or "H".

        Of H, and of Hess made anew, at most.

        ``kept`` is the share of the examples that stay linearised.  There J v and J^T u cost a
        backward each, and the tangent of a backward three backwards less two forwards: layers that
        see data alone take one matrix product in it, the others four, where a backward takes one
        and two.  Made anew, what it reads takes a forward and the backward to the activations.
        """
        if matrix == "G":
            return kept * 2 * self.backward + (1 - kept) * (3 * self.forward + self.backward)
        held = 4 * self.backward - 2 * self.forward
        return held + (1 - kept) * self.backward

    def component(self, *, kept: float) -> float:
        """Return an example's FLOPs of a product with a component of G: J, then J^T, apart."""
        return kept * 2 * self.backward + (1 - kept) * (4 * self.forward + self.backward)

    def pushed(self, *, kept: float) -> float:
        """Return an example's FLOPs of J v."""
        return kept * self.backward + (1 - kept) * 3 * self.forward


def data_facts(dataset: Dataset, data_root: str) -> DataFacts:
    """Return what is known of a data set: from the catalogue, or else from its files.

    Groups of a catalogue's classes are taken to be as large as its classes are on average.
    """
    facts = SOURCES.get(dataset.source)
    if facts is None:
        return _read_facts(dataset, data_root)
    cropped = dataset.image_size if dataset.source == "imagenet" else None
    shape = (facts.channels, *[cropped or facts.size] * 2)
    if dataset.groups is None:
        return DataFacts(shape, facts.classes, facts.train, facts.test)
    share = sum(len(group) for group in dataset.groups) / facts.classes
    train, test = round(share * facts.train), round(share * facts.test)
    return DataFacts(shape, len(dataset.groups), train, test)


def _read_facts(dataset: Dataset, data_root: str) -> DataFacts:
    """Return the facts of image folders and of users' own sources, which only reading tells."""
    dataset = dataset.resolved()
    train, test = (
        open_source(dataset, split, data_root=data_root, download=False)
        for split in ("train", "test")
    )
    shape = tuple(train.read(np.array([0])).shape[1:])
    return DataFacts(shape, len(train.class_names), len(train.labels), len(test.labels))


def network_facts(model: Model, norm: str, data: DataFacts) -> NetworkFacts:
    """Return what is known of a network; FLOPs are PyTorch's count of products and convolutions.

    It is built without memory for its numbers, but where it looks at them as it is built.
    """
    try:
        return _facts_on("meta", model, norm, data)
    except (AnatomyError, NotImplementedError, RuntimeError):
        return _facts_on("cpu", model, norm, data)


def _facts_on(device: str, model: Model, norm: str, data: DataFacts) -> NetworkFacts:
    size = image_size(model)
    shape = data.shape if size is None else (data.shape[0], size, size)
    with torch.device(device):
        network = build(model, norm, shape, data.classes, init="default", seed=0).eval()
        example = torch.zeros(1, *shape)
    logits: list[torch.Tensor] = []
    forward = _counted(lambda: logits.append(network(example)))
    backward = _counted(lambda: logits[0].sum().backward())
    return NetworkFacts(
        parameters=sum(p.numel() for p in network.parameters()),
        state=sum(tensor.numel() for tensor in network.state_dict().values()),
        inputs=prod(shape),
        classes=logits[0].shape[1],
        activations=activation_bytes(network, example) // example.itemsize,
        forward=forward,
        backward=backward,
        layers=_layers(network, example),
    )


def _counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _layers(network: nn.Module, example: torch.Tensor) -> tuple[LayerFacts, ...]:
    """Return the layers that can be dissected: those applied once."""
    found = []
    for name in layer_names(network):
        weight = network.get_submodule(name).weight
        try:
            _, u = input_and_output(network, name, example)
        except AnatomyError:
            continue
        outputs = len(weight)
        found.append(LayerFacts(name, outputs, weight[0].numel(), u.numel() // outputs))
    return tuple(found)
