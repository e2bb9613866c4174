"""What the jobs share that dissect checkpoints of runs on splits, one part each."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pipeline.api import OpenRun, open_run
from pipeline.atomic import remove
from pipeline.cubes.store import attributes, opened_part, write_part
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.parallel import from_first_rank, ranks, wait_for_all, wait_for_lock
from pipeline.curvature.problem import Options
from pipeline.curvature.recorded import Recorded
from pipeline.device import device_name, prepare, within_memory
from pipeline.errors import ArtifactError
from pipeline.progress import progress, say
from pipeline.provenance import provenance
from pipeline.runs import Part
from pipeline.scratch import only_maker, scratch_folder
from pipeline.tasks import Access, BoundsJob, StageJob

Record = Callable[[LinearOperator, str], LinearOperator]
BESIDE_PRODUCTS = (
    "It holds data, kept chunks and a basis. Lower compute.basis_gb or compute.memory_gb (null: 8 "
    "GiB each on a GPU), or set compute.stream to true"
)
Dissect = Callable[[OpenRun, str, Record], xr.Dataset]


def write_parts(
    files: Sequence[Path],
    job: StageJob,
    access: Access | None,
    dissect: Dissect,
    *,
    labels: dict[str, list[str]],
) -> None:
    """Write the parts ``files``, moved to their places when all are done.

    ``dissect`` is called with the opened run, the split, and a function that records an operator's
    products under a name; ``labels`` are coordinates that a part without results has too.
    Finished parts, and the products of a long one, wait in scratch, named after the network and its
    data; a rerun finds them.  In a data-parallel job all ranks compute and the first writes.
    """
    device = prepare(job.compute)
    first = ranks()[0] == 0
    parts = {file: Part.from_path(file) for file in files}
    with within_memory(BESIDE_PRODUCTS), ExitStack() as stack:
        if first:
            stack.enter_context(only_maker(*files))
        wait_for_lock()
        staged = {}
        for file, part in parts.items():
            key = open_run(part.folder, part.epoch).key
            scratch = scratch_folder(file.parent, job, first_rank=first)
            staged[file] = stack.enter_context(scratch) / f"{key}.zarr.zip"
        waiting = from_first_rank([f for f in files if not (first and _is_whole(staged[f]))])
        done = len(files) - len(waiting)
        for file in progress(waiting, total=len(files), done=done, label=_label(parts)):
            part = parts[file]
            dtype = getattr(torch, job.compute.dtype)
            place = {"device": device, "dtype": dtype, "access": access}
            opened = open_run(part.folder, part.epoch, **place)
            products = staged[file].with_suffix(".products")
            found = _part(opened, part.split, job, dissect, products, labels)
            if first:
                write_part(found, staged[file])
            wait_for_all()  # others may still read their products
            if first:
                remove(products)
        if first:
            for file in files:
                os.replace(staged[file], file)
    wait_for_all()


def _is_whole(staged: Path) -> bool:
    """Return whether a finished part waits in scratch; one that is damaged is said and removed."""
    if not staged.exists():
        return False
    try:
        with opened_part(staged):
            return True
    except ArtifactError as error:
        say(f"{staged}, left in scratch, is not whole ({error.__cause__}): removed, made anew")
        remove(staged)
        return False


def _label(parts: dict[Path, Part]) -> str:
    """Return what stands before the progress of the job."""
    return ", ".join(sorted({f"{part.run.path} {part.cube}" for part in parts.values()}))


def options_of(job: StageJob | BoundsJob) -> Options:
    """Return how the job's operators are evaluated."""
    compute = job.compute
    return {
        "chunk": compute.chunk,
        "memory_gb": compute.memory_gb,
        "compiled": compute.compiled,
        "vectors": compute.vectors,
    }


def _part(
    run: OpenRun,
    split: str,
    job: StageJob,
    dissect: Dissect,
    products: Path,
    labels: dict[str, list[str]],
) -> xr.Dataset:
    """Return the part of one checkpoint on one split; without results if the network diverged."""

    def record(operator: LinearOperator, name: str) -> LinearOperator:
        return Recorded(operator, products / name)

    coords = {dim: np.array(names, dtype=object) for dim, names in labels.items()}
    part = xr.Dataset(coords=coords)
    if run.diverged:
        say(f"{run.spec.path}: diverged before epoch {run.epoch}, nothing to dissect")
    else:
        try:
            part = dissect(run, split, record)
            part["dimension"] = float(sum(p.numel() for p in run.model.parameters()))
        except FloatingPointError as error:
            say(f"{run.spec.path}, epoch {run.epoch}: taken as diverged, {error}")
    part["classes"] = float(len(run.class_names))
    return part.assign_attrs(
        attributes(
            provenance(
                settings=job.model_dump(mode="json"),
                code=job.code,
                device=device_name(run.device),
                seeds={"run": run.spec.seed},
                checkpoint=run.checksum,
            )
        )
    )
