"""The bounds job: from a trained run of a binary task to its part, the cube and the figures."""

import numpy as np
import pytest
import torch
from small_run import job_of

from pipeline import open_run
from pipeline.anatomy import bounds
from pipeline.anatomy.bounds import Task, bound_found, optimised
from pipeline.anatomy.posterior import variance_curves
from pipeline.atomic import sha256
from pipeline.config import Dataset, FNet, Grid
from pipeline.cubes.assemble import dense
from pipeline.cubes.parts import part_cube
from pipeline.cubes.store import read_attributes, read_part
from pipeline.errors import AnatomyError, ArtifactError
from pipeline.figures import style
from pipeline.jobs import figure
from pipeline.jobs.bounds import write_bound
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe
from pipeline.runs import Run, bounds_path, run_folder
from pipeline.stages import Bounds, Compute, Figures
from pipeline.tasks import BoundsJob, CubeJob

RECIPE = Recipe(lr=0.05, batch=32, epochs=12, weight_decay=0.0, checkpoints=(0, 12))
RUN = Run("digits-2", "t8", "none", "sgd", 120, 0)
METHODS = ("base", "appr")


def job(method, **settings):
    settings = {"epochs": 20, "lr": 0.03, "batch": 40, "samples": 300} | settings
    return BoundsJob(
        bounds=Bounds(methods=(method,), **settings),
        compute=Compute(device="cpu", chunk=100),
        code="test",
    )


