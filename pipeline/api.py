"""The public face: open a trained run."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from pipeline.data.examples import Examples, run_examples
from pipeline.errors import ArtifactError
from pipeline.models.registry import build
from pipeline.runs import Run, checkpoint_path, results_of
from pipeline.streams import stream
from pipeline.tasks import Access, TrainJob
from pipeline.training.checkpoint import load_network
from pipeline.training.record import read_record, refuse_altered


@dataclass(frozen=True)
class OpenRun:
    """A trained run: its network in eval mode, and the examples of both splits.

    ``spec`` is the run; ``epoch`` the checkpoint; ``train`` and ``test`` have ``.inputs``
    (N, channels, height, width) and ``.labels`` (N,); inputs that do not fit in memory are
    ``Streamed``, whose rows are read when they are asked for.  ``data_digests`` are those of a
    custom source's splits: reading other examples than those trained on raises DataError.
    ``diverged_epoch`` is None for a run that stayed finite.
    """

    folder: Path
    spec: Run
    epoch: int
    job: TrainJob
    access: Access
    in_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    data_digests: dict[str, str]
    diverged_epoch: int | None
    checksum: str
    device: torch.device
    dtype: torch.dtype

    @property
    def diverged(self) -> bool:
        """Whether training had diverged by this checkpoint, so that there is no network."""
        return self.diverged_epoch is not None and self.epoch >= self.diverged_epoch

    @property
    def key(self) -> str:
        """What a dissection looks at, digested: the network, and what its training was told.

        That tells of the data too, which a checkpoint may outlast: an untrained network is the same
        on every set of images.
        """
        told = f"{self.checksum} {self.job.model_dump_json()}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @cached_property
    def train(self) -> Examples:
        """The very examples trained on."""
        return self._examples("train")

    @cached_property
    def test(self) -> Examples:
        """The test split."""
        return self._examples("test")

    @cached_property
    def model(self) -> nn.Module:
        """The network at the checkpoint, in eval mode.

        Raises ArtifactError where the checkpoint is missing, altered or of a diverged run.
        """
        path = checkpoint_path(self.folder, self.epoch)
        if self.diverged:
            raise ArtifactError(
                f"{self.folder} diverged in epoch {self.diverged_epoch}: there is no network after "
                f"epoch {self.epoch}. Choose an earlier checkpoint, or lower recipe.lr and retrain"
            )
        network = build(
            self.job.model,
            self.spec.norm,
            self.in_shape,
            len(self.class_names),
            init=self.job.recipe.init,
            seed=stream(self.spec.seed, "init"),
        )
        load_network(path, network)
        refuse_altered(self.folder, path, self.checksum)
        return network.to(self.device, self.dtype).eval()

    def _examples(self, split: str) -> Examples:
        place = {"device": self.device, "dtype": self.dtype}
        about = {"results": results_of(self.folder), "digest": self.data_digests.get(split)}
        read = run_examples(self.spec, self.job, self.access, split, **about, **place)
        return read.to(**place)


def open_run(
    folder: str | Path,
    epoch: int | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    access: Access | None = None,
) -> OpenRun:
    """Return the trained run in ``folder`` at a checkpoint; None: the last one.

    Data and network are read when first asked for, the data by ``access``; None: as the training
    read them.  Raises ArtifactError where ``folder`` holds no trained run or no such checkpoint.
    """
    folder = Path(folder)
    record = read_record(folder)
    epochs = [int(key) for key in record["checkpoints"]]
    epoch = max(epochs) if epoch is None else epoch
    if epoch not in epochs:
        raise ArtifactError(
            f"{folder} has no checkpoint of epoch {epoch}, only {epochs}. Choose one of these, or "
            "add it to the recipe's checkpoints"
        )
    return OpenRun(
        folder=folder,
        spec=Run(**record["run"]),
        epoch=epoch,
        job=TrainJob.model_validate_json(json.dumps(record["provenance"]["settings"])),
        access=access or Access.model_validate(record["access"]),
        in_shape=tuple(record["in_shape"]),
        class_names=tuple(record["class_names"]),
        data_digests=record.get("data_digests", {}),
        diverged_epoch=record["diverged_epoch"],
        checksum=record["checkpoints"][str(epoch)],
        device=torch.device(device),
        dtype=dtype,
    )
