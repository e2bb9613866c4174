"""The refusal of a cube whose files were made with different settings."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError


def refuse_mixture(told: Mapping[Path, Any], place: str) -> None:
    """Raise ArtifactError where files tell of different settings at one place of a configuration.

    ``told`` has what each file says.  Those that fewer agree with are named.
    """
    agreeing: dict[str, list[Path]] = defaultdict(list)
    for file, settings in told.items():
        agreeing[json.dumps(settings, sort_keys=True)].append(file)
    if len(agreeing) > 1:
        *odd, most = sorted(agreeing.values(), key=len)
        listed = [str(file) for files in odd for file in files]
        raise ArtifactError(
            f"{len(listed)} of {len(told)} files were made with other settings of {place} than the "
            f"rest, such as {most[0]}, as when the configuration is edited while jobs run. Delete "
            "them, or the rest where `python -m pipeline why` finds those out of date, and "
            "snakemake makes them anew:\n  " + "\n  ".join(listed)
        )
