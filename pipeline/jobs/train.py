"""The training job: from a run's words and settings to its folder."""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import nn

from pipeline.atomic import replacing, sha256
from pipeline.catalogue import SPLITS
from pipeline.data.checks import check_data
from pipeline.data.custom import is_custom
from pipeline.data.examples import Examples, run_examples
from pipeline.data_files import ABSENT, remember_fetched
from pipeline.device import device_name, prepare, within_memory
from pipeline.models.checks import check_outputs
from pipeline.models.registry import FAMILIES, build
from pipeline.provenance import provenance
from pipeline.runs import Run, checkpoint_path, results_of
from pipeline.scratch import only_maker, scratch_folder
from pipeline.streams import stream
from pipeline.tasks import Access, TrainJob
from pipeline.training.checkpoint import Row
from pipeline.training.loop import train

AS_IS = Access()  # by the defaults


@within_memory("Lower the recipe's batch, or set compute.stream to true")
def train_run(folder: Path, job: TrainJob, access: Access = AS_IS, *, save_every: float) -> None:
    """Train the run whose folder is ``folder``; write its checkpoints, history.csv and run.json.

    Until all is done, everything stands in a scratch folder keyed by the job, which a rerun of the
    same job resumes from.
    """
    run = Run.from_path(folder)
    device = prepare(job.compute)
    results = results_of(folder)
    start = beginning(run, job, access, results=results, device=device)
    train_set, test_set, network = start.train, start.test, start.network
    in_shape = tuple(train_set.inputs.shape[1:])
    if job.data == ABSENT:
        remember_fetched(job.dataset, data_root=access.data_root, results=results)
    with only_maker(folder / "run.json"), scratch_folder(folder, job) as scratch:
        history = train(
            network,
            job.recipe,
            train_set.to(device),
            test_set.to(device),
            dataset=job.dataset,
            seed=run.seed,
            scratch=scratch,
            save_every=save_every,
            label=run.path,
        )
        record = {
            "run": asdict(run),
            "in_shape": in_shape,
            "class_names": train_set.class_names,
            "data_digests": start.digests,
            "diverged_epoch": history[-1].epoch if history[-1].diverged else None,
            "access": access.model_dump(mode="json"),
            "provenance": provenance(
                settings=job.model_dump(mode="json"),
                code=job.code,
                device=device_name(device),
                seeds={"run": run.seed},
            ),
        }
        _publish(folder, scratch, job.recipe.checkpoints, history, record)


@dataclass(frozen=True)
class Beginning:
    """What a training starts from; ``digests`` are those of a custom source's splits, by name."""

    train: Examples
    test: Examples
    network: nn.Module
    digests: dict[str, str]


def beginning(
    run: Run, job: TrainJob, access: Access, *, results: Path, device: torch.device
) -> Beginning:
    """Return the training and test examples and the new network of a run, after all checks.

    Raises DataError or AnatomyError if the data or the network cannot be trained on.
    """
    checked = check_data(job.dataset, data_root=access.data_root, download=access.download)
    # Only a user's function may return other examples when it is called again.
    digests = {split: facts.digest for split, facts in checked.items() if is_custom(job.dataset)}
    train_set, test_set = (
        run_examples(
            run, job, access, split, results=results, device=device, digest=digests.get(split)
        )
        for split in SPLITS
    )
    in_shape, classes = tuple(train_set.inputs.shape[1:]), len(train_set.class_names)
    seed = stream(run.seed, "init")
    network = build(job.model, run.norm, in_shape, classes, init=job.recipe.init, seed=seed)
    network.to(device)
    if job.model.family not in FAMILIES:
        check_outputs(network, job.model, in_shape, classes)
    return Beginning(train_set, test_set, network, digests)


def _publish(
    folder: Path,
    scratch: Path,
    checkpoints: tuple[int, ...],
    history: list[Row],
    record: dict[str, Any],
) -> None:
    """Write what the rule declares, run.json last."""
    digests = {}
    for epoch in sorted(checkpoints):
        with replacing(checkpoint_path(folder, epoch)) as staged:
            copyfile(checkpoint_path(scratch, epoch), staged)
        digests[epoch] = sha256(checkpoint_path(folder, epoch))
    table = folder / "history.csv"
    with replacing(table) as staged, staged.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(history[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)
    told = {"checkpoints": digests, "tables": {table.name: sha256(table)}}
    with replacing(folder / "run.json") as staged:
        staged.write_text(json.dumps(record | told, indent=1) + "\n", encoding="utf-8")
