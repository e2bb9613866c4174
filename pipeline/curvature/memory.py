"""What linearised chunks hold, and what they may hold."""

from collections.abc import Callable, Iterator

import psutil
import torch
from torch import nn

SHARE_OF_FREE = 0.4  # of free memory, where the config names no budget; others need some too
GIB = 2**30


def budget(memory_gb: float | None, device: torch.device) -> int:
    """Return the bytes that kept chunks may take: as told, or a share of what is free now."""
    if memory_gb is not None:
        return int(memory_gb * GIB)
    if device.type == "cuda":
        return int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE_OF_FREE * psutil.virtual_memory().available)


def held_bytes(tangent: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """Return the bytes that a tangent map of ``linearize`` keeps: its folded constants."""
    cells = [cell.cell_contents for cell in tangent.__closure__ or ()]
    graphs = [cell for cell in cells if isinstance(cell, nn.Module)]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for graph in graphs
        for tensor in _tensors(graph)
    }
    return sum(storages.values())


def _tensors(graph: nn.Module) -> Iterator[torch.Tensor]:
    for module in graph.modules():
        for value in (*module.__dict__.values(), *module._parameters.values()):
            if isinstance(value, torch.Tensor):
                yield value
        yield from module.buffers(recurse=False)


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
