"""From a model of the config to a network: this project's families, or the user's own function."""

import torch
from torch import nn

from pipeline.config import Model
from pipeline.data.functions import call_function, function_at
from pipeline.errors import AnatomyError
from pipeline.models.checks import check_network
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
    Raises AnatomyError if a single logit is asked for more than two classes, and, for a user's
    function, as ``call_function`` and ``check_network``.
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
            function = function_at(model.family, "a model's family")
            returned = call_function(
                function, model.family, in_shape, outputs, norm, **model.options
            )
            network = check_network(returned, model.family, norm)
        if init == "xavier":
            network.apply(_xavier)
    return paired(network) if model.single_logit else network


def _xavier(layer: nn.Module) -> None:
    """Initialise a layer as D does: Xavier weights, zero bias."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        if layer.weight.requires_grad:  # frozen weights are the user's
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None and layer.bias.requires_grad:
            nn.init.zeros_(layer.bias)
