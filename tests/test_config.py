import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline.assign import cube_job, figure_job, stage_job, train_job
from pipeline.config import Config
from pipeline.configfile import load_config, read_config
from pipeline.cubes.reference import cube_reference
from pipeline.errors import ConfigError
from pipeline.runs import Run, results_of, run_folder
from pipeline.tasks import part_places
from pipeline.workload import told, workload

ROOT = Path(__file__).parent.parent
DEFAULT = ROOT / "config.yaml"


def changed(path, value):
    """Return the default settings with one value changed, or removed where it is None."""
    settings = yaml.safe_load(DEFAULT.read_text())
    settings["recipes"]["late"] = settings["recipes"]["sgd"] | {"checkpoints": [60]}
    settings.setdefault("bounds", {})
    inside = settings
    for key in path[:-1]:
        inside = inside[key]
    if value is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = copy.deepcopy(value)
    return settings


BOUNDS = {
    "datasets": ["digits"],
    "models": ["fnet32x2"],
    "norms": ["none"],
    "recipes": ["sgd"],
    "n_per_class": [8],
    "seeds": [0],
    "cubes": ["bounds"],
}

SWEPT = {"epochs": 1, "checkpoints": [1]}

REFUSALS = {
    "unknown key": (["spektrum"], {}, ["spektrum", "unknown key", "spelling"]),
    "unknown inner key": (["recipes", "sgd", "momentun"], 0.5, ["recipes.sgd.momentun", "0.5"]),
    "wrong type": (["recipes", "sgd", "lr"], "fast", ["recipes.sgd.lr", "'fast'", "a number"]),
    "YAML's idea of 5e-4": (["recipes", "sgd", "lr"], "5e-4", ["'5e-4'", "0.0005"]),
    "missing": (["grid"], None, ["grid", "required", "add it"]),
    "unknown source": (["datasets", "digits", "source"], "digit", ["'digit'", "mean 'digits'"]),
    "unknown family": (["models", "lenet5", "family"], "lenet", ["'lenet'", "mean 'lenet5'"]),
    "unknown data set": (["grid", 0, "datasets", 0], "minst", ["grid[0].datasets[0]", "'mnist'"]),
    "unknown model": (["grid", 1, "models", 0], "lenet", ["grid[1].models[0]", "'lenet5'"]),
    "unknown recipe": (["grid", 0, "recipes", 0], "adam", ["grid[0].recipes[0]", "known: sgd"]),
    "unknown norm": (["grid", 0, "norms", 1], "layer", ["grid[0].norms[1]", "'none' or 'batch'"]),
    "empty grid": (["grid", 0, "seeds"], [], ["grid[0].seeds", "empty grid"]),
    "no grid": (["grid"], [], ["grid: []", "empty grid"]),
    "a seed named twice": (["grid", 0, "seeds"], [0, 1, 0], ["grid[0].seeds", "named twice"]),
    "checkpoint beyond": (
        ["recipes", "sgd", "checkpoints"],
        [0, 61],
        ["recipes.sgd.checkpoints[1]", "checkpoint 61", "last epoch, 60"],
    ),
    "too many examples": (
        ["grid", 0, "n_per_class"],
        [40, 155],
        ["grid[0].n_per_class[1]", "155", "digits has 154"],
    ),
    "unknown figure": (["figures", "names"], ["densty"], ["'densty'", "mean 'density'"]),
    "a width below the classes": (["theory"], {"widths": [16], "classes": 20}, ["width 16"]),
    "a figure of an absent matrix": (
        ["spectrum", "matrices"],
        ["Hess", "G"],
        ["spectrum.matrices", "power_law shows H", "leave power_law out"],
    ),
    "no number of eigenpairs": (["spectrum", "top"], {"Hess": 9, "H": 2}, ["matrices[1]", "of G"]),
    "folder without a path": (["datasets", "digits", "source"], "folder", ["needs a path"]),
    "less than the first attempt": (
        ["resources"],
        {"layers": {"runtime": 60, "most_runtime": 45}},
        ["resources.layers.most_runtime", "45 is less", "60", "lower resources.layers.runtime"],
    ),
    "foreign device": (["compute", "device"], "tpu", ["compute.device", "'tpu'"]),
    "a class in two groups": (
        ["datasets", "digits", "groups"],
        [[0, 1], [1, 2]],
        ["datasets.digits.groups[1]", "class 1", "one group"],
    ),
    "a class that is not there": (
        ["datasets", "digits", "groups"],
        [[0], [1, 10]],
        ["datasets.digits.groups[1]", "class 10", "0 to 9"],
    ),
    "one group": (["datasets", "digits", "groups"], [[0, 1]], ["datasets.digits.groups"]),
    "a single logit of ten classes": (
        ["models", "fnet32x2", "single_logit"],
        True,
        ["grid[0].models[0]", "digits has 10 classes"],
    ),
    "bounds with BatchNorm": (
        ["grid", 0, "cubes"],
        ["bounds"],
        ["grid[0].norms[1]", "BatchNorm", "norms"],
    ),
    "bounds without an initialisation": (
        ["grid", 2],
        BOUNDS | {"recipes": ["late"]},
        ["grid[2].recipes[0]", "late keeps no checkpoint 0", "recipes.late.checkpoints"],
    ),
    "iter-m of convolutions": (
        ["grid", 2],
        BOUNDS | {"models": ["lenet5"]},
        ["grid[2].models[0]", "lenet5 has convolutions", "bounds.methods"],
    ),
    "a bound that always fails": (["bounds", "delta"], 1.0, ["bounds.delta", "1.0"]),
    "a bound that never fails": (["bounds", "delta"], 0.0, ["bounds.delta", "0.0"]),
    "samples that always fail": (["bounds", "sampling_delta"], 1.5, ["bounds.sampling_delta"]),
    "a prior above its ceiling": (
        ["bounds", "start_half_log_lambda"],
        -1.0,
        ["bounds.start_half_log_lambda", "-1.0", "at most -1.15"],
    ),
    "an unknown method": (["bounds", "methods"], ["base", "best"], ["bounds.methods[1]", "'best'"]),
    "no learning rate": (["recipes", "sgd", "lr"], None, ["recipes.sgd", "neither lr nor sweep"]),
    "a rate and a sweep": (
        ["recipes", "sgd", "sweep"],
        {"rates": [0.1, 0.2]},
        ["recipes.sgd", "lr 0.02 and a sweep"],
    ),
    "half a range": (["recipes", "r"], SWEPT | {"sweep": {"low": 0.1}}, ["r.sweep", "no whole"]),
    "rates and a range": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"rates": [0.1, 0.2], "count": 2}},
        ["r.sweep", "a range besides"],
    ),
    "one rate": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"rates": [0.1]}},
        ["r.sweep", "two at least"],
    ),
    "a range of one": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"low": 0.1, "high": 1.0, "count": 1}},
        ["r.sweep.count", "1"],
    ),
    "a range backwards": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"low": 1.0, "high": 0.1, "count": 3}},
        ["r.sweep", "from 1 to 0.1", "smallest first"],
    ),
    "a rate twice": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"rates": [0.1, 0.1]}},
        ["r.sweep", "each rate once"],
    ),
    "a candidate's name": (
        ["recipes"],
        {"sgd+lr0.1": SWEPT | {"lr": 0.1}, "sgd": SWEPT | {"sweep": {"rates": [0.1, 0.2]}}},
        ["recipes.sgd.sweep", "sgd+lr0.1", "rename"],
    ),
    "an infinite rate": (["recipes", "sgd", "lr"], float("inf"), ["recipes.sgd.lr", "finite"]),
    "no number": (["recipes", "sgd", "weight_decay"], float("nan"), ["weight_decay", "finite"]),
    "an infinite rate of a sweep": (
        ["recipes", "r"],
        SWEPT | {"sweep": {"rates": [0.1, float("inf")]}},
        ["recipes.r.sweep.rates[1]", "finite"],
    ),
    "a family misspelled, with options": (
        ["models", "fnet32x2"],
        {"family": "fnt", "width": 9, "depth": 1},
        ["models.fnet32x2.family: unknown family 'fnt'", "mean 'fnet'", "densenet40"],
    ),
    "a network without a family": (["models", "m"], {"width": 9}, ["models.m", "fnet, lenet5"]),
    "a network that is text": (["models", "m"], "lenet5", ["models.m", "{family: ...}"]),
    "a key misspelled at the top": (["spectrm"], {}, ["did you mean 'spectrum'"]),
    "a key misspelled inside": (["recipes", "sgd", "momentun"], 0.5, ["mean 'momentum'"]),
    "a network's key misspelled": (["models", "lenet5", "fc"], 80, ["mean 'fc1'", "fc1, single"]),
    "a key misspelled in a list": (["grid", 0, "seed"], [0], ["grid[0].seed", "mean 'seeds'"]),
    "a wildcard in results": (["results"], "a{b}", ["results: 'a{b}'", "wildcard"]),
    "a line in results": (["results"], "a\nb", ["results", "control character"]),
    "the working folder": (["results"], "./", ["results: './'", "name a folder in it"]),
    "a name that is no path": (["models", "a/b"], {"family": "lenet5"}, ["a/b"]),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_place_value_and_cure(name):
    path, value, expected = REFUSALS[name]
    with pytest.raises(ConfigError) as error:
        load_config(changed(path, value))
    for text in [*expected, "cure: "]:
        assert text in str(error.value)


