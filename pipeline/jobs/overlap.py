"""The overlap job: the layers' eigenspaces of one network's runs, compared pair by pair.

Pairs that are done wait in a folder of their own, under the checksums of what they compare: a seed
more computes the new pairs alone.  Each eigenspace is read once, where one layer's of all runs fit
in memory; otherwise once for each pair of groups that it is compared in.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.anatomy.overlap import from_cosines
from pipeline.api import open_run
from pipeline.atomic import replacing, sha256
from pipeline.cubes.eigenspaces import eigenspace, layer_sizes
from pipeline.cubes.store import attributes, opened_part, refusal_of, write_part
from pipeline.curvature.memory import budget
from pipeline.device import device_name, prepare, within_memory
from pipeline.progress import progress
from pipeline.provenance import provenance
from pipeline.runs import Run, overlap_path, run_folder
from pipeline.scratch import only_maker
from pipeline.tasks import OverlapJob, layers_parts

COSINE = "weights of "  # a layer's entry beside its overlaps
GROUP = ("recipe", "n_per_class", "epoch", "split")
LAYER = (*GROUP, "layer")
SEEDS = ("seed_a", "seed_b")
ACROSS = ("recipe", "n_per_class", "split", "layer", "other_recipe", "other_n_per_class", "k")


@dataclass(frozen=True, eq=False)
class Side:
    """One of two networks to compare: a checkpoint of a run, seen on a split.

    ``sizes`` are (outputs, weights, pairs known) by layer: none for a diverged network.
    """

    run: Run
    epoch: int
    split: str
    file: Path
    checksum: str
    sizes: dict[str, tuple[int, int, int]]

    @property
    def group(self) -> tuple[str, int, int, str]:
        """What the runs have in common that all pairs of seeds are compared of."""
        return self.run.recipe, self.run.n_per_class, self.epoch, self.split


Pair = tuple[Side, Side]


@within_memory("Lower layers.rank, or set compute.device to cpu for this job")
def write_overlaps(job: OverlapJob) -> None:
    """Write the overlap part of a network's runs."""
    target = overlap_path(job.results, job.dataset, job.model, job.norm)
    with only_maker(target):
        _write(target, job)


def _write(target: Path, job: OverlapJob) -> None:
    device = prepare(job.compute)
    sides = [
        Side(run, *at, file, sha256(file), layer_sizes(file)) for run, at, file in layers_parts(job)
    ]
    kept = target.parent / ".overlap"
    files = {pair: kept / f"{_key(pair, job.code)}.safetensors" for pair in pairs_of(sides, job)}
    found = {pair: values for pair, file in files.items() if (values := _kept(file)) is not None}
    missing = [pair for pair in files if pair not in found]
    missing.sort(key=lambda pair: [side.group for side in pair])
    batches = [list(some) for _, some in groupby(missing, lambda pair: [s.group for s in pair])]
    itemsize = getattr(torch, job.compute.dtype).itemsize
    if missing and held_bytes(missing, itemsize) <= budget(job.compute.basis_gb, device):
        batches = [missing]
    label = f"{job.dataset}/{job.model}/{job.norm} overlap"
    for pairs in progress(batches, total=len(batches), label=label):
        for pair, result in zip(pairs, _compared(pairs, job, device), strict=True):
            with replacing(files[pair]) as staged:
                save_file(result, staged)
            found[pair] = result
    part = _dataset(job, sides, [(pair, found[pair]) for pair in files])
    part.attrs = attributes(
        provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device=device_name(device),
            seeds=sorted({run.seed for run in job.runs()}),
        )
    )
    write_part(part, target)
    for file in set(kept.glob("*.safetensors")) - set(files.values()):
        file.unlink(missing_ok=True)


def held_bytes(pairs: Sequence[Pair], itemsize: int) -> int:
    """Return the bytes of all eigenspaces that ``pairs`` compare of one layer, the largest."""
    by_layer: Counter[str] = Counter()
    for sizes in {side.file: side.sizes for pair in pairs for side in pair}.values():
        for layer, (_, weights, known) in sizes.items():
            by_layer[layer] += weights * known * itemsize
    return max(by_layer.values(), default=0)


