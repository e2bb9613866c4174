"""A tiny experiment, run by a copy of the project: a test may edit its code, and no commit of the
checkout changes its results."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from pipeline.atomic import sha256

ROOT = Path(__file__).parent.parent
PROJECT = ("Snakefile", "config.yaml", "rules", "pipeline", "profiles")
BLOCK = {
    "datasets": ["digits"],
    "models": ["tiny"],
    "norms": ["none"],
    "recipes": ["sgd", "wild"],
    "n_per_class": [8],
    "seeds": [0],
}
BOUNDED = BLOCK | {
    "datasets": ["digits-2"],
    "models": ["binary"],
    "recipes": ["sgd"],
    "n_per_class": [40],
    "cubes": ["bounds"],
}
TINY = {
    "datasets": {"images": {"source": "folder", "path": "images"}},
    "models": {
        "tiny": {"family": "fnet", "width": 6, "depth": 1},
        "binary": {"family": "fnet", "width": 4, "depth": 1, "single_logit": True},
    },
    "recipes": {
        "sgd": {"lr": 0.05, "batch": 16, "epochs": 4, "checkpoints": [0, 4], "weight_decay": 0.0},
        "wild": {"lr": 1e8, "batch": 16, "epochs": 4, "checkpoints": [0, 2, 4]},
        "tuned": {
            "sweep": {"rates": [0.05, 1e8]},
            "batch": 16,
            "epochs": 4,
            "checkpoints": [0, 4],
        },
    },
    "grid": [
        BLOCK,
        BLOCK | {"datasets": ["images"], "recipes": ["tuned"], "n_per_class": [4]},
        BOUNDED,
    ],
    "spectrum": {"top": {"Hess": 9, "G": 9, "H": 2}, "steps": 12, "trace_probes": 4},
    "hierarchy": {"steps": 12, "trace_probes": 4},
    "layers": {"full": 5},
    "theory": {"widths": [32, 64], "seeds": [0], "examples": 100},
    "bounds": {"methods": ["base", "iter"], "epochs": 12, "batch": 20, "samples": 50},
    "compute": {"device": "cpu"},
    "figures": {"dpi": 60},
}


def begin(folder):
    """Put the project and a folder of images of two classes into a new folder."""
    project = folder / "project"
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            project.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(120 * label, 120 * label + 120, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def command(folder, settings, *arguments):
    """Return the command that runs an experiment in its folder, on two cores."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(folder / "project/Snakefile")]
    words += ["--directory", str(folder), "--configfile", str(folder / "tiny.yaml")]
    return [*words, "--workflow-profile", "none", "--cores", "2", *arguments]


def environment(folder):
    return os.environ | {"XDG_CACHE_HOME": str(folder / ".cache")}


def snakemake(folder, settings, *arguments, check=True):
    """Run an experiment, and return what Snakemake says."""
    words = command(folder, settings, *arguments)
    done = subprocess.run(words, capture_output=True, text=True, env=environment(folder))
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder, settings):
    """Return how many jobs of each rule a dry run lists, without the target rule."""
    text = snakemake(folder, settings, "--dry-run")
    table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", text, re.S)
    rows = dict(line.split() for line in table[1].splitlines()) if table else {}
    return {rule: int(count) for rule, count in rows.items() if rule not in ("all", "total")}


def changed(settings, path, value):
    """Return settings with another value at a path of keys and indices."""
    settings = json.loads(json.dumps(settings))
    inside = settings
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return settings


def products(folder):
    """Return the checksum of every result, hidden files and logs left out, by its path."""
    results = folder / "results"
    return {
        str(path.relative_to(results)): sha256(path)
        for path in results.rglob("*")
        if path.is_file()
        and path.relative_to(results).parts[0] not in ("logs", "benchmarks")
        and not any(part.startswith(".") for part in path.relative_to(results).parts)
    }


def log_of(folder, rule):
    """Return what all of a rule's jobs have logged."""
    logs = sorted((folder / "results" / "logs").rglob("*.log"))
    return "".join(log.read_text() for log in logs if rule in str(log.relative_to(folder)))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-9])
