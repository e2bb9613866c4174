"""The choice among a sweep's candidates: the best one's files become the run's."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

from pipeline.atomic import replacing, sha256
from pipeline.errors import ArtifactError
from pipeline.progress import say
from pipeline.provenance import provenance
from pipeline.runs import SWEEP_FILE, Run, checkpoint_path, results_of, run_folder
from pipeline.scratch import only_maker
from pipeline.tasks import SelectJob


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
    records = {name: _record(path) for name, path in folders.items()}
    candidates = [_candidate(name, path, records[name]) for name, path in folders.items()]
    best = min(candidates, key=lambda one: (one.diverged, one.test_error, one.test_loss))
    say(f"{run.path}: lr {best.lr:g}, test error {best.test_error:.4f}, of {len(candidates)} rates")
    source, record = folders[best.recipe], records[best.recipe]
    for epoch in job.checkpoints:
        with replacing(checkpoint_path(folder, epoch)) as staged:
            copyfile(checkpoint_path(source, epoch), staged)
            if sha256(staged) != record.get("checkpoints", {}).get(str(epoch)):
                raise ArtifactError(
                    f"{checkpoint_path(source, epoch)} is not the file that run.json tells of (its "
                    f"SHA-256 differs). Delete {source / 'run.json'}, and snakemake trains it anew"
                )
    with replacing(folder / "history.csv") as staged:
        copyfile(source / "history.csv", staged)
    _write_table(folder / SWEEP_FILE, candidates, best)
    about = provenance(
        settings=job.model_dump(mode="json"), code=job.code, device="cpu", seeds={"run": run.seed}
    )
    selection = {"recipe": best.recipe, "lr": best.lr, "provenance": about}
    with replacing(folder / "run.json") as staged:
        text = json.dumps(record | {"run": asdict(run), "selection": selection}, indent=1) + "\n"
        staged.write_text(text, encoding="utf-8")


def _record(folder: Path) -> dict[str, Any]:
    """Return a candidate's record.  Raises ArtifactError where it is not whole."""
    with _whole("record", folder / "run.json") as file:
        return json.loads(file.read_text(encoding="utf-8"))


@contextmanager
def _whole(kind: str, file: Path) -> Iterator[Path]:
    """Give a file to read; what is not in it raises ArtifactError."""
    try:
        yield file
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{kind} {file} is corrupt ({error}). Delete it, and snakemake trains the run anew"
        ) from error


def _candidate(name: str, folder: Path, record: dict[str, Any]) -> Candidate:
    """Return how a candidate ended.  Raises ArtifactError where its history is not whole."""
    with _whole("record", folder / "run.json"):
        rate = float(record["provenance"]["settings"]["recipe"]["lr"])
    with _whole("history", folder / "history.csv") as file:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        last = rows[-1]
        return Candidate(
            recipe=name,
            lr=rate,
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
