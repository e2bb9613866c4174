"""Public names handed on when first asked for, so that naming a package imports no torch."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` that fetches each name from the module that owns it.

    ``names`` maps a public name to its module below ``package``; no two may be equal, or the
    module would hide the name once imported.
    """

    def fetch(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{names[name]}"), name)

    return fetch
