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
from torchvision import datasets
from torchvision.datasets.folder import find_classes
from torchvision.datasets.imagenet import META_FILE, load_meta_file
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import v2

from pipeline.config import Dataset
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
    return _on_demand(loaded, view, names, loaded.targets, _key(loaded, view, dataset))


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

    The classes of both splits are those of ``path/train``: one of them may have no test image.
    Raises DataError where the folder is not there, where it has a class that train lacks, and by
    file name where an image is corrupt.
    """
    folder, size = Path(dataset.path, split), dataset.image_size
    try:
        names = tuple(find_classes(Path(dataset.path, "train"))[0])
        loaded = datasets.ImageFolder(folder, allow_empty=split == "test")
    except FileNotFoundError as error:
        raise DataError(
            f"no image folder at {folder.resolve()} ({error}). It should hold one folder of images "
            "per class"
        ) from error
    unknown = sorted(set(loaded.classes) - set(names))
    if unknown or not loaded.samples:
        raise DataError(
            f"{folder.resolve()} has images of {', '.join(unknown[:3]) or 'no class'}, but the "
            f"classes are those of train: {', '.join(names[:3])}, ... Name its folders as train's, "
            "and remove what train has no images of"
        )
    # torchvision numbers the folders that a split has.
    number = np.array([names.index(name) for name in loaded.classes])
    steps = [v2.Resize(size), v2.CenterCrop(size)] if size else []
    view = v2.Compose([*steps, v2.PILToTensor()])
    labels = number[loaded.targets]
    return _on_demand(loaded, view, names, labels, _key(loaded, view, dataset))


def _on_demand(
    loaded: datasets.ImageFolder,
    view: v2.Compose,
    names: tuple[str, ...],
    labels: Sequence[int],
    key: str,
) -> Source:
    def read(indices: np.ndarray) -> torch.Tensor:
        # As many threads as the job has for its arithmetic: decoding needs no more of Python.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(partial(_read_one, loaded, view=view), indices.tolist()))
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise DataError(
                f"the images of {loaded.root} differ in size ({sorted(shapes)[:3]} ...). "
                "Set image_size for this data set"
            )
        return torch.stack(images)

    return Source(np.asarray(labels, dtype=np.int64), read, names, key)


def _key(loaded: datasets.ImageFolder, view: v2.Compose, dataset: Dataset) -> str:
    """Return what tells decoded images from others: their folder, their names, and how they look.

    Of a data set whose files are not digested (``files: []``) each one's size and time as well.
    """
    key = hashlib.sha256(f"{view} {Path(loaded.root).resolve()}\n".encode())
    for path, _ in loaded.samples:
        about = os.stat(path) if dataset.files == () else None
        stamp = f" {about.st_size} {about.st_mtime_ns}" if about else ""
        key.update(f"{Path(path).parent.name}/{Path(path).name}{stamp}\n".encode())
    return key.hexdigest()[:16]


def _read_one(loaded: datasets.ImageFolder, index: int, *, view: v2.Compose) -> torch.Tensor:
    path = loaded.samples[index][0]
    try:
        return view(loaded.loader(path))
    except OSError as error:
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
