"""Derivatives by torch.func: of several vectors, and with what PyTorch has no forward rule for."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch.func import jvp, vjp, vmap

Map = Callable[[torch.Tensor], torch.Tensor]


def map_rows(product: Map, rows: torch.Tensor, *, vectorize: bool) -> torch.Tensor:
    """Return ``product`` (p,) -> (p,) of each of ``rows`` (k, p).

    The rows share one pass over the data if ``vectorize`` is True, otherwise each has its own.
    """
    if len(rows) == 1:
        return product(rows[0])[None]
    return vmap(product)(rows) if vectorize else torch.stack([product(v) for v in rows])


def along(function: Map, theta: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``function`` at ``theta`` and its derivative along ``v``.

    If PyTorch has no forward derivative it is that of u -> J^T u, pulled back by v.
    """
    try:
        return jvp(function, (theta,), (v,))
    except NotImplementedError:
        value, pull = vjp(function, theta)
        return value, vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](v)[0]


@cache
def load_forward_mode() -> None:
    """Let PyTorch load its forward mode, which then warns of a call that it makes itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
