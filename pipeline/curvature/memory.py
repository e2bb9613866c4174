"""Memory budgets, which depend on the configuration only, and the bytes that chunks hold."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.curvature.attention import plain_attention
from pipeline.curvature.base import LinearOperator
from pipeline.device import all_memory
from pipeline.errors import TooLittleMemoryError

GIB = 2**30
# Default budgets for kept chunks, for a Krylov basis and for a pass, each.  Budgets decide which
# examples and vectors share a pass and which chunks are kept, and so the last digits of results.
# They are numbers, not shares of the memory: results are the same in jobs of any memory.  On a CPU
# the three and a process fit the 4 GB of a default job; on a GPU they fit 24 GiB.
CPU_BUDGET = GIB
GPU_BUDGET = 8 * GIB

Map = Callable[[torch.Tensor], torch.Tensor]


def budget(configured_gb: float | None, device: torch.device) -> int:
    """Return the bytes that kept chunks or a basis may take: as configured, or the default."""
    return pass_budget(device) if configured_gb is None else int(configured_gb * GIB)


def pass_budget(device: torch.device) -> int:
    """Return the bytes that one pass of some vectors over a chunk may take."""
    return CPU_BUDGET if device.type == "cpu" else GPU_BUDGET


def refuse_beyond_memory(needed: float, device: torch.device, what: str, cure: str) -> None:
    """Raise TooLittleMemoryError if ``what`` needs more bytes than the machine or the job has."""
    memory = all_memory(device)
    if needed > memory:
        raise TooLittleMemoryError(
            f"{what} needs {needed / GIB:.3g} GiB, but this job has {memory / GIB:.3g} GiB "
            f"({device.type}). {cure}, or raise resources.<stage>.mem_mb on a cluster"
        )


def refuse_basis_beyond_memory(operator: LinearOperator, vectors: int, room: int) -> None:
    """Raise TooLittleMemoryError if a basis of ``vectors``, in ``room`` bytes, does not fit."""
    p = operator.shape[0]
    needed = min(room, min(vectors, 2 * p) * p * operator.dtype.itemsize)
    what = f"a Krylov basis of dimension {p}"
    refuse_beyond_memory(needed, operator.device, what, "Lower compute.basis_gb")


def activation_bytes(network: nn.Module, inputs: torch.Tensor) -> int:
    """Return the bytes of all layers' outputs for ``inputs``, of what is not a layer's nothing."""
    sizes: list[int] = []

    def count(_layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.nbytes)

    hooks = [m.register_forward_hook(count) for m in network.modules() if not any(m.children())]
    try:
        with torch.no_grad(), plain_attention():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes)


def saved_bytes(function: Map, at: torch.Tensor, others: Sequence[torch.Tensor]) -> int:
    """Return the bytes that autograd keeps for a gradient of ``function`` ``at`` a point.

    The point itself and ``others``, which are there anyway, count nothing.  RuntimeError where the
    function calls torch.func itself.
    """
    saved: list[torch.Tensor] = []  # held, so that no address is taken twice

    def count(tensor: torch.Tensor) -> None:
        saved.append(tensor.detach())

    with torch.enable_grad(), saved_tensors_hooks(count, lambda _: None):
        function(at.detach().requires_grad_())
    return held_bytes(saved, addresses([at, *others]))


def held_bytes(tensors: Sequence[torch.Tensor], known: frozenset[int]) -> int:
    """Return the bytes of the storages of ``tensors``, but for those at the addresses ``known``."""
    storages = [x.untyped_storage() for x in tensors if not x._is_zerotensor()]  # no memory
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for address, size in sizes.items() if address not in known)


def addresses(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """Return where the storages of ``tensors`` begin."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)
