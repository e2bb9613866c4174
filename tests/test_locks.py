"""Jobs that make the same wait for each other, whatever their settings."""

import errno
import fcntl
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_run import job_of
from torchvision import datasets
from workflow import ROOT

from pipeline import assign, runs, scratch
from pipeline.atomic import check_writable
from pipeline.config import Dataset
from pipeline.configfile import read_config
from pipeline.data.torchvision_sets import load_small
from pipeline.errors import DataError, StorageError
from pipeline.jobs.bounds import write_bound
from pipeline.jobs.comparison import write_comparison
from pipeline.jobs.cube import write_cube_of
from pipeline.jobs.figure import draw_figure
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.overlap import write_overlaps
from pipeline.jobs.select import select_run
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.theory import write_theory
from pipeline.jobs.train import train_run
from pipeline.tasks import SelectJob


@pytest.mark.parametrize("later", ["test", "edited since"])
def test_a_job_waits_for_another_of_any_settings_that_makes_the_same(tmp_path, capsys, later):
    order = []

    def work(code, begun):
        job = job_of().model_copy(update={"code": code})
        with (
            scratch.only_maker(tmp_path / "run.json"),
            scratch.scratch_folder(tmp_path, job) as own,
        ):
            order.append("in")
            begun.set()
            own.mkdir()
            time.sleep(0.5)
            own.rmdir()  # nobody else has removed it
            order.append("out")

    first, second = threading.Event(), threading.Event()
    pairs = (("test", first), (later, second))
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    threads[0].start()
    assert first.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert order == ["in", "out", "in", "out"]
    assert "run.json (" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_job_works_on_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with scratch.only_maker(tmp_path / "run.json"):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), scratch.only_maker(tmp_path / "run.json"):
        raise KeyError
    data = {"data_root": str(tmp_path), "download": True}
    fetched = []
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: fetched.append(self))
    with pytest.raises(DataError, match=r"mnist was not found .*Dataset not found"):
        load_small(Dataset(source="mnist"), "train", **data)
    assert fetched


def test_another_failure_of_a_lock_is_not_passed_over(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(OSError, match="Input/output"), scratch.only_maker(tmp_path / "run.json"):
        pass


RUN = runs.Run("digits", "lenet5", "none", "sgd", 50, 0)
WORDS = {"dataset": "digits", "model": "lenet5"}


def jobs(root):
    """Return each job of a configuration, what it makes, and how it is begun."""
    config = read_config([ROOT / "config.yaml"]).model_copy(update={"results": str(root)})
    folder, drawings = runs.run_folder(root, RUN), [root / "a.svg", root / "a.png"]
    found = {
        "train": (
            [folder / "run.json"],
            lambda: train_run(folder, job_of(), save_every=1e9),
        ),
        "select": (
            [folder / "run.json"],
            lambda: select_run(folder, SelectJob(candidates=("a",), checkpoints=(0,), code="")),
        ),
        "overlap": (
            [runs.overlap_path(root, "digits", "lenet5", "none")],
            lambda: write_overlaps(assign.overlap_job(config, norm="none", **WORDS)),
        ),
        "theory": ([runs.theory_path(root)], lambda: write_theory(assign.theory_job(config))),
        "bounds": (
            [runs.bounds_path(root, RUN, "base")],
            lambda: write_bound(
                runs.bounds_path(root, RUN, "base"),
                assign.bounds_job(config, method="base", **WORDS),
                save_every=1e9,
            ),
        ),
        "cube": (
            [root / "cubes" / "training.zarr"],
            lambda: write_cube_of("training", assign.cube_job(config, "training")),
        ),
        "figure": (
            drawings,
            lambda: draw_figure("training", drawings, assign.figure_job(config, "training")),
        ),
        "comparison": (
            list(runs.comparison_paths(root).values()),
            lambda: write_comparison(assign.comparison_job(config)),
        ),
    }
    stages = {"spectrum": write_spectra, "hierarchy": write_hierarchies, "layers": write_layers}
    for stage, write in stages.items():
        parts = [runs.part_path(root, RUN, epoch, "train", stage) for epoch in (10, 2)]
        job = assign.stage_job(config, stage, **WORDS)
        found[stage] = (parts, lambda write=write, parts=parts, job=job: write(parts, job))
    return found


class LockedError(Exception):
    pass


@pytest.mark.parametrize("rule", jobs(Path()))
def test_every_job_locks_what_it_makes_before_all_else(tmp_path, monkeypatch, rule):
    targets, begin = jobs(tmp_path)[rule]
    # In an order that is the same of all jobs.
    locks = [target.with_name(f".{target.name}.lock") for target in sorted(targets)]
    asked = []

    @contextmanager
    def last_is_held(file, work):
        asked.append(file)
        if len(asked) == len(locks):
            raise LockedError
        yield

    monkeypatch.setattr(scratch, "alone", last_is_held)
    with pytest.raises(LockedError):
        begin()
    assert asked == locks
    assert not list(tmp_path.iterdir())


def test_a_nearly_full_disk_is_refused_before_any_job(tmp_path, monkeypatch):
    check_writable(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 2**20))
    with pytest.raises(StorageError, match=r"has 3 MB free.*results:"):
        check_writable(tmp_path)
