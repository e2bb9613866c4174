"""Functions that a configuration names as module:function: found, checked and called.  No torch."""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import AnatomyError
from pipeline.fingerprint import PACKAGE

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


def function_at(path: str, place: str) -> Callable[..., Any]:
    """Return the function at ``module:function``; ``place`` says where it was named."""
    module, _, name = path.partition(":")
    try:
        function = getattr(_imported(module, path, place), name)
    except AttributeError as error:
        raise AnatomyError(
            f"{place} names {path}, which cannot be imported: {error}. Check the spelling"
        ) from error
    if not callable(function):
        raise AnatomyError(
            f"{place} names {path}, which is a {type(function).__name__}. Name a function"
        )
    return function


def _imported(module: str, path: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if not module or (missing and f"{module}.".startswith(f"{missing}.")):
            problem = str(error)
            cure = "Put the module on PYTHONPATH or in the folder that snakemake runs in, and check"
            cure += " the spelling"
        else:
            problem, cure = f"its module raised {described(error)}", "Correct the module"
        raise AnatomyError(
            f"{place} names {path}, which cannot be imported: {problem}. {cure}"
        ) from error


def call_function(function: Callable[..., Any], path: str, *arguments: Any, **options: Any) -> Any:
    """Call a user's function.

    Raises AnatomyError with the type, message, file and line of an exception that it raises.
    """
    _check_arguments(function, path, arguments, options)
    try:
        return function(*arguments, **options)
    except AnatomyError:
        raise
    except (Exception, SystemExit) as error:
        raise AnatomyError(
            f"{path} raised {described(error)}. Correct the function, or the options that the "
            "configuration passes to it"
        ) from error


def described(error: BaseException) -> str:
    """Return an exception's type and message, and the last line of the user's code it came from."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if _is_users(frame.filename)] or frames)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def _is_users(filename: str) -> bool:
    file = Path(filename)
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    ours = file.is_relative_to(PACKAGE) or file.is_relative_to(STANDARD_LIBRARY)
    return not (installed or ours or filename.startswith("<"))


def _check_arguments(
    function: Callable[..., Any], path: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C have none
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        given = [*(str(argument) for argument in arguments), *(f"{name}=..." for name in options)]
        raise AnatomyError(
            f"{path}{signature} cannot be called as ({', '.join(given)}): {error}. Change the "
            "function's arguments, or the options that the configuration passes to it"
        ) from error
