"""The training cube, from the histories of all runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.config import CubeJob
from pipeline.cubes.assemble import Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.errors import ArtifactError
from pipeline.runs import run_folder


def training_cube(job: CubeJob) -> tuple[xr.Dataset, list[Path]]:
    """Return the training cube and the histories it was gathered from."""
    runs = job.runs()
    files = [run_folder(job.results, run) / "history.csv" for run in runs]
    parts = [Placed(run, {}, _history(file)) for run, file in zip(runs, files, strict=True)]
    cube = assemble("training", runs, parts)
    # A diverged run has no rows beyond its last; it stays diverged.
    cube["diverged"] = cube.diverged.where((cube.diverged == 1).cumsum("epoch") == 0, 1.0)
    return cube, files


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
