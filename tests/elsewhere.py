"""A second device, emulated: its tensors are computed on the CPU, and refuse to meet the CPU's.

They say that they lie on ``meta``, which autograd serves without a driver.  What a GPU would refuse
or wait for is seen so on a machine that has none.
"""

import traceback
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline.curvature import linearize, memory

aten = torch.ops.aten
ELSEWHERE = torch.device("meta")
MOVES = (aten._to_copy.default, aten.copy_.default)
# What a GPU's host waits for, beside copies and choices by a mask.
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Elsewhere(torch.Tensor):
    """A tensor of the emulated device, its numbers in ``here``."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
        )
        made.here = here
        return made

    def __getitem__(self, index):
        # PyTorch would make a list a tensor of meta, without its numbers.
        return super().__getitem__(tree_map_only(list, torch.tensor, index, is_leaf=_is_list))

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {}, waits=[])


class _Generator(torch.Generator):
    """A generator of either device, whose numbers are the CPU's."""

    def __new__(cls, _device="cpu"):
        return super().__new__(cls, "cpu")


class _Emulation(TorchDispatchMode):
    """Makes tensors of the emulated device where they are asked for; notes what is waited for."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _computed(function, args, kwargs or {}, self.waits)


@contextmanager
def emulated(monkeypatch):
    """Have the device there within; yields, of each wait of the host for it, the functions
    of the project that it lay in."""
    waits = []

    with monkeypatch.context() as patched:
        for name in ("tensor", "as_tensor"):
            patched.setattr(torch, name, _through_here(getattr(torch, name)))
        patched.setattr(torch, "Generator", _Generator)
        _tell_sizes(patched)
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _Emulation(waits):
                yield waits
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)


def _through_here(make):
    """Return ``torch.tensor`` or ``as_tensor`` by way of the CPU: on meta they make no numbers."""

    def made(data, *, dtype=None, device=None):
        return make(data, dtype=dtype).to(device)

    return made


def _tell_sizes(patched):
    """Have budgets count the numbers themselves, not the shells around them."""
    held, addresses = memory.held_bytes, memory.addresses

    def inner(tensors):
        return [x.here if isinstance(x, Elsewhere) else x for x in tensors]

    for module in (memory, linearize):
        patched.setattr(module, "held_bytes", lambda found, known: held(inner(found), known))
        patched.setattr(module, "addresses", lambda found: addresses(inner(found)))


def _computed(function, args, kwargs, waits):
    """Return what an operation gives; RuntimeError where it takes tensors of both devices."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    asked = kwargs.get("device")
    if there and function not in MOVES:
        _refuse_mixture(function, args, tensors)
    if _is_waited_for(function, args, asked):
        stack = traceback.extract_stack()
        waits.append([at.name for at in stack if "/pipeline/" in at.filename])
    if function is aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    elif asked is not None:
        there, kwargs = torch.device(asked).type == ELSEWHERE.type, kwargs | {"device": "cpu"}
    plain, named = tree_map_only(torch.Tensor, _here, (args, kwargs))
    with _disable_current_modes():
        found = function(*plain, **named)
        found = tree_map_only(torch.Tensor, _materialised, found)
    if not there:
        return found
    if function is aten.copy_.default:
        return args[0]
    found = tree_map_only(torch.Tensor, Elsewhere, found)
    if asked is not None or function in MOVES:
        return found
    return return_and_correct_aliasing(function, args, kwargs, found)


def _refuse_mixture(function, args, tensors):
    strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
    if function in INDEXED:  # a GPU takes the CPU's indices
        strangers = [x for x in strangers if x is args[0]]
    if any(not x._is_zerotensor() for x in strangers):
        shapes = [(type(x).__name__, tuple(x.shape)) for x in tensors]
        raise RuntimeError(f"{function} takes tensors of two devices: {shapes}")


def _is_waited_for(function, args, asked):
    if function in READS:
        return isinstance(args[0], Elsewhere)
    if function is aten._to_copy.default:
        goes = isinstance(args[0], Elsewhere) if asked is None else torch.device(asked) == ELSEWHERE
        return isinstance(args[0], Elsewhere) != goes
    if function is aten.copy_.default:
        return isinstance(args[1], Elsewhere) != isinstance(args[0], Elsewhere)
    masks = (x for x in (args[1] if function in INDEXED else ()) if x is not None)
    return isinstance(args[0], Elsewhere) and any(x.dtype == torch.bool for x in masks)


def _is_list(value):
    return isinstance(value, list)


def _here(tensor):
    if isinstance(tensor, Elsewhere):
        return tensor.here
    if tensor.device.type == ELSEWHERE.type and not tensor._is_zerotensor():
        raise RuntimeError(f"a tensor {tuple(tensor.shape)} was made there without its numbers")
    return _materialised(tensor)


def _materialised(tensor):
    """Return forward mode's own zeros, which have no memory, as others."""
    if tensor._is_zerotensor():
        return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    return tensor
