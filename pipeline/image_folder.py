"""Image folders: the classes of a split and the images of a class.  No torch: dry runs read this.

Hidden files and folders (names that begin with a dot) are no data, nor are files without an image's
suffix.
"""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(split: Path) -> list[Path]:
    """Return the folders of a split's classes, sorted by name; none if ``split`` is no folder."""
    if not split.is_dir():
        return []
    return sorted(Path(entry) for entry in os.scandir(split) if entry.is_dir() and _shown(entry))


def images_in(folder: Path) -> Iterator[Path]:
    """Yield the images of a class, those in its subfolders too, in one order on every machine."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if not is_hidden(name) and name.lower().endswith(SUFFIXES):
                yield Path(place, name)


def is_hidden(name: str) -> bool:
    """Return whether a file's or folder's name begins with a dot."""
    return name.startswith(".") and name not in (".", "..")


def _shown(entry: os.DirEntry[str]) -> bool:
    return not is_hidden(entry.name)
