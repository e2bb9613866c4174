"""The schema of a configuration, and the grid it stands for."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    Tag,
)

from pipeline.catalogue import COMPONENT, FIGURES, IMAGE_SIZE, SOURCES, SPLITS, Fit
from pipeline.runs import NAME, Run

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Norm = Literal["none", "batch"]
Matrix = Literal["Hess", "G", "H"]
Split = Literal["train", "test"]
Epoch = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values are frozen, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(Settings):
    """A data set: where its images come from and how they are prepared."""

    source: str = Field(
        description="digits, mnist, fashion_mnist, cifar10, cifar100, imagenet, folder, or the "
        "module:function of your own (split=..., data_root=..., **options) -> (images, labels)",
    )
    path: str | None = Field(None, description="the image folder, with train/ and test/ inside")
    fit: Fit | None = Field(None, description="how images reach the size that a network needs")
    image_size: PositiveInt | None = Field(
        None, description="resize and centre-crop the images of a folder to this many pixels"
    )
    mean: tuple[float, ...] | None = Field(None, description="per channel, pixels in [0, 1]")
    std: tuple[PositiveFloat, ...] | None = None
    random_labels: bool = Field(False, description="labels permuted among the examples, for good")
    options: dict[str, Any] = Field(default={}, description="passed to your own function")

    def resolved(self) -> "Dataset":
        """Return the same with the catalogue's facts where the config says nothing."""
        facts = SOURCES.get(self.source)
        return self.model_copy(
            update={
                "fit": self.fit or (facts.fit if facts else "pad"),
                "mean": self.mean or (facts.mean if facts else (0.5,)),
                "std": self.std or (facts.std if facts else (0.5,)),
            }
        )


class FNet(Settings):
    """F-width^depth: a fully connected network of ``depth`` hidden layers, ReLU."""

    family: Literal["fnet"]
    width: PositiveInt
    depth: PositiveInt


class LeNet5(Settings):
    """LeNet5: conv6 5x5, pool, conv16 5x5, pool, then fully connected layers."""

    family: Literal["lenet5"]
    fc1: PositiveInt = Field(120, description="output width of fc1; D varies it from 80 to 150")


class OwnModel(Settings):
    """The user's own network."""

    family: str = Field(
        description="module:function, called as function(in_shape, classes, norm, **options)"
    )
    image_size: PositiveInt | None = Field(None, description="the square image size it needs")
    options: dict[str, Any] = {}


def _family(value: Any) -> str:
    family = value.get("family") if isinstance(value, dict) else getattr(value, "family", None)
    return family if family in IMAGE_SIZE else "own"


Model = Annotated[
    Annotated[FNet, Tag("fnet")]
    | Annotated[LeNet5, Tag("lenet5")]
    | Annotated[OwnModel, Tag("own")],
    Discriminator(_family),
]


def image_size(model: Model) -> int | None:
    """Return the square image size that a network needs, None where any will do."""
    return model.image_size if isinstance(model, OwnModel) else IMAGE_SIZE[model.family]


class Recipe(Settings):
    """How a network is trained; the defaults are S's believed settings."""

    optimiser: Literal["sgd"] = "sgd"
    lr: PositiveFloat
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
    checkpoints: Annotated[tuple[Epoch, ...], Field(min_length=1)] = Field(
        description="epochs whose networks are kept and dissected; 0 is the initialisation"
    )


class Grid(Settings):
    """A block of runs: every combination of its lists."""

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    norms: Annotated[tuple[Norm, ...], Field(min_length=1)]
    recipes: Annotated[tuple[Name, ...], Field(min_length=1)]
    n_per_class: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

    def runs(self) -> Iterator[Run]:
        """Yield the block's runs, the last list varying fastest."""
        for words in product(
            self.datasets, self.models, self.norms, self.recipes, self.n_per_class, self.seeds
        ):
            yield Run(*words)


class Spectrum(Settings):
    """What the spectrum stage computes of each network."""

    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)] = ("Hess", "G", "H")
    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = SPLITS
    top: dict[Matrix, PositiveInt] = Field(
        {"Hess": 20, "G": 20, "H": 5},
        description="eigenpairs found of each matrix, algebraically largest first; some more than "
        "classes, so that outliers can be told from the bulk",
    )
    bottom: dict[Matrix, Annotated[int, Field(ge=0)]] = Field(
        {"Hess": 2, "H": 2}, description="eigenpairs found at the lower end; 0 where not named"
    )
    exact: Annotated[int, Field(ge=0)] = Field(
        2000,
        description="matrices of at most this dimension, and G of at most so many examples times "
        "classes, are solved whole instead",
    )
    tolerance: PositiveFloat = Field(
        1e-3,
        description="largest residual of a converged pair, relative to the largest |eigenvalue|",
    )
    probes: PositiveInt = Field(1, description="Gaussian starting vectors of the quadrature")
    steps: Annotated[int, Field(ge=2)] = Field(128, description="Lanczos steps per probe")
    trace_probes: Annotated[int, Field(ge=2)] = 10


