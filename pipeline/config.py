"""The schema of a configuration, and the grid it stands for."""

from collections.abc import Iterator
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
)

from pipeline.catalogue import CUBES, FIGURES, SOURCES, Fit
from pipeline.paths import ResultsFolder, UserPath, same_place
from pipeline.recipes import Recipe
from pipeline.runs import Run
from pipeline.settings import Cube, Name, Norm, Settings
from pipeline.stages import (
    Bounds,
    Compute,
    Figures,
    Hierarchy,
    Layers,
    Overlap,
    Spectrum,
    StageResources,
    Theory,
)

# Snakemake and the shell leave the ~ of a configuration as it is.
Group = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class Dataset(Settings):
    """A data set: where its images come from and how they are prepared."""

    source: str = Field(
        description="digits, mnist, fashion_mnist, cifar10, cifar100, imagenet, folder, or the "
        "module:function of your own (split=..., data_root=..., **options) -> (images, labels)",
    )
    path: UserPath | None = Field(
        None, description="the image folder, with train/ and test/ inside"
    )
    fit: Fit | None = Field(None, description="how images reach the size that a network needs")
    image_size: PositiveInt | None = Field(
        None,
        description="resize and centre-crop the images of a folder, or of imagenet (null: 224), to "
        "this many pixels",
    )
    mean: tuple[float, ...] | None = Field(None, description="per channel, pixels in [0, 1]")
    std: tuple[PositiveFloat, ...] | None = None
    files: tuple[str, ...] | None = Field(
        None,
        description="the files whose contents count, as patterns below data_root or path: a change "
        "retrains. null: those known of the source; []: none, where a look at each is too slow",
    )
    groups: tuple[Group, ...] | None = Field(
        None,
        description="classes merged into fewer, by their numbers from 0, such as [[0, 1], [2, 3]]; "
        "examples of classes in no group are left out",
    )
    random_labels: bool = Field(
        False,
        description="labels permuted among all examples of a split; subsets keep the labels of "
        "their images",
    )
    options: dict[str, Any] = Field(default={}, description="passed to your own function")

    def resolved(self) -> "Dataset":
        """Return a copy with the catalogue's facts for unset fields, and ``path`` in one spelling.

        So a folder is the same data set however its path is written.
        """
        facts = SOURCES.get(self.source)
        return self.model_copy(
            update={
                "path": self.path and same_place(self.path),
                "fit": self.fit or (facts.fit if facts else "pad"),
                "mean": self.mean or (facts.mean if facts else (0.5,)),
                "std": self.std or (facts.std if facts else (0.5,)),
            }
        )


class Network(Settings):
    """What all networks may be told."""

    single_logit: bool = Field(
        False, description="of a task of two classes: one output z, taken as (0, z)"
    )


class FNet(Network):
    """F-width^depth: a fully connected network of ``depth`` hidden layers, ReLU."""

    family: Literal["fnet"]
    width: PositiveInt
    depth: PositiveInt


class LeNet5(Network):
    """LeNet5: conv6 5x5, pool, conv16 5x5, pool, then fully connected layers."""

    family: Literal["lenet5"]
    fc1: PositiveInt = Field(120, description="output width of fc1; D varies it from 80 to 150")


class VGG11(Network):
    """VGG11: eight 3 x 3 convolutions, then fully connected layers; S's, or with ``width`` D's."""

    family: Literal["vgg11"]
    width: PositiveInt | None = Field(
        None, description="output channels of every convolution, as in D's VGG11-W; null: S's"
    )
    hidden: PositiveInt = Field(4096, description="units of each of the two hidden layers behind")


class ResNet18(Network):
    """ResNet18 with a 3 x 3 stem and no max-pooling."""

    family: Literal["resnet18"]
    width: PositiveInt = Field(64, description="channels of the first blocks; D varies it")


class DenseNet40(Network):
    """DenseNet40: three dense blocks of twelve layers."""

    family: Literal["densenet40"]
    growth: PositiveInt = Field(12, description="channels that each layer adds")


class OwnModel(Network):
    """The user's own network."""

    family: str = Field(
        description="module:function, called as function(in_shape, classes, norm, **options)"
    )
    image_size: PositiveInt | None = Field(None, description="the square image size it needs")
    options: dict[str, Any] = Field(default={})


def _family(value: Any) -> str | None:
    """Return the tag of a network's class; a tag that no class has is refused by pydantic."""
    family = value.get("family") if isinstance(value, dict) else getattr(value, "family", None)
    return "own" if isinstance(family, str) and ":" in family else family


Model = Annotated[
    Annotated[FNet, Tag("fnet")]
    | Annotated[LeNet5, Tag("lenet5")]
    | Annotated[VGG11, Tag("vgg11")]
    | Annotated[ResNet18, Tag("resnet18")]
    | Annotated[DenseNet40, Tag("densenet40")]
    | Annotated[OwnModel, Tag("own")],
    Discriminator(_family),
]


