"""The size of the images that a network needs: what it is given depends on it."""

from typing import Protocol

# The square image size of this project's families of networks; None: any.
IMAGE_SIZE: dict[str, int | None] = {
    "fnet": None,
    "lenet5": 32,
    "vgg11": 32,
    "resnet18": 32,
    "densenet40": 32,
}


class OfFamily(Protocol):
    """A model of the configuration; of another family it has an ``image_size`` of its own."""

    family: str


def image_size(model: OfFamily) -> int | None:
    """Return the square image size that a network needs, None where any will do."""
    if model.family in IMAGE_SIZE:
        return IMAGE_SIZE[model.family]
    return model.image_size
