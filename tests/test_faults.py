"""Faults, injected into a tiny experiment: what is said, what goes on, and what a rerun heals.

Some are in every run of the suite, the others are marked.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
import torch
from small_run import job_of
from workflow import (
    BLOCK,
    BOUNDED,
    TINY,
    begin,
    changed,
    command,
    environment,
    log_of,
    planned,
    products,
    snakemake,
    truncate,
)

from pipeline.cubes.store import read_attributes, read_part
from pipeline.progress import is_held
from pipeline.runs import Run, checkpoint_path, part_path, run_folder
from pipeline.scratch import scratch_folder

SMALL = TINY | {
    "grid": [BLOCK | {"recipes": ["sgd"], "seeds": [0, 1]}],
    "cubes": ["training", "spectrum"],
    "figures": {"dpi": 60, "names": ["training"]},
}
FIRST, SECOND = (Run("digits", "tiny", "none", "sgd", 8, seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = begin(tmp_path_factory.mktemp("small"))
    snakemake(folder, SMALL)
    return folder


@pytest.fixture
def done(small, tmp_path):
    """Return a copy of the finished small experiment."""
    return shutil.copytree(small, tmp_path / "done", symlinks=True)


def start(folder, settings, *arguments):
    """Start an experiment in a process group of its own, and go on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = command(folder, settings, *arguments)
    return subprocess.Popen(words, env=environment(folder), start_new_session=True, **pipes)


def wait_for(reached, process):
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def part_of(folder, run, epoch=4):
    return part_path(folder / "results", run, epoch, "train", "spectrum")


def steps_of(folder):
    """Return the steps that the spectra of both runs were made with."""
    parts = [read_part(part_of(folder, run)) for run in (FIRST, SECOND)]
    return {read_attributes(part)["settings"]["spectrum"]["steps"] for part in parts}


# One seed, every cube, two figures and the comparison: 19 jobs.
WHOLE = TINY | {
    "grid": [BLOCK | {"recipes": ["sgd"]}, BOUNDED],
    "figures": {"dpi": 60, "names": ["training", "theory"]},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = begin(tmp_path_factory.mktemp("whole"))
    snakemake(folder, WHOLE)
    return products(folder)


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.faults)])
def test_kills_at_random_moments_change_nothing(undisturbed, tmp_path, kills):
    """Half of them of everything, as when the power fails; half of Snakemake alone, whose jobs
    then go on and meet those of the next start."""
    folder, draw = begin(tmp_path), random.Random(0)
    struck = []
    while len(struck) < kills:
        process = start(folder, WHOLE, "--rerun-incomplete")
        # By jobs begun, so that on a slow machine too the kills come to the last of them.
        if not begins_jobs(process, folder, draw.randint(1, 8)) or ends_by_itself(
            process, draw.uniform(0, 3)
        ):
            assert process.wait() == 0, process.stdout.read()
            process.stdout.close()
            assert products(folder) == undisturbed
            shutil.rmtree(folder / "results")  # once more from the start
            continue
        logs = folder / "results" / "logs"
        struck.append(
            {log.relative_to(logs).parts[0] for log in logs.rglob("*.log") if is_held(log)}
        )
        if len(struck) % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        process.stdout.close()
        snakemake(folder, WHOLE, "--unlock")
    snakemake(folder, WHOLE, "--rerun-incomplete")
    assert products(folder) == undisturbed
    assert not list((folder / "results").rglob(".*Job-*"))
    assert not list((folder / "results").rglob("*.partial"))
    # Jobs were struck; of many kills those of several kinds.
    assert len(set().union(*struck)) >= (6 if kills == 30 else 1), struck


def begins_jobs(process, folder, count):
    """Return whether an experiment that was started begins so many jobs before it ends."""
    begun = time.time()
    while process.poll() is None:
        logs = (folder / "results" / "logs").rglob("*.log")
        if sum(log.stat().st_mtime > begun for log in logs) >= count:
            return True
        time.sleep(0.05)
    return False


