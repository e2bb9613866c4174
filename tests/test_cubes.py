import errno
import json
import os
import warnings
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import layer_cubes
import numpy as np
import pytest
import xarray as xr

import pipeline
from pipeline.atomic import replacing, sha256
from pipeline.config import Grid
from pipeline.cubes.assemble import Placed, assemble, dense, in_memory
from pipeline.cubes.layout import Layout, merged
from pipeline.cubes.parts import part_cube
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import (
    attributes,
    manifest_path,
    open_cube,
    read_part,
    write_part,
)
from pipeline.cubes.training import training_cube
from pipeline.cubes.variable import RUN_DIMS
from pipeline.cubes.write import write_cube
from pipeline.errors import ArtifactError
from pipeline.runs import Run, run_folder
from pipeline.tasks import CubeJob, part_places

RUNS = [
    Run("digits", "lenet5", "none", "sgd", 10, 0),
    Run("digits", "lenet5", "none", "sgd", 10, 1),
    Run("mnist", "fnet", "batch", "sgd", 0, 0),
]


def spectrum_part(value, nodes=4):
    matrices = np.array(["Hess", "G"], dtype=object)
    lanczos = ("matrix", "probe", "node")
    scalars = {
        key: ("matrix", np.full(2, value))
        for key in ("deflated_count", "trace", "trace_stderr", "outlier_count", "bulk_edge")
    }
    return xr.Dataset(
        {
            "ritz_value": (lanczos, np.full((2, 1, nodes), value)),
            "ritz_weight": (lanczos, np.full((2, 1, nodes), 1 / nodes)),
            **{
                key: (("matrix", "order"), np.array([[3, 2, 1], [2, 1, np.nan]]) + value)
                for key in ("eigenvalue", "residual", "converged")
            },
            **scalars,
            "dimension": 7.0,
            "classes": 10.0,
        },
        coords={"matrix": matrices, "order": np.arange(3)},
        attrs=attributes({"code": "x"}),
    )


def placed(epochs=(0, 5)):
    parts = [
        Placed(
            asdict(run) | {"epoch": epoch, "split": split}, spectrum_part(epoch + i, nodes=4 + i)
        )
        for i, run in enumerate(RUNS)
        for epoch in epochs
        for split in ("train", "test")
    ]
    # The last run diverged: its part of epoch 5 on test is empty.
    parts[-1] = Placed(parts[-1].place, xr.Dataset())
    return parts


def test_a_part_round_trips_and_is_a_function_of_its_contents(tmp_path):
    part = spectrum_part(0.5)
    one, two = tmp_path / "one.zarr.zip", tmp_path / "two" / "two.zarr.zip"
    write_part(part, one)
    write_part(part, two)
    assert sha256(one) == sha256(two)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(read_part(one), part)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_part_is_refused_by_name(tmp_path, damage):
    file = tmp_path / "part.zarr.zip"
    write_part(spectrum_part(0.5), file)
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 4] ^= 0xFF
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(ArtifactError, match=r"part\.zarr\.zip is (corrupt|missing).*snakemake"):
        read_part(file)


def test_a_cube_is_dense_labelled_and_quiet(tmp_path):
    cube = assemble("spectrum", RUNS, placed())
    path = tmp_path / "cubes" / "spectrum.zarr"
    part = tmp_path / "curvature" / "part.zarr.zip"
    write_part(spectrum_part(1.0), part)
    write_cube(replace(in_memory("spectrum", RUNS, placed()), files=[part]), path, attrs={})
    manifest = manifest_path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(path)
        one = opened.sel(
            dataset="digits", model="lenet5", norm="none", recipe="sgd", n_per_class=10, seed=1,
            epoch=5, split="test", matrix="G",
        ).load()  # fmt: skip
    xr.testing.assert_identical(opened.load(), cube)
    assert one.ritz_value.values[0, :5].tolist() == [6] * 5
    assert np.isnan(one.ritz_value.values[0, 5])
    assert one.eigenvalue.values[:2].tolist() == [8, 7]
    absent = opened.sel(dataset="mnist", model="lenet5")
    assert all(absent[key].isnull().all() for key in absent)
    diverged = opened.sel(dataset="mnist", model="fnet", norm="batch", n_per_class=0, seed=0)
    assert diverged.trace.sel(epoch=5, split="test").isnull().all()
    assert diverged.trace.sel(epoch=5, split="train").notnull().all()
    assert json.loads(manifest.read_text())["parts"] == {"curvature/part.zarr.zip": sha256(part)}


