"""What the jobs share that dissect every checkpoint of a run on every split, one part each."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pipeline.api import OpenRun, open_run
from pipeline.atomic import remove
from pipeline.cubes.store import attributes, write_part
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.parallel import from_first_rank, ranks, wait_for_all
from pipeline.curvature.problem import Options
from pipeline.curvature.recorded import Recorded
from pipeline.device import device_name, prepare
from pipeline.progress import progress, say
from pipeline.provenance import provenance
from pipeline.runs import Run, part_path, results_of
from pipeline.scratch import scratch_folder
from pipeline.tasks import StageJob

Record = Callable[[LinearOperator, str], LinearOperator]
Dissect = Callable[[OpenRun, str, Record], xr.Dataset]


def write_parts(
    folder: Path,
    job: StageJob,
    cube: str,
    splits: Sequence[str],
    dissect: Dissect,
    *,
    labels: dict[str, list[str]],
) -> None:
    """Write the run's parts of ``cube``, moved to their places when all are done.

    ``dissect`` is called with the opened run, the split, and a function that records an operator's
    products under a name; ``labels`` are coordinates that a part without results has too.
    Finished parts, and the products of a long one, wait in scratch, named after the network's
    checksum; a rerun finds them.  In a data-parallel job all ranks compute and the first writes.
    """
    run = Run.from_path(folder)
    device = prepare(job.compute)
    first = ranks()[0] == 0
    targets = {
        (epoch, split): part_path(results_of(folder), run, epoch, split, cube)
        for epoch in job.epochs
        for split in splits
    }
    scratch = scratch_folder(results_of(folder) / "curvature" / run.path, job, first_rank=first)
    checksums = {epoch: open_run(folder, epoch).checksum[:16] for epoch in job.epochs}
    staged = {
        (epoch, split): scratch / f"epoch{epoch}-{split}-{checksums[epoch]}.zarr.zip"
        for epoch, split in targets
    }
    waiting = from_first_rank([place for place in targets if not staged[place].exists()])
    done = len(targets) - len(waiting)
    label = f"{run.path} {cube}"
    for epoch, split in progress(waiting, total=len(targets), done=done, label=label):
        opened = open_run(folder, epoch, device=device, dtype=getattr(torch, job.compute.dtype))
        products = staged[epoch, split].with_suffix(".products")
        part = _part(opened, split, job, dissect, products, labels)
        if first:
            write_part(part, staged[epoch, split])
            remove(products)
        wait_for_all()
    if first:
        for place, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged[place], target)
        remove(scratch)
    wait_for_all()


def options_of(job: StageJob) -> Options:
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
