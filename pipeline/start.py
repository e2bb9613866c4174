"""What a workflow does before its first job: it claims its results, and rehearses what it replaces.

Snakemake deletes the outputs of a job before it starts the job.  A job whose outputs are there is
therefore rehearsed: its data are read and its network is built while the outputs still stand.
"""

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from pipeline.assign import data_access, train_job
from pipeline.atomic import storing
from pipeline.config import Config
from pipeline.errors import DataError, StorageError
from pipeline.fingerprint import PACKAGE
from pipeline.runs import Run, run_folder
from pipeline.scratch import WITHOUT_LOCKS

STOPPED = (
    "Interrupted: running jobs are stopped. Finished results stay, and the next snakemake goes on "
    "from there."
)
WORDS = ("dataset", "model", "norm", "recipe")
_claims: dict[str, TextIO] = {}  # open until the process ends: the lock ends with it


class OneSentence(logging.Filter):
    """Replaces what Snakemake logs after Ctrl-C by one sentence: it repeats every job's command."""

    interrupted = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        if self.interrupted:
            return False
        if "on user request" in record.getMessage():
            self.interrupted = True
            record.msg, record.args = STOPPED, ()
        return True


def claim(results: str) -> None:
    """Lock a results folder for this process; raises StorageError if another workflow has it.

    Snakemake's own lock is in the working folder: it does not see a workflow of another one.
    """
    lock = Path(results, ".workflow.lock")
    with storing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StorageError(
                f"{results} is in use by another workflow ({file.read().strip()}). Wait until it "
                "ends, or let `results:` name another folder. Nothing was changed"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, in {os.getcwd()}\n")
        file.flush()
    _claims[results] = file


def rehearse(jobs: Iterable[Any], config: Config) -> None:
    """Raise DataError if a job that reads data and replaces finished files would fail at once.

    ``jobs`` are Snakemake's, those that will run.  One job stands for all of a data set, a network
    and a norm: that of the most examples per class.
    """
    runs: dict[tuple[str, ...], Run] = {}
    for job in jobs:
        if "access" not in dict(job.params.items()) or not any(map(os.path.exists, job.output)):
            continue
        words = {word: getattr(job.wildcards, word) for word in WORDS}
        n, seed = int(job.wildcards.n_per_class), int(job.wildcards.seed)
        run = Run(**words, n_per_class=n, seed=seed)
        key = (run.dataset, run.model, run.norm)
        if key not in runs or n > runs[key].n_per_class:
            runs[key] = run
    if not runs:
        return
    access = data_access(config).model_dump_json()
    tasks = []
    for run in runs.values():
        job = train_job(config, dataset=run.dataset, model=run.model, recipe=run.recipe)
        folder = str(run_folder(config.results, run))
        tasks.append({"folder": folder, "job": job.model_dump_json(), "access": access})
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "rehearse"],
        input=json.dumps(tasks),
        env=os.environ
        | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise DataError(
            "a job that would replace finished results cannot run, so none was started and "
            f"nothing was deleted. {said[-1].removeprefix('error: ')}"
        )
