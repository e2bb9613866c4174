"""Cubes merged by name: all pairs of one experiment's, and one stage's of two experiments."""

from dataclasses import asdict
from itertools import combinations

import layer_cubes
import numpy as np
import pytest
import xarray as xr
from test_figures import CUBES as SPECTRAL

from pipeline.cubes.assemble import Placed, assemble
from pipeline.cubes.schema import SCHEMA, leading_dims
from pipeline.runs import Run

# The documented way (docs/cubes.md).
BY_NAME = {"join": "outer", "compat": "no_conflicts"}


def bounds_cube():
    run = Run("digits-2", "t8", "none", "sgd", 0, 0)
    part = xr.Dataset(
        {
            "bound": 0.3,
            "classes": 2.0,
            "curvature": (("layer", "bin"), np.ones((2, 3))),
        },
        coords={"layer": ["fc1", "fc2"]},
    )
    places = [Placed(asdict(run) | {"basis": basis}, part) for basis in ("base", "appr")]
    return assemble("bounds", [run], places)


def layers_runs(**words):
    return layer_cubes.runs(models=("fnet",), norms=("none",), seeds=(0, 1), **words)


CUBES = SPECTRAL | {
    "layers": layer_cubes.layers_cube(layers_runs()),
    "overlap": layer_cubes.overlap_cube(layers_runs(), seeds=(0, 1)),
    "theory": layer_cubes.theory_cube(),
    "bounds": bounds_cube(),
}


def assert_kept(whole, part):
    """Hold every value of ``part`` to the one of its labels in ``whole``."""
    for key, values in part.items():
        at = {dim: part[dim].values for dim in values.dims}
        assert set(whole[key].dims) == set(values.dims), key
        there = whole[key].sel(at).transpose(*values.dims).values
        known = values.notnull().values
        assert np.array_equal(there[known], values.values[known]), key


def test_a_name_means_the_same_in_every_cube():
    for one, other in combinations(SCHEMA, 2):
        for key in SCHEMA[one].keys() & SCHEMA[other].keys():
            assert SCHEMA[one][key] == SCHEMA[other][key], (one, other, key)
            assert leading_dims(one) == leading_dims(other), (one, other, key)


@pytest.mark.parametrize(("one", "other"), list(combinations(CUBES, 2)))
def test_two_cubes_of_one_experiment_are_merged(one, other):
    parts = CUBES[one], CUBES[other]
    # Networks of different experiments stand in for one: their sizes differ by chance.
    parts = [part.drop_vars(["dimension", "classes"], errors="ignore") for part in parts]
    whole = xr.merge(parts, **BY_NAME)
    for part in parts:
        assert_kept(whole, part)


def second_experiment(cube):
    """Return the cube as of another data set, fewer seeds, and longer lists."""
    dims = {"dataset": [f"{name}-b" for name in cube.dataset.values]}
    if "order" in cube.dims:
        cube = cube.pad(order=(0, 3)).assign_coords(order=np.arange(cube.sizes["order"] + 3))
    if "seed" in cube.dims:
        cube = cube.isel(seed=slice(0, 1))
    return cube.assign_coords(dims)


@pytest.mark.parametrize("name", [name for name in CUBES if name != "theory"])
def test_a_stages_cubes_of_two_experiments_are_combined(name):
    parts = [
        cube.assign_attrs(provenance=str(i))
        for i, cube in enumerate([CUBES[name], second_experiment(CUBES[name])])
    ]
    for whole in (
        xr.merge(parts, **BY_NAME),
        xr.concat(parts, "dataset", join="outer", data_vars="minimal", combine_attrs="drop"),
        xr.combine_by_coords(parts, **BY_NAME, data_vars="minimal", combine_attrs="drop_conflicts"),
    ):
        for part in parts:
            assert_kept(whole, part)
