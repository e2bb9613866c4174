import errno
import os
import shutil
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import data_files, scratch
from pipeline.catalogue import SOURCES
from pipeline.config import Dataset
from pipeline.data.examples import balanced_subset, distinct, load_examples
from pipeline.errors import AnatomyError, DataError

DIGITS = Dataset(source="digits")


def examples(dataset=DIGITS, split="train", root="nowhere", **options):
    return load_examples(dataset, split, data_root=str(root), **options)


def test_the_catalogue_tells_the_truth_about_digits():
    raw = examples(Dataset(source="digits", mean=(0.0,), std=(1.0,)))
    facts = SOURCES["digits"]
    assert len(raw.class_names) == facts.classes
    assert int(raw.labels.bincount().min()) == facts.smallest_class
    assert tuple(raw.inputs.shape) == (facts.train, facts.channels, facts.size, facts.size)
    assert len(examples(split="test")) == facts.test
    assert float(raw.inputs.mean()) == pytest.approx(facts.mean[0], abs=1e-4)
    assert float(raw.inputs.std()) == pytest.approx(facts.std[0], abs=1e-4)


def test_digits_splits_share_no_example():
    train, test = examples(), examples(split="test")
    assert len(train) + len(test) == 1797
    seen = {tuple(x.flatten().tolist()) for x in train.inputs}
    assert not any(tuple(x.flatten().tolist()) in seen for x in test.inputs)
    assert test.labels.bincount().tolist() == [20] * 10


@given(
    st.lists(st.integers(0, 4), min_size=30, max_size=200), st.integers(1, 4), st.integers(0, 2**40)
)
def test_a_balanced_subset_is_balanced_and_nested(labels, n, seed):
    labels = np.array(labels)
    counts = np.bincount(labels)
    if (counts[counts > 0] < n + 1).any():
        with pytest.raises(DataError, match="examples"):
            balanced_subset(labels, counts.max() + 1, seed)
        return
    small, large = balanced_subset(labels, n, seed), balanced_subset(labels, n + 1, seed)
    assert set(small) <= set(large)
    assert set(np.bincount(labels[small])) <= {0, n}
    assert (np.diff(small) > 0).all()


def test_each_seed_draws_its_own_subset():
    one, two = (examples(n_per_class=10, seed=seed) for seed in (0, 1))
    assert len(one) == len(two) == 100
    assert not torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.inputs, examples(n_per_class=10, seed=0).inputs)


RANDOM = Dataset(source="digits", random_labels=True)


def labels_of(found):
    """Return the label of each image, by its pixels; distinct images only."""
    return {
        tuple(x.flatten().tolist()): int(y) for x, y in zip(found.inputs, found.labels, strict=True)
    }


def test_random_labels_are_a_permutation_of_all_labels():
    true, random = examples(), examples(RANDOM)
    assert torch.equal(true.inputs, random.inputs)
    assert torch.equal(true.labels.bincount(), random.labels.bincount())
    assert (true.labels == random.labels).float().mean() < 0.15
    assert torch.equal(examples(split="test").inputs, examples(RANDOM, split="test").inputs)


@pytest.mark.parametrize("dataset", [RANDOM, RANDOM.model_copy(
    update={"groups": ((0, 1, 2), (3, 4, 5, 6), (9,))})])  # fmt: skip
def test_an_image_has_one_random_label_in_every_subset(dataset):
    full = labels_of(examples(dataset))
    for n, seed in ((20, 0), (20, 1), (37, 2)):
        some = examples(dataset, n_per_class=n, seed=seed)
        assert some.labels.bincount().tolist() == [n] * len(some.class_names)
        assert labels_of(some).items() <= full.items()
    one, two = (labels_of(examples(dataset, n_per_class=60, seed=seed)) for seed in (0, 1))
    shared = one.keys() & two.keys()
    assert len(shared) > 20
    assert all(one[image] == two[image] for image in shared)


TWO = Dataset(source="digits", groups=((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)))


def test_classes_are_grouped():
    whole, two = examples(), examples(TWO)
    assert two.class_names == ("0+1+2+3+4", "5+6+7+8+9")
    assert torch.equal(two.inputs, whole.inputs)
    assert torch.equal(two.labels, (whole.labels >= 5).long())
    few = examples(TWO, n_per_class=40)
    assert few.labels.bincount().tolist() == [40, 40]
    assert examples(TWO, split="test").labels.bincount().tolist() == [100, 100]


