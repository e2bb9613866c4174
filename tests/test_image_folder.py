"""Image folders: which files are data, which images are refused, and one folder by many paths."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import job_of

from pipeline import data_files
from pipeline.config import Config, Dataset, same_place
from pipeline.configfile import smallest_class
from pipeline.data.checks import check_data
from pipeline.data.early import check_folder
from pipeline.data.examples import load_examples
from pipeline.errors import DataError
from pipeline.recipes import Recipe


def write(root, split="train", name="cat", file="0.png", value=100, size=(6, 6), kind=np.uint8):
    path = root / split / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, kind)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                write(root, split, name, f"{number}.png", 10 * number)
    return root


def pets(root, **options):
    return Dataset(source="folder", path=str(root), mean=(0.0,), std=(1.0,), **options)


def check(root, **options):
    return check_data(pets(root, **options), data_root="", download=False)


def digest(dataset, results):
    data_files._digest_of.cache_clear()
    return data_files.data_digest(dataset, data_root="data", results=str(results))


NO_DATA = [
    "train/.ipynb_checkpoints/x.png",
    "train/.git/x.png",
    "test/.hidden/deeper/x.png",
    "train/cat/.DS_Store",
    "train/cat/._0.png",
    "train/cat/.thumbnails/0.png",
    "train/cat/Thumbs.db",
    "train/cat/notes.txt",
    "train/README.md",
    ".DS_Store",
]


@pytest.mark.parametrize("name", NO_DATA)
def test_hidden_files_and_other_files_are_no_data(folder, tmp_path, name):
    before, seen = (
        digest(pets(folder), tmp_path),
        load_examples(pets(folder), "train", data_root=""),
    )
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "train/dog/1.png", file)
    found = load_examples(pets(folder), "train", data_root="")
    assert digest(pets(folder), tmp_path) == before
    assert found.class_names == seen.class_names == ("cat", "dog")
    assert torch.equal(found.inputs, seen.inputs)
    assert check(folder)["test"].class_names == ("cat", "dog")
    assert smallest_class(pets(folder), 9) == 2


@pytest.mark.parametrize("name", ["train/cat/7.png", "train/cat/more/7.JPG", "test/dog/7.webp"])
def test_an_image_more_retrains_and_is_read(folder, tmp_path, name):
    before = digest(pets(folder), tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (6, 6), "red").save(folder / name)
    assert digest(pets(folder), tmp_path) != before
    assert len(load_examples(pets(folder), name.partition("/")[0], data_root="")) == 5


def test_a_changed_image_retrains(folder, tmp_path):
    before = digest(pets(folder), tmp_path)
    write(folder, value=77)
    assert digest(pets(folder), tmp_path) != before


def test_hidden_files_count_if_their_pattern_names_them(folder, tmp_path):
    (folder / ".labels").write_text("one")
    plain, named = (pets(folder, files=(pattern,)) for pattern in ("*", ".labels"))
    assert data_files.data_files(plain, "") == []
    assert data_files.data_files(named, "") == [folder / ".labels"]


def test_one_folder_by_many_paths_is_one_data_set(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    spellings = ["pets", "pets/", "./pets", "../" + tmp_path.name + "/pets", str(folder)]
    spellings += [f"{folder}/", "link", str(tmp_path / "link"), "~/pets", "pets/train/.."]
    job = job_of(Recipe(lr=0.1, epochs=1, checkpoints=(1,)))
    for files in (None, (), ("train/*/*",)):
        sets = [pets(path, files=files) for path in spellings]
        jobs = [job.model_copy(update={"dataset": one.resolved()}) for one in sets]
        assert len({one.model_dump_json() for one in jobs}) == 1
        assert len({data_files.data_key(one) for one in sets}) == 1
        assert len({digest(one, tmp_path / "results") for one in sets}) == 1
        assert len(load_examples(sets[-2], "train", data_root="")) == 4
    assert same_place("pets") != same_place("elsewhere")
    own = Dataset(source="my_module:load")
    told = set()
    for path in spellings:
        data_files._digest_of.cache_clear()
        told.add(data_files.data_digest(own, data_root=path, results=str(tmp_path)))
    assert len(told) == 1


def test_a_data_root_in_the_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    words = {"datasets": ["d"], "models": ["m"], "norms": ["none"], "recipes": ["r"]}
    settings = {
        "data_root": "~/data",
        "datasets": {"d": {"source": "digits"}},
        "models": {"m": {"family": "lenet5"}},
        "recipes": {"r": {"lr": 0.1, "epochs": 1, "checkpoints": [1]}},
        "grid": [words | {"n_per_class": [0], "seeds": [0]}],
    }
    assert Config.model_validate_json(json.dumps(settings)).data_root == "/somewhere/data"


DEEP = [("16.png", 40000, np.uint16), ("16.tif", 40000, np.uint16), ("32.tif", 0.5, np.float32),
        ("int.tif", 70000, np.int32)]  # fmt: skip


@pytest.mark.parametrize(("file", "value", "kind"), DEEP)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_of_more_than_8_bits_are_refused(folder, file, value, kind, split):
    path = write(folder, split, "dog", file, value, kind=kind)
    with pytest.raises(DataError, match=f"{path} has more than 8 bits per channel"):
        load_examples(pets(folder), split, data_root="")
    path.rename(path.with_name(f"!{file}"))  # the first of its class
    with pytest.raises(DataError, match=f"!{file} has more than 8 bits per channel"):
        check_folder(pets(folder))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_images_of_8_bits_keep_their_values(folder, mode):
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    colour = Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode)
    colour.save(folder / "train" / "dog" / f"9.{suffix}")
    found = load_examples(pets(folder), "train", data_root="")
    assert torch.allclose(found.inputs[-1], torch.ones(3, 6, 6), atol=0.02)


def test_16_bit_colour_is_read_by_its_own_range(folder, tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = (b"\0" + struct.pack(">18H", *[0x8000] * 18)) * 6
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (folder / "train/dog/9.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    found = load_examples(pets(folder), "train", data_root="")
    assert torch.allclose(found.inputs[-1], torch.full((3, 6, 6), 0.5), atol=0.01)


def test_test_images_of_another_size_are_refused(folder):
    for name in ("cat", "dog"):
        for number in range(2):
            write(folder, "test", name, f"{number}.png", size=(8, 8))
    with pytest.raises(DataError, match=r"\(3, 6, 6\) in the train split, \(3, 8, 8\).*image_size"):
        check(folder)
    with pytest.raises(DataError, match=r"0\.png has 6 x 6 pixels, .*0\.png 8 x 8\. Set image_si"):
        check_folder(pets(folder))
    for passes in (check, lambda root, **o: check_folder(pets(root, **o))):
        passes(folder, image_size=6)


def test_folders_that_cannot_train_are_refused_early(folder):
    def refused(says):
        for checked in (check, lambda root: check_folder(pets(root))):
            with pytest.raises(DataError, match=says):
                checked(folder)

    check_folder(pets(folder))
    (folder / "train/dog/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"corrupt image .*dog/0\.png"):
        check_folder(pets(folder))
    write(folder, "train", "dog")
    (folder / "train/owl").mkdir()
    refused("train has no image of owl")
    (folder / "train/owl").rmdir()
    (folder / "test/dog").rename(folder / "test/Dog")
    refused("test has images of Dog, but the classes are those of train: cat, dog")
    shutil.rmtree(folder / "test")
    refused("no image folder at .*test")
    shutil.rmtree(folder / "train")
    refused("no image folder at .*train")


def test_one_class_is_refused(folder):
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "dog")
    with pytest.raises(DataError, match="folder: one class, cat"):
        check(folder)
