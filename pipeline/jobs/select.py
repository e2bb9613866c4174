"""The choice among a sweep's candidates: the best one's files become the run's."""

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

from pipeline.atomic import replacing, sha256
from pipeline.progress import say
from pipeline.provenance import provenance
from pipeline.runs import SWEEP_FILE, Run, checkpoint_path, results_of, run_folder
from pipeline.scratch import only_maker
from pipeline.tasks import SelectJob
from pipeline.training.record import read_record, refuse_altered


@dataclass(frozen=True)
class Candidate:
    """How one learning rate ended: ``lr`` of its recipe, and the run's last test error.

    ``diverged`` is 1 where training stopped because the loss was no longer finite.
    """

    recipe: str
    lr: float
    test_error: float
    test_loss: float
    diverged: int
    selected: int = 0


def select_run(folder: Path, job: SelectJob) -> None:
    """Write the run whose folder is ``folder`` as the best of its candidates, and sweep.csv.

    Best is the lowest test error after the last epoch; of equals, the lowest test loss.  A
    candidate that diverged loses to any that did not; where all did, so does the run.
    Raises ArtifactError where a candidate's files are not whole, or not those of its record.
    """
    with only_maker(folder / "run.json"):
        _select(folder, job)


def _select(folder: Path, job: SelectJob) -> None:
    run = Run.from_path(folder)
    results = results_of(folder)
    folders = {name: run_folder(results, replace(run, recipe=name)) for name in job.candidates}
    records = {name: read_record(path) for name, path in folders.items()}
    candidates = [_candidate(name, path, records[name]) for name, path in folders.items()]
    best = min(candidates, key=lambda one: (one.diverged, one.test_error, one.test_loss))
    say(f"{run.path}: lr {best.lr:g}, test error {best.test_error:.4f}, of {len(candidates)} rates")
    source, record = folders[best.recipe], records[best.recipe]
    for epoch in job.checkpoints:
        checkpoint = checkpoint_path(source, epoch)
        refuse_altered(source, checkpoint, record["checkpoints"].get(str(epoch)))
        with replacing(checkpoint_path(folder, epoch)) as staged:
            copyfile(checkpoint, staged)
    with replacing(folder / "history.csv") as staged:
        copyfile(source / "history.csv", staged)
    _write_table(folder / SWEEP_FILE, candidates, best)
    about = provenance(
        settings=job.model_dump(mode="json"), code=job.code, device="cpu", seeds={"run": run.seed}
    )
    told = {
        "run": asdict(run),
        "tables": record["tables"] | {SWEEP_FILE: sha256(folder / SWEEP_FILE)},
        "selection": {"recipe": best.recipe, "lr": best.lr, "provenance": about},
    }
    with replacing(folder / "run.json") as staged:
        staged.write_text(json.dumps(record | told, indent=1) + "\n", encoding="utf-8")


def _candidate(name: str, folder: Path, record: dict[str, Any]) -> Candidate:
    """Return how a candidate ended.  Raises ArtifactError where its history is not whole."""
    history = folder / "history.csv"
    refuse_altered(folder, history, record["tables"].get(history.name))
    with history.open(encoding="utf-8", newline="") as lines:
        last = list(csv.DictReader(lines))[-1]
    return Candidate(
        recipe=name,
        lr=record["provenance"]["settings"]["recipe"]["lr"],
        test_error=1 - float(last["test_accuracy"]),
        test_loss=float(last["test_loss"]),
        diverged=int(last["diverged"]),
    )


def _write_table(file: Path, candidates: list[Candidate], best: Candidate) -> None:
    with replacing(file) as staged, staged.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(asdict(best)), lineterminator="\n")
        writer.writeheader()
        for one in candidates:
            writer.writerow(asdict(replace(one, selected=int(one is best))))
