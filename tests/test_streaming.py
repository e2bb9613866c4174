"""Images that pass through memory piece by piece: the same bits, in less room."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from filelock import FileLock, Timeout
from PIL import Image
from safetensors.torch import load_file
from small_run import folder_of, job_of, parts_of
from torchvision.datasets import imagenet

from pipeline import open_run
from pipeline.anatomy.hierarchy import Network, hierarchy
from pipeline.config import Dataset, FNet
from pipeline.cubes.store import read_part
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, parallel, residual
from pipeline.data import decoded as decoded_module
from pipeline.data import torchvision_sets
from pipeline.data.examples import Examples, load_examples
from pipeline.data.streamed import Streamed
from pipeline.device import all_memory, data_room
from pipeline.errors import DataError
from pipeline.fingerprint import PACKAGE
from pipeline.jobs.bounds import write_bound
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run
from pipeline.models.fnet import fnet
from pipeline.recipes import Recipe
from pipeline.runs import Run, bounds_path, checkpoint_path
from pipeline.spectra import top_eigenpairs
from pipeline.stages import Bounds, Compute, Hierarchy, Layers, Spectrum
from pipeline.tasks import Access, BoundsJob, HierarchyJob, LayersJob, SpectrumJob

BRIEF = Recipe(lr=0.05, batch=16, epochs=3, checkpoints=(0, 3))
CPU = torch.device("cpu")


def digits(**options):
    where = {"data_root": "nowhere", "n_per_class": 9, "image_size": 11}
    return load_examples(Dataset(source="digits"), "train", **where, **options)


def test_streamed_rows_are_the_tensors_to_the_bit():
    whole, found = digits().inputs, digits(room=0).inputs
    assert isinstance(found, Streamed)
    assert (len(found), found.shape) == (len(whole), whole.shape)
    chosen = torch.randperm(90)[:17]
    mask = torch.arange(90) % 3 == 1
    for rows in (5, slice(3, 40), slice(1, None, 2), slice(7, 7), chosen, mask):
        assert torch.equal(found[rows], whole[rows])
    for size in (7, 90, 1000):
        pieces = zip(found.split(size), whole.split(size), strict=True)
        assert all(torch.equal(one, other) for one, other in pieces)
    double = found.to("cpu", torch.float64)
    assert torch.equal(double[:9], whole.double()[:9])
    assert torch.equal(found.part(chosen)[:4], whole[chosen][:4])
    assert [len(piece) for piece in found.part(chosen[:0]).split(5)] == [0]


def test_what_takes_more_than_its_room_is_streamed(capsys):
    size = digits().inputs.nbytes
    assert isinstance(digits(room=size).inputs, torch.Tensor)
    assert isinstance(digits(room=size - 1).inputs, Streamed)
    assert "90 images are streamed" in capsys.readouterr().err
    assert data_room(True, CPU) == 0
    assert data_room(False, CPU) is None
    assert data_room("auto", CPU) == all_memory(CPU) // 4


def test_a_rank_has_its_share_unread(monkeypatch):
    found = digits(room=0)
    monkeypatch.setattr(parallel, "ranks", lambda: (1, 2))
    share = parallel.own_share(found.inputs)
    assert isinstance(share, Streamed)
    assert torch.equal(share[:], digits().inputs[1::2])


@pytest.mark.parametrize(
    ("kind", "memory_gb"), [("fnet", 0.0), ("convolution", 0.0), ("convolution", None)]
)
def test_products_are_those_of_data_in_memory(kind, memory_gb):
    torch.manual_seed(0)
    model = fnet((1, 11, 11), 10, "batch", width=6, depth=2)
    if kind == "convolution":
        head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 10))
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, stride=2), torch.nn.ReLU(), head)
    options = {"chunk": 40, "memory_gb": memory_gb}
    makers = [hessian, gauss_newton, residual]
    makers += [lambda *a, n=n, **o: component(*a, name=n, **o) for n in ("A1", "B2", "G-B1")]
    makers += [lambda *a, **o: component(*a, name="B2", true_class=3, **o)]
    name = "fc1" if kind == "fnet" else "0"
    makers += [lambda *a, **o: layer_hessian(*a, layer=name, **o)]
    for make in makers:
        one, other = (make(model, data, **options) for data in (digits(), digits(room=0)))
        assert one.kept == other.kept
        V = torch.randn(one.shape[0], 3)
        assert torch.equal(one @ V, other @ V)


def write_all(folder):
    """Write the parts of every stage of a run, and return them."""
    compute = Compute(device="cpu", chunk=40)
    about = {"compute": compute, "code": "test"}
    made = {cube: parts_of(folder, cube, (3,))[3, "train"]
            for cube in ("spectrum", "hierarchy", "layers")}  # fmt: skip
    spectrum = Spectrum(top={"Hess": 5, "G": 5, "H": 2}, exact=0, steps=6, trace_probes=4)
    write_spectra([made["spectrum"]], SpectrumJob(spectrum=spectrum, **about))
    levels = Hierarchy(steps=6, trace_probes=4, exact=0, classes=4)
    write_hierarchies([made["hierarchy"]], HierarchyJob(hierarchy=levels, **about))
    write_layers([made["layers"]], LayersJob(layers=Layers(full=4), **about))
    made["bounds"] = bounds_path(folder.parents[6], Run.from_path(folder), "appr")
    bounds = Bounds(methods=("appr",), epochs=2, samples=20)
    write_bound(made["bounds"], BoundsJob(bounds=bounds, **about), save_every=1e9)
    return {cube: read_part(file) for cube, file in made.items()}


def test_a_run_is_the_same_to_the_bit(tmp_path):
    folders = [folder_of(tmp_path / name, norm="none") for name in ("memory", "stream")]
    for folder, stream in zip(folders, (False, True), strict=True):
        train_run(folder, job_of(BRIEF), Access(stream=stream), save_every=1e9)
    assert isinstance(open_run(folders[1]).train.inputs, Streamed)
    assert not isinstance(open_run(folders[1], access=Access()).train.inputs, Streamed)
    for epoch in BRIEF.checkpoints:
        one, other = (load_file(checkpoint_path(folder, epoch)) for folder in folders)
        assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (folder / "history.csv" for folder in folders)
    assert one.read_text() == other.read_text()
    for one, other in zip(*(write_all(folder).values() for folder in folders), strict=True):
        assert one.sizes
        xr.testing.assert_equal(one, other)


def write_imagenet(root, classes=12, train=3, val=2):
    """Write a folder that torchvision takes for ImageNet, of noise, unpacked already."""
    draw = np.random.default_rng(0)
    names = [f"n{number:08d}" for number in range(classes)]
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                size = draw.integers(40, 70, 2)
                pixels = draw.integers(20 * label, 20 * label + 30, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{name}_{number}.JPEG")
    # Two classes of one name, as the cranes are.
    words = {name: (f"class {max(1, label)}", "noise") for label, name in enumerate(names)}
    torch.save((words, []), root / "meta.bin")


IMAGENET = Dataset(source="imagenet", image_size=16)


def test_an_archive_is_unpacked_by_one_and_a_part_of_it_is_refused(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    (tmp_path / "train").rename(tmp_path / "packed")

    def unpack(root):
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".imagenet.lock").acquire(timeout=0)
        (tmp_path / "packed").rename(tmp_path / "train")

    monkeypatch.setattr(imagenet, "parse_train_archive", unpack)
    where = {"data_root": str(tmp_path), "room": 0}
    assert len(load_examples(IMAGENET, "train", **where)) == 36
    (tmp_path / ".imagenet.lock").unlink(missing_ok=True)
    load_examples(IMAGENET, "train", **where)
    assert not (tmp_path / ".imagenet.lock").exists()  # a whole set may be read-only
    tar, image = (tmp_path / "train" / "n00000003.tar", tmp_path / "val" / "left.JPEG")
    for split, file in (("train", tar), ("test", image)):
        file.touch()
        with pytest.raises(DataError, match=f"not whole: {file.name} is not in a class's folder"):
            load_examples(IMAGENET, split, **where)
        file.unlink()
    shutil.rmtree(tmp_path / "val" / "n00000007")
    with pytest.raises(DataError, match=r"val is not whole: it has 11 classes.*n00000007.*Delete"):
        load_examples(IMAGENET, "test", **where)


def test_imagenet_from_training_to_its_levels(tmp_path):
    write_imagenet(tmp_path / "images")
    compute = Compute(device="cpu", chunk=10)
    access = Access(data_root=str(tmp_path / "images"), stream=True)
    job = job_of(BRIEF).model_copy(
        update={
            "dataset": IMAGENET.resolved(),
            "model": FNet(family="fnet", width=6, depth=1),
        }
    )
    folder = tmp_path / "runs" / "imagenet" / "small" / "none" / "sgd" / "n3" / "seed0"
    train_run(folder, job, access, save_every=1e9)
    assert len(list((tmp_path / "data").glob("imagenet-*.images"))) == 2
    run = open_run(folder)
    assert isinstance(run.train.inputs, Streamed)
    assert run.train.inputs.shape == (36, 3, 16, 16)
    assert len(run.class_names) == 12
    spectrum = Spectrum(top={"Hess": 3, "G": 3, "H": 2}, exact=0, steps=5, trace_probes=3)
    about = {"compute": compute, "code": "test"}
    made = {cube: parts_of(folder, cube, (3,), ("train", "test"))
            for cube in ("spectrum", "hierarchy")}  # fmt: skip
    write_spectra(list(made["spectrum"].values()), SpectrumJob(spectrum=spectrum, **about))
    levels = HierarchyJob(hierarchy=Hierarchy(steps=5, trace_probes=3, classes=10), **about)
    write_hierarchies(list(made["hierarchy"].values()), levels)
    for split in ("train", "test"):
        found = read_part(made["hierarchy"][3, split])
        assert found.sizes["pair"] == 100
        assert found.sizes["true_class"] == 12
        assert float(found.identity_error) < 1e-5
        found = read_part(made["spectrum"][3, split]).sel(matrix="Hess")
        trace = hessian(run.model, getattr(run, split)) @ torch.eye(int(found.dimension))
        assert float(found.trace) == pytest.approx(float(trace.trace()), rel=0.3)


def streamed_imagenet(root, **options):
    where = {"data_root": str(root), "room": 0, "decoded_as": root / "data" / "imagenet-0"}
    return load_examples(IMAGENET, "train", **where, **options)


def test_images_are_decoded_once_and_a_killed_decoding_goes_on(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    expected = load_examples(IMAGENET, "train", data_root=str(tmp_path)).inputs
    monkeypatch.setattr(decoded_module, "BLOCK", 4)
    read, seen, last = torchvision_sets._read_one, [], 100

    def counting(path, *, view):
        seen.append(path)
        if len(seen) == last:
            raise KeyboardInterrupt
        return read(path, view=view)

    monkeypatch.setattr(torchvision_sets, "_read_one", counting)
    few = streamed_imagenet(tmp_path, n_per_class=1)
    assert len(seen) == 2 + 12  # two looks at an image's size, and each image
    seen.clear()
    last = 2 + 4 + 2
    with pytest.raises(KeyboardInterrupt):
        streamed_imagenet(tmp_path)
    seen.clear()
    last = 100
    found = streamed_imagenet(tmp_path).inputs
    assert len(seen) == 2 + 36 - 12 - 4  # but those there, and the whole block before the kill
    assert torch.equal(found[:], expected)
    assert torch.equal(few.inputs[:], load_examples(
        IMAGENET, "train", data_root=str(tmp_path), n_per_class=1).inputs)  # fmt: skip
    (file,) = (tmp_path / "data").glob("imagenet-0-train-*.images")
    file.write_bytes(file.read_bytes()[:-9])
    assert torch.equal(streamed_imagenet(tmp_path).inputs[:], expected)
    file.unlink()
    grouped = IMAGENET.model_copy(update={"groups": ((0, 5), (11,))})
    where = {"data_root": str(tmp_path), "room": 0, "decoded_as": tmp_path / "data" / "two"}
    two = load_examples(grouped, "train", **where)
    assert torch.equal(two.inputs[:], expected[[0, 1, 2, 15, 16, 17, 33, 34, 35]])
    assert two.labels.tolist() == [0] * 6 + [1] * 3


def test_a_process_that_waited_finds_all_decoded(tmp_path):
    def read(rows):
        assert len(rows)
        return torch.full((len(rows), 1, 2, 2), 7, dtype=torch.uint8)

    rows, file = np.arange(5), tmp_path / "some.images"
    for _ in range(2):  # the second as one that looked before the first had the lock
        decoded_module._decode(read, file, rows, 5, (1, 2, 2), "some")
    assert file.read_bytes() == b"\1" * 5 + b"\7" * 20


def test_decoded_images_are_of_one_folder_and_of_files_that_are_not_digested_as_they_are(tmp_path):
    for root, colour in (("v1", "red"), ("v2", "blue")):
        (tmp_path / root / "train" / "a").mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / root / "train" / "a" / "0.png")

    def pixels(root, **options):
        own = {"source": "folder", "path": str(tmp_path / root), "mean": (0.0,), "std": (1.0,)}
        pets = Dataset(**own, **options)
        where = {"data_root": "", "room": 0, "decoded_as": tmp_path / "data" / "pets-None"}
        return load_examples(pets, "train", **where).inputs[0][:, 0, 0].tolist()

    assert [pixels("v1"), pixels("v2")] == [[1, 0, 0], [0, 0, 1]]
    assert pixels("v1", files=()) == [1, 0, 0]
    assert pixels("v1", files=()) == [1, 0, 0]
    assert len(list((tmp_path / "data").glob("*.images"))) == 3
    file = tmp_path / "v1" / "train" / "a" / "0.png"
    Image.new("RGB", (4, 4), "lime").save(file)
    os.utime(file, ns=(0, 0))
    assert pixels("v1", files=()) == [0, 1, 0]


def test_images_of_several_sizes_are_refused(tmp_path, monkeypatch):
    for name, size in (("a", 10), ("b", 12)):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (size, 10)).save(tmp_path / "train" / name / "0.png")
    monkeypatch.setattr(decoded_module, "BLOCK", 1)
    pets = Dataset(source="folder", path=str(tmp_path))
    with pytest.raises(DataError, match=r"pets train: images of shapes .* Set image_size"):
        load_examples(pets, "train", data_root="", room=0, decoded_as=tmp_path / "data" / "pets")


def test_levels_of_a_thousand_classes():
    # All pairs' vectors would take 16 GB, their Gram matrix 8000.
    torch.manual_seed(0)
    model = fnet((1, 4, 4), 1000, "none", width=3, depth=1)
    data = (torch.randn(1100, 1, 4, 4), torch.arange(1100) % 1000)
    settings = Hierarchy(steps=3, trace_probes=2, knockouts=("G-A1",), classes=10)
    examples = Examples(data[0], data[1], ())
    found = hierarchy(Network(model, examples, 1000, settings, seed=0, room=2**26))
    assert found.pairs.gram.shape == (100, 100)
    assert found.embedding.coordinates.shape == (110, 2)
    assert [len(found.eigenvalues[name]) for name in ("A1", "A2")] == [1000, 1000]
    assert "B1" not in found.eigenvalues
    assert "B1" in found.quadratures
    assert found.identity_error < 1e-4
    largest = top_eigenpairs(component(model, data, name="A1"), 1, tolerance=1e-4)
    assert found.eigenvalues["A1"][0] == pytest.approx(float(largest.values[0]), rel=1e-3)


BIG = r"""
import sys
import numpy as np
import torch
from torch import nn

