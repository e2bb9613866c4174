"""A small run on digits that many tests train: its recipe, its job and its folder."""

from pipeline.config import Dataset, FNet
from pipeline.fingerprint import fingerprint
from pipeline.recipes import Recipe
from pipeline.runs import Run, part_path
from pipeline.stages import Compute
from pipeline.tasks import TrainJob

RECIPE = Recipe(lr=0.05, batch=16, epochs=30, checkpoints=(0, 3, 30))


def by_command(job, rule):
    """Return a job that a command takes: with the digest of its code as it is."""
    modules = (f"pipeline.jobs.{rule}",)
    about = {"modules": modules, "code": fingerprint(*modules)}
    return job.model_copy(update=about)


def job_of(recipe=RECIPE, **compute):
    return TrainJob(
        dataset=Dataset(source="digits").resolved(),
        model=FNet(family="fnet", width=8, depth=1),
        recipe=recipe,
        compute=Compute(device="cpu", **compute),
        code="test",
    )


def parts_of(folder, cube, epochs=(30,), splits=("train",)):
    """Return the parts of a run by epoch and split."""
    root, run = folder.parents[6], Run.from_path(folder)
    return {(e, s): part_path(root, run, e, s, cube) for e in epochs for s in splits}


def folder_of(root, norm="batch", seed=0):
    return root / "runs" / "digits" / "small" / norm / "sgd" / "n9" / f"seed{seed}"
