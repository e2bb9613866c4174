"""The cubes that are gathered from parts, one for each checkpoint and split."""

from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import read_attributes, read_part
from pipeline.tasks import CubeJob, part_places


def part_cube(name: str, job: CubeJob) -> Gathered:
    """Return the cube ``name``.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt.
    """
    places = part_places(name, job)
    parts = [Placed(place, read_part(file, SCHEMA[name])) for place, file in places]
    devices = {read_attributes(part.data)["device"] for part in parts}
    return Gathered(assemble(name, job.runs(), parts), [file for _, file in places], devices)
