import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_run import by_command
from typer.testing import CliRunner

from pipeline import cli
from pipeline.cli import app
from pipeline.configfile import read_config
from pipeline.stages import Compute, Theory
from pipeline.tasks import TheoryJob

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
    done = pipeline("check", "--configfile", "presets/mnist.yaml")
    assert "7 runs, results in results-mnist" in done.stdout


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_each_preset_is_valid_and_has_a_root_of_its_own(preset):
    done = pipeline("check", "--configfile", str(preset))
    # Some need data that a machine may lack, which is all that may be refused.
    absent = re.findall(r"^(?!error: the conf|    cure).+", done.stderr, re.M)
    assert done.returncode == 0 or all("jobs need it" in line for line in absent), done.stderr
    assert read_config([ROOT / "config.yaml", preset]).results == f"results-{preset.stem}"


SMALL = {
    "grid": [
        {
            "datasets": ["digits"],
            "models": ["fnet32x2"],
            "norms": ["none"],
            "recipes": ["sgd"],
            "n_per_class": [8],
            "seeds": [0],
            "cubes": ["training"],
        }
    ],
    "figures": {"names": ["training"]},
}


@pytest.mark.parametrize("command", ["check", "plan", "status"])
def test_a_file_alone_is_laid_over_the_projects_configuration(command, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(SMALL | {"results": str(tmp_path / "own")}))

    def told(*files):
        words = [word for file in files for word in ("--configfile", str(file))]
        done = CliRunner().invoke(app, [command, *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return re.sub(r"snakemake .* makes", "snakemake makes", done.output)

    monkeypatch.chdir(tmp_path)
    alone = told("own.yaml")
    assert alone == told(os.path.relpath(ROOT / "config.yaml"), "own.yaml")
    assert alone != told()


def test_a_refusal_is_one_message(tmp_path):
    (tmp_path / "bad.yaml").write_text("grid: []\n")
    done = pipeline("check", "--configfile", f"{tmp_path}/bad.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the configuration is refused")
    assert "bad.yaml:1: grid" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", [None, "some/part.zip"])
def test_a_full_disk_is_told_by_the_file_that_it_refused(file, monkeypatch, capsys):
    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    named = file or "the job's log"
    assert said.startswith(f"error: {named} cannot be written: No space left")


def test_a_job_whose_code_has_been_edited_since_is_refused(tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    job = by_command(
        TheoryJob(
            results="out",
            theory=Theory(widths=(16,), seeds=(0,), examples=20),
            compute=Compute(device="cpu"),
            code="",
        ),
        "theory",
    )
    command = [sys.executable, "-m", "pipeline", "theory", "--job", job.model_dump_json()]

    def run():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    module = tmp_path / "pipeline" / "anatomy" / "theory.py"
    text = module.read_text()
    module.write_text(text + "\n\ndef more():\n    return 1\n")
    done = run()
    assert done.returncode == 1
    assert "error: the code that this job runs (pipeline.jobs.theory, " in done.stderr
    assert f"the job's `code` is {job.code}. Start snakemake again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    module.write_text("# A comment.\n" + text)
    assert run().returncode == 0
    assert list((tmp_path / "out").rglob("*.zarr.zip"))
