"""What a published value is, and how near to it a measured one must come."""

from dataclasses import dataclass, field
from math import exp, log
from typing import Any, Literal

from pipeline.config import Dataset, Model
from pipeline.settings import Cube, Norm

# Ratios to a number that is printed without a range.  D's printed ranges over seeds and layers are
# 0.79 to 1.31, 0.95 to 1.08 and 0.82 to 1.25 of their means, for fully connected layers.
NEAR = 1.25
# Distance to a printed share of one, where ratios tell nothing apart: D's squared cosines lie
# between .998 and 1.000, and S prints R^2 to two digits.
SHARE = 0.01


@dataclass(frozen=True)
class Training:
    """How a paper trained.

    ``lr`` None: the best of ``sweep``, (lowest, highest, number of rates).  ``init`` None: the
    paper does not say.  ``n_per_class`` 0: the full training set.
    """

    epochs: int
    lr: float | None
    momentum: float
    weight_decay: float
    batch: int
    drop_at: tuple[float, ...]
    drop_factor: float
    init: str | None
    n_per_class: int
    seeds: int
    sweep: tuple[float, float, int] | None = None


@dataclass(frozen=True)
class Experiment:
    """A network that a paper trained on a data set; ``network`` and ``data`` are its own names."""

    paper: Literal["S", "D"]
    network: str
    data: str
    dataset: Dataset
    model: Model
    norm: Norm
    training: Training

    @property
    def name(self) -> str:
        """How a table names it: "D, F-200^2 on MNIST"."""
        return f"{self.paper}, {self.network} on {self.data}"


@dataclass(frozen=True)
class Published:
    """One number that a paper prints, and where its like stands in our cubes.

    ``variable`` is the cube's, or one of those that ``comparison.measure`` makes of it; ``at`` are
    the labels of its further dimensions, of which several are averaged.  ``low`` and ``high`` are
    the printed range.  ``kind`` is how values compare: by their ratio; by their difference, for a
    share near one; by the ratio of their exponentials, for a logarithm.  ``settings`` are those of
    the cube's stage that the paper measured with; ``reach`` is how far an overlap's k must go to
    have the paper's peak in it.
    """

    experiment: Experiment
    what: str
    number: float
    row: str
    cube: Cube
    variable: str
    at: dict[str, Any]
    low: float | None = None
    high: float | None = None
    kind: Literal["ratio", "share", "log"] = "ratio"
    settings: dict[str, Any] = field(default_factory=dict)
    reach: int | None = None

    @property
    def source(self) -> str:
        """The paper and the row of it; of tables and sections no numbers are known."""
        return f"{self.experiment.paper}, {self.row}"

    @property
    def accepted(self) -> tuple[float, float]:
        """The values that count as within: the printed range, or the tolerance of its kind."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if self.kind == "share":
            return self.number - SHARE, self.number + SHARE
        if self.kind == "log":
            return self.number - log(NEAR), self.number + log(NEAR)
        near, far = sorted((abs(self.number) / NEAR, abs(self.number) * NEAR))
        return (near, far) if self.number > 0 else (-far, -near)

    def ratio(self, value: float) -> float:
        """Return a value over the number, of a logarithm's exponentials."""
        return exp(value - self.number) if self.kind == "log" else value / self.number
