"""Ranks of a data-parallel job: each holds a share of the examples, and sums meet on all."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from pipeline.data.streamed import Inputs, part
from pipeline.errors import AnatomyError

LONGER_THAN_ANY_JOB = timedelta(days=365)


def ranks() -> tuple[int, int]:
    """Return this process's rank and how many there are: (0, 1) outside a data-parallel job."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def own_share(examples: Inputs) -> Inputs:
    """Return this rank's share of the rows: every rank gets as many, to within one."""
    rank, world = ranks()
    return part(examples, slice(rank, None, world))


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor``, now holding the sum over all ranks, equal to the last bit on each."""
    if ranks()[1] > 1:
        distributed.all_reduce(tensor)
    return tensor


def least_over_ranks(count: int, device: torch.device) -> int:
    """Return the smallest ``count`` of any rank, so that all go on from the same place."""
    if ranks()[1] == 1:
        return count
    least = torch.tensor(count, device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return int(least)


@contextmanager
def refused_together(device: torch.device) -> Iterator[None]:
    """Let an AnatomyError of one rank be one of all, so that none waits for another's sums."""
    own = None
    try:
        yield
    except AnatomyError as error:
        own = error
    if least_over_ranks(int(own is None), device):
        return
    raise own or AnatomyError("another process of this job was refused: it says why")


def from_first_rank(value: Any) -> Any:
    """Return the first rank's ``value`` on every rank."""
    if ranks()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if ranks()[1] > 1:
        distributed.barrier()


def wait_for_lock() -> None:
    """Return when every rank has come here, of which the first may wait for another job's end.

    PyTorch ends a collective after 10 minutes on GPUs, after 30 on CPUs.
    """
    if ranks()[1] > 1:
        # A GPU's own backend would keep it at work meanwhile.
        distributed.barrier(distributed.new_group(backend="gloo", timeout=LONGER_THAN_ANY_JOB))
