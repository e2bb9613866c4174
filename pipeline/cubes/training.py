"""The training cube, from the histories of all runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.config import CubeJob
from pipeline.cubes.assemble import Gathered, Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.errors import ArtifactError
from pipeline.runs import TRAINING_FILES, run_folder


def training_cube(job: CubeJob) -> Gathered:
    """Return the training cube.

    Raises ArtifactError where a history or record that the grid asks for is missing or corrupt.
    """
    runs = job.runs()
    folders = [run_folder(job.results, run) for run in runs]
    files = [folder / name for folder in folders for name in TRAINING_FILES]
    devices = {_device(folder / "run.json") for folder in folders}
    histories = [_history(folder / "history.csv") for folder in folders]
    parts = [Placed(run, {}, part) for run, part in zip(runs, histories, strict=True)]
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
        table = pd.read_csv(file, float_precision="round_trip").set_index("epoch")
        columns = {key: ("epoch", table[key].to_numpy(np.float64)) for key in SCHEMA["training"]}
    except FileNotFoundError as error:
        raise ArtifactError(f"history {file} is missing. Run snakemake, which makes it") from error
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"history {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error
    return xr.Dataset(columns, coords={"epoch": table.index.to_numpy()})
