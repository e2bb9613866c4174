"""What made a result: settings, code, versions, device; nothing that differs in equal runs."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "xarray", "zarr", "snakemake")


def provenance(*, settings: dict[str, Any], code: str, device: str, **more: Any) -> dict[str, Any]:
    """Return the provenance of a result, ready for JSON.  No time, no path, no host."""
    return {
        "settings": settings,
        "code": code,
        "git_commit": git_commit(),
        "versions": versions(),
        "device": device,
        **more,
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def git_commit() -> str:
    """Return the commit of this project's checkout, with ``-dirty`` if edited, or "unknown"."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
