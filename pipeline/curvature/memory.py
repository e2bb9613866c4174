"""What linearised chunks hold, and what they may hold."""

import psutil
import torch
from torch import nn

SHARE_OF_FREE = 0.4  # of free memory, where the config names no budget; others need some too
SHARE_FOR_BASIS = 0.25  # of all memory
GIB = 2**30


def budget(memory_gb: float | None, device: torch.device) -> int:
    """Return the bytes that kept chunks may take: as told, or a share of what is free now."""
    if memory_gb is not None:
        return int(memory_gb * GIB)
    if device.type == "cuda":
        return int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE_OF_FREE * psutil.virtual_memory().available)


def basis_budget(basis_gb: float | None, device: torch.device) -> int:
    """Return the bytes that a Krylov basis may take: as told, or a share of all there is.

    Of all, not of what is free: it decides more than rounding, and should not vary by the hour.
    """
    if basis_gb is not None:
        return int(basis_gb * GIB)
    if device.type == "cuda":
        return int(SHARE_FOR_BASIS * torch.cuda.mem_get_info(device)[1])
    return int(SHARE_FOR_BASIS * psutil.virtual_memory().total)


def activation_bytes(network: nn.Module, inputs: torch.Tensor) -> int:
    """Return the bytes of all layers' outputs for ``inputs``: a guess before anything is kept."""
    sizes: list[int] = []

    def count(_layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.nbytes)

    hooks = [m.register_forward_hook(count) for m in network.modules() if not any(m.children())]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes)
