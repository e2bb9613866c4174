"""The very examples that a network is trained on or dissected with: subset, fitted, normalised."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.catalogue import LOADERS
from pipeline.config import Dataset
from pipeline.data.custom import load_custom
from pipeline.data.decoded import decoded
from pipeline.data.functions import function_at
from pipeline.data.source import Source
from pipeline.data.streamed import Inputs, Streamed
from pipeline.data.values import examined
from pipeline.device import data_room
from pipeline.errors import DataError
from pipeline.image_size import image_size
from pipeline.progress import say
from pipeline.runs import Run
from pipeline.streams import stream
from pipeline.tasks import Access, TrainJob

RANDOM_LABELS_SEED = 0  # one set of random labels for all runs, so that they share their task


@dataclass(frozen=True)
class Examples:
    """Examples on a device: ``inputs`` (N, channels, height, width), ``labels`` (N,) int64.

    Inputs that do not fit in memory are ``Streamed``: their rows come to the device when asked for.
    """

    inputs: Inputs
    labels: torch.Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Examples":
        """Return the same examples on a device, inputs in ``dtype``."""
        return replace(self, inputs=self.inputs.to(device, dtype), labels=self.labels.to(device))


def run_examples(
    run: Run,
    job: TrainJob,
    access: Access,
    split: str,
    *,
    results: str | Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    digest: str | None = None,
) -> Examples:
    """Return the examples of a split as a run has them, still to be moved to ``device``, ``dtype``.

    ``digest`` is that of the examples that the run was trained on, if their source is custom.
    Images that are streamed and take long to read are decoded once, below ``results``/data.
    """
    return load_examples(
        job.dataset,
        split,
        data_root=access.data_root,
        download=access.download,
        n_per_class=run.n_per_class,
        seed=run.seed,
        image_size=image_size(job.model),
        room=data_room(access.stream, device, dtype),
        decoded_as=Path(results) / "data" / f"{run.dataset}-{job.data}",
        digest=digest,
    )


def load_examples(
    dataset: Dataset,
    split: str,
    *,
    data_root: str,
    download: bool = False,
    n_per_class: int = 0,
    seed: int = 0,
    image_size: int | None = None,
    room: int | None = None,
    decoded_as: Path | None = None,
    digest: str | None = None,
) -> Examples:
    """Return the examples of a split, ready for a network.

    ``n_per_class`` > 0 draws that many training examples of each class with the run's ``subset``
    stream; the test split is always whole.  With random labels a class is that of the random
    labels.  ``image_size`` is the square a network needs.  ``digest`` is the one that ``examined``
    returned for the split before; other examples than those are refused.
    Images that take more than ``room`` bytes are streamed; those of single files are decoded first,
    to files whose names begin with ``decoded_as``, if given.
    Raises DataError where data are missing, corrupt or too few.
    """
    dataset = dataset.resolved()
    source = open_source(dataset, split, data_root=data_root, download=download)
    if digest and examined(source, dataset.source, split) != digest:
        raise DataError(
            f"{dataset.source}, {split} split: two calls returned different examples. Fix the "
            "seed of every random number in it, and sort what comes in no fixed order (a set, a "
            "folder's listing)"
        )
    if dataset.random_labels:
        # Of all examples, before the subset: an image has one label in every subset.
        draw = np.random.default_rng(stream(RANDOM_LABELS_SEED, "labels", split))
        source = replace(source, labels=draw.permutation(source.labels))
    indices = np.arange(len(source.labels))
    if split == "train" and n_per_class:
        indices = balanced_subset(source.labels, n_per_class, stream(seed, "subset"))
    labels = source.labels[indices]
    prepare = partial(prepared, size=image_size, dataset=dataset)
    inputs = None if room is None else _streamed(source, indices, prepare, room)
    if inputs is not None and source.key and decoded_as:
        file = decoded_as.with_name(f"{decoded_as.name}-{split}-{source.key}.images")
        label = f"{decoded_as.name} {split}"
        inputs = replace(inputs, read=decoded(source, file, indices, label=label).read)
    if inputs is None:
        inputs = prepare(source.read(indices))
    return Examples(inputs, torch.from_numpy(labels), distinct(source.class_names))


def _streamed(
    source: Source,
    indices: np.ndarray,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    room: int,
) -> Streamed | None:
    """Return the images streamed, None where all of them take no more than ``room`` bytes."""
    one = prepare(source.read(indices[:1]))
    size = len(indices) * one.nbytes
    if size <= room:
        return None
    say(f"{len(indices)} images are streamed: {size / 2**30:.3g} GiB as numbers")
    return Streamed(source.read, indices, prepare, one.shape[1:])


def open_source(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    """Return one split of the source that a data set names: this project's or the user's own.

    Its classes are the data set's groups, where it has some.
    """
    source = _whole_source(dataset, split, data_root=data_root, download=download)
    return grouped(source, dataset.groups) if dataset.groups else source


def _whole_source(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    if dataset.source in LOADERS:
        load = function_at(LOADERS[dataset.source], "the catalogue")
        return load(dataset, split, data_root=data_root, download=download)
    return load_custom(dataset, split, data_root=data_root)


def grouped(source: Source, groups: Sequence[Sequence[int]]) -> Source:
    """Return the source with a class for each group, named after its members: "3+5".

    Raises DataError where a group names a class that is not there.
    """
    number = np.full(len(source.class_names), -1)
    for group, members in enumerate(groups):
        missing = [label for label in members if label >= len(number)]
        if missing:
            raise DataError(
                f"groups names class {missing[0]}, but the classes are 0 to {len(number) - 1} "
                f"({', '.join(source.class_names[:3])}, ...). Name classes by their numbers from 0"
            )
        number[list(members)] = group
    labels = number[source.labels]
    kept = np.flatnonzero(labels >= 0)
    names = tuple("+".join(source.class_names[label] for label in members) for members in groups)
    key = source.key and hashlib.sha256(f"{source.key} {groups}".encode()).hexdigest()[:16]
    return Source(labels[kept], lambda indices: source.read(kept[indices]), names, key)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, with its number behind one that stood before: ImageNet has two cranes."""
    return tuple(f"{name} ({i})" if name in names[:i] else name for i, name in enumerate(names))


