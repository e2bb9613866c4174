"""The values that S, "Measuring the Spectrum of Deepnet Hessians" (Papyan), prints."""

from typing import Literal

from pipeline.config import VGG11, Dataset
from pipeline.reference.published import Experiment, Published, Training

# Epochs and sample size are S's; the rest of the recipe is what S is believed to have used.
VGG11_MNIST = Experiment(
    "S",
    "VGG11",
    "MNIST, 1351 per class",
    Dataset(source="mnist", mean=(0.1307,), std=(0.3081,)),
    VGG11(family="vgg11"),
    "batch",
    Training(
        epochs=200,
        lr=None,
        momentum=0.9,
        weight_decay=5e-4,
        batch=128,
        drop_at=(1 / 3, 2 / 3),
        drop_factor=0.1,
        init=None,
        n_per_class=1351,
        seeds=1,
        sweep=(1e-4, 0.25, 100),
    ),
)


def _law(
    what: str,
    number: float,
    variable: str,
    split: str,
    kind: Literal["ratio", "share"] = "ratio",
) -> Published:
    return Published(
        VGG11_MNIST,
        f"H on {split} examples: {what}",
        number,
        "power law of H's spectrum, VGG11 on MNIST at 1351 per class",
        "spectrum",
        variable,
        {"matrix": "H", "split": split},
        kind=kind,
        settings={"steps": 2048},
    )


PUBLISHED = (
    _law("exponent of the power law", -2.7, "tail_exponent", "test"),
    _law("coefficient of the power law", 1.2e-4, "tail_coefficient", "test"),
    _law("R^2 of the power law", 0.99, "tail_r_squared", "test", kind="share"),
    _law("exponent of the power law", -2.2, "tail_exponent", "train"),
)
