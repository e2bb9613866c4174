"""The aggregation job: the only writer of a cube."""

from functools import partial
from pathlib import Path

from pipeline.cubes.parts import part_cube
from pipeline.cubes.store import attributes
from pipeline.cubes.training import training_cube
from pipeline.cubes.write import write_cube
from pipeline.provenance import provenance
from pipeline.scratch import only_maker
from pipeline.tasks import CubeJob

SEED_DIMS = ("seed", "seed_a", "theory_seed")
CUBES = {
    "training": training_cube,
    "spectrum": partial(part_cube, "spectrum"),
    "hierarchy": partial(part_cube, "hierarchy"),
    "layers": partial(part_cube, "layers"),
    "overlap": partial(part_cube, "overlap"),
    "theory": partial(part_cube, "theory"),
    "bounds": partial(part_cube, "bounds"),
}


def write_cube_of(name: str, job: CubeJob) -> None:
    """Gather the cube ``name`` and write it with its manifest."""
    target = Path(job.results) / "cubes" / f"{name}.zarr"
    with only_maker(target):
        gathered = CUBES[name](job)
        coords = gathered.layout.coords
        about = provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device=", ".join(sorted(gathered.devices)),
            seeds=list(next(coords[dim] for dim in SEED_DIMS if dim in coords)),
        )
        write_cube(gathered, target, attrs=attributes(about))
