"""The one writer of cubes: a part at a time, in place, so that a cube may exceed memory."""

import json
from pathlib import Path

import numpy as np
import zarr

from pipeline.atomic import replacing, sha256
from pipeline.cubes.assemble import Block, Gathered, blocks
from pipeline.cubes.layout import Layout
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import manifest_path, quietly_consolidated, to_zarr, tree_sha256


def write_cube(cube: Gathered, path: Path, *, attrs: dict[str, str]) -> None:
    """Write a cube, with attributes, and its manifest."""
    with replacing(path) as staged:
        to_zarr(cube.layout.coordinates().assign_attrs(attrs), staged)
        # What that has consolidated knows the coordinates alone.
        group = zarr.open_group(staged, mode="r+", use_consolidated=False)
        variables = {key: _Variable(group, cube.layout, key) for key in SCHEMA[cube.layout.name]}
        for block in blocks(cube.layout, cube.parts):
            variables[block.key].put(block)
        for variable in variables.values():
            variable.store()
        with quietly_consolidated():
            zarr.consolidate_metadata(group.store)
    write_manifest(path, parts=cube.files)


def write_manifest(path: Path, *, parts: list[Path]) -> None:
    """Write a cube's manifest: a checksum of it, and of every file it was gathered from."""
    manifest = manifest_path(path)
    root = manifest.parent.parent
    listed = {part.relative_to(root).as_posix(): sha256(part) for part in parts}
    about = {"cube": path.name, "sha256": tree_sha256(path), "parts": listed}
    with replacing(manifest) as staged:
        staged.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


class _Variable:
    """A variable's array in a store, and its one chunk that is being filled.

    Parts that share a chunk follow each other, so that most are written once.
    """

    def __init__(self, group: zarr.Group, layout: Layout, key: str) -> None:
        shape, split = layout.shape(key), layout.split(key)
        self._array = group.create_array(
            key,
            shape=shape,
            chunks=tuple(1 if i < split else max(1, size) for i, size in enumerate(shape)),
            dtype=float,
            fill_value=np.nan,
            attributes=layout.attributes(key),
            dimension_names=layout.dims(key),
        )
        self._at: tuple[int, ...] | None = None
        self._chunk = np.empty(0)

    def put(self, block: Block) -> None:
        """Fill a part's values into their chunk."""
        if self._at != block.chunk:
            self.store()
            # Of a chunk that was never written NaN.
            self._at, self._chunk = block.chunk, np.array(self._array[block.chunk])
        self._chunk[block.inside] = block.values

    def store(self) -> None:
        """Write the chunk that is being filled, unless it is all NaN."""
        if self._at is not None:
            self._array[self._at] = self._chunk
