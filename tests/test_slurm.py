"""The Slurm profile on a real Slurm: one node, this machine, with two devices in place of GPUs.

One test is in every run of the suite, the others are marked.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_cluster
import yaml
from slurm_cluster import ask
from workflow import begin as begin_in

from pipeline.catalogue import CUBES
from pipeline.stages import StageResources

ROOT = Path(__file__).parent.parent
RECIPE = {"lr": 0.05, "batch": 16, "epochs": 2, "checkpoints": [0, 2]}
# The default experiment's matrix, one seed of each, as small as it goes.
MATRIX = {
    "recipes": {"sgd": RECIPE},
    "grid": [
        {"datasets": ["digits"], "models": [model], "norms": norms, "recipes": ["sgd"],
         "n_per_class": sizes, "seeds": seeds}
        for model, norms, sizes, seeds in (
            ("fnet32x2", ["none", "batch"], [8], [0]),
            ("lenet5", ["none", "batch"], [8], [0]),
            ("fnet32x2", ["none"], [4], [0]),
        )
    ] + [
        {"datasets": ["digits-2"], "models": ["t32"], "norms": ["none"], "recipes": ["sgd"],
         "n_per_class": [8], "seeds": [0], "cubes": ["bounds"]}
    ],
    "spectrum": {"top": {"Hess": 9, "G": 9, "H": 2}, "steps": 8, "probes": 1, "trace_probes": 2},
    "hierarchy": {"steps": 8, "trace_probes": 2},
    "layers": {"rank": 6, "full": 4, "probes": 2},
    "theory": {"widths": [32, 64], "seeds": [0], "examples": 100},
    "bounds": {"methods": ["base"], "epochs": 2, "batch": 8, "samples": 10},
    # A job's memory is its mem_mb on Slurm, and the machine's here: neither changes a result.
    "compute": {"device": "cpu"},
    "figures": {"names": ["training", "overlap"]},
    "resources": {
        stage: {"mem_mb": 3000, "runtime": 10}
        for stage in StageResources.model_fields
    },
}  # fmt: skip
# A network that takes half a second an epoch, and no less on any machine.  It writes down which
# devices its job may use, and how much memory it takes to be its own.
PACED = """
import os
import time
from pathlib import Path
import torch
from torch import nn
from pipeline.device import all_memory

class Paced(nn.Sequential):
    def forward(self, x):
        if self.training:
            time.sleep(0.1)
        return super().forward(x)

def build(in_shape, classes, norm):
    Path("devices").mkdir(exist_ok=True)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    memory = all_memory(torch.device("cpu"))
    Path("devices", str(os.getpid())).write_text(f"{seen} {memory}")
    return Paced(nn.Flatten(), nn.Linear(in_shape[-1] * in_shape[-2], classes))
"""


def of_paced(epochs):
    """Return the settings that train the paced network alone."""
    return MATRIX | {
        "cubes": ["training"],
        "models": {"paced": {"family": "paced:build"}},
        "recipes": {"sgd": RECIPE | {"epochs": epochs, "checkpoints": [epochs]}},
        "grid": [MATRIX["grid"][0] | {"models": ["paced"], "norms": ["none"]}],
    }


# A minute; its first state is there after twenty seconds, whatever the machine.
LONG = of_paced(120)
PATIENCE = 600.0  # seconds for a job to come to a state, on a machine that does much else


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = slurm_cluster.why_not()
    if reason:
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the checksums of the long training without Slurm."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(command(folder, LONG, "--workflow-profile", "none", "--cores", "1"))
    return checksums(folder)


def test_what_a_killed_session_left_is_cleared_and_another_slurm_is_left_alone(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(slurm_cluster, "ETC", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    conf, others = tmp_path / "slurm.conf", tmp_path / "plugstack.conf"
    others.touch()
    conf.write_text("ClusterName=ours\n")
    assert "own Slurm is left alone" in slurm_cluster.why_not()
    conf.write_text(slurm_cluster.TEMPLATE.read_text())
    with conf.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "other tests" in slurm_cluster.why_not()
    # A daemon, and a process that has got the number of one that is gone.
    sleep = ["bash", "-c", "exec -a slurmd sleep 60"]
    left, unlike = (subprocess.Popen(sleep, start_new_session=True) for _ in range(2))
    try:
        wait_for(lambda: all("slurmd" in psutil.Process(p.pid).cmdline() for p in (left, unlike)))
        for name, process in (("slurmd", left), ("slurmctld", unlike)):
            slurm_cluster.pid_file(name).write_text(str(process.pid))
        assert slurm_cluster.why_not() is None
        assert left.wait(10) == -signal.SIGKILL
        assert unlike.poll() is None
    finally:
        left.kill()
        unlike.kill()
        unlike.wait()
    assert list(tmp_path.iterdir()) == [others]


def command(folder, settings, *arguments):
    if not folder.exists():
        begin_in(folder)  # whose results no commit made meanwhile changes
    (folder / "paced.py").write_text(PACED)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(folder / "project" / "Snakefile"),
        "--directory", str(folder), "--configfile", str(folder / "settings.yaml"), *arguments,
    ]  # fmt: skip


def on_slurm(folder, settings, *targets):
    """Return the command that a user gives, looking at its jobs more often."""
    return command(
        folder, settings, "--workflow-profile", str(ROOT / "profiles" / "slurm"),
        "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2",
        "--latency-wait", "10", *targets,
    )  # fmt: skip


def run(words, check=True):
    done = subprocess.run(words, capture_output=True, text=True, env=environment(words))
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def begin(words):
    """Start a command and go on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, text=True, env=environment(words), **pipes)