def balanced_subset(labels: np.ndarray, n_per_class: int, seed: int) -> np.ndarray:
    """Return sorted indices of ``n_per_class`` examples of every class, drawn with ``seed``.

    A smaller subset of the same seed is part of a larger one.  Raises DataError where a class
    holds too few.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        if len(members) < n_per_class:
            raise DataError(
                f"n_per_class {n_per_class} asked for, but class {label} holds {len(members)} "
                f"examples. Ask for at most {len(members)}, or for 0, the full training set"
            )
        chosen.append(members[:n_per_class])
    return np.sort(np.concatenate(chosen))


def prepared(images: torch.Tensor, *, size: int | None, dataset: Dataset) -> torch.Tensor:
    """Return what a network sees of a source's images, on the device that they are on.

    Each number is the same whichever images are prepared together.
    """
    images = images.float().div_(_full(images)) if images.dtype == torch.uint8 else images.float()
    return normalised(fitted(images, size, dataset.fit), dataset)


def _full(images: torch.Tensor) -> torch.Tensor:
    """Return 255 as a tensor: by a plain number a GPU divides through its reciprocal, inexactly."""
    return torch.tensor(255.0, device=images.device)


def fitted(images: torch.Tensor, size: int | None, fit: str) -> torch.Tensor:
    """Return images of ``size`` x ``size``: padded with black, or enlarged bilinearly."""
    height, width = images.shape[-2:]
    if size is None or (height, width) == (size, size):
        return images
    if fit == "enlarge" or height > size or width > size:
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    left, top = (size - width) // 2, (size - height) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def normalised(images: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """Return (images - mean) / std, per channel."""
    mean, std = _mean_and_std(images, dataset)
    return (images - mean).div_(std)


def plain(images: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """Return what was normalised as it was before, to rounding: pixels in [0, 1]."""
    mean, std = _mean_and_std(images, dataset)
    return (images * std).add_(mean).clamp_(0, 1)


def _mean_and_std(images: torch.Tensor, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    channels = images.shape[1]
    for key, values in (("mean", dataset.mean), ("std", dataset.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{key} has {len(values)} values for images of {channels} channels. "
                f"Give one, or {channels}"
            )
    mean, std = (
        torch.tensor(values, device=images.device).view(1, -1, 1, 1)
        for values in (dataset.mean, dataset.std)
    )
    return mean, std
