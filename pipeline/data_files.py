"""The files of a data set, by content: a changed one retrains what was trained on it.

Reading them all at every start would be slow: their digest is kept beside the results, with their
names, sizes and times, and made anew when these differ.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from pipeline.atomic import replacing, sha256
from pipeline.catalogue import FOLDER, SOURCES
from pipeline.config import Dataset
from pipeline.errors import StorageError
from pipeline.frozen import told_digest
from pipeline.image_folder import class_folders, images_in, is_hidden
from pipeline.paths import same_place

ABSENT = "absent"


def data_files(dataset: Dataset, data_root: str) -> list[Path] | None:
    """Return the files of a data set, sorted; None if the data set has no patterns of files.

    Hidden files, and files in hidden folders, count only if their pattern names something hidden.
    """
    patterns, base = dataset.files, _base(dataset, data_root)
    if patterns is None and dataset.source == FOLDER:
        classes = [*class_folders(base / "train"), *class_folders(base / "test")]
        return sorted(file for folder in classes for file in images_in(folder) if file.is_file())
    if patterns is None and dataset.source in SOURCES:
        patterns = SOURCES[dataset.source].files
    if not patterns:
        return None
    return sorted({file for pattern in patterns for file in _matching(base, pattern)})


def _matching(base: Path, pattern: str) -> Iterator[Path]:
    names_hidden = any(map(is_hidden, Path(pattern).parts))
    for file in base.glob(pattern):
        hidden = any(map(is_hidden, file.relative_to(base).parts))
        if file.is_file() and (names_hidden or not hidden):
            yield file


def _base(dataset: Dataset, data_root: str) -> Path:
    return Path(same_place(dataset.path or data_root))


def data_key(dataset: Dataset) -> str:
    """Return a key that data sets of the same files share, whatever their names."""
    return dataset.resolved().model_dump_json(include={"source", "path", "files"})


def data_digest(dataset: Dataset, *, data_root: str, results: str) -> str | None:
    """Return a digest of the names and contents of a data set's files, wherever they lie.

    None for a data set without files, ``ABSENT`` if there are none yet; files that were there
    before and are gone keep their digest, so that what was trained on them stands.  If files are
    not looked at, a digest of their place, for want of a better sign of them.  What a
    job has fetched since stays ``ABSENT``, as that job was told, until it changes.  While a
    workflow runs it is what it began with: jobs fetch files before others begin.  A process looks
    once: hundreds of jobs may train on one data set.
    """
    key = data_key(dataset)
    return told_digest(key) or _digest_of(key, data_root, results)


def remember_fetched(dataset: Dataset, *, data_root: str, results: str | Path) -> None:
    """Keep in mind that the files there now are those that a job, told ``ABSENT``, has fetched."""
    files = data_files(dataset, data_root)
    if files:
        base = _base(dataset, data_root)
        memo = _memo(results, data_key(dataset))
        _remember(memo, _stamp(files, base), _content(files, base), ABSENT)


@cache
def _digest_of(key: str, data_root: str, results: str) -> str | None:
    dataset = Dataset.model_validate_json(key)
    files, base = data_files(dataset, data_root), _base(dataset, data_root)
    if files is None and dataset.source in SOURCES and dataset.files is None:
        return None
    memo = _memo(results, key)
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memo.read_text(encoding="utf-8"))
    if files is None:
        place = hashlib.sha256(str(base).encode()).hexdigest()[:16]
        told = place if base.exists() else known.get("told", place)
        if known.get("told") != told:
            _remember(memo, "", place, told)
        return told
    if not files:
        return known.get("told", ABSENT)
    stamp = _stamp(files, base)
    if known.get("stamp") == stamp:
        return known["told"]
    content = _content(files, base)
    # Moved or copied, what a job has fetched is still what that job was told.
    told = known["told"] if known.get("content") == content else content
    _remember(memo, stamp, content, told)
    return told


def _memo(results: str | Path, key: str) -> Path:
    # Not beside decoded images, which may be deleted: without it what a job fetched is retrained.
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(results) / ".data" / f"{name}.json"


def _remember(memo: Path, stamp: str, content: str, told: str) -> None:
    # Where results cannot be written, as in a look at another's, the digest is made each time.
    with suppress(OSError, StorageError), replacing(memo) as staged:
        known = {"stamp": stamp, "content": content, "told": told}
        staged.write_text(json.dumps(known) + "\n", encoding="utf-8")


def _content(files: list[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(base)} {sha256(file)}\n".encode())
    return digest.hexdigest()[:16]


def _stamp(files: list[Path], base: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        line = f"{file.relative_to(base)} {about.st_size} {about.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]
