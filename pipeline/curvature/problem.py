"""A classifier and its examples as curvature sees them: logits of flat parameters, in chunks."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import nn

from pipeline.arguments import checked_count, checked_flag, checked_number
from pipeline.curvature.derivatives import load_forward_mode
from pipeline.curvature.given import Data, as_network_takes, inputs_and_labels, refuse_labels
from pipeline.curvature.loss import label_mask, relative_logits
from pipeline.curvature.memory import (
    activation_bytes,
    budget,
    pass_budget,
    refuse_beyond_memory,
    saved_bytes,
)
from pipeline.curvature.network import FlatNetwork
from pipeline.curvature.parallel import least_over_ranks, own_share
from pipeline.curvature.soundness import check_network
from pipeline.data.streamed import Inputs, part
from pipeline.device import one_precision
from pipeline.modes import default_modes
from pipeline.progress import say_once

# Bytes that a linearised chunk holds, and that a vector's pass over it takes, in bytes of its
# layers' outputs or of what autograd keeps for them, at most: LeNet5's chunks hold 1.8 of its
# outputs, DenseNet40's 2.3.
GUESS = 6

# Channels of the widest convolution, times examples, from which on several vectors at once gain
# nothing on a CPU.  LeNet5's products, of 16 channels, take .6 of the time in blocks of 8 with 30
# examples, .8 with 100, .95 with 400, 1.1 with 1000; VGG11's, of 512, no less with 1 to 16.
WORK = 4096

# Vectors that share a pass where nobody says: 5 to 15 % faster than one by one on F-200^2 on a CPU,
# more on smaller networks.
VECTORS = 8

# Examples on which a network is tried before it is differentiated.
TRIED = 2

# Examples of a float64 forward on a CPU: with 1000, LeNet5's takes 1.7 times as long.
IN_CACHE = 128


class Options(TypedDict, total=False):
    """How an operator is evaluated; none of it changes more than rounding.

    ``chunk`` examples are linearised at once, and kept while they fit ``memory_gb`` GiB (default: 1
    on a CPU, 8 on a GPU); the others at each product, which takes up to half as long again, of G
    about twice as long.  ``vectors`` columns of a block share a pass over the data (default: 8).
    Both are upper bounds: a pass may take 1 GiB on a CPU, 8 GiB on a GPU, by an estimate that
    depends on the network only.  ``compiled`` products go through torch.compile.
    """

    chunk: int
    memory_gb: float | None
    compiled: bool
    vectors: int | None


@dataclass(frozen=True)
class Chunk:
    """Some of the examples: ``source`` of their inputs and the mask of true classes (n, C).

    ``correction`` (n, C) is what z - z_y at theta lacks in the network's own precision.
    """

    source: Inputs
    mask: torch.Tensor
    correction: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def inputs(self) -> torch.Tensor:
        """The inputs (n, ...); where they are streamed, read anew each time."""
        return self.source[:]

    def relative(self, logits: torch.Tensor) -> torch.Tensor:
        """Return z - z_y (n, C) of logits at theta, or near it, as float64 has them."""
        return relative_logits(logits, self.mask, self.correction)


class Problem:
    """A network and N examples; the loss is the mean over all N, so short chunks weigh less.

    In a data-parallel job it holds this rank's share of the examples, and N counts all of them.
    On a GPU convolutions follow the switch of matrix products, torch.backends.cuda.matmul's: no
    TF32 unless it is asked for there.
    """

    @default_modes()
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        only: Sequence[str] | None = None,
        chunk: int = 1000,
        memory_gb: float | None = None,
        compiled: bool = False,
        vectors: int | None = None,
    ) -> None:
        checked_count(chunk, "chunk")
        checked_flag(compiled, "compiled")
        if memory_gb is not None:
            checked_number(memory_gb, "memory_gb", least=0)
        if vectors is not None:
            checked_count(vectors, "vectors")
        inputs, labels = inputs_and_labels(data)
        self.network = FlatNetwork(model, only)
        theta = self.network.theta
        one_precision(theta.device)
        self.examples = len(labels)
        logits = check_network(self.network, as_network_takes(inputs[:TRIED], theta), model)
        self.classes = logits.shape[1]
        refuse_labels(labels, self.classes)
        self.inputs = as_network_takes(own_share(inputs), theta)
        self.labels = own_share(labels).to(theta.device)
        self.memory = budget(memory_gb, theta.device)
        self.compiled = compiled
        self.one_by_one = False
        load_forward_mode()
        self.bytes_per_example = self._guess(as_network_takes(inputs[:1], theta))
        # A pass is bounded too, its vectors first. The bound does not depend on the memory.
        at_once = max(1, pass_budget(theta.device) // max(1, self.bytes_per_example))
        self.chunk = min(chunk, at_once)
        share = min(self.chunk, max(1, len(self.labels)))
        fit = max(1, min(vectors or VECTORS, at_once // share))
        self.vectors = least_over_ranks(fit, theta.device)  # all ranks meet as often
        refuse_beyond_memory(
            share * self.vectors * self.bytes_per_example / GUESS,  # the least that a pass takes
            theta.device,
            f"a pass over {share} examples with {self.vectors} vectors",
            "Lower compute.chunk or compute.vectors",
        )

    def vectorize(self) -> bool:
        """Return whether several vectors share a pass over kept chunks."""
        examples = min(self.chunk, len(self.labels))
        on_cpu = self.network.theta.device.type == "cpu"
        too_wide = on_cpu and self.network.channels * examples >= WORK
        return not (too_wide or self.one_by_one)

    def shares_recomputed(self) -> bool:
        """Return whether several vectors share a pass that evaluates the network again."""
        return not self.one_by_one

    @cached_property
    def plain(self) -> bool:
        """Whether torch.func cannot follow the network, so that plain autograd differentiates it.

        A user's own autograd.Function without setup_context is such, or one that vmap cannot take,
        or a network that chooses by its numbers.
        """
        example = self.inputs[:1]
        why = self.network.refusal(example) if len(example) else None  # a rank may have none
        if why is not None:
            say_once(f"torch.func cannot follow the network, plain autograd does: {why}")
        return why is not None

    @property
    def about(self) -> dict[str, Any]:
        """The dimension, dtype and device of operators on this problem."""
        theta = self.network.theta
        return {"dimension": theta.numel(), "dtype": theta.dtype, "device": theta.device}

    def chunks(self, size: int | None = None) -> Iterator[Chunk]:
        """Yield the own examples in order, ``chunk`` at a time, the last possibly shorter."""
        size = size or self.chunk
        for start in range(0, len(self.labels), size):
            stop = start + size
            mask = label_mask(self.labels[start:stop], self.classes)
            source = part(self.inputs, slice(start, stop))
            yield Chunk(source, mask, self.correction[start:stop])

    def of_class(self, true_class: int) -> "Problem":
        """Return the same with the examples of one class alone; means are still over all N."""
        own = copy.copy(self)
        chosen = self.labels == true_class
        own.inputs, own.labels = part(self.inputs, chosen), self.labels[chosen]
        own.__dict__.pop("correction", None)
        return own

    @cached_property
    @torch.no_grad()
    def correction(self) -> torch.Tensor:
        """(z - z_y in float64) - (z - z_y as computed), zero where float64 cannot be had.

        It depends on which examples share a pass, to rounding.
        """
        theta = self.network.theta
        zero = torch.zeros(len(self.labels), self.classes, dtype=theta.dtype, device=theta.device)
        if theta.dtype == torch.float64 or not len(zero):
            return zero
        found = []
        for start in range(0, len(self.labels), self.chunk):
            inputs = self.inputs[start : start + self.chunk]
            mask = label_mask(self.labels[start : start + self.chunk], self.classes)
            exact = self.exact_relative(inputs, mask)
            if exact is None:
                return zero
            rounded = relative_logits(self.network.logits(theta, inputs), mask)
            found.append((exact - rounded.double()).to(theta.dtype))
        return torch.cat(found)

    @cached_property
    def _in_double(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.network.in_double()

    @torch.no_grad()
    def exact_relative(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """Return z - z_y (n, C) in float64, None if the network insists on a type of its own."""
        size = IN_CACHE if inputs.device.type == "cpu" else max(1, len(inputs))
        try:
            logits = torch.cat([self._in_double(some) for some in inputs.split(size)])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            say_once(
                f"float64 logits cannot be had, those of a fitted network stay as rounded: {error}"
            )
            return None
        return relative_logits(logits, mask)

    def _guess(self, example: torch.Tensor) -> int:
        """Return the bytes that an example takes, before any is measured.

        What a network does beside its layers, its own attention say, autograd's savings tell.
        """
        network, anyway = self.network, [example, *self.network.tensors]
        of_layers = activation_bytes(network.module, example)
        try:
            saved = saved_bytes(lambda at: network.logits(at, example), network.theta, anyway)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # of a network that calls torch.func itself they cannot be counted
            saved = 0
        return GUESS * max(of_layers, saved)
