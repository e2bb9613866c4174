"""A digest of the code that a stage runs, so that a changed line reruns what depends on it."""

import ast
import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from pipeline.errors import CodeError, ConfigError

PACKAGE = Path(__file__).parent

# These decide what a job is told (its params, compared as such) or how it speaks, not what it
# computes.
NEUTRAL = {
    "pipeline.catalogue",
    "pipeline.config",
    "pipeline.errors",
    "pipeline.progress",
    "pipeline.recipes",
    "pipeline.settings",
    "pipeline.stages",
    "pipeline.tasks",
}

# These begin a job that is one of many, and import what all of those run: their own text counts,
# and of what they import only what ``entry_modules`` of ``assign.py`` names.
CHOOSING = {"pipeline.jobs.cube", "pipeline.jobs.figure"}


@cache
def fingerprint(*modules: str) -> str:
    """Return a digest of ``modules`` and all of this package that they import, however indirectly.

    Comments, formatting and docstrings do not count, nor do the modules in ``NEUTRAL``.  A user's
    own module counts with what it imports from the folder that it lies in itself.
    """
    digest = hashlib.sha256()
    for name in sorted(set().union(*(closure(module) for module in modules))):
        digest.update(f"{name}\n{_code(name)}\n".encode())
    return digest.hexdigest()[:16]


def check_code(told: str, modules: Sequence[str]) -> None:
    """Raise CodeError where the code that ``modules`` run is not that which a job was ``told``."""
    found = fingerprint(*modules)
    if found != told:
        raise CodeError(
            f"the code that this job runs ({', '.join(modules)}, and what they import) has been "
            f"edited since its workflow began: its digest is {found}, the job's `code` is {told}. "
            "Start snakemake again, which makes anew what the edit changes, or undo the edit. To "
            f"run this command by hand with the code as it is, put {found} in the place of {told}"
        )


def closure(module: str) -> set[str]:
    """Return the names of ``module`` and of every module whose code it runs, as ``imports`` has."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in NEUTRAL:
            continue
        found.add(name)
        if name not in CHOOSING:
            waiting.extend(imports(name))
    return found


def imports(module: str) -> Iterator[str]:
    """Yield the modules of this package that ``module`` imports, wherever in the file.

    Of a module that is not of this package, those too that lie beside it, where users keep theirs;
    what is installed has no module beside it.
    """
    home = _home(module)

    def counts(name: str) -> bool:
        if name.split(".")[0] == PACKAGE.name:
            return path_of(name) is not None
        return home is not None and _file_in(home, name.split(".")) is not None

    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from package import name` means a module where there is one of that name.
            source = _source(node, module)
            names = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if counts(name) else source for name in names]
        else:
            continue
        yield from filter(counts, names)


def _source(node: ast.ImportFrom, module: str) -> str:
    """Return the module that ``module`` imports from, in full where it says it from where it is."""
    path = path_of(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    return resolve_name("." * node.level + (node.module or ""), package)


def _home(module: str) -> Path | None:
    """Return the folder that a user's own module is imported from, None of another's."""
    path = path_of(module)
    if module.split(".")[0] == PACKAGE.name or path is None:
        return None
    home = path.parents[module.count(".") + (path.name == "__init__.py")]
    return None if {"site-packages", "dist-packages"} & set(home.parts) else home


def _file_in(folder: Path, parts: Sequence[str]) -> Path | None:
    """Return the file in ``folder`` of the module a.b.c, whose ``parts`` are a, b and c."""
    base = folder.joinpath(*parts)
    files = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in files if path.is_file()), None)


def path_of(module: str) -> Path | None:
    """Return the file of a module, None if there is none; no package of a user is imported."""
    top, *inner = module.split(".")
    if top != PACKAGE.name:
        try:
            found = find_spec(top)
        except (ImportError, ValueError):
            found = None
        if inner and found:
            folders = map(Path, found.submodule_search_locations or ())
            return next(filter(None, (_file_in(folder, inner) for folder in folders)), None)
        return Path(found.origin) if found and found.origin else None
    parts = module.split(".")[1:]
    return _file_in(PACKAGE, parts) if parts else PACKAGE / "__init__.py"


@cache
def _tree(module: str) -> ast.Module:
    path = path_of(module)
    if path is None:
        raise ConfigError(
            f"the configuration names {module}, and there is no such module. Put it on PYTHONPATH "
            "or in the folder that snakemake runs in, and mind the spelling"
        )
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _code(module: str) -> str:
    tree = copy.deepcopy(_tree(module))
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)
