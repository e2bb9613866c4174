"""The device, arithmetic and thread count of a job, set in one place."""

import atexit
import ctypes
import gc
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import psutil
import torch
from threadpoolctl import threadpool_limits
from torch import distributed

from pipeline.errors import AnatomyError
from pipeline.progress import say
from pipeline.stages import Arithmetic

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
# Of all memory: a split whose images take more is streamed.  While they are loaded they take up to
# 2.25 times as much: their bytes as read, and a copy.
SHARE_FOR_DATA = 0.25


def prepare(compute: Arithmetic) -> torch.device:
    """Set threads and TF32 as the config says, and return the job's device.

    Under torchrun the process joins its group, and takes the GPU of its local rank.  Raises
    AnatomyError where the device asked for is not there.
    """
    keep_freed_memory()
    # What is there by now, modules above all, stays: a collection that looks at it takes a third of
    # a second, and jobs have many of them (``release``).
    gc.freeze()
    atexit.register(gc.unfreeze)  # modules of C++ complain of what is left at the end
    # Probabilities of a fitted network lie below float32's normal range, where a CPU is slow: its G
    # products take four times as long.  First of all, for threads inherit it when they start.
    torch.set_flush_denormal(True)
    torch.set_num_threads(compute.threads)
    threadpool_limits(compute.threads)  # NumPy's and SciPy's own pools
    torch.backends.cuda.matmul.allow_tf32 = compute.tf32
    torch.backends.cudnn.allow_tf32 = compute.tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    wanted = compute.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cpu":
            _refuse_unseen()
    asked = int(wanted.partition(":")[2] or 0)
    if wanted != "cpu" and asked >= torch.cuda.device_count():
        raise AnatomyError(
            f"compute.device is {wanted}, but this machine has none "
            f"({torch.cuda.device_count()} CUDA devices seen). Set compute.device to auto or cpu, "
            "or send the job to a machine that has one"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        # torchrun started this process as one of several.
        if wanted != "cpu":
            _check_one_for_each(wanted)
            wanted = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(torch.device(wanted))
        distributed.init_process_group("gloo" if wanted == "cpu" else "nccl")
        if wanted == "cpu":  # of a process that ends without, gloo's threads may abort it
            atexit.register(_leave)
    say(f"device: {wanted}")
    return torch.device(wanted)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _refuse_unseen() -> None:
    """Refuse a GPU that the job was given and that PyTorch does not see: a CPU takes far longer."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if re.match(r"\d|GPU-|MIG-", given):  # all else ends CUDA's own reading: no device
        raise AnatomyError(
            f"CUDA_VISIBLE_DEVICES={given} gives this job a GPU, but PyTorch {torch.__version__} "
            "sees none. Look at nvidia-smi on this machine and for a PyTorch with CUDA; to compute "
            "without a GPU set compute.device to cpu"
        )


def _check_one_for_each(wanted: str) -> None:
    """Refuse several processes for which there are fewer GPUs, or that a setting puts on one."""
    processes, seen = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if wanted != "cuda":
        raise AnatomyError(
            f"compute.device is {wanted}, one device for {processes} processes that "
            "resources.<stage>.gpu asks for. Set compute.device to auto or cuda, by which each "
            "takes its own, or gpu to 1"
        )
    if processes > seen:
        raise AnatomyError(
            f"resources.<stage>.gpu asks for {processes} processes with a GPU each, but the job "
            f"sees {seen} CUDA devices. Lower gpu, or send the job to a machine that has "
            f"{processes} (CUDA_VISIBLE_DEVICES says which a job sees)"
        )


def one_precision(device: torch.device) -> None:
    """Let a GPU's convolutions round to TF32 where its matrix products do, and nowhere else.

    PyTorch has it on for convolutions and off for matrix products unless told.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"


def rounding(device: torch.device, dtype: torch.dtype) -> float:
    """Return the relative rounding of products: TF32 has ten bits, where it is asked for."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    coarse = device.type == "cuda" and any(x.fp32_precision == "tf32" for x in switches)
    return 2.0**-10 if coarse and dtype == torch.float32 else torch.finfo(dtype).eps


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: activations given back page by page cost LeNet5 a third."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def release() -> None:
    """Give back the memory of what has gone, between two large pieces of work.

    Collects garbage too: what linearising a chunk leaves refers to itself.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim()


@contextmanager
def within_memory(cure: str) -> Iterator[None]:
    """Refuse, with its cure, what does not fit the device: around all that a job does there."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition(". ")[0].rstrip(".")
        raise AnatomyError(f"{first}. {cure}") from error


def trim() -> None:
    """Give what is freed back to the system, which glibc keeps otherwise.

    Small tensors that lie in it leave a basis no whole room: VGG11's spectra take half as much
    again.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def data_room(
    stream: bool | str, device: torch.device, dtype: torch.dtype = torch.float32
) -> int | None:
    """Return the bytes that a split's images may take as float32; None: as many as there are.

    ``stream`` is ``compute.stream``: whether to stream them, or "auto".  They pass through main
    memory to the device, so that the smaller of the two counts; there they are numbers of
    ``dtype``.
    """
    if stream == "auto":
        room = SHARE_FOR_DATA * min(all_memory(device), all_memory(torch.device("cpu")))
        return int(room * torch.float32.itemsize / dtype.itemsize)
    return 0 if stream else None


def all_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory; of the CPU's, as many as this process may have.

    Main memory is shared by all of torchrun's processes here; a GPU is one process's own.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(psutil.virtual_memory().total, _limit_of_group()) // processes


def _limit_of_group(root: Path = Path("/")) -> int:
    """Return the bytes that this process's control groups, or its Slurm job, are limited to.

    A limit holds for all groups below: Slurm sets a parent's.
    """
    limits = [sys.maxsize]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            limits += _limits_of(root / "sys/fs/cgroup", *line.split(":", 2)[1:])
    # In MiB; 0 asks for all of the node's.  Where Snakemake's plugin keeps Slurm's word from a job,
    # the rules hand on what it asked for; without Slurm that is no limit.
    handed = os.environ.get("ANATOMY_MEM_MB", "") if "SLURM_JOB_ID" in os.environ else ""
    with suppress(ValueError):
        limits += [(int(os.environ.get("SLURM_MEM_PER_NODE", handed)) or sys.maxsize) * 2**20]
    return min(limits)


def _limits_of(mount: Path, controllers: str, path: str) -> Iterator[int]:
    """Yield the limits of a group and of its parents, as a line of /proc/self/cgroup names it."""
    if not controllers:
        name = "memory.max"  # of cgroup v2
    elif "memory" in controllers.split(","):
        mount, name = mount / "memory", "memory.limit_in_bytes"
    else:
        return
    group = PurePosixPath(path)
    for place in (group, *group.parents):
        with suppress(OSError, ValueError):  # no such file, or "max"
            yield int((mount / place.relative_to("/") / name).read_text())


def device_name(device: torch.device) -> str:
    """Return what a reader of the provenance would call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
