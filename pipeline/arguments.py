"""Checks of the arguments of public functions.

Each function returns the checked value. Each raises ArgumentError with the argument's name, the
value and the cure.
"""

import math
import operator
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

from pipeline.errors import ArgumentError


def checked_count(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as an int in ``least`` .. ``most``; no upper limit if ``most`` is None."""
    bounds = f"at least {least}" if most is None else f"from {least} to {most}"
    number = _as_int(value)
    if number is None or number < least or (most is not None and number > most):
        raise ArgumentError(f"{name} is {_shown(value)}. Give a whole number, {bounds}")
    return number


def checked_number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
) -> float:
    """Return ``value`` as a finite float: > ``above``, >= ``least`` and < ``below``."""
    cure = "Give a finite number"
    if above is not None:
        cure += f" greater than {above:g}"
    if least is not None:
        cure += f", at least {least:g}"
    if below is not None:
        cure += f", less than {below:g}"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (below is not None and value >= below)
    ):
        raise ArgumentError(f"{name} is {_shown(value)}. {cure}")
    return float(value)


def checked_seeds(value: Any, name: str = "seeds") -> list[int]:
    """Return the seeds as a list of distinct ints, each at least 0; an empty one is refused."""
    cure = "Give a list of distinct whole numbers, at least one, such as [0, 1]"
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise ArgumentError(f"{name} is {_shown(value)}. {cure}")
    seeds = [_as_int(seed) for seed in value]
    if not seeds or any(seed is None or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ArgumentError(f"{name} is {_shown(value)}. {cure}")
    return [seed for seed in seeds if seed is not None]


def checked_flag(value: Any, name: str) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} is {_shown(value)}. Give True or False")
    return value


def checked_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{name} is {_shown(value)}. Give one of {', '.join(choices)}")
    return value


def _as_int(value: Any) -> int | None:
    """Return ``value`` as an int; None if it is a bool or no integer."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _shown(value: Any) -> str:
    text = repr(value)
    if isinstance(value, Sequence) and len(text) > 60:
        return f"{text[:60]}..."
    return text[:80]
