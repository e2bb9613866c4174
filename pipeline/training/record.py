"""A run's record, run.json, and the files of the run that it tells of."""

import json
from pathlib import Path
from typing import Any

from pipeline.atomic import sha256
from pipeline.errors import ArtifactError

KEYS = {"provenance", "checkpoints", "tables"}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the trained run in ``folder``.

    ``checkpoints`` has the SHA-256 of each by its epoch, ``tables`` of each CSV file by its name.
    Raises ArtifactError where the record is missing or corrupt, or an older version wrote it.
    """
    file = folder / "run.json"
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if lacking := KEYS - record.keys():
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"record {file} is missing. Run snakemake, which makes it, or name the folder of a "
            "trained run"
        ) from error
    except ValueError as error:
        raise ArtifactError(
            f"record {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error
    return record


def refuse_altered(folder: Path, file: Path, told: str | None) -> None:
    """Raise ArtifactError where a file of the run in ``folder`` has not the SHA-256 ``told``."""
    try:
        found = sha256(file)
    except FileNotFoundError as error:
        raise ArtifactError(f"{file} is missing. Run snakemake, which makes it") from error
    if found != told:
        raise ArtifactError(
            f"{file} is not the file that run.json tells of (its SHA-256 differs). Delete "
            f"{folder / 'run.json'}, and snakemake trains the run anew"
        )
