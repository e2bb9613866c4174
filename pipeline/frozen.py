"""What a running workflow began with, kept for its jobs: no later edit of the files reaches them.

A job on a cluster reads the Snakefile and the configuration anew when it begins, and the code and
the data would be looked at anew, but its workflow records what it was itself told.
"""

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.atomic import remove, replacing
from pipeline.errors import ConfigError

VARIABLE = "ANATOMY_CONFIG"  # names a workflow's kept settings to its jobs


def freeze(settings: dict[str, Any], digests: dict[str, str], results: str) -> Path:
    """Return the file that a workflow's settings are kept in for its jobs, which inherit its name.

    ``digests`` are those of data and code, by what they are of, as ``told_digest`` is asked.
    What other workflows kept is removed: a job that one of them left in a queue is refused when it
    begins, before it replaces what this one makes.
    """
    kept = {"settings": settings, "digests": digests}
    text = yaml.safe_dump(json.loads(json.dumps(kept)), sort_keys=False)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = Path(results, ".config", f"{key}.yaml").resolve()
    with replacing(file) as staged:
        staged.write_text(text, encoding="utf-8")
    for other in file.parent.iterdir():
        if other != file:
            remove(other)
    os.environ[VARIABLE] = str(file)
    return file


def thawed(settings: dict[str, Any], *, is_job: bool) -> dict[str, Any]:
    """Return the settings to go by: a job's are those that its workflow has kept, if any.

    A workflow forgets what its shell inherited from another.  Raises ConfigError where what was
    kept for a job is gone.
    """
    if not is_job:
        os.environ.pop(VARIABLE, None)
    file = os.environ.get(VARIABLE)
    if file is None:
        return settings
    try:
        return _kept(file)["settings"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file}, which {VARIABLE} names to this job as its settings, is gone: a workflow of "
            "other settings has begun since in the same results. Cancel the job; the newer "
            "workflow makes what it needs"
        ) from error
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file}, which {VARIABLE} names to this job as its settings, does not hold what a "
            "workflow of this version keeps. Cancel the job and start snakemake again"
        ) from error


def told_digest(key: str) -> str | None:
    """Return the digest under ``key`` that the running workflow began with; None: there is none."""
    file = os.environ.get(VARIABLE)
    return _digests(file).get(key) if file else None


@cache
def _digests(file: str) -> dict[str, str]:
    with suppress(FileNotFoundError):  # of a workflow that another has replaced
        return _kept(file)["digests"]
    return {}


def _kept(file: str) -> dict[str, Any]:
    return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
