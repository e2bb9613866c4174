"""The rehearsal of a job: its data are read and its network is built, and nothing is written."""

from pathlib import Path

import torch

from pipeline.errors import AnatomyError, DataError
from pipeline.jobs.train import beginning
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
    beginning(run, job, access, results=results, device=torch.device("cpu"))
    augmentation(job.recipe.augment, job.dataset)
