"""Checks of a network before it is trained: its parameters, its norm and its outputs."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from pipeline.config import Model
from pipeline.data.functions import described
from pipeline.errors import AnatomyError
from pipeline.models.randomness import kept_generators

TRIAL = 4  # random images that a network is tried on
# Two forwards of the same images may differ by rounding on a GPU; those of fewer images by TF32.
REPEATED, REBATCHED = 1e-5, 1e-2


def check_network(network: Any, family: str, norm: str) -> nn.Module:
    """Return what a user's function built, or refuse it.  Nothing is computed.

    Refused are anything but a module, no parameter to train, parameters that are not all float32,
    parameters without a size yet, and a network that has not the ``norm`` it was built for.
    """
    if not isinstance(network, nn.Module):
        raise AnatomyError(
            f"{family} returned {_a(network)}. Return a torch.nn.Module whose output is (N, "
            "classes) logits"
        )
    parameters = dict(network.named_parameters())
    lazy = [name for name, parameter in parameters.items() if is_lazy(parameter)]
    if lazy:
        raise AnatomyError(
            f"{family}: the parameter {lazy[0]} has no size yet (a Lazy module). Give its layer "
            "the number of its inputs"
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        problem = (
            "all parameters are frozen (requires_grad is False)"
            if parameters
            else ("the network has no parameters")
        )
        raise AnatomyError(f"{family}: {problem}. Leave at least one to train")
    wrong = {n: p.dtype for n, p in parameters.items() if p.dtype != torch.float32}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise AnatomyError(
            f"{family}: the parameter {name} is {dtype}. Training is in float32: return "
            "network.float(); a run is opened in another dtype by open_run"
        )
    normalised = any(isinstance(layer, _BatchNorm) for layer in network.modules())
    if norm == "none" and normalised:
        raise AnatomyError(
            f"{family}: the network built for norm none has BatchNorm. Leave it out if norm is "
            "none, or let norms be [batch]"
        )
    custom = any("norm" in type(layer).__name__.lower() for layer in network.modules())
    if norm == "batch" and not (normalised or custom or any(True for _ in network.buffers())):
        raise AnatomyError(
            f"{family}: the network built for norm batch has no BatchNorm. Add it if norm is "
            "batch, or let norms be [none]"
        )
    return network


def check_outputs(
    network: nn.Module, model: Model, in_shape: tuple[int, ...], classes: int
) -> None:
    """Refuse a network whose outputs are not (N, classes) logits that depend on each image alone.

    It is tried on four random images on its own device: three forwards in eval mode, and a forward
    and a backward of a copy in training mode.
    """
    family = model.family
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(TRIAL, *in_shape, generator=generator).to(device)
    network.eval()
    with kept_generators(network) as drew, torch.no_grad():
        outputs = _forward(network, inputs, model, classes)
        again = _forward(network, inputs, model, classes)
        some = _forward(network, inputs[:2], model, classes)
    _check_logits(family, outputs)
    scale = float(outputs.abs().max())
    if drew() or float((again - outputs).abs().max()) > REPEATED * scale:
        raise AnatomyError(
            f"{family}: the network is random in eval mode. Use nn.Dropout, or F.dropout(..., "
            "training=self.training), and no other random number in forward"
        )
    if float((some - outputs[:2]).abs().max()) > REBATCHED * scale:
        raise AnatomyError(
            f"{family}: in eval mode the logits of an image depend on the other images of its "
            "batch. Use running statistics (track_running_stats=True, training=self.training)"
        )
    copied = deepcopy(network)
    copied.train()
    with kept_generators(copied):
        _forward(copied, inputs, model, classes, backward=True)


def _check_logits(family: str, outputs: torch.Tensor) -> None:
    if not outputs.isfinite().all():
        raise AnatomyError(
            f"{family}: the logits of random images are NaN or infinite before training. Correct "
            "the network or its initialisation"
        )
    if (outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-4:
        raise AnatomyError(
            f"{family}: the outputs are probabilities: not negative, and each row sums to 1. "
            "Return logits, without the softmax: the loss applies it"
        )


def _forward(
    network: nn.Module,
    inputs: torch.Tensor,
    model: Model,
    classes: int,
    *,
    backward: bool = False,
) -> torch.Tensor:
    """Return the logits; refuse a forward or backward that fails, and outputs of another shape."""
    family, hook = model.family, None
    if model.single_logit:  # the input of the last module is the output of the user's network

        def check_logit(_: nn.Module, given: tuple[Any, ...]) -> None:
            _check_shape(family, given[0], (len(inputs), 1), "logit (single_logit)")

        hook = network.get_submodule("pair").register_forward_pre_hook(check_logit)
    try:
        outputs = network(inputs)
        _check_shape(family, outputs, (len(inputs), classes), "classes")
        if backward:
            outputs.logsumexp(1).sum().backward()
    except (AnatomyError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        mode = "training" if network.training else "eval"
        raise AnatomyError(
            f"{family}: the network fails in {mode} mode on {len(inputs)} images of shape "
            f"{tuple(inputs.shape[1:])}: {described(error)}. Correct it, or the images' size "
            "(image_size)"
        ) from error
    finally:
        if hook:
            hook.remove()
    return outputs


def _check_shape(family: str, outputs: Any, expected: tuple[int, int], of: str) -> None:
    if not isinstance(outputs, torch.Tensor):
        problem = f"the output is {_a(outputs)}"
    elif outputs.ndim == 2 and len(outputs) == expected[0] and outputs.shape[1] != expected[1]:
        problem = f"the network has {outputs.shape[1]} outputs for {expected[1]} {of}"
    elif tuple(outputs.shape) != expected:
        problem = f"the output for {expected[0]} images has shape {tuple(outputs.shape)}"
    else:
        return
    raise AnatomyError(f"{family}: {problem}. Return a tensor of shape (N, {expected[1]})")


def _a(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
