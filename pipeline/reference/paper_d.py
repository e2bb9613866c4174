"""The values that D, "Dissecting Hessian" (Wu, Zhu, Wu, Wang, Ge), prints."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.config import Dataset, FNet, LeNet5, Model
from pipeline.reference.published import Experiment, Published, Training

TRAINING = Training(
    epochs=1000,
    lr=0.01,
    momentum=0.0,
    weight_decay=0.0,
    batch=128,
    drop_at=(),
    drop_factor=1.0,
    init="xavier",
    n_per_class=0,
    seeds=5,
)
MNIST = Dataset(source="mnist", mean=(0.5,), std=(0.5,))
MNIST_2 = MNIST.model_copy(update={"groups": ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))})
CIFAR10 = Dataset(source="cifar10", mean=(0.5,), std=(0.5,))

# Of the bounds' optimisation and sampling.
BOUND = {
    "epochs": 2000,
    "lr": 0.001,
    "mean_share": 1.0,
    "drop_at": (0.2, 0.4, 0.6, 0.8),
    "drop_factor": 0.1,
    "basis_every": 10,
    "prior_ceiling": 0.1,
    "prior_steps": 100.0,
    "start_half_log_lambda": -3.0,
    "delta": 0.025,
    "samples": 150_000,
}


def _experiment(network: str, data: str, dataset: Dataset, model: Model) -> Experiment:
    return Experiment("D", network, data, dataset, model, "none", TRAINING)


F200 = _experiment("F-200^2", "MNIST", MNIST, FNet(family="fnet", width=200, depth=2))
F600 = _experiment("F-600^2", "MNIST", MNIST, FNet(family="fnet", width=600, depth=2))
LENET5 = _experiment("LeNet5", "CIFAR10", CIFAR10, LeNet5(family="lenet5"))
T600 = _experiment(
    "T-600", "MNIST-2", MNIST_2, FNet(family="fnet", width=600, depth=1, single_logit=True)
)
T200_10 = _experiment("T-200^2_10", "MNIST", MNIST, F200.model)


def _layers(layers: Sequence[str], **at: Any) -> dict[str, Any]:
    return {"split": "train", "layer": list(layers), **at}


def _autocorrelation(
    experiment: Experiment,
    which: str,
    layers: Sequence[str],
    *,
    cosine: float,
    ratio: tuple[float, float, float],
) -> list[Published]:
    """Return the means over seeds and ``layers``; ``ratio`` is (mean, least, largest)."""
    row = f"{experiment.data} {experiment.network}, autocorrelation of {which}"
    number, low, high = ratio
    return [
        Published(
            experiment,
            f"{which}: squared cosine of top eigenvector with E[x]",
            cosine,
            row,
            "layers",
            "mean_alignment",
            _layers(layers),
            kind="share",
        ),
        Published(
            experiment,
            f"{which}: first over second eigenvalue of E[xx^T]",
            number,
            row,
            "layers",
            "spectral_ratio",
            _layers(layers),
            low=low,
            high=high,
        ),
    ]


def _in_order(
    experiment: Experiment,
    what: str,
    row: str,
    variable: str,
    numbers: Sequence[float],
    *,
    dim: str = "order",
    **at: Any,
) -> list[Published]:
    """Return numbers of fc1 that are printed largest first; ``what`` takes each one's place."""
    return [
        Published(
            experiment,
            f"fc1: {what.format(i)}",
            number,
            f"{experiment.data} {experiment.network}, {row}",
            "layers",
            variable,
            _layers(["fc1"], **{dim: i}, **at),
        )
        for i, number in enumerate(numbers)
    ]


def _reshaped() -> list[Published]:
    """Return the singular values of fc1:LeNet5; the first is a share of one."""
    first, *rest = _in_order(
        LENET5,
        "reshaped top eigenvector, singular value {}",
        "reshaped top eigenvector of fc1",
        "singular_value",
        (0.987, 0.082, 0.063),
        dim="index",
        order=0,
    )
    return [replace(first, kind="share"), *rest]


def _peak() -> list[Published]:
    row = "cross-model overlap of fc1's eigenspaces, CIFAR10 LeNet5"
    what = "fc1: overlap between seeds"
    at, k = {"split": "train", "layer": "fc1"}, 122
    return [
        Published(LENET5, f"{what}, peak", 0.59, row, "overlap", "peak", at, reach=k),
        Published(LENET5, f"{what}, k of the peak", k, row, "overlap", "peak_k", at, reach=k),
    ]


def _bound(
    experiment: Experiment, basis: str, bound: float, kl: float, error: float, half: float
) -> list[Published]:
    """Return a row of D's table: bound, KL, stochastic error and (1/2) log lambda."""
    name = basis.capitalize()
    cells: tuple[tuple[str, float, str, str], ...] = (
        ("bound", bound, "bound_of_estimate", "ratio"),
        ("KL", kl, "kl", "ratio"),
        ("stochastic error", error, "stochastic_error_train", "ratio"),
        ("(1/2) log lambda", half, "half_log_lambda", "log"),
    )
    return [
        Published(
            experiment,
            f"{name}: {what}",
            number,
            f"PAC-Bayes, {experiment.data}, {experiment.network}, {name}",
            "bounds",
            variable,
            {"basis": basis},
            kind=kind,
            settings=BOUND,
        )
        for what, number, variable, kind in cells
    ]


PUBLISHED = (
    *_in_order(
        F200,
        "eigenvalue {} of E[xx^T]",
        "top eigenvalues of the autocorrelation of fc1's input",
        "autocorrelation_eigenvalue",
        (517, 18.8),
        dim="index",
    ),
    *_autocorrelation(
        F200, "later layers", ["fc2", "fc3"], cosine=1.000, ratio=(12.29, 9.65, 16.16)
    ),
    *_in_order(
        F200,
        "Hessian eigenvalue {}",
        "ten largest eigenvalues of fc1's Hessian",
        "layer_eigenvalue",
        (2.04, 1.70, 1.27, 1.15, 0.742, 0.630, 0.389, 0.330, 0.247, 0.204),
    ),
    *_in_order(
        F200,
        "Kronecker eigenvalue {}",
        "the same from the Kronecker approximation",
        "kronecker_eigenvalue",
        (1.86, 1.59, 1.15, 1.06, 0.684, 0.569, 0.357, 0.283, 0.219, 0.163),
    ),
    *_autocorrelation(
        F600, "later layers", ["fc2", "fc3"], cosine=0.999, ratio=(12.00, 11.42, 13.00)
    ),
    *_autocorrelation(
        LENET5,
        "fully connected layers",
        ["fc1", "fc2", "fc3"],
        cosine=0.998,
        ratio=(7.21, 5.88, 9.02),
    ),
    *_autocorrelation(
        LENET5, "convolutions", ["conv1", "conv2"], cosine=0.999, ratio=(15.87, 11.15, 27.20)
    ),
    *_peak(),
    *_reshaped(),
    *_bound(T600, "base", 0.154, 4612.6, 0.03373, -1.3313),
    *_bound(T600, "appr", 0.1432, 3980.6, 0.03417, -1.6063),
    *_bound(T600, "iter", 0.1198, 3766.1, 0.02347, -1.2913),
    *_bound(T200_10, "base", 0.4165, 21896, 0.04706, -1.1513),
    *_bound(T200_10, "appr", 0.2621, 11068, 0.0366, -1.4213),
    *_bound(T200_10, "iter", 0.2145, 9821, 0.02229, -1.1513),
)