@pytest.mark.parametrize("spelled", ["out/", "./out", "a/../out"])
def test_a_results_folder_has_one_spelling(spelled):
    config = load_config(changed(["results"], spelled))
    assert config.results == "out"
    assert all(str(file).startswith("out/") for work in workload(config) for file in work.outputs)


def test_a_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load_config(changed(["results"], "~/x")).results == "/home/me/x"
    assert load_config(changed(["data_root"], "~/data")).data_root == "/home/me/data"
    pets = {"source": "folder", "path": "~/pets"}
    assert load_config(changed(["datasets", "pets"], pets)).datasets["pets"].path == "/home/me/pets"


@pytest.mark.parametrize("key", ["norms", "n_per_class"])
def test_a_refused_block_is_not_called_empty_too(key):
    settings = changed(["grid"], [BOUNDS | {key: ["none", "layer"]}])
    with pytest.raises(ConfigError) as error:
        load_config(settings)
    assert f"grid[0].{key}[" in str(error.value)
    assert "at least 1" not in str(error.value)


def test_a_run_in_two_blocks_is_refused():
    settings = yaml.safe_load(DEFAULT.read_text())
    settings["grid"].append(settings["grid"][0] | {"seeds": [2, 3]})
    with pytest.raises(ConfigError, match=r"grid\[4\]: 2 runs were named before, such as digits/"):
        load_config(settings)