def test_a_cube_that_lost_a_chunk_is_refused(tmp_path):
    path = tmp_path / "cubes" / "spectrum.zarr"
    write_cube(in_memory("spectrum", RUNS, placed()), path, attrs={})
    assert pipeline.open_cube(str(path)).trace.notnull().any()
    (path / ".snakemake_timestamp").touch()
    assert open_cube(path).trace.notnull().any()
    next(file for file in (path / "trace" / "c").rglob("*") if file.is_file()).unlink()
    with pytest.raises(ArtifactError, match=r"spectrum.zarr has lost or altered .*Delete .*json"):
        open_cube(path)
    manifest_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"manifest is missing or corrupt"):
        open_cube(path)


def test_parts_made_with_different_settings_are_not_mixed(tmp_path):
    job = cube_job(tmp_path)
    files = [file for _, file in part_places("spectrum", job)]
    for file, steps in zip(files, (24, 25), strict=True):
        about = {"settings": {"spectrum": {"steps": steps}}, "device": "cpu"}
        write_part(spectrum_part(1.0).assign_attrs(attributes(about)), file)
    with pytest.raises(ArtifactError, match=r"1 of 2 files .* settings of spectrum") as refused:
        part_cube("spectrum", job)
    # The cure, as it is told: delete what is listed, and make it anew.
    (odd,) = map(Path, str(refused.value).split("\n  ")[1:])
    assert odd in files
    assert "Delete them" in str(refused.value)
    write_part(spectrum_part(1.0).assign_attrs(attributes(about)), files[0])
    assert len(part_cube("spectrum", job).files) == 2


def test_names_keep_the_order_of_every_list():
    dense, residual = ["stem", "dense1", "dense2", "fc"], ["stem.conv", "block1", "fc"]
    fnet, lenet = ["fc1", "fc2", "fc3", "fc4"], ["conv1", "conv2", "fc1", "fc2", "fc3"]
    names = merged([dense, lenet, fnet, residual, fnet])
    assert sorted(names) == sorted({*dense, *residual, *fnet, *lenet})
    for one in (dense, residual, fnet, lenet):
        assert [name for name in names if name in one] == one
    assert sorted(merged([["a", "b"], ["b", "a", "c"]])) == ["a", "b", "c"]  # no common order


def test_a_diverged_part_keeps_its_labels(tmp_path):
    job = cube_job(tmp_path)
    about = {"settings": {"spectrum": {}}, "device": "cpu"}
    matrices = np.array(["Hess", "G"], dtype=object)
    empty = xr.Dataset({"classes": 10.0}, {"matrix": matrices}, attributes(about))
    for _, file in part_places("spectrum", job):
        write_part(empty, file)
    found = dense(part_cube("spectrum", job))
    assert found.trace.sel(matrix="G").isnull().all()
    assert (found.classes == 10).all()


@pytest.mark.parametrize("name", ["layers", "overlap", "theory"])
def test_a_cube_on_disk_is_the_one_in_memory(tmp_path, name):
    runs = layer_cubes.runs(models=("fnet",), seeds=(0, 1))
    cube = {
        "layers": lambda: layer_cubes.layers_cube(runs),
        "overlap": lambda: layer_cubes.overlap_cube(runs, seeds=(0, 1)),
        "theory": layer_cubes.theory_cube,
    }[name]()
    # One part that spans several chunks: those of all norms.
    place = {dim: cube[dim].values[0] for dim in ("dataset", "model") if dim in cube.dims}
    parts = [Placed(place, cube.isel(dict.fromkeys(place, 0)))]
    write_cube(in_memory(name, runs if place else [], parts), tmp_path / "c.zarr", attrs={})
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "c.zarr").load(), cube)


@pytest.mark.parametrize(
    ("layers", "elements", "split"),
    [
        (8, 1000, 4),  # a data set, a network, a norm and a recipe
        (8, 10**5, 6),  # 26 MB, of one seed half
        (20, 10**5, 8),  # 16 MB of one seed on one split
        (40, 10**7, 9),  # one layer, whose lists are never cut
    ],
)
def test_large_variables_are_cut_into_smaller_chunks(layers, elements, split):
    counts = {"seed": 2, "split": 2, "layer": layers, "element": elements}
    dims = (*RUN_DIMS, *SCHEMA["layers"]["eigenvector"].dims)
    layout = Layout("layers", {dim: range(counts.get(dim, 1)) for dim in dims})
    assert layout.split("eigenvector") == split


def test_absent_combinations_take_no_space(tmp_path):
    write_cube(in_memory("spectrum", RUNS, placed()), tmp_path / "c.zarr", attrs={})
    chunks = [p for p in (tmp_path / "c.zarr" / "trace" / "c").rglob("*") if p.is_file()]
    # Two data sets, models and norms are 8 combinations; two of them are there.
    assert len(chunks) == 2


ATTRIBUTES = {"long_name", "description", "units", "source"}


