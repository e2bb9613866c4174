"""A cube of terabytes, were it dense, is written, read and drawn in a little memory."""

import tracemalloc
import warnings
from contextlib import contextmanager

import layer_cubes
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from pipeline.catalogue import FIGURES
from pipeline.config import Grid
from pipeline.cubes.parts import part_cube
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import attributes, open_cube, read_part, write_part
from pipeline.cubes.write import write_cube
from pipeline.errors import ArtifactError
from pipeline.figures import style
from pipeline.jobs import figure
from pipeline.runs import Run
from pipeline.stages import Figures
from pipeline.tasks import CubeJob, part_places

COUNT, THERE = 20, 3  # runs of as many data sets, networks and recipes; the others diverged
BOUND = 100e6
SIDE = 400  # of a layer's matrix, so that its eigenvectors are some megabytes


def job(root):
    grid = tuple(
        Grid(
            datasets=(f"data{i}",), models=(f"net{i}",), norms=("none",), recipes=(f"recipe{i}",),
            n_per_class=(20,), seeds=(i,),
        )
        for i in range(COUNT)
    )  # fmt: skip
    checkpoints = {f"recipe{i}": (9,) for i in range(COUNT)}
    return CubeJob(
        results=str(root), grid=grid, checkpoints=checkpoints, splits=("train",), code="x"
    )


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cube written from its parts, some runs of which have two layers of their own names."""
    root = tmp_path_factory.mktemp("large")
    about = attributes({"settings": {"layers": {}}, "device": "cpu"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_cubes, "STORED", SIDE**2)
        for i, (place, file) in enumerate(part_places("layers", job(root))):
            part = xr.Dataset({"classes": float(layer_cubes.CLASSES)})
            if i < THERE:
                shapes = {f"fc{2 * i + j}": (SIDE, SIDE) for j in range(2)}
                patch.setitem(layer_cubes.SHAPES, place["model"], shapes)
                run = Run(*(place[word] for word in Run.__dataclass_fields__))
                part = layer_cubes.layers_part(np.random.default_rng(i), run)
                part["layer"] = part.layer.astype(object)
            write_part(part.assign_attrs(about), file)
    with little_memory():
        write_cube(part_cube("layers", job(root)), root / "cubes" / "layers.zarr", attrs={})
    return root


def test_a_cube_far_larger_than_memory_is_gathered(root):
    cube = open_cube(root / "cubes" / "layers.zarr")
    assert cube.eigenvector.nbytes > 1e12
    chunks = [p for p in (root / "cubes/layers.zarr/eigenvector/c").rglob("*") if p.is_file()]
    assert len(chunks) == 2 * THERE  # one for each layer that there is
    for place, file in part_places("layers", job(root))[:THERE]:
        with little_memory():
            part = read_part(file, SCHEMA["layers"])
            one = cube.sel(place).load()
            own = one.sel(layer=part.layer)
            for key in part:
                xr.testing.assert_equal(own[key].drop_vars(place), part[key].reindex_like(own[key]))
            others = one.drop_sel(layer=part.layer.values)
            assert all(others[key].isnull().all() for key in part if "layer" in part[key].dims)


@pytest.mark.parametrize("name", [name for name in FIGURES if FIGURES[name] == ("layers",)])
def test_figures_of_it_read_what_they_show(root, name):
    with style.theme(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with little_memory():
            cubes = {"layers": open_cube(root / "cubes" / "layers.zarr")}
            found = figure.FIGURES[name](cubes, Figures())
        assert any(panel.lines or panel.images for panel in found.axes)
        plt.close("all")


def test_a_part_that_is_lost_before_its_turn_leaves_the_cube_as_it_was(root):
    cube = part_cube("layers", job(root))
    file = cube.files[THERE]
    data = file.read_bytes()
    file.unlink()
    path = root / "cubes" / "layers.zarr"
    try:
        with pytest.raises(ArtifactError, match=r"data3.* is missing"):
            write_cube(cube, path, attrs={})
    finally:
        file.write_bytes(data)
    assert [entry.name for entry in sorted(path.parent.iterdir())] == [
        "layers.manifest.json",
        "layers.zarr",
    ]
    assert open_cube(path).sizes["model"] == COUNT