SHAPE = (6000, 3, 128, 128)
IMAGES = np.memmap("images", np.uint8, "r", shape=SHAPE)


def load(split, data_root):
    count = SHAPE[0] if split == "train" else 50
    return IMAGES[:count], np.arange(count) % 5


def network(in_shape, classes, norm):
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(192, classes))


if __name__ == "__main__":
    import re
    from pathlib import Path
    from pipeline import open_run
    from pipeline.curvature import hessian
    from pipeline.jobs.train import train_run
    from pipeline.tasks import Access, TrainJob

    def peak():
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    folder, before = Path(sys.argv[1]), peak()
    job = TrainJob.model_validate_json(sys.argv[2])
    train_run(folder, job, Access(data_root=".", stream=True), save_every=1e9)
    run = open_run(folder)
    product = hessian(run.model, run.train, chunk=100, memory_gb=0.0) @ torch.randn(965)
    print(float(product.norm()), peak() - before)
"""


def test_a_set_larger_than_the_memory_it_takes(tmp_path):
    shape = (10_000, 3, 128, 128)
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=shape)
    tile = np.random.default_rng(0).integers(0, 256, (100, *shape[1:]), dtype=np.uint8)
    for start in range(0, len(images), len(tile)):
        images[start : start + len(tile)] = tile
    images.flush()
    (tmp_path / "big.py").write_text(BIG)
    job = job_of(Recipe(lr=0.01, epochs=1, checkpoints=(1,))).model_dump(mode="json")
    job |= {"dataset": {"source": "big:load"}, "model": {"family": "big:network"}}
    folder = tmp_path / "runs" / "big" / "small" / "none" / "sgd" / "n0" / "seed0"
    command = [sys.executable, "big.py", str(folder), json.dumps(job)]
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{tmp_path}"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    norm, taken = map(float, done.stdout.split())
    assert norm > 0
    # The images take 2 GB as numbers, and a quarter of that as they are, mapped.
    assert np.prod(shape) < taken < 0.8 * 4 * np.prod(shape)
