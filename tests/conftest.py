import fcntl
import gc
import os
import shutil
from collections import OrderedDict

import pytest
import torch
from small_run import RECIPE, folder_of, job_of
from torch import nn
from workflow import TINY, begin, snakemake

from pipeline.jobs.train import train_run
from pipeline.models.fnet import fnet
from pipeline.progress import say_once

torch.set_num_threads(1)


def _convolution(classes: int, norm: str) -> nn.Sequential:
    layers = [("conv", nn.Conv2d(1, 3, 3)), ("relu", nn.ReLU())]
    if norm == "batch":
        layers.append(("bn", nn.BatchNorm2d(3)))
    layers += [("pool", nn.MaxPool2d(2)), ("flat", nn.Flatten()), ("fc", nn.Linear(12, classes))]
    return nn.Sequential(OrderedDict(layers))


def _problem(kind: str, norm: str, classes: int):
    """Return a small float64 network with lived-in running statistics, and 13 examples."""
    torch.manual_seed(0)
    if kind == "fnet":
        model = fnet((1, 6, 6), classes, norm, width=5, depth=2)
    else:
        model = _convolution(classes, norm)
    model = model.double()
    inputs = torch.randn(13, 1, 6, 6, dtype=torch.float64)
    labels = torch.arange(13) % classes
    model.train()
    for _ in range(3):
        model(torch.randn(20, 1, 6, 6, dtype=torch.float64))
    return model.eval(), inputs, labels


@pytest.fixture(
    params=[
        ("fnet", "none", 2),
        ("fnet", "none", 4),
        ("fnet", "batch", 4),
        ("convolution", "none", 3),
        ("convolution", "batch", 3),
    ],
    ids=lambda p: f"{p[0]}-{p[1]}-C{p[2]}",
)
def problem(request):
    return _problem(*request.param)


@pytest.fixture
def one_problem():
    return _problem("convolution", "batch", 3)


@pytest.fixture(autouse=True, scope="session")
def collections():
    """Have the collections that pieces of work ask for pass over what pytest has, as in jobs."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def told_nothing_yet():
    say_once.cache_clear()


@pytest.fixture(autouse=True)
def subnormal_numbers():
    """Undo what a job sets for its process: hypothesis, for one, refuses to go on without them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of the small run, trained."""
    folder = folder_of(tmp_path_factory.mktemp("runs"))
    train_run(folder, job_of(RECIPE), save_every=1e9)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return a folder in which the tiny experiment has been run: once for all test processes."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    made = shared / "finished"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder = begin(tmp_path_factory.mktemp("workflow"))
            snakemake(folder, TINY)
            folder.rename(made)
    return shutil.copytree(made, tmp_path_factory.mktemp("copies") / "workflow", symlinks=True)
