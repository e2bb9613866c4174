"""Settings of YAML files, the later over the earlier, as Snakemake lays them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.fingerprint import PACKAGE


def with_default(files: Sequence[Path]) -> list[Path]:
    """Return files as Snakemake reads them: over the project's config.yaml, named or not."""
    default = PACKAGE.parent / "config.yaml"
    if any(file.resolve() == default.resolve() for file in files):
        return list(files)
    return [Path(os.path.relpath(default)), *files]


def overlaid(files: Sequence[str | Path]) -> dict[str, Any]:
    """Return the settings of all files: mappings merged, all else replaced by the later file's."""
    settings: dict[str, Any] = {}
    for file in files:
        settings = merged(settings, settings_in(Path(file)))
    return settings


def settings_in(file: Path) -> dict[str, Any]:
    """Return the settings of one YAML file; raises ConfigError if it has none."""
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}. Give --configfile the path of a YAML file that is there"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is not YAML: {error}. Mend it there") from error
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(
            f"{file} holds a {type(settings).__name__}, {str(settings)[:60]!r}. Write settings by "
            "their names, such as results: results-mine"
        )
    return settings or {}


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return both, the overlay's values over the base's; mappings inside are merged too."""
    both = {
        key: merged(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in overlay.items()
    }
    return base | both
