"""The cubes that are gathered from parts, one for each checkpoint and split."""

from pipeline.cubes.assemble import Gathered, Placed
from pipeline.cubes.layout import labels_of, laid_out
from pipeline.cubes.mixture import refuse_mixture
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import opened_part, read_attributes, read_part, refusal_of
from pipeline.tasks import STAGES, CubeJob, part_places


def part_cube(name: str, job: CubeJob) -> Gathered:
    """Return the cube ``name``, whose parts are read one at a time as it is written.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt, or was made with
    other settings than the rest.
    """
    places = part_places(name, job)
    labels, told = [], {}
    for place, file in places:
        with opened_part(file, checked=False) as part, refusal_of(file):
            labels.append(labels_of(name, place, part))
            told[file] = read_attributes(part)
    if name in STAGES:
        refuse_mixture({file: about["settings"][name] for file, about in told.items()}, name)
    layout = laid_out(name, job.runs(), labels)
    ordered = sorted(places, key=lambda placed: layout.rank(placed[0]))
    parts = (Placed(place, read_part(file, SCHEMA[name])) for place, file in ordered)
    devices = {about["device"] for about in told.values()}
    return Gathered(layout, parts, [file for _, file in places], devices)
