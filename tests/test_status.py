"""What `status` and `why` say of a finished experiment, and of one that is not."""

import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from workflow import TINY, changed, command, planned, snakemake, truncate

from pipeline.configfile import read_config
from pipeline.errors import ArtifactError
from pipeline.pending import MISSING
from pipeline.progress import is_held
from pipeline.status import last_line, print_status, state_of
from pipeline.why import explanation
from pipeline.workload import targets, workload

SWEPT = "results/runs/images/tiny/none/tuned/n4/seed0/sweep.csv"


@pytest.fixture
def here(finished, monkeypatch):
    """Return a function that reads the tiny experiment's configuration, in its folder."""
    monkeypatch.chdir(finished)

    def configuration(settings=TINY):
        command(finished, settings)
        return read_config([finished / "project/config.yaml", finished / "tiny.yaml"])

    yield configuration
    command(finished, TINY)


def absent(config):
    """Return the files that are not there, which Snakemake would make."""
    return {file: MISSING for file in map(Path, targets(config)) if not file.exists()}


def status(config):
    text = StringIO()
    fine = print_status(config, Console(file=text, width=160), pending=absent(config))
    return fine, text.getvalue()


def why(artifact, config):
    return explanation(artifact, config, pending=absent(config))


def test_the_workload_is_what_the_workflow_did(here):
    works = list(workload(here()))
    assert all(work.done and work.log.exists() for work in works)
    assert len(works) == 3 * 4 + 2 + 2 + 1 + (1 + 2) + 7 + 27 + 1
    made = [file for work in works for file in work.outputs]
    assert len(made) == len(set(made))
    needed = {file for work in works for file in work.inputs}
    assert needed <= set(made)


def test_parts_of_their_own_are_jobs_of_their_own(here):
    settings = TINY | {"resources": {"spectrum": {"job": "part"}}}
    works = [work for work in workload(here(settings)) if work.rule == "spectrum"]
    assert [len(work.outputs) for work in works] == [1] * 2 * (2 + 3 + 2)
    assert all(work.done for work in works)
    assert not any(work.log.exists() for work in works)


def test_the_grid_shows_done_failed_and_waiting(here, tmp_path, monkeypatch):
    fine, text = status(here())
    assert fine
    assert "0 running >, 0 failed x, 0 waiting ." in text
    shutil.copytree("results", tmp_path / "results")
    config = here()
    monkeypatch.chdir(tmp_path)
    first = next(work for work in workload(config) if work.rule == "spectrum")
    for part in first.outputs:
        part.unlink()
    first.log.write_text("at it\nerror: no more room\n\n")
    seed = here(changed(TINY, ["grid", 0, "seeds"], [0, 1]))
    monkeypatch.chdir(tmp_path)
    fine, text = status(seed)
    assert not fine
    assert f"failed: spectrum {first.name}" in text
    assert "spectrum/digits/tiny/none/sgd/n8/seed0.log: error: no more room" in text
    row = next(line for line in text.splitlines() if line.startswith("digits") and "sgd" in line)
    assert row.split()[5:] == ["#.", "x.", "#.", "#."]


def test_networks_that_a_sweep_deletes_are_not_missed(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    settings = changed(TINY, ["recipes", "tuned", "sweep", "keep"], False)
    (folder / SWEPT).unlink()
    snakemake(folder, settings, SWEPT)
    candidates = list((folder / "results/runs/images/tiny/none").glob("tuned+lr*"))
    assert len(candidates) == 2
    assert not any(list(one.rglob("*.safetensors")) for one in candidates)
    assert not any(rule.startswith("train") for rule in planned(folder, settings))
    config = read_config([folder / "project/config.yaml", folder / "tiny.yaml"])
    fine, text = status(config)
    assert fine
    assert "0 running >, 0 failed x, 0 waiting ." in text
    assert "nothing of these has changed" in why(SWEPT, config)
    next(candidates[0].rglob("history.csv")).unlink()
    assert not status(config)[0]


def test_a_job_that_writes_its_log_is_running(here, tmp_path, monkeypatch):
    config = here()
    work = next(workload(config))
    monkeypatch.chdir(tmp_path)
    assert state_of(work, absent(config)) == "waiting"
    work.log.parent.mkdir(parents=True)
    code = (
        "from pipeline.progress import hold_log, say; hold_log(); say('begun'); "
        "import time; time.sleep(60)"
    )
    with work.log.open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=log)
    try:
        while last_line(work.log) != "begun":
            assert process.poll() is None
        assert state_of(work, absent(config)) == "running"
        assert is_held(work.log)
    finally:
        process.kill()
        process.wait()
    assert state_of(work, absent(config)) == "failed"


