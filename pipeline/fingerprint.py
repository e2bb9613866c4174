"""A digest of the code that a stage runs, so that a changed line reruns what depends on it."""

import ast
import copy
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import ConfigError

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

    Comments, formatting and docstrings do not count, nor do the modules in ``NEUTRAL``.  Of a
    user's own module its one file counts.
    """
    digest = hashlib.sha256()
    for name in sorted(set().union(*(closure(module) for module in modules))):
        digest.update(f"{name}\n{_code(name)}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str) -> set[str]:
    """Return the names of ``module`` and of every module of this package whose code it runs."""
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
    """Yield the modules of this package that ``module`` imports, wherever in the file."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name` means a module where there is one of that name.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _is_ours(name) else node.module for name in names]
        else:
            continue
        yield from filter(_is_ours, names)


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == PACKAGE.name and path_of(name) is not None


def path_of(module: str) -> Path | None:
    """Return the file of a module, None if there is none; only the user's own are looked for."""
    if module.split(".")[0] != PACKAGE.name:
        try:
            found = find_spec(module)
        except ImportError:
            found = None
        return Path(found.origin) if found and found.origin else None
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


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
