import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_run import by_command, folder_of, job_of

from pipeline import open_run
from pipeline.atomic import sha256
from pipeline.device import prepare
from pipeline.errors import AnatomyError, ArtifactError
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe
from pipeline.runs import checkpoint_path
from pipeline.scratch import scratch_path
from pipeline.stages import Compute
from pipeline.training.schedule import learning_rate


def products(folder):
    """Return the checksum of everything that a training left behind."""
    return {p.relative_to(folder): sha256(p) for p in folder.rglob("*") if p.is_file()}


def rows(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_schedule_drops_at_a_third_and_two_thirds():
    recipe = Recipe(lr=1.0, epochs=9, checkpoints=(9,))
    rates = [learning_rate(recipe, epoch) for epoch in range(1, 10)]
    assert rates == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3)


def test_the_first_epoch_has_the_full_rate():
    for epochs in (1, 2, 3):
        assert learning_rate(Recipe(lr=0.3, epochs=epochs, checkpoints=(0,)), 1) == 0.3
    early = Recipe(lr=1.0, epochs=4, checkpoints=(0,), drop_at=(0.1,))
    rates = [learning_rate(early, epoch) for epoch in range(1, 5)]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.1])


def test_a_run_leaves_checkpoints_history_and_record(tmp_path):
    folder = folder_of(tmp_path)
    train_run(folder, job_of(), save_every=1e9)
    history = rows(folder)
    assert [int(row["epoch"]) for row in history] == list(range(31))
    assert float(history[-1]["train_loss"]) < 0.5 * float(history[0]["train_loss"])
    assert math.isnan(float(history[0]["lr"]))
    record = json.loads((folder / "run.json").read_text())
    assert record["provenance"]["settings"]["recipe"]["lr"] == 0.05
    assert record["tables"] == {"history.csv": sha256(folder / "history.csv")}
    assert record["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert not list(folder.glob(".*"))
    run = open_run(folder)
    assert run.epoch == 30
    assert len(run.train) == 90
    assert not run.model.training
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(run.model(run.train.inputs), run.train.labels)
    assert float(loss) == pytest.approx(float(history[-1]["train_loss"]), rel=1e-6)


def test_equal_jobs_give_equal_bytes_and_seeds_differ(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train_run(folder_of(tmp_path / name, seed=seed), job_of(), save_every=1e9)
    one, two, three = (
        products(folder_of(tmp_path / name, seed=seed))
        for name, seed in (("one", 0), ("two", 0), ("three", 1))
    )
    assert one == two
    assert one != three


KILLED_AT = (0.3, 0.6, 0.9)


def test_a_killed_training_ends_as_if_never_stopped(tmp_path):
    recipe = Recipe(lr=0.05, batch=4, epochs=60, checkpoints=(0, 20, 60))
    job = by_command(job_of(recipe), "train")
    whole, broken = folder_of(tmp_path / "whole"), folder_of(tmp_path / "broken")
    train_run(whole, job, save_every=1e9)
    command = [sys.executable, "-W", "ignore", "-m", "pipeline", "train", str(broken)]
    command += ["--job", job.model_dump_json(), "--access", "{}", "--save-every", "0"]
    epochs_seen = []
    for part in KILLED_AT:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda part=part: saved_epoch(broken) >= part * 60, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (broken / "run.json").exists()
        epochs_seen.append(saved_epoch(broken))
    assert sorted(set(epochs_seen)) == epochs_seen
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert f"going on after epoch {epochs_seen[-1]}" in finished.stderr
    assert products(broken) == products(whole)


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoints/epoch3.safetensors"])
@pytest.mark.parametrize("left", [0, 400])
def test_what_is_not_whole_in_scratch_is_not_gone_on_from(
    tmp_path, monkeypatch, capsys, name, left
):
    job = job_of(Recipe(lr=0.05, batch=16, epochs=6, checkpoints=(0, 3, 6)))
    whole, broken = folder_of(tmp_path / "whole"), folder_of(tmp_path / "broken")
    train_run(whole, job, save_every=1e9)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.jobs.train._publish", killed)
        with pytest.raises(KeyboardInterrupt):
            train_run(broken, job, save_every=0)
    file = scratch_path(broken, job) / name
    file.write_bytes(file.read_bytes()[:left])
    train_run(broken, job, save_every=1e9)
    said = capsys.readouterr().err
    assert "state.safetensors, left in scratch, is not whole" in said
    assert "going on" not in said
    assert products(broken) == products(whole)


def saved_epoch(folder):
    for state in folder.glob(".TrainJob-*/state.safetensors"):
        from pipeline.training.checkpoint import load_state

        return load_state(state).epoch
    return -1


def wait_until(reached, process):
    deadline = time.monotonic() + 90
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_diverged_run_is_a_result(tmp_path, capsys):
    folder = folder_of(tmp_path, norm="none")
    train_run(folder, job_of(Recipe(lr=1e8, batch=16, epochs=20, checkpoints=(0, 5, 20))),
              save_every=0)  # fmt: skip
    assert "diverged in epoch" in capsys.readouterr().err
    last = rows(folder)[-1]
    assert last["diverged"] == "1"
    assert int(last["epoch"]) < 5
    assert not open_run(folder, 0).diverged
    assert open_run(folder, 0).model is not None
    with pytest.raises(ArtifactError, match="diverged in epoch"):
        _ = open_run(folder, 5).model


def test_what_cannot_be_opened_is_named(tmp_path):
    folder = folder_of(tmp_path)
    with pytest.raises(ArtifactError, match=r"run.json is missing. Run snakemake"):
        open_run(folder)
    train_run(folder, job_of(Recipe(lr=0.05, epochs=1, checkpoints=(0, 1))), save_every=1e9)
    with pytest.raises(ArtifactError, match=r"no checkpoint of epoch 7, only \[0, 1\]"):
        open_run(folder, 7)
    last = checkpoint_path(folder, 1)
    last.write_bytes(last.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=r"epoch1.safetensors is not a whole"):
        _ = open_run(folder).model
    last.write_bytes(checkpoint_path(folder, 0).read_bytes())
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        _ = open_run(folder).model
    last.unlink()
    with pytest.raises(ArtifactError, match=r"epoch1.safetensors is missing"):
        _ = open_run(folder).model


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there_is_refused_in_the_job(tmp_path):
    job = job_of().model_copy(update={"compute": Compute(device="cuda:1")})
    with pytest.raises(AnatomyError, match=r"compute.device is cuda:1, but this machine has none"):
        train_run(folder_of(tmp_path), job, save_every=1e9)


def test_a_last_batch_of_one_does_not_stop_batch_norm(tmp_path):
    recipe = Recipe(lr=0.05, batch=89, epochs=1, checkpoints=(1,))
    train_run(folder_of(tmp_path), job_of(recipe), save_every=1e9)
    assert len(rows(folder_of(tmp_path))) == 2


def test_jobs_round_what_is_below_the_normal_range_to_zero():
    assert (torch.full((5,), 1e-39) * 1).all()
    prepare(Compute())
    assert not (torch.full((5,), 1e-39) * 1).any()