@pytest.mark.parametrize("name", SCHEMA)
def test_every_variable_says_what_it_is(name):
    for key, variable in SCHEMA[name].items():
        assert 0 < len(variable.long_name) <= 40, key  # an axis label
        assert variable.description, key
        assert variable.units, key
        assert variable.source, key
    if name == "spectrum":
        cube = assemble(name, RUNS, placed())
        assert cube.trace.dims[:6] == RUN_DIMS
        assert all(set(cube[key].attrs) == ATTRIBUTES for key in cube)


def history(root, run, lines, **recipe):
    folder = run_folder(root, run)
    folder.mkdir(parents=True)
    header = "epoch,train_loss,train_accuracy,test_loss,test_accuracy,lr,weight_norm,diverged\n"
    (folder / "history.csv").write_text(header + "".join(lines))
    settings = {"dataset": {"source": run.dataset}, "model": {}, "recipe": {"lr": 0.1} | recipe}
    record = {"provenance": {"device": "cpu", "settings": settings}, "checkpoints": {}}
    (folder / "run.json").write_text(json.dumps(record))
    tell(folder)


def tell(folder):
    """Have the record of a run tell of the tables that are there."""
    record = json.loads((folder / "run.json").read_text())
    record["tables"] = {file.name: sha256(file) for file in folder.glob("*.csv")}
    (folder / "run.json").write_text(json.dumps(record))


def cube_job(root):
    grid = Grid(
        datasets=("digits",), models=("lenet5",), norms=("none",), recipes=("sgd",),
        n_per_class=(10,), seeds=(0, 1),
    )  # fmt: skip
    return CubeJob(
        results=str(root), grid=(grid,), checkpoints={"sgd": (0,)}, splits=("train",), code="x"
    )


def test_the_training_cube_remembers_divergence(tmp_path):
    history(tmp_path, RUNS[0], [f"{e},1.5,0.5,1.6,0.4,0.1,3.0,0\n" for e in range(4)])
    history(tmp_path, RUNS[1], ["0,1,1,1,1,nan,2,0\n", "1,nan,0.1,nan,0.1,0.1,nan,1\n"])
    gathered = training_cube(cube_job(tmp_path))
    assert len(gathered.files) == 4
    assert gathered.devices == {"cpu"}
    lost = dense(gathered).isel(dataset=0, model=0, norm=0, recipe=0, n_per_class=0)
    assert lost.diverged.sel(seed=1).values.tolist() == [0, 1, 1, 1]
    assert lost.diverged.sel(seed=0).values.tolist() == [0, 0, 0, 0]
    assert lost.test_loss.sel(seed=0).values.tolist() == [1.6] * 4
    assert np.isnan(lost.test_loss.sel(seed=1).values[1:]).all()


def test_runs_trained_with_different_settings_are_not_mixed(tmp_path):
    history(tmp_path, RUNS[0], ["0,1,1,1,1,nan,2,0\n"])
    history(tmp_path, RUNS[1], ["0,1,1,1,1,nan,2,0\n"], lr=0.2)
    job = cube_job(tmp_path)
    with pytest.raises(ArtifactError, match=r"settings of recipes.sgd .*\n.*seed\d/run.json$"):
        training_cube(job)
    # Runs of a sweep may differ in the rate that was chosen, and in nothing else.
    for run in RUNS[:2]:
        (run_folder(tmp_path, run) / "sweep.csv").write_text(
            "lr,test_error,test_loss,diverged,selected\n0.1,1,1,0,1\n"
        )
        tell(run_folder(tmp_path, run))
    swept = job.model_copy(update={"sweeps": ("sgd",)})
    assert training_cube(swept).devices == {"cpu"}
    record = run_folder(tmp_path, RUNS[1]) / "run.json"
    record.write_text(record.read_text().replace('"lr": 0.2', '"lr": 0.2, "batch": 3'))
    with pytest.raises(ArtifactError, match=r"1 of 2 files .* settings of recipes.sgd"):
        training_cube(swept)


def test_a_missing_history_is_named(tmp_path):
    history(tmp_path, RUNS[0], ["0,1,1,1,1,nan,2,0\n"])
    with pytest.raises(ArtifactError, match=r"seed1/run.json is missing"):
        training_cube(cube_job(tmp_path))


CUTS = {
    "nine bytes": lambda text: text[:-9],
    "the last line": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "all but the header": lambda text: text.splitlines(keepends=True)[0],
}


