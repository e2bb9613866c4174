"""A digest of the code that a stage runs, so that a changed line reruns what depends on it."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent

# These decide what a job is told (its params, compared as such) or how it speaks, not what it computes.
NEUTRAL = {"pipeline.config", "pipeline.catalogue", "pipeline.progress", "pipeline.errors"}


@cache
def fingerprint(module: str) -> str:
    """Return a digest of ``module`` and all of this package that it imports, however indirectly.

    Comments, formatting and docstrings do not count, nor do the modules in ``NEUTRAL``.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(module)):
        digest.update(f"{name}\n{_code(name)}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str) -> set[str]:
    """Return the names of ``module`` and of every module of this package that it leads to."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in NEUTRAL:
            continue
        found.add(name)
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
            names = [name if path_of(name) else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.startswith("pipeline") and path_of(name))


def path_of(module: str) -> Path | None:
    """Return the file of a module of this package, None if there is none."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _tree(module: str) -> ast.Module:
    path = path_of(module)
    if path is None:
        raise ValueError(f"no module {module} in {PACKAGE}")
    return ast.parse(path.read_text(encoding="utf-8"))


def _code(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return ast.dump(tree)
