"""Which files Snakemake would make again now: its own answer, for `status`, `why` and `check`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import AnatomyError
from pipeline.fingerprint import PACKAGE
from pipeline.frozen import VARIABLE

ASKING = "ANATOMY_ASKING"  # set in the Snakemake process that only answers
COLUMNS = ("output_file", "log-file(s)", "status", "plan")
MISSING = "missing"  # and never made: Snakemake has no record of it
DELETED = "deleted since it was made"


def pending(settings: dict[str, Any]) -> dict[Path, str]:
    """Return the files that ``snakemake`` would make now, each with Snakemake's reason.

    Snakemake decides by the records in ``.snakemake`` of the working folder: files, their times,
    recorded parameters, code and inputs.  Raises AnatomyError if Snakemake refuses the workflow.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "settings.yaml")
        plain = json.loads(json.dumps(settings, default=str))
        file.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--summary", "--rerun-incomplete"]
        command += ["--snakefile", str(PACKAGE.parent / "Snakefile"), "--configfile", str(file)]
        # Without the working folder on its path: a module there must not replace a library.
        environment = os.environ | {ASKING: "1", "PYTHONSAFEPATH": "1"}
        environment.pop(VARIABLE, None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    if done.returncode or not rows:
        raise AnatomyError(f"snakemake refuses this workflow:\n{done.stderr.strip()}")
    columns = {name: index for index, name in enumerate(rows[0])}
    found = {}
    for row in rows[1:]:
        file, log, status, plan = (row[columns[name]] for name in COLUMNS)
        if plan != "no update":
            # Snakemake records the log of a job that finished, and forgets that of a failed one.
            found[Path(file)] = DELETED if status == MISSING and log != "-" else status
    return found
