"""How networks are trained: recipes, and sweeps of the learning rate."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.settings import Epoch, Settings


class Sweep(Settings):
    """Learning rates to try: those named, or some between two, evenly by their logarithm."""

    rates: tuple[PositiveFloat, ...] | None = None
    low: PositiveFloat | None = None
    high: PositiveFloat | None = None
    count: Annotated[int, Field(ge=2)] | None = None
    keep: bool = Field(
        True,
        description="keep every candidate's networks; false deletes them once the best is chosen, "
        "and a rate that is added later trains them all again",
    )

    def values(self) -> tuple[float, ...]:
        """Return the rates, to four digits: as many as a candidate's name tells."""
        if self.rates is not None:
            return self.rates
        return tuple(float(f"{rate:.4g}") for rate in np.geomspace(self.low, self.high, self.count))


class Recipe(Settings):
    """How a network is trained; the defaults are S's believed settings."""

    optimiser: Literal["sgd"] = "sgd"
    lr: PositiveFloat | None = Field(None, description="the learning rate; or a sweep")
    sweep: Sweep | None = Field(
        None,
        description="in place of lr: each run is trained with each of these rates, and the one of "
        "the best final test accuracy goes on",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    batch: PositiveInt = 128
    epochs: Annotated[int, Field(ge=0)]
    drop_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (1 / 3, 2 / 3), description="fractions of the epochs after which the rate drops"
    )
    drop_factor: PositiveFloat = 0.1
    init: Literal["default", "xavier"] = Field(
        "default", description="PyTorch's own, or Xavier uniform weights with zero biases"
    )
    augment: dict[str, dict[str, Any]] = Field(
        default={},
        description="torchvision.transforms.v2 by name, with their options, for each training "
        "image as it is used, such as {RandomHorizontalFlip: {}}; they see pixels in [0, 1], "
        "before these are normalised; the dissected examples are never augmented",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of training passes; bfloat16 by autocast, weights in float32"
    )
    channels_last: bool = Field(False, description="train with channels last in memory")
    checkpoints: Annotated[tuple[Epoch, ...], Field(min_length=1)] = Field(
        description="epochs whose networks are kept and dissected; 0 is the initialisation"
    )

    def candidates(self, name: str) -> dict[str, "Recipe"]:
        """Return the recipes that a sweep called ``name`` stands for, by their names."""
        return {
            f"{name}+lr{rate:g}": self.model_copy(update={"lr": rate, "sweep": None})
            for rate in (self.sweep.values() if self.sweep else ())
        }
