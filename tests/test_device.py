"""How much memory a job has."""

import sys

import pytest

from pipeline import device


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
