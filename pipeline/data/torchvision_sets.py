"""MNIST, FashionMNIST, CIFAR10, CIFAR100 and ImageNet, through torchvision's own loaders."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.imagenet import META_FILE, load_meta_file
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import v2

from pipeline.config import Dataset
from pipeline.data.early import folder_paths, refuse_deep
from pipeline.data.source import Source, in_memory
from pipeline.errors import DataError
from pipeline.scratch import alone

SMALL = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
}
# torchvision's convention for evaluating on ImageNet: the middle 224 of 256 pixels.
IMAGENET_SIZE, IMAGENET_MARGIN = 224, 256 / 224


def load_small(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    """Return a split of one of the sets of ``SMALL``, downloaded if missing and allowed.

    Raises DataError where files are missing and cannot be fetched, or are corrupt.
    """
    name, root = dataset.source, Path(data_root)
    loader = SMALL[name]
    where = root / (loader.__name__ if issubclass(loader, datasets.MNIST) else loader.base_folder)
    try:
        # Several jobs may find the set missing at once; one fetches, the others wait: they do not
        # take what it has unpacked in part for corrupt.  One that is whole needs no right to write.
        fetch = download and not _is_whole(loader, root)
        with alone(_lock(root, name), str(where), cures={}) if fetch else nullcontext():
            _refuse_corrupt(name, loader, root)
            loaded = loader(root, train=split == "train", download=fetch)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} was not found in {where.resolve()} ({error}). Set data_root to the folder "
            f"that holds torchvision's {loader.__name__}, or run once with download: true where "
            "there is a network"
        ) from error
    images = torch.as_tensor(loaded.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return in_memory(images, np.asarray(loaded.targets), tuple(loaded.classes))


def load_imagenet(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    """Return ImageNet's training or validation split (which stands for test), images on demand.

    They have ``image_size`` pixels, 224 if it is not given.  torchvision cannot download ImageNet:
    ``download`` is of no use.  Raises DataError where its archives are not in ``data_root``, or
    were unpacked in part.
    """
    try:
        loaded = _WholeImageNet(data_root, split="train" if split == "train" else "val")
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"ImageNet was not found in {Path(data_root).resolve()} ({error}). Download "
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz "
            "from image-net.org into that folder; torchvision unpacks them"
        ) from error
    names = tuple(group[0] for group in loaded.classes)
    size = dataset.image_size or IMAGENET_SIZE
    steps = [v2.Resize(round(size * IMAGENET_MARGIN)), v2.CenterCrop(size)]
    view = v2.Compose([*steps, v2.PILToTensor()])
    paths = [Path(path) for path, _ in loaded.samples]
    return _on_demand(Path(loaded.root), paths, view, names, loaded.targets, dataset)


class _WholeImageNet(datasets.ImageNet):
    """torchvision's ImageNet, which itself takes a folder that is there for all of a split."""

    def parse_archives(self) -> None:
        root, folder = Path(self.root), Path(self.split_folder)
        if _unpacked_in_part(root, folder) is None:
            return
        # Several jobs may find the set packed at once; one unpacks, the others wait.
        with alone(_lock(root, "imagenet"), str(folder), cures={}):
            super().parse_archives()
            flaw = _unpacked_in_part(root, folder)
        if flaw:
            raise DataError(
                f"ImageNet in {folder.resolve()} is not whole: {flaw}. Delete this folder, and "
                "let torchvision unpack the archive beside it again"
            )


def _unpacked_in_part(root: Path, folder: Path) -> str | None:
    """Return what tells a split's folder from an unpacked archive, None where nothing does."""
    if not (root / META_FILE).is_file() or not folder.is_dir():
        return "it is not unpacked"
    inside = list(os.scandir(folder))
    left = sorted(one.name for one in inside if one.name.lower().endswith((".tar", ".jpeg")))
    if left:
        return f"{left[0]} is not in a class's folder"
    wanted, found = set(load_meta_file(root)[0]), {one.name for one in inside if one.is_dir()}
    if wanted != found:
        some = ", ".join(sorted(wanted ^ found)[:3])
        return f"it has {len(found)} classes, {META_FILE} has {len(wanted)} ({some}, ...)"
    return None


