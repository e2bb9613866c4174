"""The spectrum cube, from the parts of all checkpoints."""

from pathlib import Path

import xarray as xr

from pipeline.config import CubeJob
from pipeline.cubes.assemble import Placed, assemble
from pipeline.cubes.store import read_part
from pipeline.runs import part_path


def spectrum_cube(job: CubeJob) -> tuple[xr.Dataset, list[Path]]:
    """Return the spectrum cube and the parts it was gathered from.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt.
    """
    runs = job.runs()
    places = [
        (run, {"epoch": epoch, "split": split})
        for run in runs
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
    ]
    files = [part_path(job.results, run, cube="spectrum", **place) for run, place in places]
    parts = [
        Placed(run, place, read_part(file))
        for (run, place), file in zip(places, files, strict=True)
    ]
    return assemble("spectrum", runs, parts), files
