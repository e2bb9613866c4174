"""The layout's laws: imports run one way, and names say where a thing is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import pipeline.anatomy
import pipeline.curvature
import pipeline.spectra
from pipeline.assign import entry_modules
from pipeline.catalogue import CUBES, FIGURES, LOADERS, SOURCES
from pipeline.configfile import read_config
from pipeline.cubes.schema import SCHEMA
from pipeline.fingerprint import PACKAGE, closure, fingerprint, imports
from pipeline.image_size import IMAGE_SIZE
from pipeline.models.registry import FAMILIES

# A module imports only from lines above its own, or from its own line.
LINES = [
    {"errors", "arguments", "streams", "public", "progress", "atomic", "catalogue", "runs"}
    | {"fingerprint", "image_folder", "image_size", "modes", "paths"},
    {"settings", "stages", "recipes", "config", "refusals", "overlay", "configfile"}
    | {"schema_refusals", "command_line"}
    | {"device", "frozen", "provenance", "scratch", "prior"},
    {"data_files", "reference", "tasks", "assign", "workload", "pending", "start"},
    {"data"},
    {"preflight"},
    {"models"},
    {"training"},
    {"curvature"},
    {"spectra"},
    {"anatomy"},
    {"cubes"},
    {"comparison", "figures"},
    {"api"},
    {"jobs", "plan", "status", "why"},
    {"cli", "spread", "__main__"},
]
LINE = {name: number for number, line in enumerate(LINES) for name in line}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(("pipeline", *(part for part in parts if part != "__init__")))


def top(module):
    return module.split(".")[1]


@pytest.mark.parametrize("module", [m for m in modules() if m != "pipeline"])
def test_imports_come_from_above(module):
    for imported in imports(module):
        if imported != "pipeline":
            assert LINE[top(imported)] <= LINE[top(module)], f"{module} imports {imported}"


def test_there_are_no_cycles():
    graph = {module: set(imports(module)) - {module} for module in modules()}
    while graph:
        leaves = {module for module, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in leaves}


def test_spectra_know_only_products():
    for module in modules():
        if module.startswith("pipeline.spectra"):
            tops = {top(name) for name in closure(module) if name != "pipeline"}
            assert tops <= {"spectra", "public", "arguments", "errors", "modes"}, module


@pytest.mark.parametrize(
    "package", [pipeline, pipeline.curvature, pipeline.spectra, pipeline.anatomy]
)
def test_public_names_are_handed_on_and_hidden_by_no_module(package):
    folder = Path(package.__file__).parent
    for name in package.__all__:
        assert callable(getattr(package, name))
        assert not (folder / f"{name}.py").exists(), f"the module {name} would hide the name"
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_naming_the_packages_imports_no_torch():
    code = (
        "import sys, pipeline.curvature, pipeline.spectra, pipeline.anatomy, pipeline.cli, "
        "pipeline.configfile; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_catalogue_and_the_registries_agree():
    from pipeline.jobs import cube, figure

    assert set(FAMILIES) == set(IMAGE_SIZE)
    assert set(SOURCES) < set(LOADERS)
    assert set(figure.FIGURES) == set(FIGURES)
    assert set(cube.CUBES) == set(CUBES) == set(SCHEMA)
    assert all(set(cubes) <= set(CUBES) for cubes in FIGURES.values())


def test_the_conda_environment_is_in_step():
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((root / "rules" / "environment.yaml").read_text())
    assert environment["dependencies"][-1]["pip"] == project["dependencies"]


def test_files_and_packages_keep_to_their_size():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Return a small package in place of this one, and a function that digests it afresh."""
    from pipeline import fingerprint as module

    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        '"""Doc."""\nfrom pipeline.b import f\n\n\ndef g(x):\n    return f(x)\n'
    )
    (folder / "b.py").write_text("def f(x):\n    return x + 1\n")
    (folder / "c.py").write_text("X = 1\n")
    monkeypatch.setattr(module, "PACKAGE", folder)

    def digest():
        for cached in (module.fingerprint, module._tree, module._code):
            cached.cache_clear()
        return fingerprint("pipeline.a")

    yield folder, digest
    monkeypatch.undo()
    for cached in (module.fingerprint, module._tree, module._code):
        cached.cache_clear()


def test_a_fingerprint_sees_code_and_nothing_else(copied):
    folder, digest = copied
    before = digest()
    text = (folder / "a.py").read_text()
    (folder / "a.py").write_text("# A comment.\n" + text.replace("Doc.", "Other.") + "\n\n")
    (folder / "c.py").write_text("X = 2\n")
    assert digest() == before
    (folder / "b.py").write_text("def f(x):\n    return x + 2\n")
    assert digest() != before


@pytest.mark.parametrize("name", ["mine", "nets.mine"])
def test_a_users_module_counts_with_those_beside_it(tmp_path, monkeypatch, name):
    from pipeline import fingerprint as module

    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path.joinpath(*name.split(".")[:-1])
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    beside = "from .blocks import conv" if "." in name else "from blocks import conv"
    (folder / "mine.py").write_text(f"import numpy, random\n{beside}\nimport pipeline.runs\n")
    (folder / "blocks.py").write_text("def conv(): ...\n")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "theirs.py").write_text("import more\n")
    (installed / "more.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    try:
        blocks = name.replace("mine", "blocks")
        assert {name, blocks, "pipeline.runs"} <= (found := module.closure(name))
        assert not {"numpy", "random"} & found
        assert module.closure("theirs") == {"theirs"}
        before = fingerprint(name)
        (folder / "blocks.py").write_text("def conv(): return 1\n")
        for cached in (module.fingerprint, module._tree, module._code):
            cached.cache_clear()
        assert fingerprint(name) != before
    finally:
        for cached in (module.fingerprint, module._tree, module._code):
            cached.cache_clear()


def test_of_a_job_that_is_one_of_many_its_own_text_counts(copied, monkeypatch):
    folder, digest = copied
    monkeypatch.setattr("pipeline.fingerprint.CHOOSING", {"pipeline.a"})
    before = digest()
    text = (folder / "a.py").read_text()
    (folder / "a.py").write_text("# A comment.\n" + text)
    (folder / "b.py").write_text("def f(x):\n    return x + 2\n")
    assert digest() == before
    (folder / "a.py").write_text(text.replace("f(x)", "f(2 * x)"))
    assert digest() != before


# A rule, its job's name, a module that decides what the job computes, and one that does not.
COUNTED = [
    ("train", "", "image_size", "prior"),
    ("spectrum", "", "image_size", "prior"),
    ("bounds", "", "prior", "config"),
    ("cube", "training", "jobs.cube", "cubes.parts"),
    ("cube", "training", "cubes.store", "jobs.figure"),
    ("figure", "theory", "jobs.figure", "figures.bounds"),
    ("figure", "theory", "cubes.store", "cubes.parts"),
]


@pytest.mark.parametrize(("rule", "name", "counts", "other"), COUNTED)
def test_what_computes_a_result_counts(rule, name, counts, other):
    config = read_config([PACKAGE.parent / "config.yaml"])
    words = {} if name else {"dataset": "digits", "model": "lenet5"}
    found = set().union(*map(closure, entry_modules(config, rule, name, **words)))
    assert f"pipeline.{counts}" in found
    assert f"pipeline.{other}" not in found