def load_folder(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    """Return ``path/<split>/<class>/*`` as RGB images, resized to ``image_size`` if given.

    The classes of both splits are those of ``path/train``: a class may have no test image.
    Raises DataError as ``folder_paths``, and by file name if an image is corrupt or has more than
    8 bits per channel.
    """
    names, paths, labels = folder_paths(dataset, split)
    size = dataset.image_size
    steps = [v2.Resize(size), v2.CenterCrop(size)] if size else []
    view = v2.Compose([*steps, v2.PILToTensor()])
    folder = Path(dataset.path, split)
    return _on_demand(folder, paths, view, names, labels, dataset)


def _on_demand(
    folder: Path,
    paths: Sequence[Path],
    view: v2.Compose,
    names: tuple[str, ...],
    labels: Sequence[int],
    dataset: Dataset,
) -> Source:
    def read(indices: np.ndarray) -> torch.Tensor:
        # As many threads as the job has for its arithmetic: decoding needs no more of Python.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(partial(_read_one, view=view), [paths[i] for i in indices]))
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise DataError(
                f"the images of {folder} differ in size ({sorted(shapes)[:3]} ...). "
                "Set image_size for this data set"
            )
        return torch.stack(images)

    key = _key(folder, paths, view, dataset)
    return Source(np.asarray(labels, dtype=np.int64), read, names, key)


def _key(folder: Path, paths: Sequence[Path], view: v2.Compose, dataset: Dataset) -> str:
    """Return a key of decoded images: their folder, their names, and how they are resized.

    If files are not digested (``files: []``), the size and time of each count too.
    """
    key = hashlib.sha256(f"{view} {folder.resolve()}\n".encode())
    for path in paths:
        about = os.stat(path) if dataset.files == () else None
        stamp = f" {about.st_size} {about.st_mtime_ns}" if about else ""
        key.update(f"{path.parent.name}/{path.name}{stamp}\n".encode())
    return key.hexdigest()[:16]


def _read_one(path: Path, *, view: v2.Compose) -> torch.Tensor:
    try:
        with Image.open(path) as image:
            refuse_deep(path, image.mode)
            return view(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # PIL raises many kinds for a file that is no image
        raise DataError(f"corrupt image {path} ({error}). Replace or remove it") from error


def _lock(root: Path, name: str) -> Path:
    return root / f".{name}.lock"


def _refuse_corrupt(name: str, loader: type, root: Path) -> None:
    """Raise DataError where files of a set are there but not what they should be."""
    corrupt = _corrupt_files(loader, root)
    if corrupt:
        raise DataError(
            f"{name}: corrupt file {', '.join(map(str, corrupt))}. Put the original in its place, "
            "or delete it and rerun with download: true"
        )


def _is_whole(loader: type, root: Path) -> bool:
    """Return whether all files of a set are there, and are what they should be."""
    if issubclass(loader, datasets.MNIST):
        raw = root / loader.__name__ / "raw"
        files = [raw / Path(name).stem for name, _ in loader.resources]
    else:
        listed = loader.train_list + loader.test_list
        files = [root / loader.base_folder / name for name, _ in listed]
    # In this order: a file that is not whole yet is not passed over.
    return all(file.is_file() for file in files) and not _corrupt_files(loader, root)


def _corrupt_files(loader: type, root: Path) -> list[Path]:
    """Return the files of a set that are there but not what they should be."""
    if issubclass(loader, datasets.MNIST):
        raw = root / loader.__name__ / "raw"
        return [path for path in sorted(raw.glob("*-ubyte")) if not _is_whole_idx(path)]
    folder = root / loader.base_folder
    listed = [(folder / name, digest) for name, digest in loader.train_list + loader.test_list]
    return [path for path, digest in listed if path.is_file() and not check_integrity(path, digest)]


def _is_whole_idx(path: Path) -> bool:
    """Return whether an IDX file's length is what its header says (LeCun's format)."""
    with path.open("rb") as file:
        header = file.read(4)
        dims = header[3] if len(header) == 4 and header[:3] == b"\0\0\x08" else 0
        sizes = np.frombuffer(file.read(4 * dims), dtype=">u4")
    expected = 4 + 4 * dims + int(np.prod(sizes, dtype=np.int64))
    return dims > 0 and len(sizes) == dims and path.stat().st_size == expected