class Grid(Settings):
    """A block of runs: every combination of its lists."""

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    norms: Annotated[tuple[Norm, ...], Field(min_length=1)]
    recipes: Annotated[tuple[Name, ...], Field(min_length=1)]
    n_per_class: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    cubes: Annotated[tuple[Cube, ...], Field(min_length=1)] | None = Field(
        None, description="the cubes that hold these runs; null: all but bounds, which take long"
    )

    def runs(self) -> Iterator[Run]:
        """Yield the block's runs, the last list varying fastest."""
        for words in product(
            self.datasets, self.models, self.norms, self.recipes, self.n_per_class, self.seeds
        ):
            yield Run(*words)


class Config(Settings):
    """A whole experiment."""

    results: ResultsFolder = "results"
    data_root: UserPath = Field(
        "data",
        description="where torchvision keeps its data sets; changing it reruns nothing where "
        "the files are the same",
    )
    download: bool = Field(True, description="let torchvision fetch what data_root lacks")
    cubes: Annotated[tuple[Cube, ...], Field(min_length=1)] = Field(
        CUBES, description="the cubes to gather; figures that need another are not drawn"
    )
    datasets: dict[Name, Dataset]
    models: dict[Name, Model]
    recipes: dict[Name, Recipe]
    grid: Annotated[tuple[Grid, ...], Field(min_length=1)]
    spectrum: Spectrum = Spectrum()
    hierarchy: Hierarchy = Hierarchy()
    layers: Layers = Layers()
    overlap: Overlap = Overlap()
    theory: Theory = Theory()
    bounds: Bounds = Bounds()
    compute: Compute = Compute()
    figures: Figures = Figures()
    resources: StageResources = StageResources()

    def runs(self, cube: str | None = None) -> list[Run]:
        """Return every run of the grid, or those that a gathered cube holds."""
        blocks = self.grid if cube is None else self.blocks(cube)
        return [run for block in blocks for run in block.runs()]

    def blocks(self, cube: str) -> tuple[Grid, ...]:
        """Return the blocks of the grid whose runs a gathered cube holds."""
        if cube not in self.cubes:
            return ()
        return tuple(
            block
            for block in self.grid
            if (cube != "bounds" if block.cubes is None else cube in block.cubes)
        )

    def gathered(self) -> tuple[str, ...]:
        """Return the cubes to gather: those that hold any run, or need none."""
        return tuple(cube for cube in self.cubes if cube == "theory" or self.blocks(cube))

    def used_recipes(self) -> list[str]:
        """Return the recipes that the grid names, sorted."""
        return sorted({name for block in self.grid for name in block.recipes})

    @cached_property
    def candidates(self) -> dict[str, dict[str, Recipe]]:
        """The used sweeps, and the recipes that each chooses from, by their names."""
        used = {name: self.recipes[name].candidates(name) for name in self.used_recipes()}
        return {name: found for name, found in used.items() if found}

    @cached_property
    def sweep_of(self) -> dict[str, str]:
        """The sweep that each candidate belongs to."""
        return {name: sweep for sweep, found in self.candidates.items() for name in found}

    def trained_lists(self) -> dict[tuple[tuple[int, ...], bool], list[str]]:
        """Return the recipes that networks are trained with: of a sweep its candidates.

        They come by their checkpoints, and by whether these are kept once a sweep is decided.
        """
        lists: dict[tuple[tuple[int, ...], bool], list[str]] = {}
        for name in self.used_recipes():
            sweep = self.recipes[name].sweep
            key = self.checkpoints(name, "training"), sweep is None or sweep.keep
            lists.setdefault(key, []).extend(self.candidates.get(name, [name]))
        return lists

    def recipe(self, name: str) -> Recipe:
        """Return a recipe of the config, or a sweep's candidate."""
        if name in self.recipes:
            return self.recipes[name]
        return self.candidates[self.sweep_of[name]][name]

    def checkpoints(self, recipe: str, cube: str) -> tuple[int, ...]:
        """Return the epochs of a recipe's checkpoints that a cube holds, or is made from."""
        epochs = tuple(sorted(self.recipe(recipe).checkpoints))
        if cube == "bounds":
            return tuple(sorted({epochs[0], epochs[-1]}))
        last = cube in ("layers", "overlap") and self.layers.checkpoints == "last"
        return epochs[-1:] if last else epochs

    def checkpoint_lists(self, cube: str) -> dict[tuple[int, ...], list[str]]:
        """Return the used recipes by their list of checkpoints (one rule serves each list)."""
        lists: dict[tuple[int, ...], list[str]] = {}
        bounded = {name for block in self.blocks("bounds") for name in block.recipes}
        for name in sorted(bounded) if cube == "bounds" else self.used_recipes():
            lists.setdefault(self.checkpoints(name, cube), []).append(name)
        return lists

    def figure_names(self) -> list[str]:
        """Return the figures to draw: those whose cubes are gathered, and hold what they show."""
        return [
            name
            for name in self.figures.names
            if set(FIGURES[name]) <= set(self.gathered()) and (name != "sweep" or self.candidates)
        ]
