"""What the workflow keeps, refuses and says: a dry run, `status` and `why` agree."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from test_faults import start, wait_for
from workflow import begin, changed, command, environment, planned, products, snakemake

from pipeline.configfile import read_config
from pipeline.errors import StorageError
from pipeline.pending import pending
from pipeline.start import claim
from pipeline.status import print_status
from pipeline.why import explanation

LOAD = """
import numpy as np

def load(*, split, data_root, size=6):
    labels = np.arange(12) % 2
    return np.random.default_rng(0).uniform(0, 1, (12, 1, size, size)).astype("float32"), labels
"""
SMALL = {
    "cubes": ["training", "spectrum"],
    "datasets": {
        "images": {"source": "folder", "path": "images"},
        "made": {"source": "mine:load", "options": {"size": 6}},
    },
    "models": {"tiny": {"family": "fnet", "width": 3, "depth": 1}},
    "recipes": {"q": {"lr": 0.05, "batch": 8, "epochs": 1, "checkpoints": [1]}},
    "grid": [
        {
            "datasets": ["images", "made"],
            "models": ["tiny"],
            "norms": ["none"],
            "recipes": ["q"],
            "n_per_class": [3],
            "seeds": [0],
        }
    ],
    "spectrum": {
        "splits": ["train"],
        "matrices": ["G"],
        "top": {"G": 2},
        "steps": 3,
        "probes": 1,
        "trace_probes": 2,
    },
    "hierarchy": {"splits": ["train"]},
    "compute": {"device": "cpu"},
    "figures": {"dpi": 40, "names": ["training"]},
}
RUN = "results/runs/images/tiny/none/q/n3/seed0"
PART = "results/curvature/images/tiny/none/q/n3/seed0/epoch1/train/spectrum.zarr.zip"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with the small experiment, run while a module of the user hides our names."""
    folder = begin(tmp_path_factory.mktemp("truth"))
    (folder / "mine.py").write_text(LOAD)
    for name in ("pipeline.py", "yaml.py"):
        (folder / name).write_text("raise SystemExit('the module in the working folder ran')")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('theirs')")
    snakemake(folder, SMALL)
    return folder


@pytest.fixture
def done(made, tmp_path):
    return shutil.copytree(made, tmp_path / "done", symlinks=True)


def asked(folder, settings, monkeypatch):
    """Return Snakemake's answer, what `status` prints, and the configuration, in the folder."""
    monkeypatch.chdir(folder)
    command(folder, settings)  # which writes the file
    files = [folder / "project/config.yaml", folder / "tiny.yaml"]
    config, found = read_config(files), pending(settings)
    text = StringIO()
    print_status(config, Console(file=text, width=160), pending=found, command="snakemake -x")
    return config, found, text.getvalue()


def test_a_module_in_the_working_folder_replaces_neither_ours_nor_a_library(made):
    assert (made / PART).exists()
    assert (made / PART.replace("images", "made")).exists()


# A deleted file or folder, and the jobs that make it and what follows from it.
DELETED = {
    "results/cubes/spectrum.zarr": {"cube": 1, "comparison": 1},
    f"{RUN}/checkpoints/epoch1.safetensors": {"train": 1, "spectrum": 1},
    f"{RUN}/history.csv": {"train": 1, "spectrum": 1},
    PART: {"spectrum": 1, "cube": 1, "comparison": 1},
    "results/figures/training.png": {"figure": 1},
    "results/comparison.md": {"comparison": 1},
}


FAULTS = pytest.mark.faults


def some(names, always):
    """Return the names, those that are not always tried marked as faults."""
    return [pytest.param(name, marks=() if name in always else FAULTS) for name in names]


@pytest.mark.parametrize("name", some(DELETED, [PART, "results/cubes/spectrum.zarr"]))
def test_a_deleted_file_is_made_again_and_all_three_say_so(done, monkeypatch, name):
    lost = done / name
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    jobs = planned(done, SMALL)
    assert DELETED[name].items() <= jobs.items()
    config, found, text = asked(done, SMALL, monkeypatch)
    assert Path(name) in found
    assert f"snakemake -x makes {sum(jobs.values())} of them" in text
    assert "0 failed" in text
    with pytest.raises(Exception, match=r"is not there\. Run: snakemake -x"):
        explanation(name, config, pending=found, command="snakemake -x")


CHANGED = {
    "probes": (["spectrum", "probes"], 2, "results/cubes/spectrum.zarr", 4),
    "a rate": (["recipes", "q", "lr"], 0.1, f"{RUN}/history.csv", 8),
    "a figure": (["figures", "dpi"], 50, "results/figures/training.svg", 2),
}


