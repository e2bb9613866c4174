"""The papers' values found in hand-made cubes, whose numbers are known."""

from dataclasses import asdict
from math import exp, log

import layer_cubes
import numpy as np
import pytest
import xarray as xr
from test_figures import matrix

from pipeline.comparison.measure import MADE
from pipeline.comparison.rows import ABSENT, NO_VALUE, OUTSIDE, WITHIN, Row, compare
from pipeline.config import VGG11, Dataset, FNet, Grid, LeNet5
from pipeline.cubes.assemble import Placed, assemble
from pipeline.cubes.schema import SCHEMA, leading_dims
from pipeline.recipes import Recipe, Sweep
from pipeline.reference import paper_d, paper_s
from pipeline.reference.published import NEAR, SHARE
from pipeline.reference.scale import is_of
from pipeline.reference.values import PUBLISHED
from pipeline.stages import Bounds, Figures, Spectrum
from pipeline.tasks import ComparisonJob

# Names that say nothing: networks are known by their settings.
DATASETS = {
    "any": Dataset(source="mnist", mean=(0.5,), std=(0.5,)),
    "colours": Dataset(source="cifar10", mean=(0.5,), std=(0.5,)),
    "halves": Dataset(
        source="mnist", mean=(0.5,), std=(0.5,), groups=((5, 6, 7, 8, 9), (4, 3, 2, 1, 0))
    ),
    "plain": Dataset(source="mnist"),
}
MODELS = {
    "fnet": FNet(family="fnet", width=200, depth=2),
    "lenet5": LeNet5(family="lenet5"),
    "binary": FNet(family="fnet", width=600, depth=1, single_logit=True),
    "deep": VGG11(family="vgg11"),
}
PAPERS = Recipe(
    lr=0.01,
    momentum=0.0,
    weight_decay=0.0,
    batch=128,
    epochs=9,
    drop_at=(),
    init="xavier",
    checkpoints=(0, 9),
)
WHOLE = PAPERS.model_copy(update={"epochs": 1000, "checkpoints": (1000,)})


def block(dataset, model, *, norms=("none",), recipe="sgd", sizes=(20,), seeds=(0, 1, 2)):
    return Grid(
        datasets=(dataset,),
        models=(model,),
        norms=norms,
        recipes=(recipe,),
        n_per_class=sizes,
        seeds=seeds,
    )


def job_of(grids, recipes=None, **more):
    words = {"results": "results", "figures": Figures(names=("comparison",)), "code": ""}
    words |= {"datasets": DATASETS, "models": MODELS, "recipes": recipes or {"sgd": PAPERS}}
    return ComparisonJob(grids=grids, **words | more)


F200 = {"layers": (block("any", "fnet"),)}
LENET5 = (block("colours", "lenet5"),)


def layers(*blocks):
    return layer_cubes.layers_cube([run for one in blocks for run in one.runs()])


def row_of(rows, network, what):
    (found,) = [
        row
        for row in rows
        if row.published.experiment.network == network and row.published.what == what
    ]
    return found


def filled(cube, variable, values, **at):
    """Return the cube with a variable's values, by seed or constant, at a place."""
    cube = cube.copy(deep=True)
    values = xr.DataArray(values, dims="seed") if np.ndim(values) else values
    cube[variable].loc[at] = values
    return cube


def test_a_value_is_the_mean_over_seeds_with_its_range():
    cube = filled(
        layers(*F200["layers"]), "layer_eigenvalue", [1.9, 2.0, 2.3], layer="fc1", order=0
    )
    cube = filled(cube, "layer_eigenvalue", [1.9, 2.0, 2.3], layer="fc1", order=1)
    rows = compare(job_of(F200), {"layers": cube})
    row = row_of(rows, "F-200^2", "fc1: Hessian eigenvalue 0")
    found = row.measured
    assert found.value == pytest.approx(6.2 / 3)
    assert (found.low, found.high, found.seeds) == (1.9, 2.3, 3)
    assert row.published.ratio(found.value) == pytest.approx(6.2 / 3 / 2.04)
    assert row.verdict == WITHIN
    assert row.found.runs == "any/fnet/none/sgd/n20"
    # The same number is 1.216 times D's 1.70; a little more is outside.
    assert row_of(rows, "F-200^2", "fc1: Hessian eigenvalue 1").verdict == WITHIN
    cube = filled(cube, "layer_eigenvalue", 1.7 * 1.26, layer="fc1", order=1)
    again = compare(job_of(F200), {"layers": cube})
    assert row_of(again, "F-200^2", "fc1: Hessian eigenvalue 1").verdict == OUTSIDE


def test_later_layers_are_pooled_and_judged_by_the_printed_range():
    what = "later layers: first over second eigenvalue of E[xx^T]"
    cube = layers(*F200["layers"])
    cube = filled(cube, "spectral_ratio", 1000.0, layer="fc1")
    cube = filled(cube, "spectral_ratio", [9.0, 10.0, 11.0], layer="fc2")
    cube = filled(cube, "spectral_ratio", [9.0, 9.0, 10.2], layer="fc3")
    row = row_of(compare(job_of(F200), {"layers": cube}), "F-200^2", what)
    assert row.measured.value == pytest.approx(58.2 / 6)
    assert (row.measured.low, row.measured.high) == (9.0, 11.0)
    assert row.verdict == WITHIN  # though 0.79 of 12.29: D's own range reaches to 9.65
    cube = filled(cube, "spectral_ratio", [9.0, 9.0, 9.8], layer="fc3")
    row = row_of(compare(job_of(F200), {"layers": cube}), "F-200^2", what)
    assert row.verdict == OUTSIDE


def test_the_last_checkpoint_on_training_examples_is_compared():
    cube = layers(*F200["layers"])
    expected = cube.kronecker_eigenvalue.sel(
        dataset="any", model="fnet", layer="fc1", order=3, epoch=9, split="train", n_per_class=20
    )
    row = row_of(compare(job_of(F200), {"layers": cube}), "F-200^2", "fc1: Kronecker eigenvalue 3")
    assert row.measured.value == pytest.approx(float(expected.mean()))
    assert row.measured.low == float(expected.min())


