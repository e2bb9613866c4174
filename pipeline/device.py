"""The device, arithmetic and thread count of a job, set in one place."""

import ctypes
import os
import platform

import torch
from threadpoolctl import threadpool_limits
from torch import distributed

from pipeline.errors import AnatomyError
from pipeline.stages import Compute

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def prepare(compute: Compute) -> torch.device:
    """Set threads and TF32 as the config says, and return the job's device.

    Under torchrun the process joins its group, and takes the GPU of its local rank.  Raises
    AnatomyError where the device asked for is not there.
    """
    _keep_freed_memory()
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
    asked = int(wanted.partition(":")[2] or 0)
    if wanted != "cpu" and asked >= torch.cuda.device_count():
        raise AnatomyError(
            f"compute.device is {wanted}, but this machine has none "
            f"({torch.cuda.device_count()} CUDA devices seen). Set compute.device to auto or cpu, "
            "or send the job to a machine that has one"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        # torchrun started this process as one of several.
        if wanted == "cuda":
            wanted = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(torch.device(wanted))
        distributed.init_process_group("gloo" if wanted == "cpu" else "nccl")
    return torch.device(wanted)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: activations given back page by page cost LeNet5 a third."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def device_name(device: torch.device) -> str:
    """Return what a reader of the provenance would call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