@pytest.mark.parametrize("name", some(CHANGED, ["probes"]))
def test_a_changed_setting_is_outdated_in_all_three(made, monkeypatch, name):
    path, value, artifact, count = CHANGED[name]
    settings = changed(SMALL, path, value)
    assert sum(planned(made, settings).values()) == count
    config, found, text = asked(made, settings, monkeypatch)
    assert f"{count} outdated o" in text
    said = explanation(artifact, config, pending=found, command="snakemake -x")
    assert said.endswith("it is made again by: snakemake -x")
    assert "nothing of these has changed" not in said
    assert not asked(made, SMALL, monkeypatch)[1]


def test_absent_images_leave_finished_results_standing(done):
    before = products(done)
    (done / "images").rename(done / "elsewhere")
    assert planned(done, SMALL) == {}
    for path, value in ((["recipes", "q", "lr"], 0.1), (["spectrum", "probes"], 2)):
        said = snakemake(done, changed(SMALL, path, value), check=False)
        assert re.search(r"tiny.yaml:\d+: datasets.images.path: there is no folder ", said)
        assert "jobs need it, such as" in said
    more = changed(SMALL, ["grid", 0, "seeds"], [0, 1])
    assert "datasets.images.path" in snakemake(done, more, "--dry-run", check=False)
    assert products(done) == before


def test_a_job_that_would_fail_deletes_nothing(done):
    before = products(done)
    broken = {
        "no file here": LOAD.replace("    labels", "    open('no file here')\n    labels"),
        "too few": LOAD.replace("12", "4"),
    }
    for text in broken.values():
        (done / "mine.py").write_text(text)
        said = snakemake(done, SMALL, check=False)
        assert "would replace finished results cannot run" in said
        assert "made/tiny/none/q/n3/seed0: " in said
        assert products(done) == before
    image = next((done / "images" / "train").rglob("*.png"))
    image.write_bytes(b"no image")
    (done / "mine.py").write_text(LOAD)
    assert "images/tiny/none/q/n3/seed0: " in snakemake(done, SMALL, check=False)
    assert products(done) == before


def test_a_mistyped_data_root_leaves_mnist_standing(tmp_path, monkeypatch):
    from pipeline import data_files
    from pipeline.config import Dataset

    def digest(root):
        data_files._digest_of.cache_clear()
        return data_files.data_digest(Dataset(source="mnist"), data_root=root, results="results")

    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"labels")
    found = digest("data")
    assert found not in (None, data_files.ABSENT)
    assert digest("daat") == digest("data") == found
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"others")
    assert digest("data") != found


def test_a_repeated_option_is_refused(made):
    words = [*command(made, SMALL, "--dry-run"), f"--configfile={made}/tiny.yaml"]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment(made))
    assert ended.returncode == 1
    assert "--configfile is given 2 times" in ended.stdout + ended.stderr
    assert f"tiny.yaml {made}/tiny.yaml" in ended.stdout + ended.stderr


def test_the_workflow_is_a_module_of_another(made, tmp_path):
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(SMALL | {"results": "mine"}))
    (tmp_path / "mine.py").write_text(LOAD)
    shutil.copytree(made / "images", tmp_path / "images")
    (tmp_path / "Snakefile").write_text(
        f'configfile: "cfg.yaml"\nmodule anatomy:\n    snakefile: "{made}/project/Snakefile"\n'
        "    config: config\nuse rule * from anatomy\n"
    )
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "mine/cubes/spectrum.zarr" in ended.stdout + ended.stderr


def test_a_results_folder_has_one_workflow_at_a_time(tmp_path):
    code = f"from pipeline.start import claim; claim({str(tmp_path)!r}); print('has it'); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "has it\n"
    with pytest.raises(StorageError, match=rf"in use by another workflow \(process {other.pid} on"):
        claim(str(tmp_path))
    other.communicate("\n")
    claim(str(tmp_path))


@pytest.mark.faults
def test_ctrl_c_ends_in_a_sentence_and_the_next_start_goes_on(done, monkeypatch):
    before = products(done)
    process = start(done, SMALL, "--forcerun", "spectrum")
    begun = time.time()
    logs = done / "results" / "logs" / "spectrum"

    def has_begun(log):
        return log.stat().st_mtime > begun and log.stat().st_size

    wait_for(lambda: any(map(has_begun, logs.rglob("*.log"))), process)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert said.rstrip().splitlines()[-1].startswith("Interrupted: running jobs are stopped.")
    assert "--job" not in said
    _, found, text = asked(done, SMALL, monkeypatch)
    assert Path(PART) in found
    assert "0 failed" in text
    monkeypatch.undo()  # python -m snakemake would import the yaml.py of the working folder
    snakemake(done, SMALL)
    assert products(done) == before