PART = "results/curvature/digits/tiny/none/sgd/n8/seed0/epoch4/train/spectrum.zarr.zip"
ARTIFACTS = {
    "results/runs/digits/tiny/none/sgd/n8/seed0/history.csv": ["recipes", "sgd", "lr"],
    PART: ["spectrum", "steps"],
    "results/curvature/digits/tiny/none/overlap.zarr.zip": ["grid", 0, "seeds"],
    "results/curvature/digits-2/binary/none/sgd/n40/seed0/iter/bounds.zarr.zip": [
        "bounds",
        "samples",
    ],
    SWEPT: None,
    "results/cubes/training.zarr": ["grid", 0, "seeds"],
    "results/cubes/theory.manifest.json": None,
    "results/figures/theory.svg": ["figures", "kappa"],
    "results/comparison.csv": ["figures", "kappa"],
}


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_why_tells_what_made_an_artifact_and_what_differs(here, artifact, tmp_path, monkeypatch):
    text = why(tmp_path.cwd() / artifact, here())
    assert "nothing of these has changed" in text
    assert "torch" in text
    assert "made by" in text
    place = ARTIFACTS[artifact]
    if place:
        value = [0, 1] if place[-1] == "seeds" else 17
        now = why(tmp_path.cwd() / artifact, here(changed(TINY, place, value)))
        now = now.partition("\nnow:\n")[2]
        assert place[-1] in now
        assert "-> " in now


def test_why_sees_other_inputs(here, tmp_path, monkeypatch):
    config = here()
    shutil.copytree("results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "results/runs/digits/tiny/none/sgd/n8/seed0/checkpoints"
    truncate(checkpoint / "epoch4.safetensors")
    (checkpoint / "epoch0.safetensors").unlink()
    text = why(tmp_path / PART, config)
    assert "epoch4.safetensors is another than it was made from" in text
    assert "epoch0.safetensors is missing" in text
    truncate(tmp_path / PART)
    text = why(tmp_path / "results/cubes/spectrum.zarr", config)
    assert f"input {PART} is another" in text


def test_why_names_what_is_corrupt(here, tmp_path, monkeypatch):
    config = here()
    shutil.copytree("results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    run = Path("results/runs/digits/tiny/none/sgd/n8/seed0")
    truncate(run / "run.json")
    Path("results/figures/theory.png").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"record .*run\.json is corrupt"):
        why(run / "history.csv", config)
    with pytest.raises(ArtifactError, match=r"theory\.png, which carries .* Delete it"):
        why("results/figures/theory.svg", config)


def test_why_tells_that_a_run_has_become_a_sweep(here):
    recipe = TINY["recipes"]["sgd"] | {"lr": None, "sweep": {"rates": [0.01, 0.02]}}
    swept = changed(TINY, ["recipes", "sgd"], recipe)
    run = "results/runs/digits/tiny/none/sgd/n8/seed0/run.json"
    assert "setting candidates: null ->" in why(run, here(swept))


def test_why_refuses_what_it_does_not_know(here):
    with pytest.raises(ArtifactError, match="made by no job of this configuration"):
        why("results/cubes/other.zarr", here())
    more = here(changed(TINY, ["grid", 0, "seeds"], [0, 1]))
    with pytest.raises(ArtifactError, match=r"is not there\. Run: snakemake"):
        why(PART.replace("seed0", "seed1"), more)