def train(root, run=RUN, recipe=RECIPE):
    told = job_of(recipe).model_copy(
        update={
            "dataset": Dataset(
                source="digits", groups=((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
            ).resolved(),
            "model": FNet(family="fnet", width=8, depth=1, single_logit=True),
        }
    )
    train_run(run_folder(root, run), told, save_every=1e9)


def written(root, method, run=RUN, **settings):
    file = bounds_path(root, run, method)
    write_bound(file, job(method, **settings), save_every=1e9)
    return read_part(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    train(root)
    for method in METHODS:
        written(root, method)
    return root


def test_the_part_has_the_bound_of_the_opened_run(root, tmp_path):
    run, initial = (open_run(run_folder(root, RUN), epoch) for epoch in (None, 0))
    task = Task(
        network=run.model,
        initial=initial.model,
        train=run.train,
        test=run.test,
        settings=job("appr").bounds,
        method="appr",
        seed=0,
        options={"chunk": 100},
        label="again",
    )
    posterior = optimised(task, tmp_path / "state", save_every=1e9)
    part = read_part(bounds_path(root, RUN, "appr"))
    for key, value in vars(bound_found(task, posterior)).items():
        assert float(part[key]) == value, key
    assert float(part.dimension) == 64 * 8 + 8 + 8 + 1
    assert float(part.examples) == 240
    assert float(part.samples) == 300
    errors = [part.deterministic_error_train, part.deterministic_error_test]
    for split, error in zip(("train", "test"), errors, strict=True):
        examples = getattr(run, split)
        wrong = run.model(examples.inputs).argmax(-1) != examples.labels
        assert float(error) == pytest.approx(float(wrong.float().mean()), abs=1e-7)
    assert part.layer.values.tolist() == ["fc1", "fc2"]
    assert part.coordinates.sum("bin").values.tolist() == [64 * 8, 8]
    assert read_attributes(part)["initial"] == initial.checksum


def test_the_curve_averages_the_posterior_by_curvature(root, tmp_path):
    run = open_run(run_folder(root, RUN))
    found = bounds.posterior_at(run.model, {}, half_log_lambda=-3.0)
    values = {"output_values": torch.tensor([2.0, 3.0] + [0.0] * 6), "input_values": torch.ones(64)}
    found.bases["fc1"] = bounds.LayerBasis(None, None, **values)
    with torch.no_grad():
        found.log_scale["fc1.weight"][0], found.log_scale["fc1.weight"][1] = -1.0, -2.0
    (curve,) = variance_curves(found, bins=1).values()
    assert curve.count.tolist() == [512]
    curve = variance_curves(found, bins=9)["fc1"]
    # Bins end after 1, 3, 7, 15, 31, 63, 127, ... coordinates: the first 64 are of unit 1.
    assert curve.curvature[:6].tolist() == [3.0] * 6
    assert np.allclose(curve.variance[:6], np.exp(-4.0))
    assert bool((curve.curvature.diff() <= 0).all())
    assert int(curve.count.sum()) == 512
    logs = (curve.variance.log() * curve.count).sum() / 512
    assert float(logs) == pytest.approx(float(2 * found.log_scale["fc1.weight"].detach().mean()))


def test_equal_jobs_write_equal_bytes_and_leave_no_scratch(root):
    file = bounds_path(root, RUN, "base")
    before = sha256(file)
    file.unlink()
    written(root, "base")
    assert sha256(file) == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_killed_job_ends_with_the_same_bytes(root, monkeypatch):
    file = bounds_path(root, RUN, "appr")
    before, one_epoch, epochs = sha256(file), bounds._one_epoch, []
    file.unlink()

    def killed(task, posterior, optimiser, epoch):
        epochs.append(epoch)
        if len(epochs) == 8:
            raise KeyboardInterrupt
        return one_epoch(task, posterior, optimiser, epoch)

    monkeypatch.setattr(bounds, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        write_bound(file, job("appr"), save_every=0)
    assert not file.exists()
    write_bound(file, job("appr"), save_every=1e9)
    assert epochs == [*range(1, 9), *range(8, 21)]
    assert sha256(file) == before


def test_a_diverged_run_has_no_bound(root):
    wild = Run("digits-2", "t8", "none", "wild", 120, 0)
    train(root, wild, RECIPE.model_copy(update={"lr": 1e30}))
    part = written(root, "base", wild)
    assert list(part.data_vars) == ["classes"]


def test_a_posterior_that_diverges_is_a_result(root):
    part = written(root, "base", lr=1e30)
    assert list(part.data_vars) == ["classes"]
    written(root, "base")


def test_what_a_bound_needs_is_asked_for(root, tmp_path):
    late = Run("digits-2", "t8", "none", "late", 120, 0)
    train(root, late, RECIPE.model_copy(update={"checkpoints": (12,)}))
    with pytest.raises(ArtifactError, match="no checkpoint of epoch 0"):
        written(root, "base", late)
    normed = Run("digits-2", "t8", "batch", "sgd", 120, 0)
    train(root, normed)
    with pytest.raises(AnatomyError, match="BatchNorm"):
        written(root, "base", normed)


def cube_of(root, recipes=("sgd",)):
    grid = Grid(
        datasets=("digits-2",),
        models=("t8",),
        norms=("none",),
        recipes=recipes,
        n_per_class=(120,),
        seeds=(0,),
    )
    told = CubeJob(
        results=str(root),
        grid=(grid,),
        checkpoints={},
        splits=(),
        methods=METHODS,
        code="test",
    )
    return dense(part_cube("bounds", told))


def test_the_cube_holds_the_parts_by_method(root):
    cube = cube_of(root)
    assert cube.basis.values.tolist() == list(METHODS)
    for method in METHODS:
        part = read_part(bounds_path(root, RUN, method))
        one = cube.isel(dataset=0, model=0, norm=0, recipe=0, n_per_class=0, seed=0)
        for key in ("bound", "kl", "half_log_lambda", "stochastic_error_test", "samples"):
            assert float(one[key].sel(basis=method)) == float(part[key])
        found = one.posterior_variance.sel(basis=method, layer="fc1").dropna("bin").values
        assert np.array_equal(found, part.posterior_variance.sel(layer="fc1").dropna("bin").values)
    assert all(cube[key].attrs["long_name"] for key in cube.data_vars)


@pytest.mark.parametrize("name", ["bounds", "posterior"])
def test_the_figures_are_drawn_from_the_cube(root, name, tmp_path):
    cube = cube_of(root)
    with style.theme():
        found = figure.FIGURES[name]({"bounds": cube}, Figures())
        title = found.get_suptitle().replace("\n", " ")
        assert "1 seed" in title
        assert "120 training examples per class" in title
        values = np.concatenate([line.get_ydata() for panel in found.axes for line in panel.lines])
        one = cube.isel(dataset=0, model=0, norm=0, recipe=0, n_per_class=0, seed=0)
        if name == "bounds":
            for key in ("bound", "bound_of_estimate", "stochastic_error_test"):
                assert set(one[key].values) <= set(values), key
            labels = [text.get_text() for text in found.axes[0].get_xticklabels()]
            assert labels == ["Base", "Appr"]
        else:
            assert len(found.axes) == 2
            shown = one.posterior_variance.where(one.curvature > 1e-9 * one.curvature.max())
            assert set(shown.values[np.isfinite(shown.values)]) <= set(values)
            assert np.exp(2 * one.half_log_lambda.values[0]) in values
        style.save(found, [tmp_path / "figure.png"], dpi=60)
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["bounds", "posterior"])
def test_a_cube_of_diverged_runs_is_drawn_as_such(root, name, tmp_path):
    for method in METHODS:
        file = bounds_path(root, Run("digits-2", "t8", "none", "wild", 120, 0), method)
        if not file.exists():
            train(root, Run("digits-2", "t8", "none", "wild", 120, 0))
            write_bound(file, job(method, lr=1e30), save_every=1e9)
    with style.theme():
        found = figure.FIGURES[name]({"bounds": cube_of(root, ("wild",))}, Figures())
        texts = [text.get_text() for panel in found.axes for text in panel.texts]
        assert "diverged" in texts
        style.save(found, [tmp_path / "figure.svg"], dpi=60)