class Hierarchy(Settings):
    """What the hierarchy stage computes of each network."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = SPLITS
    knockouts: tuple[Annotated[str, StringConstraints(pattern=COMPONENT)], ...] = Field(
        ("G-A1", "G-A2", "G-B1", "G-B2"),
        description="sums and differences of G, A1, A2, B1 and B2 whose spectra are estimated "
        "beside G's and B2's",
    )
    classes: Annotated[int, Field(ge=2)] = Field(
        10,
        description="classes whose pairs are embedded and kept in the cube; of more, so many are "
        "chosen at random, the same for all networks",
    )
    perplexity: PositiveFloat | None = Field(
        None, description="of t-SNE; null: the number of those classes"
    )
    probes: PositiveInt = Field(1, description="Gaussian starting vectors of each quadrature")
    steps: Annotated[int, Field(ge=2)] = Field(128, description="Lanczos steps per probe")
    trace_probes: Annotated[int, Field(ge=2)] = 10
    exact: Annotated[int, Field(ge=0)] = Field(
        5000,
        description="of at most so many examples times classes B2's traces are exact, from a "
        "backward pass each",
    )


class Compute(Settings):
    """Where and in what arithmetic jobs run; part of what results depend on."""

    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto: a GPU where the job finds one; checked inside the job"
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="of curvature products")
    tf32: bool = Field(False, description="let a GPU round float32 products to TF32")
    threads: PositiveInt = Field(1, description="CPU threads per job")
    chunk: PositiveInt = Field(
        1000,
        description="examples linearised at once; fewer where a pass would take over a tenth of "
        "all memory",
    )
    memory_gb: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GiB for kept linearised chunks; null: a quarter of all memory"
    )
    basis_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="GiB for a Krylov basis; null: a quarter of all memory"
    )
    vectors: PositiveInt = Field(
        8, description="vectors multiplied in one pass over a chunk; fewer likewise"
    )
    compiled: bool = Field(
        False, description="products through torch.compile; on a CPU it needs a C++ compiler"
    )


class Figures(Settings):
    """How figures are drawn; none of this touches a cube."""

    names: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(FIGURES)
    kappa: PositiveFloat = Field(3.0, description="width of the kernel that smooths a spectrum")
    points: Annotated[int, Field(ge=16)] = Field(1024, description="grid points of a density")
    margin: Annotated[float, Field(ge=0)] = Field(0.05, description="of a spectrum's range")
    dpi: PositiveInt = 160


class Resources(Settings):
    """What one job of a stage asks of a scheduler; changing it reruns nothing."""

    mem_mb: PositiveInt = 4000
    runtime: PositiveInt = Field(120, description="minutes")
    gpu: Annotated[int, Field(ge=0)] = 0


class StageResources(Settings):
    """Resources by stage."""

    train: Resources = Resources()
    spectrum: Resources = Resources()
    hierarchy: Resources = Resources()
    cube: Resources = Resources(runtime=30)
    figure: Resources = Resources(mem_mb=2000, runtime=20)


class Config(Settings):
    """A whole experiment."""

    results: Annotated[str, StringConstraints(min_length=1)] = "results"
    data_root: str = Field("data", description="where torchvision keeps its data sets")
    download: bool = Field(True, description="let torchvision fetch what data_root lacks")
    datasets: dict[Name, Dataset]
    models: dict[Name, Model]
    recipes: dict[Name, Recipe]
    grid: Annotated[tuple[Grid, ...], Field(min_length=1)]
    spectrum: Spectrum = Spectrum()
    hierarchy: Hierarchy = Hierarchy()
    compute: Compute = Compute()
    figures: Figures = Figures()
    resources: StageResources = StageResources()

    def runs(self) -> list[Run]:
        """Return every run of the grid."""
        return [run for block in self.grid for run in block.runs()]

    def checkpoint_lists(self) -> dict[tuple[int, ...], list[str]]:
        """Return the used recipes by their list of checkpoints (one rule serves each list)."""
        lists: dict[tuple[int, ...], list[str]] = {}
        for name in sorted({name for block in self.grid for name in block.recipes}):
            lists.setdefault(tuple(sorted(self.recipes[name].checkpoints)), []).append(name)
        return lists
