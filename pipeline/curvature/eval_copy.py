"""Copies of networks in eval mode, whose parameters can be exchanged."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.curvature.copies import deep_copy
from pipeline.errors import ArgumentError
from pipeline.modes import outside_inference

# Wrappers that only pass calls on to the network that they hold, by the attribute that holds it.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network without wrappers; ArgumentError if it is no torch.nn.Module."""
    while type(model).__name__ in WRAPPERS and isinstance(model, nn.Module):
        model = getattr(model, WRAPPERS[type(model).__name__])
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model is a {type(model).__name__}. Give a torch.nn.Module that returns logits"
        )
    return model


@contextmanager
def differentiated(model: nn.Module) -> Iterator[None]:
    """Let all parameters of ``model`` require gradients within."""
    frozen = [x for x in model.parameters() if x.is_leaf and not x.requires_grad]
    frozen = [x for x in frozen if not x.is_inference()]
    try:
        for parameter in frozen:
            parameter.requires_grad_()
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def eval_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the network in eval mode, without its wrappers and without graphs."""
    model = unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError(
            "model is a TorchScript module, whose parameters cannot be exchanged. Give the "
            "torch.nn.Module that it was made from"
        )
    lazy = nn.parameter.UninitializedTensorMixin
    if any(isinstance(x, lazy) for x in (*model.parameters(), *model.buffers())):
        raise ArgumentError(
            "model has lazy parameters without a shape. Call it once on an example first"
        )
    module = deep_copy(model)
    module.eval()  # a network's own train() need not return it
    module.requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            layer.forward = partial(_recurrence, layer)
    for parameter in module.parameters():
        parameter.data = outside_inference(parameter.data)
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = outside_inference(buffer)
    return module


def refuse_types(parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise ArgumentError if the parameters are none, or not of one floating type and device."""
    if not parameters:
        raise ArgumentError("model has no parameters, so that it has no Hessian")
    for kind, of in (("types", lambda x: x.dtype), ("devices", lambda x: x.device)):
        seen = {str(of(parameter)): name for name, parameter in parameters.items()}
        if len(seen) > 1:
            shown = ", ".join(f"{name} {value}" for value, name in seen.items())
            raise ArgumentError(
                f"model has parameters of several {kind} ({shown}). Move all to one, such as "
                "model.float() or model.to(device)"
            )
    name, first = next(iter(parameters.items()))
    if first.device.type == "meta" and type(first) is nn.Parameter:
        raise ArgumentError(
            f"model has parameters without numbers ({name} is on the meta device). Load them "
            "first, with model.to_empty(device=...) and model.load_state_dict(...)"
        )
    if first.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"model has parameters of {first.dtype} ({name}), too coarse or of the wrong kind for "
            "second derivatives. Call model.float() or model.double() first"
        )


def _recurrence(layer: nn.RNNBase, *args: Any, **kwargs: Any) -> Any:
    """Return what a recurrent layer returns for the parameters that it has now.

    It reads them from a list of its own, which exchanged ones do not enter. Fused kernels have no
    second derivative.
    """
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    try:
        with torch.backends.mkldnn.flags(False), torch.backends.cudnn.flags(False):
            return type(layer).forward(layer, *args, **kwargs)
    finally:
        layer._flat_weights = []
