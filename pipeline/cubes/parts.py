"""The cubes that are gathered from parts, one for each checkpoint and split."""

from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.mixture import refuse_mixture
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import read_attributes, read_part
from pipeline.tasks import STAGES, CubeJob, part_places


def part_cube(name: str, job: CubeJob) -> Gathered:
    """Return the cube ``name``.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt, or was made with
    other settings than the rest.
    """
    places = part_places(name, job)
    parts = [Placed(place, read_part(file, SCHEMA[name])) for place, file in places]
    if name in STAGES:
        told = {
            file: read_attributes(part.data)["settings"][name]
            for (_, file), part in zip(places, parts, strict=True)
        }
        refuse_mixture(told, name)
    devices = {read_attributes(part.data)["device"] for part in parts}
    return Gathered(assemble(name, job.runs(), parts), [file for _, file in places], devices)
