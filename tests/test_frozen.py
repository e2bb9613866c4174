"""A configuration that is edited while a workflow runs, and the jobs that read it anew."""

import json
import os
import subprocess

import pytest
import yaml
from workflow import TINY, begin, changed, command, environment

from pipeline import assign, data_files
from pipeline.assign import digests, train_job
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.frozen import VARIABLE, freeze, thawed

# Snakemake begins a job of a `run:` block as a cluster does: in a process that reads all anew.
PROBE = """
rule edit:
    output: touch("edited")
    shell: "cp later.yaml tiny.yaml"

rule probe:
    input: "edited"
    output: "seen"
    run: Path(output[0]).write_text(str(CONFIG.spectrum.steps))
"""


@pytest.fixture
def probed(tmp_path):
    folder = begin(tmp_path)
    with (folder / "project/Snakefile").open("a") as file:
        file.write(PROBE)
    later = changed(TINY, ["spectrum", "steps"], 13)
    (folder / "later.yaml").write_text(yaml.safe_dump(later))
    return folder


def seen(folder, settings, **variables):
    """Run the probe, and return the setting that its job went by."""
    # The target before the options, of which one takes several values.
    words = command(folder, settings, "--forcerun", "probe")
    words.insert(3, "seen")
    done = subprocess.run(
        words, env=environment(folder) | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int((folder / "seen").read_text())


def test_a_job_goes_by_the_settings_that_its_workflow_began_with(probed):
    assert seen(probed, TINY) == 12
    edited = yaml.safe_load((probed / "tiny.yaml").read_text())
    assert edited["spectrum"]["steps"] == 13
    kept = list((probed / "results/.config").iterdir())
    assert len(kept) == 1
    # A later workflow in a shell that has inherited the name of these settings.
    assert seen(probed, edited, **{VARIABLE: str(kept[0])}) == 13
    assert [file.exists() for file in kept] == [False]
    assert len(list((probed / "results/.config").iterdir())) == 1


def test_settings_come_back_as_they_were_and_those_of_others_go(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    settings = {"recipes": {"a": {"lr": 1e-8, "name": "1e-3", "on": True, "none": None}}}
    assert thawed(settings, is_job=True) == settings
    first = freeze(settings, {}, str(tmp_path))
    assert thawed({}, is_job=True) == settings
    second = freeze({"results": "b"}, {}, str(tmp_path))
    assert [*second.parent.iterdir()] == [second]
    os.environ[VARIABLE] = str(first)
    with pytest.raises(ConfigError, match=r"is gone: .* Cancel the job"):
        thawed(settings, is_job=True)
    for left in ("recipes: {}", "settings: [", ""):
        first.write_text(left)  # by another version, or cut
        with pytest.raises(ConfigError, match=r"what a workflow of this version keeps\. Cancel"):
            thawed(settings, is_job=True)
    assert thawed(settings, is_job=False) == settings
    assert VARIABLE not in os.environ


def told(config, name):
    """Return what a process that begins now tells the training on a data set of its files."""
    data_files._digest_of.cache_clear()
    return train_job(config, dataset=name, model="tiny", recipe="sgd").data


def test_a_job_is_told_of_code_and_data_as_its_workflow_was(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    mnist = {"source": "mnist"}
    settings = {
        "results": str(tmp_path / "results"),
        "data_root": str(tmp_path),
        "datasets": {"mnist": mnist, "mnist-random": mnist | {"random_labels": True}},
        "models": {"tiny": TINY["models"]["tiny"]},
        "recipes": {"sgd": {"lr": 0.1, "epochs": 1, "checkpoints": [1]}},
        "grid": [
            {
                "datasets": ["mnist", "mnist-random"],
                "models": ["tiny"],
                "norms": ["none"],
                "recipes": ["sgd"],
                "n_per_class": [0],
                "seeds": [0],
            }
        ],
    }
    config = Config.model_validate_json(json.dumps(settings))
    names = ("mnist", "mnist-random")
    assert [told(config, name) for name in names] == ["absent", "absent"]
    freeze(settings, digests(config), config.results)
    # Code that is edited now is refused by the job's command, which is told what it was.
    code = train_job(config, dataset="mnist", model="tiny", recipe="sgd").code
    monkeypatch.setattr(assign, "fingerprint", lambda *_: "edited")
    assert train_job(config, dataset="mnist", model="tiny", recipe="sgd").code == code
    # The first job, in a process of its own, fetches the files; the second begins meanwhile.
    assert told(config, "mnist") == "absent"
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"one")
    assert told(config, "mnist-random") == "absent"
    where = {"data_root": config.data_root, "results": config.results}
    data_files.remember_fetched(config.datasets["mnist"], **where)
    # The next start, to which the shell hands nothing on.
    os.environ.clear()
    assert [told(config, name) for name in names] == ["absent", "absent"]