def _key(pair: Pair, code: str) -> str:
    """Return the name that a pair's overlaps are kept under: what they depend on."""
    text = " ".join([code, *(side.checksum for side in pair)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _kept(file: Path) -> dict[str, np.ndarray] | None:
    """Return what is kept of a pair, None where it is not there or not whole."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None


def pairs_of(sides: Sequence[Side], job: OverlapJob) -> Iterator[Pair]:
    """Yield the pairs of seeds of every group, then those across recipes and sample sizes."""
    ordered = sorted(sides, key=lambda side: (side.group, side.run.seed))
    for _, group in groupby(ordered, lambda side: side.group):
        yield from combinations(group, 2)
    last = [side for side in ordered if side.epoch == max(job.checkpoints[side.run.recipe])]
    for a, b in combinations(last, 2):
        differ = {
            word
            for word in ("recipe", "n_per_class")
            if getattr(a.run, word) != getattr(b.run, word)
        }
        across = differ and differ <= set(job.overlap.across)
        if across and a.split == b.split and a.run.seed != b.run.seed:
            yield a, b


def _compared(
    pairs: list[Pair], job: OverlapJob, device: torch.device
) -> list[dict[str, np.ndarray]]:
    """Return each pair's overlaps by layer, and the cosines of its weights."""
    sides = {side.file: side for pair in pairs for side in pair}
    with ExitStack() as stack:
        parts = {f: stack.enter_context(opened_part(f)) for f in sides}
        weights = {f: _weights(job, side) for f, side in sides.items()}
        results: list[dict[str, np.ndarray]] = [{} for _ in pairs]
        for layer in {layer: None for side in sides.values() for layer in side.sizes}:
            read = {}
            for f, side in sides.items():
                if layer in side.sizes:
                    with refusal_of(f):
                        read[f] = torch.from_numpy(eigenspace(parts[f], layer)).to(device)
            for (a, b), result in zip(pairs, results, strict=True):
                if a.file in read and b.file in read:
                    k = min(len(read[a.file]), len(read[b.file]))
                    U, V = read[a.file][:k].T, read[b.file][:k].T
                    result[layer] = from_cosines(U.T @ V).cpu().numpy()
                    one, other = (weights[s.file][f"{layer}.weight"].flatten() for s in (a, b))
                    cosine = torch.cosine_similarity(one.double(), other.double(), dim=0)
                    result[COSINE + layer] = cosine.numpy().reshape(1)
    return results


def _weights(job: OverlapJob, side: Side) -> dict[str, torch.Tensor]:
    """Return a network's weights; raises ArtifactError where its checkpoint is not its own."""
    if not side.sizes:
        return {}
    return open_run(run_folder(job.results, side.run), side.epoch).model.state_dict()


def _dataset(
    job: OverlapJob, sides: Sequence[Side], found: list[tuple[Pair, dict[str, np.ndarray]]]
) -> xr.Dataset:
    """Return the part: overlaps by pair of seeds, their mean and spread, and those across."""
    overlaps, cosines, across = [], [], []
    for (a, b), values in found:
        for layer in a.sizes.keys() & b.sizes.keys():
            if a.group == b.group:
                place = (*a.group, layer, a.run.seed, b.run.seed)
                overlaps += [(*place, k, value) for k, value in enumerate(values[layer], start=1)]
                cosines.append((*place, float(values[COSINE + layer][0])))
                continue
            for one, other in ((a, b), (b, a)):
                place = (*one.group[:2], one.split, layer, *other.group[:2])
                across += [(*place, k, value) for k, value in enumerate(values[layer], start=1)]
    layers = [(*side.group, layer, *sizes) for side in sides for layer, sizes in side.sizes.items()]
    baselines = [(*row[:5], k, k / row[6]) for row in layers for k in range(1, row[7] + 1)]
    by_pair = _table(overlaps, (*LAYER, *SEEDS, "k"))
    by_group = by_pair.groupby([*LAYER, "k"])
    beyond = _table(across, ACROSS).groupby(list(ACROSS))
    part = xr.Dataset(
        {
            "overlap": by_pair.to_xarray(),
            "overlap_mean": by_group.mean().to_xarray(),
            "overlap_std": by_group.std().to_xarray(),
            "random_baseline": _once(_table(baselines, (*LAYER, "k"))).to_xarray(),
            "overlap_outputs": _once(_table([row[:6] for row in layers], LAYER)).to_xarray(),
            "weight_cosine": _table(cosines, (*LAYER, *SEEDS)).to_xarray(),
            "across_overlap": beyond.mean().to_xarray(),
            "across_std": beyond.std().to_xarray(),
        }
    )
    seeds = sorted({run.seed for run in job.runs()})
    part = part.reindex(seed_a=seeds, seed_b=seeds)
    # In the order of the network, which pandas sorted away.
    return part.sel(layer=list(dict.fromkeys(row[4] for row in layers)))


def _table(rows: list[tuple], names: Sequence[str]) -> pd.Series:
    """Return rows of (labels ..., value) as a series indexed by the labels."""
    frame = pd.DataFrame(rows, columns=[*names, "value"])
    return frame.set_index(list(names))["value"].astype(float)


def _once(table: pd.Series) -> pd.Series:
    """Return the same with one value for each place: all runs of a group agree, or know fewer."""
    return table[~table.index.duplicated()]
