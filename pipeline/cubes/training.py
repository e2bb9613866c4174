"""The training cube, from the histories of all runs and the outcomes of their sweeps."""

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import Gathered, Placed, in_memory
from pipeline.cubes.mixture import refuse_mixture
from pipeline.cubes.schema import SCHEMA
from pipeline.runs import SWEEP_FILE, Run, run_folder
from pipeline.tasks import CubeJob, training_files
from pipeline.training.record import read_record, refuse_altered

NAMED = ("dataset", "model", "recipe")  # words that stand for settings of the configuration

# Variables of the cube, and the columns of the files that hold them.
HISTORY = {key: key for key, known in SCHEMA["training"].items() if known.dims == ("epoch",)}
SWEEP = {
    key: key.removeprefix("candidate_")
    for key, known in SCHEMA["training"].items()
    if known.dims == ("candidate",)
}


def training_cube(job: CubeJob) -> Gathered:
    """Return the training cube.

    Raises ArtifactError where a record that the grid asks for is missing or corrupt, where a table
    is not the one that its record tells of, or where runs of one data set, network or recipe were
    trained with different settings of it.
    """
    runs = job.runs()
    folders = [run_folder(job.results, run) for run in runs]
    records = [read_record(folder) for folder in folders]
    made = [record["provenance"] for record in records]
    told = {run: about["settings"] for run, about in zip(runs, made, strict=True)}
    _refuse_mixtures(job, told)
    trained = list(zip(runs, folders, records, strict=True))
    histories = [
        _table(folder, record, "history.csv", HISTORY, "epoch") for _, folder, record in trained
    ]
    epochs = sorted({epoch for history in histories for epoch in history.epoch.values.tolist()})
    histories = [_to_the_end(history, epochs) for history in histories]
    parts = [Placed(asdict(run), part) for run, part in zip(runs, histories, strict=True)]
    parts += [
        Placed(asdict(run), _table(folder, record, SWEEP_FILE, SWEEP, "candidate"))
        for run, folder, record in trained
        if run.recipe in job.sweeps
    ]
    cube = in_memory("training", runs, parts)
    return replace(cube, files=training_files(job), devices={about["device"] for about in made})


def _to_the_end(history: xr.Dataset, epochs: list[int]) -> xr.Dataset:
    """Return a history of all ``epochs``: a diverged run, without rows of the last, stays so."""
    history = history.reindex(epoch=epochs)
    before = (history.diverged == 1).cumsum("epoch") == 0
    return history.assign(diverged=history.diverged.where(before, 1.0))


def _refuse_mixtures(job: CubeJob, told: dict[Run, dict[str, Any]]) -> None:
    """Raise ArtifactError where runs that share a name of the configuration differ in its settings.

    Of a sweep each run has the rate that was chosen for it.
    """
    for word in NAMED:
        for name in {getattr(run, word) for run in told}:
            shared = {
                run_folder(job.results, run) / "run.json": settings[word]
                for run, settings in told.items()
                if getattr(run, word) == name
            }
            if word == "recipe" and name in job.sweeps:
                shared = {file: recipe | {"lr": None} for file, recipe in shared.items()}
            refuse_mixture(shared, f"{word}s.{name}")


def _table(
    folder: Path, record: dict[str, Any], name: str, columns: dict[str, str], dim: str
) -> xr.Dataset:
    """Return the columns of a run's CSV file as variables, along ``dim``: epochs, or rows counted.

    Raises ArtifactError where it is not the file that the run's record tells of.
    """
    file = folder / name
    refuse_altered(folder, file, record["tables"].get(name))
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    labels = [int(row[dim]) if dim == "epoch" else i for i, row in enumerate(rows)]
    variables = {
        key: (dim, np.array([float(row[column]) for row in rows]))
        for key, column in columns.items()
    }
    return xr.Dataset(variables, coords={dim: labels})
