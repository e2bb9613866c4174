"""The script for GPU machines: whole at tiny size, without Snakemake and Zarr."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import AnatomyError

ROOT = Path(__file__).parent.parent
# Several calls of the script in one process, for importing torch takes seconds.
ALONE = """
import json, runpy, sys
for name in json.loads(sys.argv.pop()):
    sys.modules[name] = None  # an import of it raises
sys.path.insert(0, "benchmarks")
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    runpy.run_path("benchmarks/full_size.py", run_name="__main__")
"""


def spared():
    """Return the modules of our dependencies that docs/full-size.md does not name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    told = re.search(r"pip install (.*)", (ROOT / "docs/full-size.md").read_text())[1].split()
    # torchvision brings numpy and pillow; scikit-learn has this test's digits.
    left = asked - {*told, "torch", "torchvision", "numpy", "pillow", "scikit-learn"}
    assert left > {"snakemake", "zarr", "pyyaml"}
    return [{"pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in left]


TINY = (
    *("--dataset", "digits", "--n-per-class", "3", "--test-per-class", "2", "--splits", "test"),
    *("--width", "2", "--hidden", "4", "--epochs", "1", "--steps", "5", "--top", "4"),
    *("--device", "cpu"),
)


def test_the_script_runs_alone_and_goes_on_from_what_is_there(tmp_path):
    tiny = (*TINY, "--out", str(tmp_path))
    calls = json.dumps([(*tiny, "--matrices", "H"), tiny, (*tiny, "--lr", "0.5")])
    command = [sys.executable, "-c", ALONE, calls, json.dumps(spared())]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].startswith("error: --lr is 0.5"), ended.stderr
    first, second = (x for x in ended.stdout.splitlines() if x.startswith("| test | H |"))
    assert first == second  # its time too: nothing is made twice
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["spectra"]) == ["test/H", "test/Hess", "test/G"]
    for record in found["spectra"].values():
        assert record["basis_kept"] == record["steps"] == 5
        assert sum(record["weights"][0]) == pytest.approx(1)
        assert 0 < record["orthogonality"] < 1e-5
        assert record["dimension"] == found["training"]["parameters"]
    assert found["laws"]["test"]["identity_error"] < 1e-4
    assert "-2.7" not in ended.stdout  # S's exponent, of MNIST
    assert (tmp_path / "spectra.png").stat().st_size > 10_000


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return the script's module and a function that begins it with further words."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import full_size

    def told(*words):
        monkeypatch.setattr(sys, "argv", ["full_size.py", *TINY, "--out", str(tmp_path), *words])
        return full_size.options()

    return full_size, told


def test_a_killed_training_keeps_to_its_settings(script, monkeypatch):
    full_size, told = script

    def killed(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(full_size, "train", killed)
    told()
    with pytest.raises(KeyboardInterrupt):
        full_size.main()
    for words in (("--lr", "0.5"), ("--batch", "7"), ("--seed", "1"), ("--dtype", "float64")):
        with pytest.raises(AnatomyError, match=f"{words[0]} is {words[1]}"):
            full_size.opened(told(*words))


def test_what_changes_rounding_alone_may_change(script):
    full_size, told = script
    begun = full_size.opened(told())
    for words in (
        ("--download", "--data-root", "elsewhere"),
        ("--device", "cuda", "--threads", "3", "--chunk", "7", "--compiled"),
        ("--memory-gb", "2", "--basis-gb", "3", "--save-every", "5"),
    ):
        assert full_size.opened(told(*words)).found == begun.found


def test_exponents_of_s_are_those_of_its_network(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import full_size_report

    own = {"dataset": "mnist", "n_per_class": 1351, "norm": "batch", "width": None, "hidden": 4096}
    own |= {"test_per_class": 0, "epochs": 200}
    assert full_size_report.published({"settings": own}) == {"test": -2.7, "train": -2.2}
    others = ({"dataset": "digits"}, {"n_per_class": 10}, {"norm": "none"}, {"width": 16})
    for other in (*others, {"test_per_class": 10}, {"epochs": 2}):
        assert full_size_report.published({"settings": own | other}) == {}


def test_the_report_finds_a_known_law(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import full_size_report

    # Eigenvalues with density t**-2 from a hundredth of the largest on.
    values = 1 / np.linspace(1, 100, 4000)
    known = {"dimension": 4000, "steps": 30, "eigenvalues": [], "sketch": [1.0, 0.0]}
    record = known | {"nodes": [values.tolist()], "weights": [[1 / 4000] * 4000]}
    whole = record | {"sketch": [2.0, 0.1]}
    found = {"spectra": {"test/Hess": whole, "test/G": record, "test/H": record}}
    law = full_size_report.laws(found)["test"]
    assert law["exponent"] == pytest.approx(-2, abs=0.45)
    assert law["identity_error"] == pytest.approx(0.1 / np.hypot(2, 0.1))
