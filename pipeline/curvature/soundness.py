"""Checks of a network before it is differentiated: what would make its curvature wrong silently."""

import torch
from torch import nn

from pipeline.curvature.copies import changed, noted, same
from pipeline.curvature.network import FlatNetwork
from pipeline.device import rounding
from pipeline.errors import AnatomyError, ArgumentError
from pipeline.models.randomness import kept_generators

NAMED = 3  # parameters that an error names
CURE = "Let normalizations use running statistics in eval mode"  # if examples are mixed


@torch.no_grad()
def check_network(network: FlatNetwork, inputs: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return the logits (N, C) of a few ``inputs`` after all checks.

    ``network`` is the copy of the caller's ``model``.

    A network that writes to its inputs or buffers is called on copies of them. Raises ArgumentError
    if it does not run or returns no logits, AnatomyError if its curvature is not defined or would
    miss a part.
    """
    module = network.module
    buffers = dict(module.named_buffers(remove_duplicate=False))
    written = {"the inputs": inputs.clone(), **buffers}
    before, parameters = noted(written), noted(dict(module.named_parameters()))
    with kept_generators(module) as drew:
        logits = _first_call(network, written["the inputs"])
        written.update(module.named_buffers(remove_duplicate=False))
        if changed(written, before):
            for name, buffer in buffers.items():
                owner, _, own = name.rpartition(".")
                buffer.data = before[name][2]
                module.get_submodule(owner)._buffers[own] = buffer
            network.copy_what_it_writes_to()
        again = network(inputs.clone())  # in the layout of the first: rounding depends on it
    _refuse_written(changed(dict(module.named_parameters()), parameters))
    if drew():
        raise AnatomyError(
            "the network draws random numbers in eval mode, so that its curvature is not defined. "
            "Give F.dropout training=self.training, or leave the noise out"
        )
    if not same(logits, again):
        raise AnatomyError(
            "the network returns other logits at a second call with the same inputs, so that its "
            "curvature is not defined. Leave out what it changes from call to call"
        )
    _refuse_mixed_examples(network, inputs, logits)
    _refuse_hidden_parameters(network, inputs, model)
    return logits


def _refuse_written(names: list[str]) -> None:
    """Raise AnatomyError if the network writes to its parameters."""
    if names:
        raise AnatomyError(
            f"the network writes to its parameters in forward ({', '.join(names[:NAMED])}), as "
            "max_norm of nn.Embedding does, so that its curvature is not defined. Leave that out"
        )


def _first_call(network: FlatNetwork, inputs: torch.Tensor) -> torch.Tensor:
    try:
        logits = network(inputs)
    except (torch.OutOfMemoryError, AnatomyError):
        raise
    except Exception as error:
        raise ArgumentError(
            f"the network fails on inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: "
            f"{type(error).__name__}: {error}. Give inputs of the shape and type that it takes"
        ) from error
    if logits.ndim != 2 or len(logits) != len(inputs) or not logits.is_floating_point():
        raise ArgumentError(
            f"the network's output has shape {tuple(logits.shape)} and {logits.dtype} for "
            f"{len(inputs)} examples. It should be (N, C) logits"
        )
    return logits


def _refuse_mixed_examples(
    network: FlatNetwork, inputs: torch.Tensor, logits: torch.Tensor
) -> None:
    """Raise AnatomyError if the logits of an example depend on the other examples."""
    try:
        apart = torch.cat([_first_call(network, some) for some in inputs.split(1)])
    except ArgumentError as error:
        cause = error.__cause__ or error
        raise AnatomyError(
            f"the network runs on {len(inputs)} examples but not on one: {type(cause).__name__}: "
            f"{cause}. {CURE}"
        ) from error
    allowed = rounding(apart.device, apart.dtype) ** 0.5 * logits.abs().amax()
    if bool(((apart - logits).abs() > allowed).any()):
        raise AnatomyError(
            "the network's logits of an example depend on the other examples of its batch, so that "
            f"its curvature is not defined. {CURE}"
        )


def _refuse_hidden_parameters(network: FlatNetwork, inputs: torch.Tensor, model: nn.Module) -> None:
    """Raise AnatomyError if the network reads parameters that derivatives would miss."""
    hidden = network.hidden(inputs, model)
    if not hidden:
        return
    more = f" and {len(hidden) - NAMED} more" if len(hidden) > NAMED else ""
    raise AnatomyError(
        f"the network reads {', '.join(hidden[:NAMED])}{more} otherwise than as attributes of its "
        "modules (from a list or a closure, say), so that derivatives would miss them. Read each "
        "parameter as self.<name> in forward"
    )
