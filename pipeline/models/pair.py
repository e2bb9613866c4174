"""A single logit z of a binary task as the pair (0, z): softmax then is logistic regression."""

from collections import OrderedDict

import torch
from torch import nn


class Pair(nn.Linear):
    """The map z -> (0, z), linear and without parameters: no optimiser or instrument moves it."""

    def __init__(self) -> None:
        super().__init__(1, 2, bias=False)
        del self.weight
        self.register_buffer("weight", torch.tensor([[0.0], [1.0]]), persistent=False)


def paired(network: nn.Module) -> nn.Module:
    """Return a network of one output z with the output (0, z); a plain sequence stays one.

    Source: D, PAC-Bayes bounds (networks of a binary task have a single logit).
    """
    if isinstance(network, nn.Sequential):
        network.add_module("pair", Pair())
        return network
    return nn.Sequential(OrderedDict(network=network, pair=Pair()))