@pytest.mark.parametrize("name", ["history.csv", "sweep.csv"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_table_is_named(tmp_path, name, cut):
    for run in RUNS[:2]:
        history(tmp_path, run, [f"{e},1.5,0.5,1.6,0.4,0.1,3.0,0\n" for e in range(3)])
        (run_folder(tmp_path, run) / "sweep.csv").write_text(
            "lr,test_error,test_loss,diverged,selected\n0.1,0.5,1.5,0,1\n0.2,0.6,1.6,0,0\n"
        )
        tell(run_folder(tmp_path, run))
    job = cube_job(tmp_path).model_copy(update={"sweeps": ("sgd",)})
    training_cube(job)
    file = run_folder(tmp_path, RUNS[1]) / name
    file.write_text(CUTS[cut](file.read_text()))
    refusal = rf"seed1/{name} is not the file that run.json .*Delete .*seed1/run.json, and snake"
    with pytest.raises(ArtifactError, match=refusal):
        training_cube(job)


def test_a_record_of_an_older_version_is_named(tmp_path):
    for run in RUNS[:2]:
        history(tmp_path, run, ["0,1,1,1,1,nan,2,0\n"])
    record = run_folder(tmp_path, RUNS[1]) / "run.json"
    record.write_text(record.read_text().replace('"tables"', '"others"'))
    with pytest.raises(ArtifactError, match=r"seed1/run.json is corrupt \(it lacks tables\)"):
        training_cube(cube_job(tmp_path))


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def write_and_fail():
        with replacing(target) as staged:
            staged.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []

    def told(name, inode_of):
        original = getattr(os, name)

        def call(*arguments):
            steps.append((name, inode_of(arguments[0]).st_ino))
            return original(*arguments)

        monkeypatch.setattr(os, name, call)

    told("fsync", os.fstat)
    told("replace", os.stat)
    with replacing(tmp_path / "file") as staged:
        staged.write_text("new")
    inode = (tmp_path / "file").stat().st_ino
    assert steps == [("fsync", inode), ("replace", inode)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_that_knows_no_fsync_takes_files(tmp_path, monkeypatch, number):
    def refused(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    failing = pytest.raises(OSError, match="error") if number == errno.EIO else nullcontext()
    with failing, replacing(tmp_path / "file") as staged:
        staged.write_text("new")
    assert (tmp_path / "file").exists() == (number != errno.EIO)


def test_equal_cubes_give_equal_bytes(tmp_path):
    digests = []
    # In whatever order the parts come, those that share a chunk apart.
    for name, step in (("one", 1), ("two", -1), ("three", 5)):
        parts = placed()
        cube = in_memory(
            "spectrum", RUNS, [parts[step * i % len(parts)] for i, _ in enumerate(parts)]
        )
        write_cube(cube, tmp_path / f"{name}.zarr", attrs={})
        files = sorted(path for path in (tmp_path / f"{name}.zarr").rglob("*") if path.is_file())
        digests.append([sha256(file) for file in files])
    assert digests[0] == digests[1] == digests[2]


def experiment(dataset, epochs, bottom):
    """Return the spectrum and training cubes of an experiment."""
    run = Run(dataset, "lenet5", "none", "sgd", 10, 0)
    part = spectrum_part(1.0)
    if bottom:
        values = (("matrix", "from_bottom"), np.full((2, bottom), -1.0))
        part = part.assign(bottom_eigenvalue=values)
    places = [asdict(run) | {"epoch": epoch, "split": "train"} for epoch in epochs]
    spectrum = assemble("spectrum", [run], [Placed(place, part) for place in places])
    rows = xr.Dataset({"lr": ("epoch", np.full(len(epochs), 0.1))}, {"epoch": list(epochs)})
    return spectrum, assemble("training", [run], [Placed(asdict(run), rows)])


def test_cubes_of_two_experiments_are_combined():
    one, training = experiment("digits", (0, 5), bottom=0)
    two, _ = experiment("mnist", (0, 7, 9), bottom=3)
    for cube in (one, two, training):
        assert all(cube.sizes.values())
        assert len(cube.to_dataframe()) == np.prod(list(cube.sizes.values()))
    alike, _ = experiment("mnist", (0, 5), bottom=0)
    joined = xr.combine_by_coords([one, alike])
    assert joined.trace.notnull().all()
    assert joined.dataset.values.tolist() == ["digits", "mnist"]
    together = [
        xr.concat([one, two], dim="dataset", join="outer", data_vars="minimal"),
        xr.merge([one, two], join="outer", compat="no_conflicts"),
    ]
    for cube in together:
        assert cube.epoch.values.tolist() == [0, 5, 7, 9]
        place = {"dataset": "mnist", "epoch": 7, "split": "train", "matrix": "G"}
        assert float(cube.trace.sel(place).squeeze()) == 1
        assert cube.bottom_eigenvalue.sel(dataset="digits").isnull().all()
    both = xr.merge([one, training], join="outer", compat="no_conflicts")
    assert both.lr.sel(epoch=5).item() == 0.1


@pytest.mark.parametrize("name", SCHEMA)
def test_a_cube_without_parts_has_no_empty_dimension(name, tmp_path):
    cube = assemble(name, RUNS, [])
    assert all(cube.sizes.values())
    write_cube(in_memory(name, RUNS, []), tmp_path / "c.zarr", attrs={})
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "c.zarr").load(), cube)
