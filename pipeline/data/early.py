"""Checks of an image folder that are cheap enough for the start of a workflow.  No torch."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import Dataset
from pipeline.errors import DataError
from pipeline.image_folder import class_folders, images_in

# Pillow's modes of 8 bits per channel, or fewer.  Others (I;16, I, F) are cut off at 255 by its
# conversion to RGB.
EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"} | {
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
}


def folder_paths(dataset: Dataset, split: str) -> tuple[tuple[str, ...], list[Path], np.ndarray]:
    """Return an image folder's class names, and the paths and labels of a split's images.

    Raises DataError if a split's folder is missing, if a class has no training image, or if a
    class of the test split has none.
    """
    root = Path(dataset.path or "")
    folder = root / split
    for needed in (root / "train", folder):
        if not class_folders(needed):
            raise DataError(
                f"no image folder at {needed.resolve()}, or no folder of a class in it. It should "
                "hold one folder of images per class"
            )
    names = tuple(place.name for place in class_folders(root / "train"))
    images = {place.name: list(images_in(place)) for place in class_folders(folder)}
    unknown = sorted(images.keys() - set(names))
    if unknown or not any(images.values()):
        raise DataError(
            f"{folder.resolve()} has images of {', '.join(unknown[:3]) or 'no class'}, but the "
            f"classes are those of train: {', '.join(names[:3])}, ... Give its folders the names "
            "that they have in train, and remove classes without training images"
        )
    empty = [name for name in names if split == "train" and not images[name]]
    if empty:
        raise DataError(
            f"{folder.resolve()} has no image of {', '.join(empty[:3])}. Add images (.png, .jpg, "
            "...), or remove the folder"
        )
    paths = [path for name in names for path in images.get(name, [])]
    counts = [len(images.get(name, [])) for name in names]
    return names, paths, np.repeat(np.arange(len(names)), counts)


def refuse_deep(path: Path, mode: str) -> None:
    """Refuse an image of more than 8 bits per channel, by Pillow's name of its mode."""
    if mode not in EIGHT_BIT:
        raise DataError(
            f"{path} has more than 8 bits per channel (mode {mode}), which an image folder would "
            "cut off at 255. Save it with 8 bits per channel, or return the images from a function "
            "(source: module:function) as floats in [0, 1]"
        )


def check_folder(dataset: Dataset) -> None:
    """Refuse an image folder that is known to fail before its images are decoded.

    The folder is listed, and the header of each class's first image is read in both splits. Raises
    DataError.
    """
    sizes: dict[tuple[int, int], Path] = {}
    for split in ("train", "test"):
        _, paths, labels = folder_paths(dataset, split)
        for first in np.unique(labels, return_index=True)[1]:
            path = paths[first]
            try:
                with Image.open(path) as image:
                    mode, size = image.mode, image.size
            except Exception as error:  # PIL raises many kinds for a file that is no image
                raise DataError(f"corrupt image {path} ({error}). Replace or remove it") from error
            refuse_deep(path, mode)
            sizes.setdefault(size, path)
    if len(sizes) > 1 and dataset.image_size is None:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"images differ in size: {first} has {one[0]} x {one[1]} pixels, {second} "
            f"{other[0]} x {other[1]}. Set image_size for this data set"
        )
