import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "check",
    "status",
    "plan",
    "why",
    "schema",
    "train",
    "spectrum",
    "hierarchy",
    "layers",
    "overlap",
    "theory",
    "bounds",
    "cube",
    "figure",
)


def pipeline(*arguments):
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_lists_the_commands():
    text = pipeline("--help").stdout
    assert all(command in text for command in COMMANDS)


def test_check_tells_a_configuration():
    assert "15 runs, results in results" in pipeline("check").stdout
    done = pipeline("check", "--configfile", "config.yaml", "--configfile", "presets/mnist.yaml")
    assert "7 runs, results in results-mnist" in done.stdout


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_each_preset_is_valid_and_has_a_root_of_its_own(preset):
    done = pipeline("check", "--configfile", "config.yaml", "--configfile", str(preset))
    assert f"results in results-{preset.stem}\n" in done.stdout, done.stderr


def test_a_refusal_is_one_message(tmp_path):
    (tmp_path / "bad.yaml").write_text("grid: []\n")
    done = pipeline("check", "--configfile", "config.yaml", "--configfile", f"{tmp_path}/bad.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the configuration is refused")
    assert "bad.yaml:1: grid" in done.stderr
    assert "Traceback" not in done.stderr
