"""A run and its path: the six words that name one trained network."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import ArtifactError

PATTERN = "{dataset}/{model}/{norm}/{recipe}/n{n_per_class}/seed{seed}"
TRAINING_FILES = ("run.json", "history.csv")
SWEEP_FILE = "sweep.csv"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
_PART = re.compile(rf"epoch(?P<epoch>\d+)/(?P<split>{NAME})/(?P<cube>{NAME})\.zarr\.zip")
_PATH = re.compile(
    rf"(?P<dataset>{NAME})/(?P<model>{NAME})/(?P<norm>{NAME})/(?P<recipe>{NAME})"
    r"/n(?P<n_per_class>\d+)/seed(?P<seed>\d+)"
)


@dataclass(frozen=True, order=True)
class Run:
    """One trained network; ``n_per_class`` 0 stands for the full training set."""

    dataset: str
    model: str
    norm: str
    recipe: str
    n_per_class: int
    seed: int

    @property
    def path(self) -> str:
        """The run's path below ``runs/`` and ``curvature/``."""
        return PATTERN.format(**asdict(self))

    @classmethod
    def from_path(cls, path: str | Path) -> "Run":
        """Return the run whose folder ``path`` is (its last six parts count)."""
        tail = "/".join(PurePosixPath(path).parts[-6:])
        match = _PATH.fullmatch(tail)
        if match is None:
            raise ArtifactError(
                f"{path} is not the folder of a run: it should end in {PATTERN}, "
                "such as digits/lenet5/none/sgd/n100/seed0"
            )
        words = match.groupdict()
        return cls(**words | {"n_per_class": int(words["n_per_class"]), "seed": int(words["seed"])})


def run_folder(results: str | Path, run: Run) -> Path:
    """Return the folder of a trained run."""
    return Path(results) / "runs" / run.path


def results_of(folder: str | Path) -> Path:
    """Return the results root that a run's folder lies in: the inverse of ``run_folder``."""
    return Path(folder).parents[6]


def checkpoint_path(folder: str | Path, epoch: int) -> Path:
    """Return the checkpoint of an epoch in a run's folder."""
    return Path(folder) / "checkpoints" / f"epoch{epoch}.safetensors"


def overlap_path(results: str | Path, dataset: str, model: str, norm: str) -> Path:
    """Return the part of the overlap cube for all runs of a network on a data set."""
    return Path(results) / "curvature" / dataset / model / norm / "overlap.zarr.zip"


def theory_path(results: str | Path) -> Path:
    """Return the part of the theory cube."""
    return Path(results) / "theory" / "theory.zarr.zip"


def comparison_paths(results: str | Path) -> dict[str, Path]:
    """Return the files of the comparison with the papers' values: tables and figure."""
    root = Path(results)
    return {suffix: root / f"comparison.{suffix}" for suffix in ("csv", "md")} | {
        suffix: root / "figures" / f"comparison.{suffix}" for suffix in ("svg", "png")
    }


@dataclass(frozen=True)
class Part:
    """One checkpoint of a run on one split, as a cube's part tells of it."""

    results: Path
    run: Run
    epoch: int
    split: str
    cube: str

    @classmethod
    def from_path(cls, path: str | Path) -> "Part":
        """Return the part that ``path`` names: the inverse of ``part_path``."""
        path = Path(path)
        match = _PART.fullmatch("/".join(path.parts[-3:]))
        if match is None or len(path.parts) < 10:
            raise ArtifactError(
                f"{path} is not the path of a part: it should end in curvature/{PATTERN}/epoch<e>/"
                "<split>/<cube>.zarr.zip"
            )
        run = Run.from_path(path.parents[2])
        return cls(path.parents[9], run, int(match["epoch"]), match["split"], match["cube"])

    @property
    def folder(self) -> Path:
        """The folder of the trained run."""
        return run_folder(self.results, self.run)


def bounds_path(results: str | Path, run: Run, method: str) -> Path:
    """Return the part of the bounds cube of one run and method."""
    return Path(results) / "curvature" / run.path / method / "bounds.zarr.zip"


def part_path(results: str | Path, run: Run, epoch: int, split: str, cube: str) -> Path:
    """Return the curvature part of a cube for one checkpoint on one split."""
    return Path(results) / "curvature" / run.path / f"epoch{epoch}" / split / f"{cube}.zarr.zip"


def log_path(results: str | Path, rule: str, name: str = "") -> Path:
    """Return the log of a rule's job; ``name`` tells it from the rule's other jobs."""
    logs = Path(results) / "logs"
    return logs / rule / f"{name}.log" if name else logs / f"{rule}.log"
