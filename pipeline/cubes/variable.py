"""What a variable of a cube is, and the dimensions that cubes share."""

from dataclasses import dataclass

RUN_DIMS = ("dataset", "model", "norm", "recipe", "n_per_class", "seed")
NAMED_DIMS = RUN_DIMS[:4]
PLACE_DIMS = ("epoch", "split")  # where a part stands within its run


@dataclass(frozen=True)
class Variable:
    """A variable of a cube; ``dims`` come after the cube's leading ones.

    ``long_name`` fits an axis label; ``description`` is a sentence.
    """

    dims: tuple[str, ...]
    long_name: str
    description: str
    units: str
    source: str


SIZES = {
    "dimension": Variable((), "number of parameters", "number of parameters p", "1", "definition"),
    "classes": Variable((), "number of classes", "number of classes C", "1", "definition"),
}
