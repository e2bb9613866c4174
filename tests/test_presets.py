"""The papers' presets, held to what the papers print of their own settings."""

from collections import Counter
from dataclasses import replace

import pytest
from workflow import ROOT

from pipeline.assign import comparison_job
from pipeline.configfile import read_config
from pipeline.reference.scale import departures, is_of, measured_otherwise
from pipeline.reference.values import PUBLISHED

# The papers' presets, and how they are known to measure otherwise.
PRESETS = {"dissecting-paper": ("D", ()), "spectrum-paper": ("S", ("spectrum.steps 128 (2048)",))}


@pytest.mark.parametrize("name", PRESETS)
def test_a_papers_preset_has_the_papers_settings(name):
    paper, otherwise = PRESETS[name]
    config = preset(name)
    job = comparison_job(config)
    of_paper = [one for one in PUBLISHED if one.experiment.paper == paper]
    for one in of_paper:
        stage = {"bounds": job.bounds, "spectrum": job.spectrum}.get(one.cube)
        assert measured_otherwise(stage, one.settings) == otherwise, one.what
        assert () in told(config, one), one.experiment.name
    assert of_paper


def told(config, published):
    """Return how each group of a network's runs departs from the paper's training."""
    seeds = Counter(replace(run, seed=0) for run in config.runs(published.cube))
    return [
        departures(
            published.experiment,
            dataset=config.datasets[run.dataset],
            recipe=config.recipe(run.recipe),
            n_per_class=run.n_per_class,
            seeds=count,
        )
        for run, count in seeds.items()
        if is_of(
            published.experiment,
            config.datasets[run.dataset],
            config.models[run.model],
            run.norm,
        )
    ]


# S's table of data sets: mean, deviation, in what unit, epochs, examples of each class.
TEN = "10 13 19 26 37 51 71 98 136 189 263 365 506 702 974 1351 1874 2599 3605 5000"
HUNDRED = "10 12 15 18 22 27 34 42 51 63 78 96 118 145 178 219 269 331 406 500"
OF_S = {
    "mnist": ([0.1307], [0.3081], 1, 200, TEN),
    "fashion_mnist": ([0.5], [0.5], 1, 200, TEN),
    "cifar10": ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7], 255, 350, TEN),
    "cifar100": ([129.3, 124.1, 112.4], [68.2, 65.4, 70.4], 255, 350, HUNDRED),
}
NETWORKS_OF_S = {
    ("vgg11", "none"),
    ("vgg11", "batch"),
    ("resnet18", "batch"),
    ("densenet40", "batch"),
}


def preset(name):
    return read_config([ROOT / "config.yaml", ROOT / f"presets/{name}.yaml"])


def told_of(model):
    """Return what the configuration says of a network, as ``family-word``."""
    return "-".join(str(word) for word in model.model_dump(exclude_unset=True).values())


@pytest.mark.parametrize("name", OF_S)
def test_spectrum_paper_has_s_table_of_a_data_set(name):
    mean, std, unit, epochs, sizes = OF_S[name]
    config, said = preset("spectrum-paper"), preset("spectrum-paper").datasets[name].resolved()
    assert [unit * x for x in said.mean] == pytest.approx(mean)
    assert [unit * x for x in said.std] == pytest.approx(std)
    assert (said.fit, said.random_labels, said.groups) == ("pad", False, None)
    for cube in ("training", "spectrum", "hierarchy"):
        runs = [run for run in config.runs(cube) if run.dataset == name]
        found = {(told_of(config.models[run.model]), run.norm, run.n_per_class) for run in runs}
        asked = {(*network, int(n)) for network in NETWORKS_OF_S for n in sizes.split()}
        assert (found, len(runs)) == (asked, len(asked))
    for recipe in {run.recipe for run in runs}:
        one = config.recipe(recipe)
        assert (one.epochs, one.batch, one.momentum, one.weight_decay) == (epochs, 128, 0.9, 5e-4)
        assert (one.drop_factor, one.drop_at) == (0.1, pytest.approx((1 / 3, 2 / 3), abs=1e-4))
        assert (one.sweep.low, one.sweep.high, one.sweep.count) == (1e-4, 0.25, 100)
        assert (one.augment, one.precision) == ({}, "float32")


def test_spectrum_paper_measures_as_s_does():
    config = preset("spectrum-paper")
    assert {run.dataset for run in config.runs()} == set(OF_S)
    assert (config.spectrum.steps, config.spectrum.probes, config.figures.kappa) == (128, 1, 3)
    assert set(config.spectrum.splits) == set(config.hierarchy.splits) == {"train", "test"}
    assert (config.hierarchy.steps, config.hierarchy.probes) == (128, 1)


# D's networks by data set, as in its table of settings; which pairs are run is the preset's choice.
F = ["fnet-200-2", "fnet-600-2", "fnet-600-4", "fnet-600-8", "fnet-1500-3"]
LARGE = [f"vgg11-{k}" for k in (32, 48, 64, 80, 200)] + [f"resnet18-{k}" for k in (48, 64, 80)]
OF_D = {
    ("mnist", "none", "layers"): F,
    ("mnist", "batch", "layers"): F[:2],
    ("mnist-random", "none", "layers"): F[:2],
    ("cifar10", "none", "layers"): ["lenet5", "lenet5-80", "lenet5-100", "lenet5-150", *LARGE],
    ("cifar10", "batch", "layers"): ["lenet5"],
    ("cifar10-random", "none", "layers"): ["lenet5"],
    ("cifar100", "none", "layers"): ["vgg11-48", "resnet18-48"],
    ("mnist", "none", "bounds"): [*F[:2], "fnet-600-1"],
    ("mnist-2", "none", "bounds"): [
        f"True-fnet-{k}" for k in ("600-1", "600-2", "1200-1", "300-2")
    ],
    ("mnist-2-random", "none", "bounds"): ["True-fnet-600-1"],
}


def test_dissecting_paper_is_of_d_s_networks_and_data():
    config, found = preset("dissecting-paper"), {}
    for cube in ("layers", "bounds"):
        seeds = Counter(replace(run, seed=0) for run in config.runs(cube))
        assert set(seeds.values()) == {5}
        for run in seeds:
            assert run.n_per_class == 0
            place = found.setdefault((run.dataset, run.norm, cube), set())
            place.add(told_of(config.models[run.model]))
    assert found == {key: set(names) for key, names in OF_D.items()}
    for name in {dataset for dataset, _, _ in found}:
        said = config.datasets[name]
        assert (said.mean, said.std) == ((0.5,), (0.5,))
        assert said.random_labels == name.endswith("-random")
        halves = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
        assert said.groups == (halves if name.startswith("mnist-2") else None)
        assert said.source == name.split("-")[0]


def test_dissecting_paper_trains_and_bounds_as_d_does():
    config = preset("dissecting-paper")
    assert set(config.used_recipes()) == {"dissecting", "momentum", "decay"}
    one = config.recipe("dissecting")
    assert (one.lr, one.batch, one.epochs, one.drop_at) == (0.01, 128, 1000, ())
    assert (one.momentum, one.weight_decay, one.init) == (0, 0, "xavier")
    assert config.overlap.across == ("recipe",)
    assert config.layers.most >= 1.25 * 600
    bounds = config.bounds
    assert set(bounds.methods) >= {"base", "appr", "iter"}
    assert (bounds.epochs, bounds.lr, bounds.drop_factor) == (2000, 1e-3, 0.1)
    assert [2000 * at for at in bounds.drop_at] == [400, 800, 1200, 1600]
    assert (bounds.samples, bounds.basis_every) == (150_000, 10)