def test_classes_in_no_group_are_left_out_with_their_images():
    whole = examples()
    some = examples(Dataset(source="digits", groups=((8, 3), (5,))))
    assert some.class_names == ("8+3", "5")
    kept = torch.cat([torch.nonzero(whole.labels == c) for c in (3, 5, 8)]).flatten().sort()[0]
    assert torch.equal(some.inputs, whole.inputs[kept])
    assert torch.equal(some.labels, (whole.labels[kept] == 5).long())
    with pytest.raises(DataError, match=r"class 10, but the classes are 0 to 9"):
        examples(Dataset(source="digits", groups=((0,), (10,))))


def test_images_reach_the_size_a_network_needs():
    plain = Dataset(source="digits", mean=(0.0,), std=(1.0,))
    enlarged = examples(plain, image_size=32).inputs
    assert enlarged.shape[1:] == (1, 32, 32)
    padded = examples(plain.model_copy(update={"fit": "pad"}), image_size=32).inputs
    assert torch.equal(padded[:, :, 12:20, 12:20], examples(plain).inputs)
    assert padded.sum() == pytest.approx(float(examples(plain).inputs.sum()))
    normal = examples(image_size=32).inputs
    assert torch.allclose(normal, (enlarged - 0.3049) / 0.3757, atol=1e-6)


def test_a_mean_for_the_wrong_channels_is_refused():
    with pytest.raises(DataError, match="mean has 3 values for images of 1 channels"):
        examples(Dataset(source="digits", mean=(0.1, 0.2, 0.3), std=(1.0,)))


def write_mnist(root, count=12):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, n in (("train", count), ("t10k", 5)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, n) + labels.tobytes()
        )
    return raw


def test_mnist_in_torchvisions_own_format(tmp_path):
    raw = write_mnist(tmp_path)
    found = examples(Dataset(source="mnist"), root=tmp_path, image_size=32)
    assert found.inputs.shape == (12, 1, 32, 32)
    pixels = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    expected = (pixels.reshape(12, 28, 28) / 255 - 0.1307) / 0.3081
    assert np.allclose(found.inputs[:, 0, 2:30, 2:30], expected, atol=1e-5)


def test_a_missing_set_says_where_it_was_looked_for(tmp_path):
    for source in ("mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet"):
        with pytest.raises(DataError, match="not found in") as error:
            examples(Dataset(source=source), root=tmp_path)
        assert str(tmp_path) in str(error.value)


def test_a_truncated_file_is_named(tmp_path):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"corrupt file .*train-images-idx3-ubyte"):
        examples(Dataset(source="mnist"), root=tmp_path)


def test_a_file_that_another_job_unpacks_is_waited_for(tmp_path):
    file, found = write_mnist(tmp_path) / "train-images-idx3-ubyte", []
    whole = file.read_bytes()

    def load():
        found.append(examples(Dataset(source="mnist"), root=tmp_path, download=True))

    load()
    file.write_bytes(whole[:-100])
    with FileLock(tmp_path / ".mnist.lock"):
        thread = threading.Thread(target=load)
        thread.start()
        thread.join(2)
        assert thread.is_alive()
        file.write_bytes(whole)
    thread.join(60)
    assert [len(one) for one in found] == [12, 12]


def test_a_whole_set_is_read_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refused(lock, **_):
        raise PermissionError(13, "Permission denied", lock.lock_file)

    monkeypatch.setattr(scratch.FileLock, "acquire", refused)
    raw = write_mnist(tmp_path)
    assert len(examples(Dataset(source="mnist"), root=tmp_path, download=True)) == 12
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"not found in .*Permission denied: .*mnist\.lock"):
        examples(Dataset(source="mnist"), root=tmp_path, download=True)


def write_folder(root):
    draw = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")


def test_an_image_folder(tmp_path):
    write_folder(tmp_path)
    pets = Dataset(source="folder", path=str(tmp_path), image_size=8)
    found = examples(pets, n_per_class=3)
    assert found.inputs.shape == (6, 3, 8, 8)
    assert found.class_names == ("cat", "dog")
    assert len(examples(pets, "test")) == 4
    image = tmp_path / "train" / "dog" / "1.png"
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=r"corrupt image .*dog/1\.png"):
        examples(pets)
    with pytest.raises(DataError, match=r"no image folder at .*elsewhere"):
        examples(Dataset(source="folder", path=str(tmp_path / "elsewhere")))


