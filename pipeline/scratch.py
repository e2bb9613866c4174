"""Undeclared scratch folders, where an interrupted job keeps what a rerun goes on from.

Snakemake deletes a job's declared outputs before it reruns the job, so nothing resumable may stand
in them.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel

from pipeline.atomic import remove


def scratch_folder(beside: Path, job: BaseModel, *, first_rank: bool = True) -> Path:
    """Return this very job's scratch folder in ``beside``; remove those of other settings.

    Only the first of several processes of a job removes.
    """
    key = hashlib.sha256(f"{type(job).__name__} {job.model_dump_json()}".encode()).hexdigest()[:16]
    own = beside / f".{type(job).__name__}-{key}"
    for other in beside.glob(f".{type(job).__name__}-*"):
        if first_rank and other != own:
            remove(other)
    return own
