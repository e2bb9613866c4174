"""The rehearsal of a job: its data are read and its network is built, and nothing is written."""

from pathlib import Path

import torch

from pipeline.catalogue import SPLITS
from pipeline.data.examples import run_examples
from pipeline.errors import AnatomyError, DataError
from pipeline.models.registry import build
from pipeline.runs import Run, results_of
from pipeline.tasks import Access, TrainJob
from pipeline.training.augment import augmentation


def rehearse_jobs(tasks: list[dict[str, str]]) -> None:
    """Raise AnatomyError if the training of a run cannot begin.

    Each task has the ``folder`` of a run, its ``job`` and its ``access``.
    """
    for task in tasks:
        run, job = Run.from_path(task["folder"]), TrainJob.model_validate_json(task["job"])
        access = Access.model_validate_json(task["access"])
        try:
            _begin(run, job, access, results_of(Path(task["folder"])))
        except AnatomyError as error:
            raise type(error)(f"{run.path}: {error}") from error
        except Exception as error:  # raised by a function of the user
            raise DataError(f"{run.path}: {type(error).__name__}: {error}") from error


def _begin(run: Run, job: TrainJob, access: Access, results: Path) -> None:
    device = torch.device("cpu")
    train, _ = (
        run_examples(run, job, access, split, results=results, device=device) for split in SPLITS
    )
    in_shape, classes = tuple(train.inputs.shape[1:]), len(train.class_names)
    build(job.model, run.norm, in_shape, classes, init=job.recipe.init, seed=0)
    augmentation(job.recipe.augment, job.dataset)
