"""Undeclared scratch folders, where an interrupted job keeps what a rerun goes on from.

Snakemake deletes a job's declared outputs before it reruns the job, so nothing resumable may stand
in them.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel

from pipeline.atomic import remove


def scratch_folder(beside: Path, job: BaseModel) -> Path:
    """Return this very job's scratch folder in ``beside``, and remove those of other settings."""
    key = hashlib.sha256(f"{type(job).__name__} {job.model_dump_json()}".encode()).hexdigest()[:16]
    own = beside / f".{type(job).__name__}-{key}"
    for other in beside.glob(f".{type(job).__name__}-*"):
        if other != own:
            remove(other)
    return own
