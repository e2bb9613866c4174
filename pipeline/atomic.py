"""Files that are either whole or absent."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StorageError

FULL = {
    errno.ENOSPC: "Free some space on that disk, or let `results:` name a folder on another",
    errno.EDQUOT: "Free some of your quota, or let `results:` name a folder on another disk",
}
# What file systems that know no fsync answer.
WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
CURES = FULL | {
    errno.EROFS: "Let `results:` name a folder on a file system that can be written to",
    errno.EACCES: "Give yourself the right to write there, or let `results:` name another folder",
    errno.EPERM: "Give yourself the right to write there, or let `results:` name another folder",
}

# Bytes of free disk; one small network with its parts, cubes and figures leaves 5 MB.
LEAST_FREE = 16 * 2**20


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside ``target`` to write to; rename it onto ``target`` on success.

    A killed or failed writer leaves ``target`` as it was.  What is written may be a file or a
    folder; a folder replaces a folder.  A target has one writer at a time, which jobs see to by the
    lock of ``pipeline.scratch``.  Raises as ``storing``.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(staged)
        try:
            yield staged
            if staged.is_dir():
                remove(target)
            else:
                # Where the machine fails, an unsynced file may have its name before its bytes.
                with staged.open("r+b") as file:
                    sync(file)
            os.replace(staged, target)
            for left in target.parent.glob(f".{target.name}.*.partial*"):
                remove(left)  # by a writer that was killed
        finally:
            remove(staged)


@contextmanager
def storing(path: Path | str, cures: dict[int, str] = CURES) -> Iterator[None]:
    """Raise StorageError where a disk does not take what is for ``path``, with its cure.

    What stands for a path in words gives way to the file that the error names, if any.
    """
    try:
        yield
    except Exception as error:
        # safetensors tells of the system's errors in words alone.
        told = re.search(r"os error (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number not in cures:
            raise
        named = path if isinstance(path, Path) else getattr(error, "filename", None) or path
        raise StorageError(
            f"{named} cannot be written: {os.strerror(number)}. {cures[number]}. Nothing that was "
            "finished is lost: a rerun goes on from there"
        ) from error


def check_writable(folder: str | Path) -> None:
    """Raise StorageError if a folder, made if it is absent, cannot be written to or is nearly full.

    ``plan`` estimates what an experiment takes; below ``LEAST_FREE`` the smallest one fails.
    """
    with storing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise StorageError(
            f"the disk of {folder} has {free / 2**20:.0f} MB free, less than any experiment takes. "
            "Free some space, or let `results:` name a folder on another disk"
        )


def sync(file: BinaryIO) -> None:
    """Have what was written to ``file`` on its disk, as far as its file system can tell."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in WITHOUT_SYNC:
            raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
