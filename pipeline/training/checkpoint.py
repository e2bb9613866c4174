"""Networks and training states as safetensors files: whole or absent, never pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pipeline.atomic import remove, replacing
from pipeline.errors import ArtifactError
from pipeline.progress import say


@dataclass(frozen=True)
class Row:
    """One line of a run's history: the network after ``epoch`` passes.

    Losses are mean cross-entropies in nats, in eval mode; ``lr`` is the rate of the epoch's
    updates (NaN at epoch 0); ``diverged`` is 1 once the training loss is not finite.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    lr: float
    weight_norm: float
    diverged: int


def save_network(path: Path, network: nn.Module, *, epoch: int) -> None:
    """Write the network after ``epoch`` passes."""
    _save(path, _contiguous(network.state_dict()), {"epoch": epoch})


def save_diverged(path: Path, *, epoch: int) -> None:
    """Write the marker that stands for a network that was never reached: training diverged."""
    _save(path, {}, {"diverged": epoch})


def load_network(path: Path, network: nn.Module) -> None:
    """Load a checkpoint's weights and buffers into ``network``.

    Raises ArtifactError where the file is missing, truncated, or belongs to another network.
    """
    tensors, _ = _load(path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} does not fit the network it is read into ({error}). Delete the run's "
            "run.json, and snakemake trains it anew"
        ) from error


@dataclass(frozen=True)
class State:
    """A training state after a complete epoch, enough to go on bit for bit.

    Random streams are derived from the seed and the epoch, so that no generator is part of it.
    """

    epoch: int
    network: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    history: list[Row]


def save_state(path: Path, state: State) -> None:
    """Write a training state."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.items()}
    scalars: dict[str, Any] = {}
    for index, slots in state.optimiser["state"].items():
        for name, value in slots.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimiser/{index}/{name}"] = value
            else:
                scalars[f"{index}/{name}"] = value
    about = {
        "epoch": state.epoch,
        "history": [asdict(row) for row in state.history],
        "groups": state.optimiser["param_groups"],
        "scalars": scalars,
    }
    _save(path, _contiguous(tensors), {"state": about})


def load_state(path: Path) -> State:
    """Return a training state that ``save_state`` wrote."""
    tensors, metadata = _load(path)
    about = json.loads(metadata["state"])
    slots: dict[int, dict[str, Any]] = {}
    for key, value in about["scalars"].items():
        index, name = key.split("/", 1)
        slots.setdefault(int(index), {})[name] = value
    network = {}
    for key, tensor in tensors.items():
        kind, rest = key.split("/", 1)
        if kind == "network":
            network[rest] = tensor
        else:
            index, name = rest.split("/", 1)
            slots.setdefault(int(index), {})[name] = tensor
    return State(
        epoch=about["epoch"],
        network=network,
        optimiser={"state": slots, "param_groups": about["groups"]},
        history=[Row(**row) for row in about["history"]],
    )


def waiting_state(path: Path, checkpoints: Mapping[int, Path] | None = None) -> State | None:
    """Return the state that waits in ``path``, None where there is none to go on from.

    It counts with those of ``checkpoints``, by epoch, that were written before it.  Where one of
    these files cannot be read, that is said and the state removed.
    """
    if not path.exists():
        return None
    try:
        state = load_state(path)
        for epoch, file in (checkpoints or {}).items():
            if epoch <= state.epoch:
                _load(file)
    except (ArtifactError, KeyError, ValueError) as error:
        told = error.__cause__ or error
        say(f"{path}, left in scratch, is not whole ({told}): removed, begun anew")
        remove(path)
        return None
    return state


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Copies, for safetensors refuses tensors that share memory, as tied weights do.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    with replacing(path) as staged:
        save_file(tensors, staged, {key: json.dumps(value) for key, value in metadata.items()})


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is missing. Delete the run's run.json, and snakemake trains it anew"
        ) from error
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is not a whole safetensors file ({error}). Delete it and the run's run.json, "
            "and snakemake trains the run anew"
        ) from error
