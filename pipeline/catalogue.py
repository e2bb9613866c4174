"""What a configuration may name, and the facts about it.  No torch: the Snakefile reads this."""

from dataclasses import dataclass, field
from typing import Literal

Fit = Literal["pad", "enlarge"]


@dataclass(frozen=True)
class SourceFacts:
    """Facts about a data set that need no look at its files.

    ``smallest_class`` counts the training examples of the rarest class.  ``mean`` and ``std`` are
    per channel, for pixels in [0, 1].  ``fit`` says how images reach the size a network needs,
    ``files`` where torchvision keeps them below ``data_root``.  Images are ``size`` x ``size`` as
    they are read; ``train`` and ``test`` count examples.
    """

    classes: int
    smallest_class: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "pad"
    files: tuple[str, ...] = ()
    size: int = field(kw_only=True)
    train: int = field(kw_only=True)
    test: int = field(kw_only=True)


# Means and deviations: S's settings (FACTS of the papers' public code), but for digits, which are
# this project's own measurement on its training split, and ImageNet, torchvision's convention.
# Smallest classes: counted on the published training sets, whose sizes are those published.
SOURCES: dict[str, SourceFacts] = {
    "digits": SourceFacts(
        10, 154, 1, (0.3049,), (0.3757,), fit="enlarge", size=8, train=1597, test=200
    ),
    "mnist": SourceFacts(
        10,
        5421,
        1,
        (0.1307,),
        (0.3081,),
        files=("MNIST/raw/*-ubyte",),
        size=28,
        train=60_000,
        test=10_000,
    ),
    "fashion_mnist": SourceFacts(
        10,
        6000,
        1,
        (0.5,),
        (0.5,),
        files=("FashionMNIST/raw/*-ubyte",),
        size=28,
        train=60_000,
        test=10_000,
    ),
    "cifar10": SourceFacts(
        10,
        5000,
        3,
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
        files=("cifar-10-batches-py/*",),
        size=32,
        train=50_000,
        test=10_000,
    ),
    "cifar100": SourceFacts(
        100,
        500,
        3,
        (129.3 / 255, 124.1 / 255, 112.4 / 255),
        (68.2 / 255, 65.4 / 255, 70.4 / 255),
        files=("cifar-100-python/*",),
        size=32,
        train=50_000,
        test=10_000,
    ),
    # Of ImageNet's 1.3 million files only the list of classes: a look at each takes minutes.
    "imagenet": SourceFacts(
        1000,
        732,
        3,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        files=("meta.bin",),
        size=224,
        train=1_281_167,
        test=50_000,
    ),
}
FOLDER = "folder"

# Who reads a source, as module:function: loaded when it is read, for scikit-learn and torchvision
# cost seconds to import.  A user's own source is named in the same way.
_TORCHVISION = "pipeline.data.torchvision_sets"
LOADERS: dict[str, str] = {
    "digits": "pipeline.data.digits:load_split",
    "mnist": f"{_TORCHVISION}:load_small",
    "fashion_mnist": f"{_TORCHVISION}:load_small",
    "cifar10": f"{_TORCHVISION}:load_small",
    "cifar100": f"{_TORCHVISION}:load_small",
    "imagenet": f"{_TORCHVISION}:load_imagenet",
    FOLDER: f"{_TORCHVISION}:load_folder",
}

NORMS = ("none", "batch")
MATRICES = ("Hess", "G", "H")
SPLITS = ("train", "test")
# The bases of a PAC-Bayes posterior, as D names them: Base, Appr, Iter, Iter(D), Iter.M.
METHODS = ("base", "appr", "iter", "iter-d", "iter-m")
# A component of G, or a sum or difference of some.
COMPONENT = r"^[+-]?(G|A1|A2|B1|B2)([+-](G|A1|A2|B1|B2))*$"

# The figures, and the cubes that each is drawn from.
FIGURES: dict[str, tuple[str, ...]] = {
    "training": ("training",),
    "sweep": ("training",),
    "density": ("spectrum",),
    "split": ("spectrum",),
    "split_initial": ("spectrum",),
    "log_density": ("spectrum",),
    "power_law": ("spectrum",),
    "certificate": ("spectrum",),
    "attribution": ("hierarchy", "spectrum"),
    "knockout": ("hierarchy",),
    "components": ("hierarchy",),
    "class_pairs": ("hierarchy",),
    "dynamics": ("hierarchy", "spectrum"),
    "tail": ("spectrum",),
    "overview": ("spectrum",),
    "overlap": ("overlap",),
    "weights": ("overlap",),
    "reshaped": ("layers",),
    "eigenvectors": ("layers",),
    "correspondence": ("layers",),
    "kronecker": ("layers",),
    "full_kronecker": ("layers",),
    "autocorrelation": ("layers",),
    "output_hessian": ("layers",),
    "theory": ("theory",),
    "bounds": ("bounds",),
    "posterior": ("bounds",),
}
# The matrices without which a figure has nothing to show.
SHOWN_MATRICES = {
    "density": ("Hess",),
    "overview": ("Hess",),
    "power_law": ("H",),
    "attribution": ("G",),
    "tail": ("G", "H"),
}
CUBES = ("training", "spectrum", "hierarchy", "layers", "overlap", "theory", "bounds")