def test_a_folders_classes_are_those_of_train_in_both_splits(tmp_path):
    for place in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/c"):
        (tmp_path / place).mkdir(parents=True)
        if place != "test/b":
            Image.new("RGB", (4, 4)).save(tmp_path / place / "0.png")
    pets = Dataset(source="folder", path=str(tmp_path))
    empty = examples(pets, "test")
    (tmp_path / "test" / "b").rmdir()
    for found in (empty, examples(pets, "test")):
        assert found.class_names == examples(pets).class_names == ("a", "b", "c")
        assert found.labels.tolist() == [0, 2]
    (tmp_path / "test" / "a").rename(tmp_path / "test" / "A")
    with pytest.raises(DataError, match=r"test has images of A, but the classes are those of tra"):
        examples(pets, "test")


def blobs(split, data_root, classes):
    """Return a data set of the user's own: one bright pixel per class."""
    labels = torch.arange(6) % classes
    return torch.eye(9)[labels].reshape(6, 1, 3, 3), labels


def test_the_users_own_data_set():
    own = Dataset(source="test_data:blobs", options={"classes": 3}, mean=(0.0,), std=(1.0,))
    found = examples(own, n_per_class=2)
    assert found.inputs.sum() == 6
    assert found.class_names == ("0", "1", "2")
    with pytest.raises(AnatomyError, match="test_data:blops, which cannot be imported"):
        examples(Dataset(source="test_data:blops"))


def test_class_names_are_distinct():
    assert distinct(["crane", "maillot", "crane"]) == ("crane", "maillot", "crane (2)")


def told(root, dataset, results):
    """Return the digest of a data set's files as a new process finds it."""
    data_files._digest_of.cache_clear()
    where = {"data_root": str(root), "results": str(results)}
    return data_files.data_digest(dataset, **where)


def test_a_data_sets_digest_is_of_its_contents(tmp_path):
    assert told(tmp_path, DIGITS, tmp_path) is None
    place = tmp_path / "MNIST" / "raw"
    place.mkdir(parents=True)
    mnist = Dataset(source="mnist")
    assert told(tmp_path, mnist, tmp_path / "a") == "absent"
    file = place / "train-images-idx3-ubyte"
    file.write_bytes(b"one")
    first = told(tmp_path, mnist, tmp_path / "a")
    # What a job fetched stays what it was told, until it changes.
    where = {"data_root": str(tmp_path), "results": tmp_path / "b"}
    data_files.remember_fetched(mnist, **where)
    shutil.rmtree(tmp_path / "b" / "data", ignore_errors=True)  # decoded images
    assert told(tmp_path, mnist, tmp_path / "b") == "absent"
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "MNIST", moved / "MNIST", copy_function=shutil.copyfile)
    os.utime(moved / "MNIST" / "raw" / file.name, (1, 1))
    assert told(moved, mnist, tmp_path / "b") == "absent"
    file.write_bytes(b"another")
    assert told(tmp_path, mnist, tmp_path / "b") == told(tmp_path, mnist, tmp_path / "a") != first
    file.write_bytes(b"one")
    assert told(tmp_path, mnist, tmp_path / "a") == first
    own = Dataset(source="my_module:load", files=("MNIST/raw/*",))
    assert told(tmp_path, own, tmp_path / "c") == first
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "MNIST", elsewhere / "MNIST")
    assert told(elsewhere, mnist, tmp_path / "d") == first


def test_results_that_cannot_be_written_stop_no_look_at_the_data(tmp_path, monkeypatch):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"one")
    images = Dataset(source="folder", path=str(tmp_path))
    expected = told(tmp_path, images, tmp_path / "free")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert told(tmp_path, images, tmp_path / "locked") == expected


@pytest.mark.parametrize("unseen", [{"source": "mnist", "files": ()}, {"source": "my_module:load"}])
def test_the_place_counts_if_no_file_is_looked_at(unseen, tmp_path):
    dataset = Dataset(**unseen)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    places = ("a", "a", "b", "mistyped")
    first, again, moved, absent = (told(tmp_path / name, dataset, tmp_path) for name in places)
    assert first == again != moved
    assert absent == moved  # what was trained on it stands
