"""What linearised chunks hold, and what they may hold."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.curvature.attention import plain_attention
from pipeline.device import all_memory

# Of all memory, where the config names no budget.  Not of what is free: results depend on these, if
# only to rounding, and should not vary by the hour.
SHARE_FOR_CHUNKS = 0.25
SHARE_FOR_BASIS = 0.25
SHARE_FOR_PASS = 0.1
GIB = 2**30

Map = Callable[[torch.Tensor], torch.Tensor]


def budget(memory_gb: float | None, device: torch.device) -> int:
    """Return the bytes that kept chunks may take: as told, or a share of all there is."""
    if memory_gb is not None:
        return int(memory_gb * GIB)
    return int(SHARE_FOR_CHUNKS * all_memory(device))


def basis_budget(basis_gb: float | None, device: torch.device) -> int:
    """Return the bytes that a Krylov basis may take: as told, or a share of all there is."""
    if basis_gb is not None:
        return int(basis_gb * GIB)
    return int(SHARE_FOR_BASIS * all_memory(device))


def pass_budget(device: torch.device) -> int:
    """Return the bytes that one pass of some vectors over a chunk may take."""
    return int(SHARE_FOR_PASS * all_memory(device))


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
