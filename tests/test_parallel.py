"""Data-parallel jobs: two gloo processes give what one gives, to rounding."""

import os
import subprocess
import sys

import numpy as np
import xarray as xr
from test_hierarchy_job import JOB, part_of
from test_layers_job import JOB as LAYERS_JOB
from test_layers_job import part_of as layers_of
from test_spectrum_job import JOB as SPECTRUM_JOB
from test_spectrum_job import parts

from pipeline.cubes.store import read_part
from pipeline.fingerprint import PACKAGE
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra

# What is at the level of rounding itself.
ROUNDING = (
    "residual",
    "bottom_residual",
    "identity_error",
    "embedding",
    "embedding_divergence",
    "residual_share",
)
SCRIPT = """\
import sys
from pathlib import Path
from pipeline.curvature import recorded
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.tasks import HierarchyJob, LayersJob, SpectrumJob
recorded.RECORD_ABOVE = 0.0
spectra, levels, layers = ([Path(file) for file in text.split()] for text in sys.argv[1:4])
write_spectra(spectra, SpectrumJob.model_validate_json(sys.argv[4]))
write_hierarchies(levels, HierarchyJob.model_validate_json(sys.argv[5]))
write_layers(layers, LayersJob.model_validate_json(sys.argv[6]))
"""


def test_two_processes_give_what_one_gives(trained):
    # Traces from products, and only some of the classes' pairs.
    levels = JOB.hierarchy.model_copy(update={"exact": 0, "classes": 4})
    levels = JOB.model_copy(update={"hierarchy": levels})
    asked = [list(parts(trained, (30,)).values()), [part_of(trained)], [layers_of(trained)]]
    write_spectra(asked[0], SPECTRUM_JOB)
    write_hierarchies(asked[1], levels)
    write_layers(asked[2], LAYERS_JOB)
    files = [file for some in asked for file in some]
    alone = [read_part(file) for file in files]
    for file in files:
        file.unlink()
    script = trained.parents[6] / "both.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(script), *(" ".join(map(str, some)) for some in asked)]
    command += [job.model_dump_json() for job in (SPECTRUM_JOB, levels, LAYERS_JOB)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not list(trained.parents[6].rglob("*.products"))
    for one, file in zip(alone, files, strict=True):
        two = read_part(file)
        xr.testing.assert_allclose(
            one.drop_vars(ROUNDING, errors="ignore"),
            two.drop_vars(ROUNDING, errors="ignore"),
            rtol=1e-7,
            atol=1e-9,
        )
        if "converged" in one:
            assert np.array_equal(one.converged, two.converged, equal_nan=True)


def test_the_command_starts_as_many_processes_as_it_is_told(trained):
    write_layers([layers_of(trained)], LAYERS_JOB)
    alone = read_part(layers_of(trained)).eigenvalue
    layers_of(trained).unlink()
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "layers",
        str(layers_of(trained)),
        "--processes",
        "2",
    ]
    command += ["--job", LAYERS_JOB.model_dump_json()]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("$ python -m pipeline") == 1
    # Sums in another order: equal to rounding, and not bit for bit.
    found = read_part(layers_of(trained)).eigenvalue
    assert np.allclose(found, alone, rtol=1e-9, atol=0)
    assert not np.array_equal(found, alone)
