"""torchvision's own classifiers, untrained, as a model of the config.

    family: "pipeline.models.torchvision_nets:network"
    image_size: 224
    options: {name: resnet18}

Named so, and not among the project's families, for importing torchvision takes seconds.
"""

from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from pipeline.errors import AnatomyError

CHANNELS = 3


def network(
    in_shape: tuple[int, ...], classes: int, norm: str, *, name: str, **options: Any
) -> nn.Module:
    """Return torchvision's classifier ``name``, its weights drawn anew and none downloaded.

    ``norm: batch`` is the network as published, ``none`` the same with the identity for each
    BatchNorm, where it has any and lets them be chosen (``norm_layer``); ``options`` go to
    torchvision's function.  Raises AnatomyError where the network has no such norm.
    """
    if in_shape[0] != CHANNELS:
        raise AnatomyError(
            f"torchvision's {name} is asked for with images of {in_shape[0]} channels. Its "
            f"networks take {CHANNELS}: choose another model, or other data"
        )
    build = _builder(name)

    def made(**more: Any) -> nn.Module:
        return build(weights=None, num_classes=classes, **options, **more)

    plain = made()
    if _has_batch_norm(plain) == (norm == "batch"):
        return plain
    if norm == "batch":
        raise AnatomyError(
            f"torchvision's {name} has no BatchNorm, and norm: batch is asked for. Let norms be "
            f"[none], or choose another network{_with_batch_norm(name)}"
        )
    bare = made(norm_layer=_identity) if _lets_norms_be_chosen(build, plain) else plain
    if _has_batch_norm(bare):
        raise AnatomyError(
            f"torchvision's {name} cannot be built without BatchNorm, and norm: none is asked for. "
            "Let norms be [batch], or choose another network"
        )
    return bare


def _builder(name: str) -> Callable[..., nn.Module]:
    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, n=3) or known
        raise AnatomyError(
            f"torchvision has no classifier {name!r}. Name one of its own, such as "
            f"{', '.join(near)}"
        )
    return models.get_model_builder(name)


def _has_batch_norm(made: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) for layer in made.modules())


def _lets_norms_be_chosen(build: Callable[..., nn.Module], plain: nn.Module) -> bool:
    return any("norm_layer" in signature(f).parameters for f in (build, type(plain).__init__))


def _with_batch_norm(name: str) -> str:
    return f", such as {name}_bn" if f"{name}_bn" in models.list_models(module=models) else ""


def _identity(_features: int, **_options: Any) -> nn.Module:
    return nn.Identity()
