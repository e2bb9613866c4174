"""Jobs that are known to fail are refused before any starts, with file, line and key."""

import subprocess
import sys

import pytest
import yaml
from test_config import DEFAULT
from workflow import ROOT

from pipeline.command_line import check_command_line
from pipeline.configfile import read_config
from pipeline.errors import ConfigError
from pipeline.overlay import overlaid
from pipeline.preflight import preflight

MODULE = """
from math import sqrt
import torch_that_is_not_here
if True:
    def load(*, split, data_root, case="ok"): ...
def needs(split, data_root, *, size): ...
def old(split): ...
def build(in_shape, classes, norm, width=3): ...
def short(in_shape): ...
@staticmethod
def wrapped(): ...
"""
GRID = {
    "datasets": ["mine"],
    "models": ["net"],
    "norms": ["none"],
    "recipes": ["r"],
    "n_per_class": [0],
    "seeds": [0],
}


def refused(folder, monkeypatch, *, dataset=None, model=None, augment=None, **more):
    """Return what is said of an experiment with this data set, network and augmentation."""
    (folder / "given.py").write_text(MODULE)
    (folder / "broken.py").write_text("def load(:")
    (folder / "inner").mkdir(exist_ok=True)
    (folder / "inner" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "inner" / "nets.py").write_text("def build(in_shape, classes, norm): ...")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    recipe = {"lr": 0.1, "epochs": 1, "checkpoints": [1], "augment": augment or {}}
    settings = {
        "datasets": {"mine": dataset or {"source": "digits"}},
        "models": {"net": model or {"family": "lenet5"}},
        "recipes": {"r": recipe},
        "grid": [GRID],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings | more, sort_keys=False))
    files = [DEFAULT, folder / "mine.yaml"]
    try:
        preflight(read_config(files), overlaid(files), files)
    except ConfigError as error:
        return str(error)
    return ""


SOURCES = {
    "given:load": "",
    "given:sqrt": "",
    "given:wrapped": "",
    "absent:load": "there is no module absent",
    "given.more:load": "there is no module given.more",
    "given:laod": "defines no laod\n    cure: did you mean 'load'",
    "broken:load": "broken.py is not Python",
    "given:": "is not module:function",
    ":load": "is not module:function",
    "given:needs": "needs the option 'size'",
    "given:old": "takes no data_root",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_looked_up(source, tmp_path, monkeypatch):
    said = refused(tmp_path, monkeypatch, dataset={"source": source})
    assert SOURCES[source] in said
    assert bool(said) == bool(SOURCES[source])
    if said:
        assert "mine.yaml:3: datasets.mine." in said.replace("mine.yaml:2:", "mine.yaml:3:")


def test_an_option_that_a_function_does_not_take_is_refused(tmp_path, monkeypatch):
    dataset = {"source": "given:load", "options": {"cse": "x"}}
    said = refused(tmp_path, monkeypatch, dataset=dataset)
    assert "datasets.mine.options.cse: given:load takes no option 'cse'" in said
    assert "did you mean 'case'? known: case" in said


MODELS = {
    "given:build": "",
    "inner.nets:build": "",
    "inner.net:build": "no module inner.net",
    "given:short": "takes 1 arguments, but is called with 3",
    "given:bild": "did you mean 'build'",
}


@pytest.mark.parametrize("family", MODELS)
def test_a_network_is_looked_up_and_nothing_imported(family, tmp_path, monkeypatch):
    said = refused(tmp_path, monkeypatch, model={"family": family})
    assert MODELS[family] in said
    assert bool(said) == bool(MODELS[family])


AUGMENTED = {
    "RandomHorizontalFlip": ({"p": 0.3}, ""),
    "RandomCrop": ({"size": 32, "padding": 4}, ""),
    "RandomHorizontalFlop": ({}, "did you mean 'RandomHorizontalFlip'"),
    "randomCrop": ({"size": 3}, "did you mean 'RandomCrop'"),
    "RandomRotation": ({"degree": 3}, "no option 'degree'"),
    "ColorJitter": ({"bright": 3}, "no option 'bright'"),
    "RandomResizedCrop": ({}, "needs the option 'size'"),
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_augmentation_is_looked_up(name, tmp_path, monkeypatch):
    options, expected = AUGMENTED[name]
    said = refused(tmp_path, monkeypatch, augment={name: options})
    assert expected in said
    assert bool(said) == bool(expected)
    if said:
        assert f"recipes.r.augment.{name}" in said


ABSENT = {
    "a folder": ({"source": "folder", "path": "not-here"}, {}, "datasets.mine.path: there is no"),
    "half a folder": ({"source": "folder", "path": "half"}, {}, "half/test"),
    "mnist": ({"source": "mnist"}, {"download": False}, "data_root: mnist is not in"),
    "cifar": ({"source": "cifar10"}, {"download": False, "data_root": "x"}, "cifar10 is not in"),
    "imagenet": ({"source": "imagenet"}, {}, "imagenet is not in"),
    "mnist that is fetched": ({"source": "mnist"}, {}, ""),
}


@pytest.mark.parametrize("name", ABSENT)
def test_absent_data_are_refused_before_a_job(name, tmp_path, monkeypatch):
    dataset, more, expected = ABSENT[name]
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    said = refused(tmp_path, monkeypatch, dataset=dataset, **more)
    assert expected in said
    assert bool(said) == bool(expected)
    assert not said or "jobs need it, such as train mine/net/none/r/n0/seed0" in said


def test_check_refuses_and_nothing_imports_torch(tmp_path, monkeypatch):
    said = refused(tmp_path, monkeypatch, augment={"RandomCorp": {}})
    words = [sys.executable, "-m", "pipeline", "check", "--configfile", f"{tmp_path}/mine.yaml"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "mine.yaml" in ended.stderr
    assert "has no RandomCorp" in said
    assert "has no RandomCorp" in ended.stderr
    code = (
        "import sys; from pipeline.preflight import _augmentation_refusals as look; "
        "import pipeline.start; list(look(('a',), 'RandomCrop', {})); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


COMMANDS = {
    "--cores 2 --configfile a.yaml b.yml": None,
    "results/a.png --configfile a.yaml -n": None,
    "--configfile a.yaml --configfile b.yaml": "snakemake --configfile a.yaml b.yaml",
    "--configfile=a.yaml -n --configfiles b.yaml": "snakemake --configfile a.yaml b.yaml",
    "--configfile a.yaml results/run.csv": "snakemake results/run.csv --configfile a.yaml",
    "--configfile a.yaml r/comparison.md -n": "snakemake r/comparison.md --configfile a.yaml",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_that_snakemake_misreads_is_refused(line):
    if COMMANDS[line] is None:
        check_command_line(line.split())
        return
    with pytest.raises(ConfigError) as error:
        check_command_line(line.split())
    assert str(error.value).endswith(COMMANDS[line])
