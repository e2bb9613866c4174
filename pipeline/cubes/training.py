"""The training cube, from the histories of all runs and the outcomes of their sweeps."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import Gathered, Placed, in_memory
from pipeline.cubes.mixture import refuse_mixture
from pipeline.cubes.schema import SCHEMA
from pipeline.errors import ArtifactError
from pipeline.runs import SWEEP_FILE, Run, run_folder
from pipeline.tasks import CubeJob, training_files

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

    Raises ArtifactError where a history or record that the grid asks for is missing or corrupt, or
    where runs of one data set, network or recipe were trained with different settings of it.
    """
    runs = job.runs()
    folders = [run_folder(job.results, run) for run in runs]
    devices, told = zip(*(_made_by(folder / "run.json") for folder in folders), strict=True)
    _refuse_mixtures(job, dict(zip(runs, told, strict=True)))
    histories = [_table(folder / "history.csv", HISTORY, "epoch") for folder in folders]
    epochs = sorted({epoch for history in histories for epoch in history.epoch.values.tolist()})
    histories = [_to_the_end(history, epochs) for history in histories]
    swept = [
        (run, path) for run, path in zip(runs, folders, strict=True) if run.recipe in job.sweeps
    ]
    sweeps = [_table(path / SWEEP_FILE, SWEEP, "candidate") for _, path in swept]
    places = [*runs, *(run for run, _ in swept)]
    parts = [
        Placed(asdict(run), part) for run, part in zip(places, [*histories, *sweeps], strict=True)
    ]
    cube = in_memory("training", runs, parts)
    return replace(cube, files=training_files(job), devices=set(devices))


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


def _made_by(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the device that a run was trained on, and the settings that its words stand for."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))["provenance"]
        return about["device"], {word: about["settings"][word] for word in NAMED}
    except FileNotFoundError as error:
        raise ArtifactError(f"record {file} is missing. Run snakemake, which makes it") from error
    except (ValueError, KeyError) as error:
        raise ArtifactError(
            f"record {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error


def _table(file: Path, columns: dict[str, str], dim: str) -> xr.Dataset:
    """Return the columns of a CSV file as variables, along ``dim``: epochs, or rows counted."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        # An empty cell is a NaN.
        found = {key: [float(row[name] or "nan") for row in rows] for key, name in columns.items()}
        labels = [int(row[dim]) if dim == "epoch" else i for i, row in enumerate(rows)]
    except FileNotFoundError as error:
        raise ArtifactError(f"history {file} is missing. Run snakemake, which makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"history {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error
    variables = {key: (dim, np.array(values)) for key, values in found.items()}
    return xr.Dataset(variables, coords={dim: labels})
