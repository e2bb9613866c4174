"""Parts as single zipped Zarr files and cubes as Zarr stores: written whole, read with a check."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from pipeline.atomic import remove, replacing, sha256
from pipeline.errors import ArtifactError

_EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)  # the format's earliest: equal contents give equal bytes


def write_part(part: xr.Dataset, path: Path) -> None:
    """Write a part as one ``.zarr.zip`` file, byte for byte a function of its contents."""
    with replacing(path) as staged:
        # Beside what is staged, under its name: of a killed job the next one clears both away.
        store = staged.with_name(f"{staged.name}.store")
        try:
            to_zarr(part, store)
            with zipfile.ZipFile(staged, "w") as archive:
                for file in sorted(store.rglob("*")):
                    if file.is_file():
                        entry = zipfile.ZipInfo(str(file.relative_to(store)), _EPOCH_OF_ZIP)
                        archive.writestr(entry, file.read_bytes())
        finally:
            remove(store)


def read_part(path: Path, names: Container[str] | None = None) -> xr.Dataset:
    """Return a part, or its variables among ``names``, in memory.

    Raises ArtifactError, by name, where it is missing or corrupt.
    """
    with opened_part(path) as part, refusal_of(path):
        kept = part if names is None else part[[key for key in part if key in names]]
        return kept.load()


@contextmanager
def opened_part(path: Path, *, checked: bool = True) -> Iterator[xr.Dataset]:
    """Give a part whose variables are read when asked for; raises as ``read_part``.

    It is ``checked``, which reads every byte of it, but for a look at its labels and attributes.
    """
    with ExitStack() as stack:
        with refusal_of(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip() if checked else None
            if broken:
                raise zipfile.BadZipFile(f"{broken} fails its checksum")
            store = stack.enter_context(zarr.storage.ZipStore(path, mode="r"))
            part = xr.open_zarr(store, consolidated=True, chunks=None)
        yield part


@contextmanager
def refusal_of(path: Path) -> Iterator[None]:
    """Refuse the part in ``path`` by name where what is done within finds it missing or corrupt."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"part {path} is missing. Run snakemake, which makes it") from error
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ArtifactError(
            f"part {path} is corrupt ({error}). Delete it, and snakemake makes it anew"
        ) from error


def manifest_path(cube: str | Path) -> Path:
    """Return the manifest of the cube in ``<cubes>/<name>.zarr``."""
    return Path(cube).with_suffix(".manifest.json")


def open_cube(path: Path | str) -> xr.Dataset:
    """Return a cube, read when asked for, after a look at every byte of it.

    Zarr reads a chunk that is missing as NaN.  Raises ArtifactError where the store is not what its
    manifest tells of.
    """
    path = Path(path)
    manifest = manifest_path(path)
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
        found = tree_sha256(path)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"cube {path} or its manifest is missing or corrupt ({error}). Delete {manifest}, and "
            "snakemake gathers the cube anew"
        ) from error
    if told != found:
        raise ArtifactError(
            f"cube {path} has lost or altered files since it was gathered: its SHA-256 is "
            f"{found[:16]}, not {told[:16]}. Delete {manifest}, and snakemake gathers it anew"
        )
    return xr.open_zarr(path)


def tree_sha256(folder: Path) -> str:
    """Return a digest of the names and contents of all files of a store."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        # Snakemake puts a file of its own into folders that rules declare.
        if file.is_file() and file.name != ".snakemake_timestamp":
            digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def attributes(provenance: dict[str, Any]) -> dict[str, str]:
    """Return a store's attributes: its provenance as JSON text, readable in any tool."""
    return {"provenance": json.dumps(provenance, sort_keys=True)}


def read_attributes(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the provenance that ``attributes`` wrote."""
    return json.loads(dataset.attrs["provenance"])


def to_zarr(dataset: xr.Dataset, path: Path) -> None:
    """Write a Dataset as a consolidated store."""
    with quietly_consolidated():
        dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=True)


@contextmanager
def quietly_consolidated() -> Iterator[None]:
    """Consolidate metadata within, without a warning.

    That is not yet in the Zarr 3 specification, but without it a default open warns; every reader
    of a cube would see that.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        yield