TOLERANCES = {
    "a range": (("LeNet5", "convolutions: first over second eigenvalue of E[xx^T]"), 11.15, 27.2),
    "a share": (("LeNet5", "fc1: reshaped top eigenvector, singular value 0"), 0.977, 0.997),
    "a ratio": (("LeNet5", "fc1: overlap between seeds, k of the peak"), 97.6, 152.5),
    "a negative one": (("VGG11", "H on test examples: exponent of the power law"), -3.375, -2.16),
    "a logarithm": (("T-600", "Base: (1/2) log lambda"), -1.3313 - log(1.25), -1.3313 + log(1.25)),
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_what_counts_as_within(name):
    where, low, high = TOLERANCES[name]
    one = row_of([Row(one) for one in PUBLISHED], *where).published
    assert one.accepted == (pytest.approx(low), pytest.approx(high))
    assert (NEAR, SHARE) == (1.25, 0.01)


def test_a_logarithm_compares_by_its_exponential():
    one = row_of([Row(one) for one in PUBLISHED], "T-600", "Base: (1/2) log lambda").published
    assert one.ratio(-1.3313) == 1
    assert one.ratio(-2.8180) == pytest.approx(exp(-2.8180 + 1.3313))


OTHERS = {
    "itself": (DATASETS["any"], MODELS["fnet"], "none", True),
    "other pixels": (DATASETS["plain"], MODELS["fnet"], "none", True),
    "another source": (DATASETS["colours"], MODELS["fnet"], "none", False),
    "the user's own images": (
        Dataset(source="folder", path="mnist"),
        MODELS["fnet"],
        "none",
        False,
    ),
    "merged classes": (DATASETS["halves"], MODELS["fnet"], "none", False),
    "random labels": (
        DATASETS["any"].model_copy(update={"random_labels": True}),
        MODELS["fnet"],
        "none",
        False,
    ),
    "another width": (DATASETS["any"], FNet(family="fnet", width=201, depth=2), "none", False),
    "another depth": (DATASETS["any"], FNet(family="fnet", width=200, depth=3), "none", False),
    "another family": (DATASETS["any"], MODELS["lenet5"], "none", False),
    "BatchNorm": (DATASETS["any"], MODELS["fnet"], "batch", False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_are_known_by_their_settings(name):
    *words, same = OTHERS[name]
    assert is_of(paper_d.F200, *words) == same


def test_groups_are_known_in_any_order_and_a_single_logit_counts():
    assert is_of(paper_d.T600, DATASETS["halves"], MODELS["binary"], "none")
    two = MODELS["binary"].model_copy(update={"single_logit": False})
    assert not is_of(paper_d.T600, DATASETS["halves"], two, "none")
    assert not is_of(paper_d.T600, DATASETS["any"], MODELS["binary"], "none")
    assert is_of(paper_s.VGG11_MNIST, DATASETS["plain"], MODELS["deep"], "batch")


AS_D = {"sizes": (0,), "seeds": (0, 1, 2, 3, 4)}
SCALES = {
    "as in the paper": ({}, {}, "as in the paper"),
    "fewer epochs": ({"epochs": 100, "checkpoints": (100,)}, {}, "100 of 1000 epochs"),
    "an early checkpoint": ({"checkpoints": (10, 500)}, {}, "500 of 1000 epochs"),
    "more epochs": ({"epochs": 2000, "checkpoints": (2000,)}, {}, "2000 epochs (1000)"),
    "fewer examples": ({}, {"sizes": (50,)}, "training examples 50 per class (all)"),
    "fewer seeds": ({}, {"seeds": (7, 9)}, "2 of 5 seeds"),
    "more seeds": ({}, {"seeds": tuple(range(7))}, "as in the paper"),
    "rate": ({"lr": 0.02}, {}, "lr 0.02 (0.01)"),
    "momentum": ({"momentum": 0.9}, {}, "momentum 0.9 (0)"),
    "decay": ({"weight_decay": 5e-4}, {}, "weight_decay 0.0005 (0)"),
    "batch": ({"batch": 32}, {}, "batch 32 (128)"),
    "schedule": ({"drop_at": (0.5,)}, {}, "another schedule of the rate"),
    "a factor that nothing uses": ({"drop_factor": 0.5}, {}, "as in the paper"),
    "initialisation": ({"init": "default"}, {}, "init default (xavier)"),
    "pixels": ({}, {"dataset": "plain"}, "pixels' mean 0.1307 (0.5); pixels' std 0.3081 (0.5)"),
    "augmentation": (
        {"augment": {"RandomCrop": {"size": 28}}},
        {},
        "augmented by RandomCrop (not)",
    ),
    "precision": ({"precision": "bfloat16"}, {}, "trained in bfloat16"),
    "two things": ({"lr": 0.02}, {"seeds": (0,)}, "1 of 5 seeds; lr 0.02 (0.01)"),
}


@pytest.mark.parametrize("name", SCALES)
def test_departures_are_told_and_values_judged_all_the_same(name):
    update, words, expected = SCALES[name]
    recipe = WHOLE.model_copy(update=update)
    grid = block(*(words.get("dataset", "any"), "fnet"), **AS_D | without(words, "dataset"))
    cube = gathered("layers", grid, of_fc1(2.04), epoch=max(recipe.checkpoints))
    job = job_of({"layers": (grid,)}, {"sgd": recipe})
    row = row_of(compare(job, {"layers": cube}), "F-200^2", "fc1: Hessian eigenvalue 0")
    assert row.scale == expected
    assert row.verdict == WITHIN


def without(words, key):
    return {name: value for name, value in words.items() if name != key}


def of_fc1(value):
    return xr.Dataset(
        {"layer_eigenvalue": (("layer", "order"), [[value]])}, coords={"layer": ["fc1"]}
    )


def gathered(name, grid, part, **place):
    """Return a cube whose parts are all the same; those of layers lie at ``epoch``."""
    place = {"split": "train"} | place if name != "bounds" else place
    return assemble(
        name, list(grid.runs()), [Placed(asdict(run) | place, part) for run in grid.runs()]
    )


def test_of_several_recipes_the_nearest_is_compared():
    short = WHOLE.model_copy(update={"epochs": 100, "checkpoints": (100,)})
    recipes = {"short": short, "long": WHOLE, "fast": WHOLE.model_copy(update={"lr": 0.1})}
    grids = [block("any", "fnet", recipe=name, **AS_D) for name in recipes]
    parts = [
        Placed(
            asdict(run) | {"epoch": max(recipes[run.recipe].checkpoints), "split": "train"},
            of_fc1({"short": 1.0, "long": 2.0, "fast": 3.0}[run.recipe]),
        )
        for grid in grids
        for run in grid.runs()
    ]
    runs = [run for grid in grids for run in grid.runs()]
    cubes = {"layers": assemble("layers", runs, parts)}
    what = "fc1: Hessian eigenvalue 0"

    def chosen(recipes, grids):
        job = job_of({"layers": tuple(grids)}, recipes)
        return row_of(compare(job, cubes), "F-200^2", what)

    assert chosen(recipes, grids).measured.value == 2.0
    # Of one departure each, the longer training.
    assert chosen(recipes, [grids[0], grids[2]]).measured.value == 3.0
    # What diverged stands back.
    cubes["layers"] = filled(cubes["layers"], "layer_eigenvalue", np.nan, recipe="long")
    assert chosen(recipes, grids[:2]).measured.value == 1.0


def test_networks_that_all_diverged_have_no_value():
    grid = block("any", "fnet", **AS_D)
    cube = gathered("layers", grid, of_fc1(2.04), epoch=1000).isel(epoch=[])
    rows = compare(job_of({"layers": (grid,)}, {"sgd": WHOLE}), {"layers": cube})
    assert row_of(rows, "F-200^2", "fc1: Hessian eigenvalue 0").verdict == NO_VALUE


def test_s_is_compared_at_its_sample_size():
    grid = block("plain", "deep", norms=("batch",), sizes=(10, 1351, 5000), seeds=(0,))
    cube = power_law_cube(grid, epoch=200)

    def swept(count):
        sweep = Sweep(low=1e-4, high=0.25, count=count)
        recipe = paper_s_recipe().model_copy(update={"lr": None, "sweep": sweep})
        job = job_of({"spectrum": (grid,)}, {"sgd": recipe}, spectrum=Spectrum(steps=2048))
        return row_of(compare(job, {"spectrum": cube}), "VGG11", LAW)

    assert swept(100).found.runs == "plain/deep/batch/sgd/n1351"
    assert swept(100).scale == "as in the paper"
    expected = "best of 8 rates from 0.0001 to 0.25 (100 rates from 0.0001 to 0.25)"
    assert swept(8).scale == expected
    job = job_of({"spectrum": (grid,)}, {"sgd": paper_s_recipe()}, spectrum=Spectrum(steps=128))
    row = row_of(compare(job, {"spectrum": cube}), "VGG11", LAW)
    assert row.scale == "lr 0.02 (swept); spectrum.steps 128 (2048)"


LAW = "H on test examples: exponent of the power law"


def paper_s_recipe():
    return Recipe(lr=0.02, epochs=200, drop_at=(0.3333, 0.6667), checkpoints=(0, 200))


def power_law_cube(grid, epoch):
    """Return the cube of H whose eigenvalues have a density in proportion to t**-2."""
    values = 1 / np.linspace(1, 100, 4000)
    part = xr.Dataset(matrix(np.random.default_rng(0), 0)).drop_dims(["order", "from_bottom"])
    part = part.assign(
        eigenvalue=("order", values), bottom_eigenvalue=("from_bottom", np.zeros(0)), dimension=4e3
    )
    part["ritz_value"], part["ritz_weight"] = part.ritz_value * 0, part.ritz_weight * 0
    part = part.expand_dims(matrix=["H"]).assign_coords(degree=[1, 2], dimension=4e3)
    return gathered("spectrum", grid, part.reset_coords("dimension"), epoch=epoch, split="test")


def test_the_power_law_is_the_fit_to_each_seed():
    grid = block("plain", "deep", norms=("batch",), sizes=(1351,), seeds=(0, 1))
    job = job_of({"spectrum": (grid,)}, {"sgd": paper_s_recipe()}, spectrum=Spectrum())
    rows = compare(job, {"spectrum": power_law_cube(grid, epoch=200)})
    row = row_of(rows, "VGG11", LAW)
    assert row.measured.value == pytest.approx(-2, abs=0.45)
    assert row.measured.low == row.measured.high
    assert row.measured.seeds == 2
    assert row.published.ratio(row.measured.value) == pytest.approx(row.measured.value / -2.7)
    # The power law on training examples was not measured: only test examples are in the cube.
    train = row_of(rows, "VGG11", LAW.replace("test", "train"))
    assert (train.verdict, train.measured) == (NO_VALUE, None)


def test_the_peak_of_the_overlap_and_its_k():
    k = np.arange(1, 151)
    mean = 0.3 + 0.3 * np.exp(-(((k - 122) / 20) ** 2))
    mean[0] = 0.99  # leading eigenvectors may agree; that is no peak
    overlap = np.full((1, 150, 3, 3), np.nan)
    for (a, b), shift in {(0, 1): -0.02, (0, 2): 0.01, (1, 2): 0.01}.items():
        overlap[0, :, a, b] = mean + shift
    overlap[0, 119, 0, 1] = 0.9  # one pair's own peak, at k = 120
    part = xr.Dataset(
        {
            "overlap": (("layer", "k", "seed_a", "seed_b"), overlap),
            "overlap_mean": (("layer", "k"), mean[None]),
            "outputs": ("layer", [120.0]),
        },
        coords={"layer": ["fc1"], "k": k, "seed_a": [0, 1, 2], "seed_b": [0, 1, 2]},
    )
    cube = gathered("overlap", LENET5[0].model_copy(update={"seeds": (0,)}), part, epoch=9)
    rows = compare(job_of({"overlap": LENET5}), {"overlap": cube})
    peak = row_of(rows, "LeNet5", "fc1: overlap between seeds, peak")
    assert peak.measured.value == pytest.approx(0.6)
    assert (peak.measured.low, peak.measured.high) == pytest.approx((0.58, 0.61))
    assert peak.measured.seeds == 3
    at = row_of(rows, "LeNet5", "fc1: overlap between seeds, k of the peak").measured
    assert (at.value, at.low, at.high) == (122, 120, 122)
    # As of a layers.rank of 100: the peak lies where nothing was measured.
    whole, short = (
        compare(job_of({"overlap": LENET5}), {"overlap": some})
        for some in (cube, cube.where(cube.k <= 100))
    )
    for what in ("fc1: overlap between seeds, peak", "fc1: overlap between seeds, k of the peak"):
        assert "overlaps" not in row_of(whole, "LeNet5", what).scale
        row = row_of(short, "LeNet5", what)
        assert row.scale.endswith("; overlaps known to k 100 (122 or more)")
    assert row.verdict == WITHIN  # though the largest k alone is near


def bounds_of(grid, *, methods=("base",), **values):
    part = xr.Dataset({key: ("basis", [value]) for key, value in values.items()})
    places = [(run, method) for run in grid.runs() for method in methods]
    parts = [Placed(asdict(run) | {"basis": method}, part) for run, method in places]
    return assemble("bounds", list(grid.runs()), parts)


def test_bounds_are_those_of_the_estimate_and_their_settings_are_told():
    grid = block("halves", "binary", **AS_D)
    numbers = {"kl": 5000.0, "stochastic_error_train": 0.034, "half_log_lambda": -1.3313}
    cube = bounds_of(grid, bound=0.5, bound_of_estimate=0.16, classes=2.0, **numbers)
    for bounds, scale in (
        (Bounds(), "as in the paper"),
        (Bounds(epochs=20, batch=250), "bounds.epochs 20 (2000)"),
        (Bounds(samples=1000, lr=0.02), "bounds.lr 0.02 (0.001); bounds.samples 1000 (150000)"),
        (Bounds(drop_at=(0.5,)), "bounds.drop_at 0.5 (0.2 0.4 0.6 0.8)"),
    ):
        job = job_of({"bounds": (grid,)}, {"sgd": WHOLE}, bounds=bounds)
        rows = compare(job, {"bounds": cube})
        row = row_of(rows, "T-600", "Base: bound")
        assert row.scale == scale
        assert row.measured.value == 0.16
        assert row.verdict == WITHIN
    assert row_of(rows, "T-600", "Base: (1/2) log lambda").verdict == WITHIN
    assert row_of(rows, "T-600", "Appr: bound").verdict == NO_VALUE  # not among the methods
    assert row_of(rows, "T-200^2_10", "Base: bound").verdict == ABSENT


def test_no_published_value_is_omitted():
    digits = Dataset(source="digits")
    job = job_of(F200, datasets={"any": digits})
    rows = compare(job, {"layers": layers(*F200["layers"])})
    assert [row.published for row in rows] == list(PUBLISHED)
    assert {row.verdict for row in rows} == {ABSENT}
    # LeNet5 on MNIST is D's network, but not on data that D prints values of.
    job = job_of({"layers": (block("any", "lenet5"),)})
    rows = compare(job, {"layers": layers(block("any", "lenet5"))})
    assert {row.verdict for row in rows} == {ABSENT}
    # A network that is there, all seeds of it diverged.
    cube = layer_cubes.layers_cube(list(F200["layers"][0].runs()), diverged=[("fnet", "none")])
    rows = compare(job_of(F200), {"layers": filled(cube, "classes", 10.0)})
    own = [row for row in rows if row.published.experiment.network == "F-200^2"]
    assert {row.verdict for row in own} == {NO_VALUE}


def test_published_values_have_a_place_in_the_cubes():
    names = [(one.experiment.name, one.what) for one in PUBLISHED]
    assert len(names) == len(set(names))
    for one in PUBLISHED:
        low, high = one.accepted
        assert low < one.number < high, one.source
        assert one.source[0] in "SD"
        if one.variable not in MADE:
            further = SCHEMA[one.cube][one.variable].dims
            assert set(one.at) <= {*further, *leading_dims(one.cube)}
            # Nothing but layers and seeds is averaged over.
            assert {*further} - {*one.at} <= {"epoch"}