def environment(words):
    folder = words[words.index("--directory") + 1]
    return os.environ | {"XDG_CACHE_HOME": f"{folder}/.cache"}


def wait_for(ready):
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, ask("scontrol", "show", "jobs", "-d")
        time.sleep(0.5)


def finish(process):
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, text[-4000:]
    return text


def running():
    """Return the identifiers of jobs that run."""
    return ask("squeue", "-h", "-t", "running", "-o", "%i").split()


def state_of(folder):
    """Return whether a training has written a state to go on from."""
    return any((folder / "results").rglob("state*"))


def check_went_on(folder):
    """Hold that the training's last job began where an earlier one was."""
    log = next((folder / "results" / "logs" / "train").rglob("*.log")).read_text()
    assert "going on after epoch" in log, log


def checksums(folder):
    manifests = sorted((folder / "results" / "cubes").glob("*.manifest.json"))
    return {file.name: json.loads(file.read_text())["parts"] for file in manifests}


@pytest.mark.slurm
def test_the_matrix_gives_what_it_gives_locally(cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run(on_slurm(there, MATRIX))
    run(command(here, MATRIX, "--workflow-profile", "none", "--cores", "2"))
    found = checksums(there)
    assert set(found) == {f"{cube}.manifest.json" for cube in CUBES}
    assert found == checksums(here)
    drawn = {file.stem for file in (there / "results" / "figures").glob("*.svg")}
    assert drawn == {"training", "overlap", "comparison"}


def test_two_gpu_jobs_run_at_once_on_devices_and_memory_of_their_own(cluster, tmp_path):
    asked = {"mem_mb": 1500, "runtime": 10, "gpu": 1, "gpu_model": "h200", "partition": "all"}
    settings = of_paced(60)
    settings["grid"] = [settings["grid"][0] | {"seeds": [0, 1]}]
    settings["resources"] = MATRIX["resources"] | {"train": asked}
    folder = tmp_path / "gpus"
    process = begin(on_slurm(folder, settings))
    seen = set()

    def both():
        text = ask("scontrol", "show", "jobs", "-d")
        jobs = [job for job in text.split("\n\n") if "JobState=RUNNING" in job]
        now = {device for job in jobs for device in re.findall(r"GRES=gpu:h200:1\(IDX:(\d)\)", job)}
        seen.update([frozenset(now)])
        return frozenset("01") in seen

    wait_for(both)
    finish(process)
    own = asked["mem_mb"] * 2**20  # less than the node has: a job knows what it asked for
    found = {file.read_text() for file in (folder / "devices").iterdir()}
    assert found == {f"{device} {own}" for device in (0, 1)}


@pytest.mark.slurm
def test_a_cancelled_job_is_submitted_again_and_goes_on(cluster, tmp_path, uninterrupted):
    folder = tmp_path / "cancelled"
    process = begin(on_slurm(folder, LONG))
    wait_for(lambda: state_of(folder) and running())
    ask("scancel", *running())
    text = finish(process)
    assert "restart" in text.lower()
    check_went_on(folder)
    assert checksums(folder) == uninterrupted


# What is asked for, how the job ends, and what its log says then: without accounting the state of a
# job beyond its memory may be that of the command that it ran.
SCARCE = {
    "memory": (
        {"mem_mb": 400, "runtime": 10},
        "OUT_OF_MEMORY|FAILED|CANCELLED",
        r"exceeded memory limit \(\d+ > 419430400\)",
    ),
    "time": ({"mem_mb": 1500, "runtime": 1}, "TIMEOUT", "DUE TO TIME LIMIT"),
}


@pytest.mark.slurm
@pytest.mark.parametrize("what", SCARCE)
def test_a_job_that_exceeds_what_it_asked_for_is_given_more(cluster, tmp_path, what):
    asked, end, said = SCARCE[what]
    settings = of_paced(200) | {"resources": MATRIX["resources"] | {"train": asked}}
    before = len(ends_of_jobs(cluster))
    run(on_slurm(tmp_path / what, settings))
    ends = ends_of_jobs(cluster)[before:]
    assert re.fullmatch(end, ends[0]), ends
    logs = (tmp_path / what).glob(".snakemake/slurm_logs/rule_train/**/*.log")
    text = min(logs, key=lambda log: int(log.stem)).read_text()  # named after the job's number
    assert re.search(said, text), text[-3000:]
    # Trained at a later attempt, then gathered and drawn.
    assert ends.count("COMPLETED") == 3, ends


def ends_of_jobs(cluster):
    """Return how jobs ended so far, from Slurm's own record."""
    return re.findall(r"JobState=(\w+)", (cluster.folder / "jobs.log").read_text())


@pytest.mark.slurm
def test_after_a_power_cut_a_rerun_goes_on(cluster, tmp_path, uninterrupted):
    folder = tmp_path / "cut"
    process = begin(on_slurm(folder, LONG))
    wait_for(lambda: state_of(folder) and running())
    cluster.cut_power()
    process.kill()
    process.wait()
    cluster.start_slurm()
    run(on_slurm(folder, LONG, "--unlock"))
    run(on_slurm(folder, LONG))
    check_went_on(folder)
    assert checksums(folder) == uninterrupted
