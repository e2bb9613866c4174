"""The check of a data set before anything trains on it, the same for every source."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import Dataset
from pipeline.data.custom import is_custom
from pipeline.data.examples import open_source
from pipeline.data.source import Source
from pipeline.data.values import examined
from pipeline.errors import DataError


@dataclass(frozen=True)
class CheckedSplit:
    """A split that passed the check: its classes, one image's shape, and a digest of its examples.

    ``digest`` is None for images that are decoded from files, whose digest is that of the files.
    """

    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    digest: str | None


def check_data(dataset: Dataset, *, data_root: str, download: bool) -> dict[str, CheckedSplit]:
    """Return both splits' facts, or refuse the data set.

    Refused are images of wrong type, shape or range, NaN and infinity, labels out of 0 to C - 1,
    fewer than two classes, a class without a training example, and splits whose classes or image
    shapes differ.  Each split is opened once and dropped before the next; images in memory or in
    one file are read once, in blocks of 32 MB, and of image folders and ImageNet one image of each
    split is decoded.  Raises DataError that names the source and the split.
    """
    dataset = dataset.resolved()
    where = {"data_root": data_root, "download": download}
    splits = {
        split: checked_split(open_source(dataset, split, **where), dataset.source, split)
        for split in ("train", "test")
    }
    train, test = splits["train"], splits["test"]
    if len(train.class_names) < 2:
        raise DataError(
            f"{dataset.source}: one class, {train.class_names[0]}. Return examples of at least "
            "two classes"
        )
    if train.class_names != test.class_names:
        raise DataError(
            f"{dataset.source}: {len(train.class_names)} classes in the train split, "
            f"{len(test.class_names)} in the test split. Both need an example of every class, "
            "numbered alike"
        )
    if train.shape != test.shape:
        cure = (
            "Return images of one shape"
            if is_custom(dataset)
            else "Set image_size for this data set"
        )
        raise DataError(
            f"{dataset.source}: images of shape {train.shape} in the train split, {test.shape} in "
            f"the test split. {cure}"
        )
    return splits


def checked_split(source: Source, name: str, split: str) -> CheckedSplit:
    """Return the facts of a split, or refuse it."""
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if not len(source.labels) or (split == "train" and not counts.all()):
        absent = [source.class_names[label] for label in np.flatnonzero(counts == 0)]
        raise DataError(
            f"{name}, {split} split: no example of {', '.join(absent[:3])}. Add some, or leave the "
            "class out of both splits"
        )
    shape = tuple(source.read(np.array([0])).shape[1:])
    digest = None if source.key else examined(source, name, split)
    return CheckedSplit(source.class_names, shape, digest)
