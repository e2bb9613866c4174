"""Random numbers that a network draws: noticed, and the generators restored."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

Access = tuple[Callable[[], Any], Callable[[Any], Any]]  # reads and sets a generator's state


@contextmanager
def kept_generators(network: nn.Module) -> Iterator[Callable[[], bool]]:
    """Give whether a generator was drawn from within; restore the states at the end.

    The generators are the global ones of Python, NumPy and PyTorch, and those that modules of
    ``network`` have as attributes.
    """
    generators = [*_global(), *_own(network)]
    before = [read() for read, _ in generators]
    drew: list[bool] = []
    try:
        yield lambda: drew[0]
    finally:
        after = [read() for read, _ in generators]
        drew.append(not all(map(_equal, before, after)))
        for (_, restore), state in zip(generators, before, strict=True):
            restore(state)


def _global() -> Iterator[Access]:
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    for i in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        yield (
            lambda i=i: torch.cuda.get_rng_state(i),
            lambda state, i=i: torch.cuda.set_rng_state(state, i),
        )


def _own(network: nn.Module) -> Iterator[Access]:
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):
                yield value.get_state, value.set_state
            elif isinstance(value, random.Random):
                yield value.getstate, value.setstate
            elif isinstance(value, np.random.RandomState):
                yield value.get_state, value.set_state
            elif isinstance(value, np.random.Generator):
                bits = value.bit_generator
                yield (
                    lambda bits=bits: bits.state,
                    lambda state, bits=bits: setattr(bits, "state", state),
                )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return one == other
