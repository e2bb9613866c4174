"""The cubes that are gathered from parts, one for each checkpoint and split."""

from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.store import read_attributes, read_part
from pipeline.runs import part_path
from pipeline.tasks import CubeJob


def part_cube(name: str, job: CubeJob) -> Gathered:
    """Return the cube ``name``.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt.
    """
    runs = job.runs()
    places = [
        (run, {"epoch": epoch, "split": split})
        for run in runs
        for epoch in job.checkpoints[run.recipe]
        for split in job.splits
    ]
    files = [part_path(job.results, run, cube=name, **place) for run, place in places]
    parts = [
        Placed(run, place, read_part(file))
        for (run, place), file in zip(places, files, strict=True)
    ]
    devices = {read_attributes(part.data)["device"] for part in parts}
    return Gathered(assemble(name, runs, parts), files, devices)
