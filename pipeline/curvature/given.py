"""What a user hands over: inputs and labels, checked before anything is computed."""

from typing import Any, Protocol

import numpy as np
import torch

from pipeline.data.streamed import Inputs, Streamed
from pipeline.errors import ArgumentError
from pipeline.modes import outside_inference

CHECKED = 1000  # examples whose numbers are checked at once


class HasExamples(Protocol):
    """Anything with ``inputs`` (N, ...) and ``labels`` (N,)."""

    inputs: Inputs
    labels: torch.Tensor


Data = HasExamples | tuple[Inputs, torch.Tensor]


def inputs_and_labels(data: Data) -> tuple[Inputs, torch.Tensor]:
    """Return the inputs (N, ...) and the labels (N,) int64 of ``data``.

    Raises ArgumentError if it is no pair, if the lengths differ, if labels are no class numbers, or
    if inputs are sparse, complex or not finite.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        inputs, labels = data
    elif hasattr(data, "inputs") and hasattr(data, "labels"):
        inputs, labels = data.inputs, data.labels
    else:
        raise ArgumentError(
            f"data is a {type(data).__name__}. Give (inputs, labels) or an object with these "
            "attributes. Concatenate the batches of a loader first"
        )
    inputs, labels = _as_tensor(inputs), _as_tensor(labels)
    if not isinstance(inputs, Streamed | torch.Tensor) or not len(inputs.shape):
        raise ArgumentError(f"inputs are a {type(inputs).__name__}. Give a tensor (N, ...)")
    if isinstance(inputs, torch.Tensor):
        _refuse_inputs(inputs)
    labels = _class_numbers(labels)
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ArgumentError(
            f"{len(inputs)} inputs and {len(labels)} labels given. Give as many of each, at "
            "least one"
        )
    return inputs, labels


def _as_tensor(values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return torch.as_tensor(values)
    return outside_inference(values) if isinstance(values, torch.Tensor) else values


def _refuse_inputs(inputs: torch.Tensor) -> None:
    """Raise ArgumentError if inputs are sparse, complex or not finite."""
    if inputs.layout != torch.strided or inputs.is_complex():
        raise ArgumentError(
            f"inputs are {inputs.dtype}, {inputs.layout}. Give a dense tensor of real numbers"
        )
    if not inputs.is_floating_point():
        return
    for start, some in enumerate(inputs.split(CHECKED)):
        wrong = ~some.isfinite().flatten(1).all(1) if some.ndim > 1 else ~some.isfinite()
        if bool(wrong.any()):
            raise ArgumentError(
                f"inputs have a NaN or an infinite number in example "
                f"{start * CHECKED + int(wrong.int().argmax())}. Leave the example out, or "
                "correct it"
            )


def _class_numbers(labels: Any) -> torch.Tensor:
    """Return the labels as int64; ArgumentError if they are not (N,) whole numbers."""
    if not isinstance(labels, torch.Tensor):
        raise ArgumentError(f"labels are a {type(labels).__name__}. Give a tensor (N,) of integers")
    if labels.ndim != 1:
        last = labels.shape[-1] if labels.ndim else 0
        cure = {0: "give a tensor (N,)", 1: "call labels.squeeze(-1)"}.get(
            last, "of one-hot rows call labels.argmax(-1)"
        )
        raise ArgumentError(
            f"labels have shape {tuple(labels.shape)}. They should be (N,) class numbers: {cure}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ArgumentError(
            f"labels are {labels.dtype}. They should be integers that count classes from 0, such "
            "as labels.long()"
        )
    return labels.long()


def refuse_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise ArgumentError if a label is no number from 0 to ``classes`` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ArgumentError(
            f"labels run from {low} to {high}, but the network has {classes} outputs. "
            "Labels should count classes from 0"
        )


def as_network_takes(inputs: Inputs, like: torch.Tensor) -> Inputs:
    """Return the inputs on the device of ``like``; floating ones in its type, integers as given."""
    if isinstance(inputs, torch.Tensor) and not inputs.is_floating_point():
        return inputs.to(like.device)
    return inputs.to(like.device, like.dtype)
