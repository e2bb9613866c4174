"""Data-parallel jobs: two gloo processes give what one gives, to rounding."""

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from small_run import by_command, folder_of, job_of, parts_of
from test_hierarchy_job import JOB, part_of
from test_layers_job import JOB as LAYERS_JOB
from test_layers_job import part_of as layers_of
from test_spectrum_job import JOB as SPECTRUM_JOB
from test_spectrum_job import parts

from pipeline.config import FNet
from pipeline.cubes.store import read_part
from pipeline.fingerprint import PACKAGE
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe

# What is at the level of rounding itself.
ROUNDING = (
    "residual",
    "layer_residual",
    "bottom_residual",
    "identity_error",
    "identity_error_stderr",
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
asked, jobs = sys.argv[1:5], sys.argv[5:]
spectra, levels, layers, exact = ([Path(file) for file in text.split()] for text in asked)
write_spectra(spectra, SpectrumJob.model_validate_json(jobs[0]))
write_hierarchies(levels, HierarchyJob.model_validate_json(jobs[1]))
write_layers(layers, LayersJob.model_validate_json(jobs[2]))
write_spectra(exact, SpectrumJob.model_validate_json(jobs[3]))
"""


def part_of_wide(root):
    """Return the part of a network of 1242 parameters, with 900 factors: by their Gram matrix."""
    wide = FNet(family="fnet", width=16, depth=1)
    job = job_of(Recipe(lr=0.05, epochs=1, checkpoints=(1,))).model_copy(update={"model": wide})
    train_run(folder_of(root), job, save_every=1e9)
    return parts_of(folder_of(root), "spectrum", (1,))[1, "train"]


def test_two_processes_give_what_one_gives(trained, tmp_path):
    # Traces from products, and only some of the classes' pairs.
    levels = JOB.hierarchy.model_copy(update={"exact": 0, "classes": 4})
    levels = JOB.model_copy(update={"hierarchy": levels})
    asked = [list(parts(trained, (30,)).values()), [part_of(trained)], [layers_of(trained)]]
    write_spectra(asked[0], SPECTRUM_JOB)
    write_hierarchies(asked[1], levels)
    write_layers(asked[2], LAYERS_JOB)
    exact = SPECTRUM_JOB.spectrum.model_copy(update={"exact": 1000, "matrices": ("G",)})
    exact = SPECTRUM_JOB.model_copy(update={"spectrum": exact})
    asked.append([part_of_wide(tmp_path)])
    write_spectra(asked[3], exact)
    assert read_part(asked[3][0]).exact == 1
    files = [file for some in asked for file in some]
    alone = [read_part(file) for file in files]
    for file in files:
        file.unlink()
    jobs = [job.model_dump_json() for job in (SPECTRUM_JOB, levels, LAYERS_JOB, exact)]
    by_two_alone(tmp_path, SCRIPT, *(" ".join(map(str, some)) for some in asked), *jobs)
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


WAITING = """\
import os
import sys
import time
from datetime import timedelta
from torch import distributed
from pipeline.jobs import parts
from pipeline.tasks import Access, LayersJob
def prepare(_):
    distributed.init_process_group("gloo")
    distributed.barrier()
    # torch 2.11 has no public name for it.
    core = distributed.distributed_c10d
    set_timeout = getattr(distributed, "set_timeout", core._set_pg_timeout)
    set_timeout(timedelta(seconds=2))
parts.prepare = prepare
if os.environ["RANK"] == "0":
    only_maker = parts.only_maker
    def late(*files):
        time.sleep(5)  # as where another job has the lock
        return only_maker(*files)
    parts.only_maker = late
parts.write_parts([], LayersJob.model_validate_json(sys.argv[1]), Access(), None, labels={})
print("together")
distributed.destroy_process_group()
"""


def test_ranks_wait_for_a_lock_longer_than_for_each_other(tmp_path):
    done = by_two_alone(tmp_path, WAITING, LAYERS_JOB.model_dump_json())
    assert done.stdout.count("together") == 2


def by_two_alone(tmp_path, text, *words):
    """Run a script by two processes, and return what they said."""
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    words = [*command, str(script), *words]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def by_two(file, job):
    """Run the layers' command for ``file`` with two processes."""
    command = [sys.executable, "-m", "pipeline", "layers", str(file), "--processes", "2"]
    command += ["--job", job.model_dump_json(), "--access", "{}"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("fault", ["edited", "lost"])
def test_what_several_processes_refuse_ends_their_log(trained, tmp_path, fault):
    job, file = by_command(LAYERS_JOB, "layers"), layers_of(trained)
    if fault == "edited":
        job = job.model_copy(update={"code": "other"})
    else:
        file = layers_of(folder_of(tmp_path))
    done = by_two(file, job)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("error: ")
    assert ("has been edited" if fault == "edited" else "is missing") in last


def test_the_command_starts_as_many_processes_as_it_is_told(trained):
    write_layers([layers_of(trained)], LAYERS_JOB)
    alone = read_part(layers_of(trained)).layer_eigenvalue
    layers_of(trained).unlink()
    done = by_two(layers_of(trained), by_command(LAYERS_JOB, "layers"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("$ python -m pipeline") == 1
    # Sums in another order: equal to rounding, and not bit for bit.
    found = read_part(layers_of(trained)).layer_eigenvalue
    assert np.allclose(found, alone, rtol=1e-9, atol=0)
    assert not np.array_equal(found, alone)


REFUSING = """\
import os
import torch
from torch import distributed, nn
from pipeline.curvature import gauss_newton, hessian
from pipeline.errors import AnatomyError
distributed.init_process_group("gloo")
layer = nn.utils.parametrizations.weight_norm(nn.Linear(9, 4))
data = torch.randn(1, 9), torch.zeros(1, dtype=torch.int64)  # the second process has none
try:
    hessian(nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)), data)
except AnatomyError as error:
    os.write(1, f"refused: {str(error)[:15]}\\n".encode())  # in one piece: two processes write
gauss_newton(nn.Linear(9, 3), data)  # they go on together
distributed.destroy_process_group()  # gloo's threads may end a process that leaves without
"""


def test_what_one_process_refuses_all_do(tmp_path):
    done = by_two_alone(tmp_path, REFUSING)
    assert sorted(line for line in done.stdout.splitlines() if "refused" in line) == [
        "refused: another process",
        "refused: the network's s",
    ]
