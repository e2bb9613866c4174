"""How much memory a job has."""

import sys

import pytest
import torch
from small_run import folder_of, job_of

from pipeline import device, open_run
from pipeline.data.streamed import Streamed
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe


@pytest.mark.parametrize(
    ("lines", "limits", "least"),
    [
        # Slurm on cgroup v2: the step has none of its own.
        ("0::/job/step/task", {"job": "4096", "job/step": "8192", "job/step/task": "max"}, 4096),
        ("0::/job", {"job": "max"}, sys.maxsize),
        ("5:cpu,memory:/job/task\n4:pids:/\n0::/", {"memory/job": "2048", "memory": "9999"}, 2048),
        ("4:pids:/job\n", {"memory/job": "2048"}, sys.maxsize),
        ("0::/../..", {"": "512"}, 512),
    ],
)
def test_a_batch_jobs_memory_is_the_least_of_its_groups(
    tmp_path, monkeypatch, lines, limits, least
):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    assert device._limit_of_group(tmp_path) == sys.maxsize
    for place, text in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / place
        folder.mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if place.startswith("memory") else "memory.max"
        (folder / name).write_text(f"{text}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(lines)
    assert device._limit_of_group(tmp_path) == least
    for told, bytes_ in (("0", sys.maxsize), ("1", 2**20)):
        monkeypatch.setenv("SLURM_MEM_PER_NODE", told)
        assert device._limit_of_group(tmp_path) == min(least, bytes_)


def test_images_share_main_memory_with_other_processes_and_count_as_they_are_used(monkeypatch):
    cpu, room = torch.device("cpu"), device.data_room
    monkeypatch.setattr(device, "all_memory", lambda where: 800 if where.type == "cpu" else 640)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [room("auto", torch.device(name)) for name in ("cpu", "cuda")] == [200, 160]
    assert room("auto", cpu, torch.float64) == 100
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [room("auto", torch.device(name)) for name in ("cpu", "cuda")] == [50, 50]
    assert (room(True, cpu), room(False, cpu)) == (0, None)


def test_a_run_opened_in_float64_streams_by_what_it_takes_there(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    train_run(folder, job_of(Recipe(lr=0.05, epochs=0, checkpoints=(0,))), save_every=1e9)
    size = open_run(folder).train.inputs.nbytes
    monkeypatch.setattr(device, "all_memory", lambda where: 4 * size)
    opened = {dtype: open_run(folder, dtype=dtype).train.inputs
              for dtype in (torch.float32, torch.float64)}  # fmt: skip
    assert [type(inputs) for inputs in opened.values()] == [torch.Tensor, Streamed]
    assert [inputs.dtype for inputs in opened.values()] == list(opened)
