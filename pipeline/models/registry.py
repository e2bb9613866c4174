"""From a model of the config to a network: this project's families, or the user's own function."""

import torch
from torch import nn

from pipeline.config import Model
from pipeline.data.source import function_at
from pipeline.errors import AnatomyError
from pipeline.models.densenet import densenet40
from pipeline.models.fnet import fnet
from pipeline.models.lenet import lenet5
from pipeline.models.pair import paired
from pipeline.models.resnet import resnet18
from pipeline.models.vgg import vgg11

FAMILIES = {
    "fnet": fnet,
    "lenet5": lenet5,
    "vgg11": vgg11,
    "resnet18": resnet18,
    "densenet40": densenet40,
}


def build(
    model: Model, norm: str, in_shape: tuple[int, ...], classes: int, *, init: str, seed: int
) -> nn.Module:
    """Return a freshly initialised network, drawn from the stream seed ``seed``.

    ``init`` is "default" (PyTorch's own) or "xavier".  The global generator is left as it was.
    Raises AnatomyError where a single logit is asked for of more than two classes.
    """
    if model.single_logit and classes != 2:
        raise AnatomyError(
            f"single_logit is set for a network of {classes} classes. It serves two: group the "
            "data set's classes (groups), or leave it out"
        )
    outputs = 1 if model.single_logit else classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.family in FAMILIES:
            options = model.model_dump(exclude={"family", "single_logit"})
            network = FAMILIES[model.family](in_shape, outputs, norm, **options)
        else:
            network = function_at(model.family, "a model's family")(
                in_shape, outputs, norm, **model.options
            )
        if not isinstance(network, nn.Module):
            raise AnatomyError(
                f"{model.family} returned a {type(network).__name__}. It must return a "
                "torch.nn.Module whose output is (N, classes) logits"
            )
        if init == "xavier":
            network.apply(_xavier)
    return paired(network) if model.single_logit else network


def _xavier(layer: nn.Module) -> None:
    """Initialise a layer as D does: Xavier weights, zero bias."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
