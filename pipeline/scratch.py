"""Undeclared scratch folders, where an interrupted job keeps what a rerun goes on from.

Snakemake deletes a job's declared outputs before it reruns the job, so nothing resumable may stand
in them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSYS
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel

from pipeline.atomic import remove, storing
from pipeline.progress import say


def scratch_path(beside: Path, job: BaseModel) -> Path:
    """Return where in ``beside`` this very job keeps its scratch, named after all it is told."""
    key = hashlib.sha256(f"{type(job).__name__} {job.model_dump_json()}".encode()).hexdigest()[:16]
    return beside / f".{type(job).__name__}-{key}"


@contextmanager
def scratch_folder(beside: Path, job: BaseModel, *, first_rank: bool = True) -> Iterator[Path]:
    """Give this very job's scratch folder in ``beside``; remove it when all within is done.

    Those of other settings are removed at once.  One process works in it at a time: a second, of a
    job that a cluster has queued again or that outlived its Snakemake, waits for the first.  Of
    several processes of one job only the first locks and removes.
    """
    own = scratch_path(beside, job)
    if not first_rank:
        yield own
        return
    with alone(own.with_name(f"{own.name}.lock"), "this job"):
        for other in beside.glob(f".{type(job).__name__}-*"):
            if other.is_dir() and other != own:
                remove(other)
        yield own
        remove(own)


@contextmanager
def alone(file: Path, work: str) -> Iterator[None]:
    """Hold the lock ``file`` on some work; it ends with the process however that ends."""
    # A lock that outlives a killed process, the library's way out, would stop every rerun.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        with storing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        say(f"another process works on {work} ({file} is locked): waiting until it ends")
        lock.acquire()
    except OSError as error:
        if error.errno != ENOSYS:
            raise
        yield  # a file system without locks: nobody can be waited for
        return
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