def ends_by_itself(process, seconds):
    """Return whether a process ends within so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.faults
def test_a_truncated_checkpoint_stops_its_own_jobs_alone(done):
    checkpoint = checkpoint_path(run_folder(done / "results", FIRST), 4)
    truncate(checkpoint)
    again = changed(SMALL, ["spectrum", "steps"], 13)
    before = part_of(done, SECOND).read_bytes()
    snakemake(done, again, "--keep-going", check=False)
    assert "epoch4.safetensors is not a whole safetensors file" in log_of(done, "spectrum")
    assert part_of(done, SECOND).read_bytes() != before
    # The cure that the message names.
    assert "Delete it and the run's run.json" in log_of(done, "spectrum")
    checkpoint.unlink()
    (run_folder(done / "results", FIRST) / "run.json").unlink()
    snakemake(done, again)
    assert steps_of(done) == {13}


def test_a_truncated_part_is_named_and_made_anew(done, small):
    truncate(part_of(done, FIRST))
    snakemake(done, SMALL, "--forcerun", "cube", check=False)
    assert "seed0/epoch4/train/spectrum.zarr.zip is corrupt" in log_of(done, "cubes")
    assert "Delete it, and snakemake makes it anew" in log_of(done, "cubes")
    part_of(done, FIRST).unlink()
    snakemake(done, SMALL)
    assert products(done) == products(small)


@pytest.mark.faults
def test_a_cube_that_lost_a_chunk_is_not_drawn(done, small):
    chunks = (done / "results/cubes/training.zarr/train_loss").rglob("c/**/*")
    next(file for file in chunks if file.is_file()).unlink()
    snakemake(done, SMALL, "--forcerun", "figure", check=False)
    assert "has lost or altered files since it was gathered" in log_of(done, "figures")
    (done / "results/cubes/training.manifest.json").unlink()
    snakemake(done, SMALL)
    assert products(done) == products(small)


@pytest.mark.faults
def test_data_with_a_wrong_checksum_stop_their_own_runs_alone(tmp_path):
    folder = begin(tmp_path)
    batches = folder / "data" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    (batches / "data_batch_1").write_bytes(b"not what it was")
    settings = SMALL | {
        "datasets": {"cifar10": {"source": "cifar10"}},
        "download": False,
        "grid": [
            BLOCK | {"recipes": ["sgd"]},
            BLOCK | {"recipes": ["sgd"], "datasets": ["cifar10"]},
        ],
    }
    snakemake(folder, settings, "--keep-going", check=False)
    log = log_of(folder, "train")
    assert "cifar10: corrupt file data/cifar-10-batches-py/data_batch_1" in log
    assert "Put the original in its place" in log
    assert part_of(folder, FIRST).exists()


@pytest.mark.faults
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_said_and_nothing_is_lost(done, small):
    asked = changed(SMALL, ["compute", "device"], "cuda")
    snakemake(done, asked, check=False)
    assert "compute.device is cuda, but this machine has none" in log_of(done, "train")
    assert "Set compute.device to auto or cpu" in log_of(done, "train")
    snakemake(done, SMALL)
    assert products(done) == products(small)


@contextmanager
def disk(folder, megabytes):
    """Mount a small disk of memory on a new folder."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a disk of memory can be mounted by root alone: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
def test_a_full_disk_is_said_and_a_rerun_goes_on(small, tmp_path):
    folder = begin(tmp_path)
    settings = SMALL | {"results": "disk/results"}
    with disk(folder / "disk", 16) as place:
        filler = place / "filler"
        filler.write_bytes(bytes(16 * 2**20 - 64 * 2**10))
        said = snakemake(folder, settings, "--keep-going", check=False)
        logs = "".join(log.read_text() for log in place.rglob("*.log"))
        assert "cannot be written: No space left on device. Free some space" in said + logs
        filler.unlink()
        snakemake(folder, settings)
        shutil.copytree(place / "results", folder / "results")
    for run in (FIRST, SECOND):
        assert part_of(folder, run).read_bytes() == part_of(small, run).read_bytes()


def test_results_that_cannot_be_written_are_refused_at_the_start(small, tmp_path):
    folder = begin(tmp_path)
    settings = SMALL | {"results": "disk/results"}
    with disk(folder / "disk", 16) as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        said = snakemake(folder, settings, check=False)
    assert "disk/results cannot be written: Read-only file system. Let `results:` name" in said
    assert "Traceback" not in said


@pytest.mark.faults
def test_an_edit_of_the_configuration_waits_for_the_next_run(tmp_path):
    folder = begin(tmp_path)
    process = start(folder, SMALL)
    wait_for(lambda: log_of(folder, "train"), process)
    edited = changed(SMALL, ["spectrum", "steps"], 13)
    command(folder, edited)  # which writes the file
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert steps_of(folder) == {12}
    assert planned(folder, edited) == {"spectrum": 2, "cube": 1, "comparison": 1}


@pytest.mark.faults
def test_a_second_snakemake_is_refused(tmp_path):
    folder = begin(tmp_path)
    process = start(folder, SMALL)
    locks = folder / ".snakemake" / "locks"
    wait_for(lambda: locks.exists() and any(locks.iterdir()), process)
    second = start(folder, SMALL)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 1, said
    assert "Error: Directory cannot be locked." in said
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text


def fail_in(folder, code):
    with scratch_folder(folder, job_of().model_copy(update={"code": code})) as scratch:
        scratch.mkdir()
        (scratch / "state").write_text(code)
        raise RuntimeError("killed")


def test_scratch_of_a_failed_job_stays_and_of_other_settings_goes(tmp_path):
    for code in ("one", "two"):
        with pytest.raises(RuntimeError, match="killed"):
            fail_in(tmp_path, code)
        assert [file.read_text() for file in tmp_path.rglob("state")] == [code]
