"""Every published value, by paper."""

from pipeline.config import Config
from pipeline.reference import paper_d, paper_s
from pipeline.reference.published import Published
from pipeline.settings import Cube

PUBLISHED: tuple[Published, ...] = (*paper_s.PUBLISHED, *paper_d.PUBLISHED)


def compared_cubes(config: Config) -> tuple[Cube, ...]:
    """Return the cubes to gather that any published value is of."""
    needed = {one.cube for one in PUBLISHED}
    return tuple(cube for cube in config.gathered() if cube in needed)
