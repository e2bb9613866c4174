"""The workflow itself, on a tiny grid: end to end, and what reruns after a change."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from test_combined_cubes import assert_kept
from workflow import ROOT, TINY, begin, changed, planned, snakemake

from pipeline import open_run
from pipeline.catalogue import FIGURES

DIGITS = {"dataset": "digits", "n_per_class": 8}


def test_two_commands_give_cubes_and_figures(finished):
    cube = xr.open_zarr(finished / "results/cubes/spectrum.zarr")
    words = {"dataset": "digits", "model": "tiny", "norm": "none", "n_per_class": 8, "seed": 0}
    trained = cube.sel(**words, recipe="sgd", epoch=4, split="train")
    assert trained.trace.notnull().all()
    assert float(trained.dimension) == 64 * 6 + 6 + 6 * 10 + 10
    top = trained.eigenvalue.sel(order=0)
    assert float(top.sel(matrix="G")) > float(top.sel(matrix="H"))
    provenance = json.loads(cube.attrs["provenance"])
    assert provenance["versions"]["zarr"]
    for name in FIGURES:
        for suffix in ("svg", "png"):
            assert (finished / f"results/figures/{name}.{suffix}").stat().st_size > 5000
    assert "not in this experiment" in (finished / "results/comparison.csv").read_text()


def test_all_pairs_of_cubes_are_merged(finished):
    cubes = [xr.open_zarr(path).load() for path in (finished / "results/cubes").glob("*.zarr")]
    assert len(cubes) == 7
    for parts in combinations(cubes, 2):
        whole = xr.merge(parts, join="outer", compat="no_conflicts")
        for part in parts:
            assert_kept(whole, part)


def test_a_block_of_the_grid_is_in_the_cubes_that_it_names(finished):
    for name, datasets in (("bounds", ["digits-2"]), ("training", ["digits", "images"])):
        cube = xr.open_zarr(finished / f"results/cubes/{name}.zarr")
        assert cube.dataset.values.tolist() == datasets
    bounds = xr.open_zarr(finished / "results/cubes/bounds.zarr")
    assert bounds.basis.values.tolist() == ["base", "iter"]
    found = bounds.isel(model=0, norm=0, recipe=0, n_per_class=0, dataset=0)
    assert (found.bound > found.stochastic_error_test).all()
    assert not (finished / "results/curvature/digits-2/binary/none/sgd/n40/seed0/epoch4").exists()


def test_the_best_of_a_sweep_goes_on(finished):
    words = {"dataset": "images", "recipe": "tuned", "n_per_class": 4}
    cube = xr.open_zarr(finished / "results/cubes/training.zarr").sel(words).isel(norm=0, seed=0)
    tried = cube.isel(model=0)
    assert tried.candidate_lr.values.tolist() == [0.05, 1e8]
    assert tried.candidate_diverged.values.tolist() == [0, 1]
    assert tried.candidate_selected.values.tolist() == [1, 0]
    assert float(tried.lr.sel(epoch=1)) == 0.05
    run = open_run(finished / "results/runs/images/tiny/none/tuned/n4/seed0")
    assert run.spec.recipe == "tuned"
    assert (run.spec.seed, run.epoch) == (0, 4)


def test_a_diverged_run_sinks_no_other(finished):
    training = (
        xr.open_zarr(finished / "results/cubes/training.zarr")
        .sel(DIGITS)
        .isel(model=0, norm=0, seed=0)
    )
    assert training.diverged.sel(recipe="wild").values[-1] == 1
    assert training.diverged.sel(recipe="sgd").values[-1] == 0
    spectrum = (
        xr.open_zarr(finished / "results/cubes/spectrum.zarr")
        .sel(DIGITS)
        .isel(model=0, norm=0, seed=0)
    )
    assert spectrum.trace.sel(recipe="wild", epoch=0).notnull().all()
    assert spectrum.trace.sel(recipe="wild", epoch=4).isnull().all()


def test_the_spectrum_is_that_of_the_opened_run(finished):
    from reference import dense_hessian

    run = open_run(finished / "results/runs/digits/tiny/none/sgd/n8/seed0")
    exact = np.linalg.eigvalsh(dense_hessian(run.model, run.train.inputs, run.train.labels))[::-1]
    cube = xr.open_zarr(finished / "results/cubes/spectrum.zarr")
    cube = (
        cube.sel(DIGITS)
        .isel(model=0, norm=0, seed=0)
        .sel(recipe="sgd", epoch=4, split="train", matrix="Hess")
    )
    # 460 parameters: solved whole, in float32.
    assert float(cube.exact) == 1
    values = cube.eigenvalue.dropna("order").values
    assert np.allclose(values, exact, atol=1e-6 * exact[0])
    assert float(cube.trace) == pytest.approx(exact.sum(), rel=1e-5)


def test_the_hierarchy_is_that_of_the_opened_run(finished):
    from reference import dense_levels

    run = open_run(finished / "results/runs/digits/tiny/none/sgd/n8/seed0")
    levels = dense_levels(run.model, run.train.inputs, run.train.labels)
    cube = xr.open_zarr(finished / "results/cubes/hierarchy.zarr")
    cube = cube.sel(DIGITS).isel(model=0, norm=0, seed=0).sel(recipe="sgd", epoch=4, split="train")
    assert float(cube.identity_error) < 1e-5
    for name in ("A1", "A2", "B1", "B2"):
        trace = float(levels[name].trace())
        assert float(cube.component_trace.sel(component=name)) == pytest.approx(trace, rel=1e-4)
        if name != "B2":
            values = cube.component_eigenvalue.sel(component=name).dropna("order").values
            exact = np.linalg.eigvalsh(levels[name])[::-1][: len(values)]
            assert np.allclose(values, exact, rtol=1e-3, atol=1e-5 * exact[0])


def test_each_log_begins_with_a_command_that_runs_by_hand(finished, tmp_path):
    log = finished / "results/logs/figures/training.log"
    command = log.read_text().splitlines()[0].removeprefix("$ python -m ")
    figure = finished / "results/figures/training.png"
    before = figure.read_bytes()
    kept = tmp_path / "kept.png"
    shutil.move(figure, kept)
    environment = os.environ | {"PYTHONPATH": str(finished / "project")}
    subprocess.run(
        f"{sys.executable} -m {command}", shell=True, check=True, cwd=finished, env=environment,
        capture_output=True,
    )  # fmt: skip
    assert figure.read_bytes() == before
    shutil.move(kept, figure)


# Every part of the layers', spectra's and hierarchy's, and what follows whatever else does.
DISSECTED = {
    "spectrum": 2,
    "spectrum_1": 1,
    "hierarchy": 2,
    "hierarchy_1": 1,
    "layers": 3,
    "overlap": 2,
    "comparison": 1,
}
RERUNS = {
    "nothing": (["results"], "results", {}),
    "a seed more": (
        ["grid", 0, "seeds"],
        [0, 1],
        {
            "train": 1,
            "train_1": 1,
            "spectrum": 1,
            "spectrum_1": 1,
            "hierarchy": 1,
            "hierarchy_1": 1,
            "layers": 2,
            "overlap": 1,
            "cube": 5,
            "figure": 24,
            "comparison": 1,
        },
    ),
    "a figure option": (["figures", "kappa"], 2.0, {"figure": 27, "comparison": 1}),
    "a spectrum setting": (
        ["spectrum", "steps"],
        13,
        {"spectrum": 2, "spectrum_1": 1, "cube": 1, "figure": 10, "comparison": 1},
    ),
    "a hierarchy setting": (
        ["hierarchy", "knockouts"],
        ["G-A1"],
        {"hierarchy": 2, "hierarchy_1": 1, "cube": 1, "figure": 5},
    ),
    "a layers setting": (
        ["layers", "full"],
        6,
        {"layers": 3, "overlap": 2, "cube": 2, "figure": 9, "comparison": 1},
    ),
    "pairs across recipes": (
        ["overlap"],
        {"across": ["recipe"]},
        {"overlap": 2, "cube": 1, "figure": 2, "comparison": 1},
    ),
    "a theory setting": (
        ["theory", "seeds"],
        [0, 1],
        {"theory": 1, "cube": 1, "figure": 1},
    ),
    "a bounds setting": (
        ["bounds", "samples"],
        60,
        {"bounds": 2, "cube": 1, "figure": 2, "comparison": 1},
    ),
    "a method more": (
        ["bounds", "methods"],
        ["base", "iter", "iter-m"],
        {"bounds": 1, "cube": 1, "figure": 2, "comparison": 1},
    ),
    "a seed more to bound": (
        ["grid", 2, "seeds"],
        [0, 1],
        {"train": 1, "bounds": 2, "cube": 1, "figure": 2, "comparison": 1},
    ),
    "fewer cubes": (["cubes"], ["training", "layers"], {"comparison": 1}),
    "one recipe": (
        ["recipes", "wild", "lr"],
        1e9,
        {
            "train_1": 1,
            "spectrum_1": 1,
            "hierarchy_1": 1,
            "layers": 1,
            "overlap": 1,
            "cube": 5,
            "figure": 24,
            "comparison": 1,
        },
    ),
    "a rate more": (
        ["recipes", "tuned", "sweep"],
        {"rates": [0.02, 0.05, 1e8]},
        {
            "train": 1,
            "select": 1,
            "spectrum": 1,
            "hierarchy": 1,
            "layers": 1,
            "overlap": 1,
            "cube": 5,
            "figure": 24,
            "comparison": 1,
        },
    ),
    "room for chunks": (
        ["compute", "memory_gb"],
        0.5,
        DISSECTED | {"bounds": 2, "cube": 5, "figure": 24},
    ),
    "room for a basis": (
        ["compute", "basis_gb"],
        0.5,
        DISSECTED | {"cube": 4, "figure": 22},
    ),
    "images streamed": (["compute", "stream"], True, {}),
    "another folder of data": (["data_root"], "elsewhere", {}),
    "data that are there": (["download"], False, {}),
    "resources": (["resources"], {"train": {"mem_mb": 3000}}, {}),
    "an unused data set": (["datasets", "mine"], {"source": "mnist"}, {}),
}


@pytest.mark.parametrize("name", RERUNS)
def test_a_changed_setting_reruns_what_depends_on_it(finished, name):
    path, value, jobs = RERUNS[name]
    assert planned(finished, changed(TINY, path, value)) == jobs


# A module, an edit of its text, and the jobs that run it.
CODE = {
    "a comment": ("spectra/lanczos.py", ("\nimport", "\n# Mark.\nimport"), {}),
    "a figure": (
        "figures/theory.py",
        ("hidden width", "width of the hidden layer"),
        {"figure": 1},
    ),
    "an analysis": (
        "anatomy/rowspace.py",
        ("    return", "    assert True\n    return"),
        {"layers": 3, "overlap": 2, "theory": 1, "cube": 3, "figure": 10, "comparison": 1},
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_a_changed_line_reruns_what_runs_it(finished, name):
    module, (old, new), jobs = CODE[name]
    file = finished / "project" / "pipeline" / module
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    try:
        assert planned(finished, TINY) == jobs
    finally:
        file.write_text(text)


def test_a_changed_image_retrains_and_a_touched_one_does_not(finished):
    file = next((finished / "images" / "test").rglob("*.png"))
    before = file.read_bytes()
    file.touch()
    assert planned(finished, TINY) == {}
    Image.new("RGB", (6, 6), "red").save(file)
    try:
        jobs = {"train": 2, "select": 1, "spectrum": 1, "hierarchy": 1, "layers": 1, "overlap": 1}
        assert planned(finished, TINY) == jobs | {"cube": 5, "figure": 24, "comparison": 1}
    finally:
        file.write_bytes(before)
    assert planned(finished, TINY) == {}


def test_a_refused_configuration_starts_no_job(tmp_path):
    settings = changed(TINY, ["grid", 0, "norms"], ["layer"])
    text = snakemake(begin(tmp_path), settings, check=False)
    assert re.search(r"tiny.yaml:\d+: grid\[0\].norms\[0\]: 'layer'", text)
    assert not (tmp_path / "results").exists()


def test_the_report_holds_every_figure_with_what_it_shows(finished):
    snakemake(finished, TINY, "--report", "report.html")
    text = (finished / "report.html").read_text()
    for name in (*FIGURES, "comparison"):
        assert f'"results/figures/{name}.svg": {{' in text
    assert '"results/comparison.csv": {' in text
    assert text.count('"caption": "<p>') == len(FIGURES) + 2
    assert '"caption": "<p></p>' not in text
    # Of a sweep one network goes on.
    runs = (finished / "results/runs").rglob("run.json")
    trained = sum("+lr" not in str(file) for file in runs)
    assert f"<p>{trained} trained networks" in text
    assert f"torch {version('torch')}" in text
    assert "'weight_decay': 0.0" in text


def test_lint_is_clean():
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True
    )
    assert "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr
