"""The training cube, from the histories of all runs."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.errors import ArtifactError
from pipeline.runs import TRAINING_FILES, run_folder
from pipeline.tasks import CubeJob


def training_cube(job: CubeJob) -> Gathered:
    """Return the training cube.

    Raises ArtifactError where a history or record that the grid asks for is missing or corrupt.
    """
    runs = job.runs()
    folders = [run_folder(job.results, run) for run in runs]
    files = [folder / name for folder in folders for name in TRAINING_FILES]
    devices = {_device(folder / "run.json") for folder in folders}
    histories = [_history(folder / "history.csv") for folder in folders]
    parts = [Placed(asdict(run), part) for run, part in zip(runs, histories, strict=True)]
    cube = assemble("training", runs, parts)
    # A diverged run has no rows beyond its last; it stays diverged.
    cube["diverged"] = cube.diverged.where((cube.diverged == 1).cumsum("epoch") == 0, 1.0)
    return Gathered(cube, files, devices)


def _device(file: Path) -> str:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["provenance"]["device"]
    except FileNotFoundError as error:
        raise ArtifactError(f"record {file} is missing. Run snakemake, which makes it") from error
    except (ValueError, KeyError) as error:
        raise ArtifactError(
            f"record {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error


def _history(file: Path) -> xr.Dataset:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        # An empty cell is a NaN.
        columns = {key: [float(row[key] or "nan") for row in rows] for key in SCHEMA["training"]}
        epochs = [int(row["epoch"]) for row in rows]
    except FileNotFoundError as error:
        raise ArtifactError(f"history {file} is missing. Run snakemake, which makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"history {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error
    variables = {key: ("epoch", np.array(values)) for key, values in columns.items()}
    return xr.Dataset(variables, coords={"epoch": epochs})
