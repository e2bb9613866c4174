"""What keeps a job from harm by another: a lock on what it makes, and scratch for its reruns.

Scratch is undeclared: Snakemake deletes a job's declared outputs before it reruns the job, so
nothing resumable may stand in them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel

from pipeline.atomic import CURES, remove, storing
from pipeline.progress import say

# What file systems without locks answer, such as NFS without its lock daemon: nobody is waited for.
WITHOUT_LOCKS = (ENOSYS, ENOLCK, EOPNOTSUPP)


def scratch_path(beside: Path, job: BaseModel) -> Path:
    """Return where in ``beside`` this very job keeps its scratch, named after all it is told."""
    key = hashlib.sha256(f"{type(job).__name__} {job.model_dump_json()}".encode()).hexdigest()[:16]
    return beside / f".{type(job).__name__}-{key}"


@contextmanager
def scratch_folder(beside: Path, job: BaseModel, *, first_rank: bool = True) -> Iterator[Path]:
    """Give this very job's scratch folder in ``beside``; remove it when all within is done.

    Those of other settings are removed at once: hold the lock of what the job makes, so that none
    of them is in use.  Of several processes of one job only the first removes.
    """
    own = scratch_path(beside, job)
    if not first_rank:
        yield own
        return
    for other in beside.glob(f".{type(job).__name__}-*"):
        if other != own:
            remove(other)
    yield own
    remove(own)


@contextmanager
def only_maker(*targets: Path) -> Iterator[None]:
    """Hold the locks of what a job makes, whatever its settings, from its first look to its end.

    Another that makes one of the same waits: a job that a cluster has queued again, or one of older
    settings that outlived its Snakemake.
    """
    with ExitStack() as stack:
        for target in sorted(targets):  # in one order: no two jobs wait for each other
            lock = target.with_name(f".{target.name}.lock")
            stack.enter_context(alone(lock, str(target)))
        yield


@contextmanager
def alone(file: Path, work: str, *, cures: dict[int, str] = CURES) -> Iterator[None]:
    """Hold the lock ``file`` on some work; it ends with the process however that ends.

    Where the lock cannot be written raises as ``storing`` with these ``cures``.
    """
    # A lock that outlives a killed process, the library's way out, would stop every rerun.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        with storing(file, cures):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        say(f"another process works on {work} ({file} is locked): waiting until it ends")
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
