"""PyTorch's modes of the calling thread, which an operator's products do not follow."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def default_modes() -> Iterator[None]:
    """Run what is within without the caller's inference mode, no_grad and autocast.

    Under inference_mode autograd records nothing, so that Hess would be zero.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def outside_inference(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor``, a copy if it was made under inference_mode: autograd refuses these."""
    return tensor.clone() if tensor.is_inference() else tensor
