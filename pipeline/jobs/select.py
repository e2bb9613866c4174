"""The choice among a sweep's candidates: the best one's files become the run's."""

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copyfile

from pipeline.atomic import replacing
from pipeline.errors import ArtifactError
from pipeline.progress import say
from pipeline.provenance import provenance
from pipeline.runs import SWEEP_FILE, Run, checkpoint_path, results_of, run_folder
from pipeline.tasks import SelectJob


@dataclass(frozen=True)
class Candidate:
    """How one learning rate ended: ``lr`` of its first epoch, and the run's last test error.

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
    """
    run = Run.from_path(folder)
    results = results_of(folder)
    folders = {name: run_folder(results, replace(run, recipe=name)) for name in job.candidates}
    candidates = [_candidate(name, path) for name, path in folders.items()]
    best = min(candidates, key=lambda one: (one.diverged, one.test_error, one.test_loss))
    say(f"{run.path}: lr {best.lr:g}, test error {best.test_error:.4f}, of {len(candidates)} rates")
    source = folders[best.recipe]
    for epoch in job.checkpoints:
        with replacing(checkpoint_path(folder, epoch)) as staged:
            copyfile(checkpoint_path(source, epoch), staged)
    with replacing(folder / "history.csv") as staged:
        copyfile(source / "history.csv", staged)
    _write_table(folder / SWEEP_FILE, candidates, best)
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    about = provenance(
        settings=job.model_dump(mode="json"), code=job.code, device="cpu", seeds={"run": run.seed}
    )
    selection = {"recipe": best.recipe, "lr": best.lr, "provenance": about}
    with replacing(folder / "run.json") as staged:
        text = json.dumps(record | {"run": asdict(run), "selection": selection}, indent=1) + "\n"
        staged.write_text(text, encoding="utf-8")


def _candidate(name: str, folder: Path) -> Candidate:
    """Return how a candidate ended.  Raises ArtifactError where its history is not whole."""
    file = folder / "history.csv"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        last = rows[-1]
        return Candidate(
            recipe=name,
            lr=float(rows[min(1, len(rows) - 1)]["lr"]),
            test_error=1 - float(last["test_accuracy"]),
            test_loss=float(last["test_loss"]),
            diverged=int(last["diverged"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"history {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error


def _write_table(file: Path, candidates: list[Candidate], best: Candidate) -> None:
    with replacing(file) as staged, staged.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(asdict(best)), lineterminator="\n")
        writer.writeheader()
        for one in candidates:
            writer.writerow(asdict(replace(one, selected=int(one is best))))
