"""Paths of a configuration: one spelling for one place."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]


def same_place(path: str) -> str:
    """Return one spelling of a path: relative inside the working folder, absolute outside it.

    ``~`` and links are resolved.  A working folder that is moved with its data keeps the spelling.
    """
    real, here = Path(path).expanduser().resolve(), Path.cwd().resolve()
    return str(real.relative_to(here)) if real.is_relative_to(here) else str(real)


def results_folder(path: str) -> str:
    """Return the one spelling of a folder: for Snakemake out, out/ and ./out are three places."""
    folder = os.path.normpath(os.path.expanduser(path))
    if folder == os.curdir:
        raise ValueError("this is the working folder itself; name a folder in it")
    return re.sub("^//", "/", folder)


ResultsFolder = Annotated[
    str,
    StringConstraints(min_length=1, pattern=r"^[^{}\x00-\x1f]*$"),
    AfterValidator(results_folder),
]
