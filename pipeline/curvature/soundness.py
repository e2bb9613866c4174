"""Checks of a network before it is differentiated: what would make its curvature wrong silently."""

import torch
from torch import nn

from pipeline.curvature.network import FlatNetwork
from pipeline.device import rounding
from pipeline.errors import AnatomyError, ArgumentError
from pipeline.models.randomness import kept_generators

NAMED = 3  # parameters that an error names


@torch.no_grad()
def check_network(network: FlatNetwork, inputs: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return the logits (N, C) of a few ``inputs`` after all checks.

    ``network`` is the copy of the caller's ``model``; from now on it works on copies of its inputs
    if it writes to them. Raises ArgumentError if the network does not run or returns no logits,
    AnatomyError if two calls differ, if it draws random numbers, if it changes its own tensors, if
    an example's logits depend on the other examples, or if it reads parameters otherwise than as
    attributes of its modules.
    """
    given = inputs.clone()
    state = {name: tensor.clone() for name, tensor in network.state.items()}
    with kept_generators(network.module) as drew:
        logits = _first_call(network, given)
        # A network without this would change the caller's data, and its own at each call.
        if not same(given, inputs):
            network.keep_inputs()
        again = _first_call(network, inputs)
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
    for name, tensor in network.state.items():
        if not same(tensor, state[name]):
            raise AnatomyError(
                f"the network changes {name} in eval mode, so that its curvature is not defined. "
                "Let it do so only if self.training"
            )
    if len(inputs) > 1:
        _refuse_mixed_examples(logits, _first_call(network, inputs[:1]))
    _refuse_hidden_parameters(network, inputs, model)
    return logits


def _refuse_mixed_examples(together: torch.Tensor, single: torch.Tensor) -> None:
    """Raise AnatomyError if the first example's logits differ without the others."""
    allowed = rounding(together.device, together.dtype) ** 0.5 * together.abs().amax()
    if bool(((single - together[:1]).abs() > allowed).any()):  # NaN passes: products are NaN too
        raise AnatomyError(
            "the logits of an example depend on the other examples of its batch, so that results "
            "would depend on the chunk. Use running statistics (training=self.training)"
        )


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are equal, NaN counting as equal to itself."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


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
