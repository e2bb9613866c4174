"""The workflow itself, on a tiny grid: end to end, and what reruns after a change."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from pipeline import open_run
from pipeline.catalogue import FIGURES

ROOT = Path(__file__).parent.parent

TINY = {
    "models": {"tiny": {"family": "fnet", "width": 6, "depth": 1}},
    "recipes": {
        "sgd": {"lr": 0.05, "batch": 16, "epochs": 4, "checkpoints": [0, 4], "weight_decay": 0.0},
        "wild": {"lr": 1e8, "batch": 16, "epochs": 4, "checkpoints": [0, 2, 4]},
    },
    "grid": [
        {
            "datasets": ["digits"],
            "models": ["tiny"],
            "norms": ["none"],
            "recipes": ["sgd", "wild"],
            "n_per_class": [8],
            "seeds": [0],
        }
    ],
    "spectrum": {"top": {"Hess": 9, "G": 9, "H": 2}, "steps": 12, "trace_probes": 4},
    "hierarchy": {"steps": 12, "trace_probes": 4},
    "layers": {"full": 5},
    "theory": {"widths": [32, 64], "seeds": [0], "examples": 100},
    "compute": {"device": "cpu"},
    "figures": {"dpi": 60},
}


def snakemake(folder, settings, *arguments, check=True):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / ".cache")}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "tiny.yaml")]
    command += ["--workflow-profile", "none", "--cores", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder, settings):
    """Return how many jobs of each rule a dry run lists, without the target rule."""
    text = snakemake(folder, settings, "--dry-run")
    table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", text, re.S)
    rows = dict(line.split() for line in table[1].splitlines()) if table else {}
    return {rule: int(count) for rule, count in rows.items() if rule not in ("all", "total")}


def changed(path, value):
    settings = json.loads(json.dumps(TINY))
    inside = settings
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflow")
    snakemake(folder, TINY)
    return folder


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


def test_a_diverged_run_sinks_no_other(finished):
    training = xr.open_zarr(finished / "results/cubes/training.zarr").isel(
        dataset=0, model=0, norm=0, n_per_class=0, seed=0
    )
    assert training.diverged.sel(recipe="wild").values[-1] == 1
    assert training.diverged.sel(recipe="sgd").values[-1] == 0
    spectrum = xr.open_zarr(finished / "results/cubes/spectrum.zarr").isel(
        dataset=0, model=0, norm=0, n_per_class=0, seed=0
    )
    assert spectrum.trace.sel(recipe="wild", epoch=0).notnull().all()
    assert spectrum.trace.sel(recipe="wild", epoch=4).isnull().all()


def test_the_spectrum_is_that_of_the_opened_run(finished):
    from reference import dense_hessian

    run = open_run(finished / "results/runs/digits/tiny/none/sgd/n8/seed0")
    exact = np.linalg.eigvalsh(dense_hessian(run.model, run.train.inputs, run.train.labels))[::-1]
    cube = xr.open_zarr(finished / "results/cubes/spectrum.zarr")
    cube = cube.isel(dataset=0, model=0, norm=0, n_per_class=0, seed=0).sel(
        recipe="sgd", epoch=4, split="train", matrix="Hess"
    )
    # 460 parameters: solved whole, in float32.
    assert float(cube.exact) == 1
    assert np.allclose(cube.eigenvalue.values, exact, atol=1e-6 * exact[0])
    assert float(cube.trace) == pytest.approx(exact.sum(), rel=1e-5)


def test_the_hierarchy_is_that_of_the_opened_run(finished):
    from reference import dense_levels

    run = open_run(finished / "results/runs/digits/tiny/none/sgd/n8/seed0")
    levels = dense_levels(run.model, run.train.inputs, run.train.labels)
    cube = xr.open_zarr(finished / "results/cubes/hierarchy.zarr")
    cube = cube.isel(dataset=0, model=0, norm=0, n_per_class=0, seed=0).sel(
        recipe="sgd", epoch=4, split="train"
    )
    assert float(cube.identity_error) < 1e-5
    for name in ("A1", "A2", "B1", "B2"):
        trace = float(levels[name].trace())
        assert float(cube.trace.sel(component=name)) == pytest.approx(trace, rel=1e-4)
        if name != "B2":
            values = cube.eigenvalue.sel(component=name).dropna("order").values
            exact = np.linalg.eigvalsh(levels[name])[::-1][: len(values)]
            assert np.allclose(values, exact, rtol=1e-3, atol=1e-5 * exact[0])


def test_each_log_begins_with_a_command_that_runs_by_hand(finished, tmp_path):
    log = finished / "results/logs/figures/training.log"
    command = log.read_text().splitlines()[0].removeprefix("$ python -m ")
    figure = finished / "results/figures/training.png"
    before = figure.read_bytes()
    kept = tmp_path / "kept.png"
    shutil.move(figure, kept)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        f"{sys.executable} -m {command}", shell=True, check=True, cwd=finished, env=environment,
        capture_output=True,
    )  # fmt: skip
    assert figure.read_bytes() == before
    shutil.move(kept, figure)


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
            "figure": 23,
        },
    ),
    "a figure option": (["figures", "kappa"], 2.0, {"figure": 24}),
    "a spectrum setting": (
        ["spectrum", "steps"],
        13,
        {"spectrum": 1, "spectrum_1": 1, "cube": 1, "figure": 10},
    ),
    "a hierarchy setting": (
        ["hierarchy", "knockouts"],
        ["G-A1"],
        {"hierarchy": 1, "hierarchy_1": 1, "cube": 1, "figure": 5},
    ),
    "a layers setting": (
        ["layers", "full"],
        6,
        {"layers": 2, "overlap": 1, "cube": 2, "figure": 9},
    ),
    "pairs across recipes": (
        ["overlap"],
        {"across": ["recipe"]},
        {"overlap": 1, "cube": 1, "figure": 2},
    ),
    "a theory setting": (
        ["theory", "seeds"],
        [0, 1],
        {"theory": 1, "cube": 1, "figure": 1},
    ),
    "fewer cubes": (["cubes"], ["training", "layers"], {}),
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
            "figure": 23,
        },
    ),
    "resources": (["resources"], {"train": {"mem_mb": 3000}}, {}),
    "an unused data set": (["datasets"], {"mine": {"source": "mnist"}}, {}),
}


@pytest.mark.parametrize("name", RERUNS)
def test_a_change_reruns_what_depends_on_it(finished, name):
    path, value, jobs = RERUNS[name]
    assert planned(finished, changed(path, value)) == jobs


def test_a_refused_configuration_starts_no_job(tmp_path):
    settings = changed(["grid", 0, "norms"], ["layer"])
    text = snakemake(tmp_path, settings, check=False)
    assert re.search(r"tiny.yaml:\d+: grid\[0\].norms\[0\]: 'layer'", text)
    assert not (tmp_path / "results").exists()


def test_lint_is_clean():
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True
    )
    assert "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr
