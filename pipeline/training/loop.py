"""The training loop: straight SGD over data that live on the device, resumable after any epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config import Dataset
from pipeline.data.examples import Examples
from pipeline.progress import progress, say
from pipeline.recipes import Recipe
from pipeline.runs import checkpoint_path
from pipeline.streams import stream
from pipeline.training.augment import augmentation
from pipeline.training.checkpoint import (
    Row,
    State,
    save_diverged,
    save_network,
    save_state,
    waiting_state,
)
from pipeline.training.schedule import learning_rate

EVALUATION_BATCH = 250  # of LeNet5 on a CPU 1000 take 1.6 times as long, 125 as long as 250


def train(
    network: nn.Module,
    recipe: Recipe,
    train_set: Examples,
    test_set: Examples,
    *,
    dataset: Dataset,
    seed: int,
    scratch: Path,
    save_every: float,
    label: str,
) -> list[Row]:
    """Train ``network`` in place and return its history, a row per epoch, epoch 0 first.

    The examples are normalised as ``dataset`` says, which augmentation undoes for its transforms.
    Checkpoints go to ``scratch/checkpoints``.  Every ``save_every`` seconds the state goes to
    ``scratch``; where a whole one is found there, training goes on from it and ends bit for bit
    where an uninterrupted training ends.  A training whose loss is no longer finite stops: its
    last row says so, and the checkpoints it did not reach are markers.
    """
    network.to(memory_format=layout(recipe))
    augment = augmentation(recipe.augment, dataset)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    state_file = scratch / "state.safetensors"
    saved_networks = {epoch: checkpoint_path(scratch, epoch) for epoch in recipe.checkpoints}
    state = waiting_state(state_file, saved_networks)
    history = _resumed(state, network, optimiser, label) if state else []

    def finish(epoch: int, lr: float) -> None:
        history.append(_evaluated(network, train_set, test_set, epoch=epoch, lr=lr))
        if history[-1].diverged:
            return
        if epoch in recipe.checkpoints:
            save_network(checkpoint_path(scratch, epoch), network, epoch=epoch)

    if not history:
        finish(0, math.nan)
    first = history[-1].epoch + 1
    saved = time.monotonic()
    epochs = _until(range(first, recipe.epochs + 1), lambda: bool(history[-1].diverged))
    for epoch in progress(
        epochs, total=recipe.epochs, done=first - 1, label=label, status=lambda: _status(history)
    ):
        lr = learning_rate(recipe, epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr
        batches = epoch_batches(train_set, recipe, augment, seed=seed, epoch=epoch)
        one_epoch(network, optimiser, batches, recipe)
        finish(epoch, lr)
        if time.monotonic() - saved >= save_every:
            state = State(epoch, network.state_dict(), optimiser.state_dict(), history)
            save_state(state_file, state)
            saved = time.monotonic()
    if history[-1].diverged:
        _mark_diverged(history[-1], recipe, scratch, label)
    return history


def _resumed(
    state: State, network: nn.Module, optimiser: torch.optim.Optimizer, label: str
) -> list[Row]:
    """Set network and optimiser to a saved state, and return its history."""
    network.load_state_dict(state.network)
    optimiser.load_state_dict(state.optimiser)
    say(f"{label}: going on after epoch {state.epoch}")
    return state.history


def _mark_diverged(last: Row, recipe: Recipe, scratch: Path, label: str) -> None:
    """Say where training stopped, and put markers for the checkpoints it did not reach."""
    say(f"{label}: diverged in epoch {last.epoch} (loss {last.train_loss}); stopped there")
    for epoch in recipe.checkpoints:
        if epoch >= last.epoch:
            save_diverged(checkpoint_path(scratch, epoch), epoch=last.epoch)


def _until(epochs: range, stop: Callable[[], bool]) -> Iterator[int]:
    for epoch in epochs:
        if stop():
            return
        yield epoch


def layout(recipe: Recipe) -> torch.memory_format:
    """Return the memory format that a recipe trains in."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def epoch_batches(
    examples: Examples,
    recipe: Recipe,
    augment: Callable[[torch.Tensor], torch.Tensor] | None,
    *,
    seed: int,
    epoch: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield an epoch's batches, inputs and labels, gathered and augmented on the device."""
    torch.manual_seed(stream(seed, "noise", epoch))  # for augmentation, and random layers
    shuffle = torch.Generator().manual_seed(stream(seed, "order", epoch))
    order = torch.randperm(len(examples), generator=shuffle).to(examples.labels.device)
    batches = list(order.split(recipe.batch))
    if len(batches) > 1 and len(batches[-1]) == 1:
        # BatchNorm has no variance over one example.
        batches[-2:] = [torch.cat(batches[-2:])]
    for chosen in batches:
        inputs = examples.inputs[chosen]
        if augment is not None:
            inputs = augment(inputs)
        yield inputs.contiguous(memory_format=layout(recipe)), examples.labels[chosen]


def one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    recipe: Recipe,
) -> None:
    """Take an optimiser's step for each batch, in the recipe's precision."""
    half = recipe.precision == "bfloat16"
    network.train()
    for inputs, labels in batches:
        optimiser.zero_grad()
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
            logits = network(inputs)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()


def evaluate(network: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return mean cross-entropy (nats) and accuracy over all examples, in eval mode."""
    network.eval()
    loss = correct = 0.0
    with torch.no_grad():
        for inputs, labels in zip(
            examples.inputs.split(EVALUATION_BATCH),
            examples.labels.split(EVALUATION_BATCH),
            strict=True,
        ):
            logits = network(inputs)
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            correct += (logits.argmax(-1) == labels).sum()
    return float(loss) / len(examples), float(correct) / len(examples)


def _evaluated(
    network: nn.Module, train_set: Examples, test_set: Examples, *, epoch: int, lr: float
) -> Row:
    train_loss, train_accuracy = evaluate(network, train_set)
    test_loss, test_accuracy = evaluate(network, test_set)
    squares = sum(float(p.detach().double().square().sum()) for p in network.parameters())
    return Row(
        epoch=epoch,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        lr=lr,
        weight_norm=math.sqrt(squares) if math.isfinite(squares) else math.nan,
        diverged=int(not math.isfinite(train_loss)),
    )


def _status(history: list[Row]) -> str:
    row = history[-1]
    return f"loss {row.train_loss:.3g}, test accuracy {row.test_accuracy:.3f}"
