"""The cubes that are gathered from parts, one for each checkpoint and split."""

import json
from collections import Counter
from pathlib import Path

from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import read_attributes, read_part
from pipeline.errors import ArtifactError
from pipeline.tasks import STAGES, CubeJob, part_places


def part_cube(name: str, job: CubeJob) -> Gathered:
    """Return the cube ``name``.

    Raises ArtifactError where a part that the grid asks for is missing or corrupt, or was made with
    other settings than the rest.
    """
    places = part_places(name, job)
    parts = [Placed(place, read_part(file, SCHEMA[name])) for place, file in places]
    if name in STAGES:
        _refuse_mixture(name, {file: part for (_, file), part in zip(places, parts, strict=True)})
    devices = {read_attributes(part.data)["device"] for part in parts}
    return Gathered(assemble(name, job.runs(), parts), [file for _, file in places], devices)


def _refuse_mixture(stage: str, parts: dict[Path, Placed]) -> None:
    """Raise ArtifactError where parts of a stage were made with different settings."""
    told = {
        file: json.dumps(read_attributes(part.data)["settings"][stage], sort_keys=True)
        for file, part in parts.items()
    }
    counts = Counter(told.values()).most_common()
    if len(counts) > 1:
        odd = next(file for file, text in told.items() if text == counts[-1][0])
        raise ArtifactError(
            f"part {odd} was made with other `{stage}:` settings than {counts[0][1]} of the "
            f"{len(told)} parts, as when the configuration is edited while jobs run. Run snakemake "
            "again, which makes anew what differs"
        )
