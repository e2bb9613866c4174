"""Which device a job has, and how much memory."""

import gc
import sys
import weakref

import pytest
import torch
from small_run import folder_of, job_of

from pipeline import device, open_run
from pipeline.curvature import problem
from pipeline.curvature.memory import GIB, budget, pass_budget
from pipeline.data.streamed import Streamed
from pipeline.errors import AnatomyError
from pipeline.jobs import bounds, overlap, theory, train
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe
from pipeline.runs import Run, bounds_path
from pipeline.stages import Bounds, Compute, Overlap, Theory
from pipeline.tasks import BoundsJob, OverlapJob, TheoryJob


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


def test_what_a_slurm_job_asked_for_limits_it_where_slurm_does_not_say(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANATOMY_MEM_MB", "3")
    assert device._limit_of_group(tmp_path) == sys.maxsize  # on this machine, without Slurm
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert device._limit_of_group(tmp_path) == 3 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "5")
    assert device._limit_of_group(tmp_path) == 5 * 2**20


def test_processes_share_main_memory_and_images_count_as_they_are_used(monkeypatch):
    cpu, gpu, room = torch.device("cpu"), torch.device("cuda"), device.data_room
    monkeypatch.setattr(device, "_limit_of_group", lambda: 800)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 640))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [room("auto", where) for where in (cpu, gpu)] == [200, 160]
    assert room("auto", cpu, torch.float64) == 100
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [room("auto", where) for where in (cpu, gpu)] == [50, 50]
    # Budgets do not depend on the memory, which would change results.
    assert (budget(None, cpu), pass_budget(cpu)) == (GIB, GIB)
    assert (budget(None, gpu), pass_budget(gpu)) == (8 * GIB, 8 * GIB)
    assert budget(2.0, cpu) == budget(2.0, gpu) == 2 * GIB
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


@pytest.mark.parametrize(
    ("asked", "seen", "said"),
    [
        ("cuda", 1, r"gpu asks for 2 processes .* sees 1 CUDA devices\. Lower gpu"),
        ("auto", 1, r"gpu asks for 2 processes .* sees 1 CUDA devices\. Lower gpu"),
        ("cuda:1", 2, r"compute\.device is cuda:1, .* 2 processes .* Set compute\.device to auto"),
        ("cuda:1", 1, r"compute\.device is cuda:1, but this machine has none"),
    ],
)
def test_processes_without_a_gpu_for_each_are_refused(monkeypatch, asked, seen, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(AnatomyError, match=said):
        device.prepare(Compute(device=asked))


def test_each_of_several_processes_takes_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", chosen.append)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert device.prepare(Compute(device="cuda")) == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1"), "nccl"]


def test_a_process_on_a_cpu_leaves_the_others_as_it_ends(monkeypatch):
    left, last = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(device.atexit, "register", last.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    assert device.prepare(Compute(device="cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("left"))
    assert device._leave in last
    device._leave()
    assert left == ["left"]


@pytest.mark.parametrize("given", ["0", "1,0", "GPU-8932f937", "MIG-7"])
def test_a_gpu_that_was_given_and_is_not_seen_is_refused(monkeypatch, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(AnatomyError, match=rf"^CUDA_VISIBLE_DEVICES={given} .*\.device to cpu$"):
        device.prepare(Compute(device="auto"))
    assert device.prepare(Compute(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize("given", [None, "", "-1", "NoDevFiles"])
def test_a_job_without_a_gpu_says_that_it_takes_the_cpu(monkeypatch, capsys, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert device.prepare(Compute(device="auto")) == torch.device("cpu")
    assert capsys.readouterr().err == "device: cpu\n"


def test_what_refers_to_itself_is_released():
    net = torch.nn.Linear(2, 2)
    net.__dict__["itself"] = net
    left = weakref.ref(net.weight)
    gc.disable()
    try:
        del net
        assert left() is not None
        device.release()
        assert left() is None
    finally:
        gc.enable()


@pytest.fixture
def switches():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield matmul, cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize("asked", [False, True])
def test_convolutions_round_as_matrix_products_do_where_operators_are_made(
    switches, monkeypatch, asked
):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    matmul, cudnn = switches
    matmul.allow_tf32, cudnn.allow_tf32 = asked, not asked
    assert device.rounding(gpu, torch.float32) == 2.0**-10
    assert device.rounding(gpu, torch.float64) == torch.finfo(torch.float64).eps
    device.one_precision(cpu)
    assert cudnn.allow_tf32 is not asked
    # This machine need not have a GPU: a network's operator asks for its device's.
    monkeypatch.setattr(problem, "one_precision", lambda _where: device.one_precision(gpu))
    problem.Problem(torch.nn.Linear(2, 2), (torch.zeros(1, 2), torch.tensor([0])))
    assert cudnn.allow_tf32 is asked
    assert (device.rounding(gpu, torch.float32) == 2.0**-10) is asked
    assert device.rounding(cpu, torch.float32) == torch.finfo(torch.float32).eps


TOLD = {"compute": Compute(device="cpu"), "code": "test"}
STARTS = {
    train: lambda root: train.train_run(folder_of(root), job_of(), save_every=1e9),
    theory: lambda root: theory.write_theory(TheoryJob(results=str(root), theory=Theory(), **TOLD)),
    bounds: lambda root: bounds.write_bound(
        bounds_path(root, Run("digits", "t8", "none", "sgd", 9, 0), "base"),
        BoundsJob(bounds=Bounds(), **TOLD),
        save_every=1e9,
    ),
    overlap: lambda root: overlap.write_overlaps(
        OverlapJob(
            results=str(root),
            dataset="digits",
            model="small",
            norm="none",
            seeds=(),
            checkpoints={},
            splits=("train",),
            overlap=Overlap(),
            **TOLD,
        )
    ),
}
CURES = {train: "batch", theory: "theory.examples", bounds: "bounds.batch", overlap: "layers.rank"}


@pytest.mark.parametrize("module", STARTS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_job_that_runs_out_of_memory_names_the_cure(module, tmp_path, monkeypatch):
    def scarce(compute):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(module, "prepare", scarce)
    with pytest.raises(AnatomyError, match=rf"^CUDA out of memory\. .*{CURES[module]}"):
        STARTS[module](tmp_path)
