"""Data-parallel jobs: two gloo processes give what one gives, to rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from test_spectrum_job import JOB, parts
from test_training import RECIPE, folder_of, job_of

from pipeline.cubes.store import read_part
from pipeline.fingerprint import PACKAGE
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("runs"))
    train_run(folder, job_of(RECIPE), save_every=1e9)
    return folder


def test_two_processes_give_what_one_gives(trained):
    settings = JOB.spectrum.model_copy(update={"exact": 0})
    job = JOB.model_copy(update={"spectrum": settings, "epochs": (30,)})
    write_spectra(trained, job)
    files = [path for (epoch, _), path in parts(trained).items() if epoch == 30]
    alone = [read_part(file) for file in files]
    for file in files:
        file.unlink()
    script = trained.parents[6] / "both.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.curvature import recorded\n"
        "from pipeline.jobs.spectrum import write_spectra\n"
        "from pipeline.tasks import SpectrumJob\n"
        "recorded.RECORD_ABOVE = 0.0\n"
        "write_spectra(Path(sys.argv[1]), SpectrumJob.model_validate_json(sys.argv[2]))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(script), str(trained), job.model_dump_json()]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not list(trained.parents[6].rglob("*.products"))
    for one, file in zip(alone, files, strict=True):
        two = read_part(file)
        xr.testing.assert_allclose(
            one.drop_vars("residual").drop_vars("bottom_residual"),
            two.drop_vars("residual").drop_vars("bottom_residual"),
            rtol=1e-7,
            atol=1e-9,
        )
        assert np.array_equal(one.converged, two.converged, equal_nan=True)