def test_refusals_stand_at_their_line_in_the_last_file(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("# comment\nrecipes:\n  sgd:\n    lr: fast\n")
    with pytest.raises(ConfigError, match=rf"{overlay}:4: recipes.sgd.lr"):
        read_config([DEFAULT, overlay])
    overlay.write_text("bounds:\n  epochs: 9\n  start_half_log_lambda: -1.1\n")
    with pytest.raises(ConfigError, match=rf"{overlay}:3: bounds.start_half_log_lambda: -1.1"):
        read_config([DEFAULT, overlay])
    overlay.write_text("spectrum: {steps: 9}\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(DEFAULT.read_text().replace("norms: [none, batch]", "norms: [none, group]"))
    with pytest.raises(ConfigError, match=rf"{bad}:\d+: grid\[0\].norms\[1\]"):
        read_config([bad, overlay])


def test_all_refusals_are_told_at_once():
    settings = changed(["recipes", "sgd", "lr"], "fast")
    settings["compute"]["threads"] = 0
    with pytest.raises(ConfigError) as error:
        load_config(settings)
    assert "recipes.sgd.lr" in str(error.value)
    assert "compute.threads" in str(error.value)


def test_a_folder_is_counted_before_any_job(tmp_path):
    for name, count in (("cat", 5), ("dog", 3)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "train" / name / f"{index}.png").touch()
    settings = changed(["datasets", "pets"], {"source": "folder", "path": str(tmp_path)})
    settings["grid"][0]["datasets"] = ["pets"]
    settings["grid"][0]["n_per_class"] = [3]
    load_config(settings)
    settings["grid"][0]["n_per_class"] = [4]
    with pytest.raises(ConfigError, match="the rarest class of pets has 3"):
        load_config(settings)


def test_the_grid_and_its_paths():
    config = read_config([DEFAULT])
    runs = config.runs()
    assert len(runs) == len(set(runs)) == 15
    for run in runs:
        folder = run_folder("some/results", run)
        assert Run.from_path(folder) == run
        assert results_of(folder) == Path("some/results")


def test_overlays_merge_mappings_and_replace_lists(tmp_path):
    overlay = tmp_path / "more.yaml"
    overlay.write_text(
        "recipes: {sgd: {epochs: 90}}\ngrid: [{datasets: [digits], models: [lenet5],"
        " norms: [none], recipes: [sgd], n_per_class: [0], seeds: [7]}]\n"
    )
    config = read_config([DEFAULT, overlay])
    assert config.recipes["sgd"].epochs == 90
    assert config.recipes["sgd"].batch == 32
    assert [run.seed for run in config.runs()] == [7]


def test_a_job_is_told_only_what_it_depends_on():
    before = read_config([DEFAULT])
    settings = yaml.safe_load(DEFAULT.read_text())
    settings["figures"]["kappa"] = 2.0
    settings["spectrum"]["steps"] = 99
    settings["recipes"]["other"] = settings["recipes"]["sgd"]
    settings["grid"][0]["seeds"] = [0, 1, 2, 3]
    settings["resources"] = {"train": {"mem_mb": 9000}}
    after = load_config(settings)
    words = {"dataset": "digits", "model": "lenet5"}
    assert train_job(before, **words, recipe="sgd") == train_job(after, **words, recipe="sgd")
    assert stage_job(before, "spectrum", **words) != stage_job(after, "spectrum", **words)
    assert cube_job(before, "training") != cube_job(after, "training")
    assert figure_job(before, "density") != figure_job(after, "density")


def test_the_blocks_of_the_grid_say_which_cubes_hold_them():
    config = read_config([DEFAULT])
    bounded = config.runs("bounds")
    assert {run.dataset for run in bounded} == {"digits-2"}
    others = [run for run in config.runs() if run not in bounded]
    for cube in ("training", "spectrum", "hierarchy", "layers", "overlap"):
        assert config.runs(cube) == others
        assert cube_job(config, cube).runs() == others
    assert set(config.gathered()) == set(config.cubes)
    assert config.checkpoints("sgd", "bounds") == (0, 60)
    settings = changed(["grid"], [BOUNDS | {"cubes": None}])
    without = load_config(settings)
    assert "bounds" in without.cubes
    assert "bounds" not in without.gathered()
    assert not {"bounds", "posterior"} & set(without.figure_names())
    assert "bounds" in config.figure_names()


def test_the_workload_has_a_job_for_each_bound():
    config = read_config([DEFAULT])
    works = [work for work in workload(config) if work.rule == "bounds"]
    files = [file for _, file in part_places("bounds", cube_job(config, "bounds"))]
    assert [work.outputs for work in works] == [(file,) for file in files]
    assert len(files) == len(config.bounds.methods)
    jobs = [told(config, work) for work in works]
    assert [job.bounds.methods for job in jobs] == [(name,) for name in config.bounds.methods]
    assert not any(
        work.run.dataset == "digits-2"
        for work in workload(config)
        if work.rule in ("spectrum", "hierarchy", "layers")
    )


def test_the_schema_for_editors_is_in_step():
    text = (ROOT / "docs" / "config.schema.json").read_text()
    assert json.loads(text) == Config.model_json_schema(), "run: python -m pipeline schema"
    text = (ROOT / "docs" / "cubes.md").read_text()
    assert text == cube_reference(), "run: python -m pipeline schema"


def test_a_stage_asks_slurm_for_a_partition_and_for_one_node_of_several_gpus():
    asked = {
        "train": {"gpu": 1, "partition": "short", "account": "me"},
        "spectrum": {"gpu": 2, "gpu_model": "h200", "partition": "gpu"},
    }
    resources = Config.model_validate_json(json.dumps(changed(["resources"], asked))).resources
    assert resources.layers.fixed() == {"gpu": 0}
    assert resources.train.fixed() == {"gpu": 1, "slurm_partition": "short", "slurm_account": "me"}
    expected = {"gpu": 2, "gpu_model": "h200", "nodes": 1, "slurm_partition": "gpu"}
    assert resources.spectrum.fixed() == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory. Give --configfile"),
        ("grid: [", "is not YAML"),
        ("- grid", "holds a list, \"['grid']\". Write settings by their names"),
    ],
    ids=["absent", "no YAML", "a list"],
)
def test_a_file_without_settings_is_refused_in_words(text, said, tmp_path):
    file = tmp_path / "bad.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_config([file])
    assert str(file) in str(refused.value)
    assert said in str(refused.value)


def test_the_run_that_the_readme_opens_is_one_of_the_default_experiment():
    opened = re.search(r'open_run\("results/runs/([^"]+)"\)', (ROOT / "README.md").read_text())
    assert Run.from_path(opened[1]) in read_config([ROOT / "config.yaml"]).runs()
