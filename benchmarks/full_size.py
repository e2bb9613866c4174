"""S's VGG11 on MNIST, 28 million parameters: spectra of Hess, G and H, and the power law of H.

One script beside the workflow, for any machine with a GPU: it needs neither Snakemake nor Zarr.

    PYTHONPATH=. python benchmarks/full_size.py --data-root data --out full-size

The network, results.json and spectra.png go to --out.  The same command, begun again after a kill,
goes on from the last saved epoch or the last whole spectrum.  More in docs/full-size.md.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size_report import laws, picture, table
from torch import nn

from pipeline.anatomy.spectrum import MatrixSpectrum, matrix_spectrum
from pipeline.atomic import remove, replacing
from pipeline.catalogue import MATRICES, NORMS, SPLITS
from pipeline.config import VGG11, Dataset
from pipeline.curvature import gauss_newton, hessian, residual
from pipeline.curvature.base import LinearOperator
from pipeline.curvature.memory import budget
from pipeline.data.examples import Examples, balanced_subset, load_examples
from pipeline.device import device_name, prepare
from pipeline.errors import AnatomyError
from pipeline.models.registry import build
from pipeline.progress import say
from pipeline.provenance import git_commit, versions
from pipeline.recipes import Recipe
from pipeline.runs import checkpoint_path
from pipeline.spectra.lanczos import gaussian
from pipeline.stages import Compute, Spectrum
from pipeline.streams import stream
from pipeline.training.checkpoint import load_network, load_state
from pipeline.training.loop import train

OPERATORS = {"Hess": hessian, "G": gauss_newton, "H": residual}
IMAGE_SIZE = 32
SKETCH = 8  # random vectors by which Hess v is compared with G v + H v
# Free to change between calls: what is asked for, where from, and what changes rounding alone.
ANYTIME = (
    *("out", "matrices", "splits", "save_every", "data_root", "download"),
    *("memory_gb", "basis_gb", "chunk", "compiled", "device", "threads"),
)


def options() -> argparse.Namespace:
    """Return the command line's words; defaults are S's settings where S names them."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("full-size"), help="folder for all that is written")
    add("--dataset", default="mnist", help="mnist, fashion_mnist, cifar10, cifar100 or digits")
    add("--data-root", default="data", help="where torchvision keeps its data sets")
    add("--download", action="store_true", help="let torchvision fetch what --data-root lacks")
    add("--n-per-class", type=int, default=1351, help="training examples; 0: all")
    add("--test-per-class", type=int, default=0, help="test examples; 0: all")
    add("--width", type=int, help="of every convolution, for a trial: D's VGG11, not S's")
    add("--hidden", type=int, default=4096, help="units of each of the two hidden layers behind")
    add("--norm", choices=NORMS, default="batch")
    add("--epochs", type=int, default=200)
    add("--lr", type=float, default=0.01, help="S chose each network's by its test error")
    add("--batch", type=int, default=128)
    add("--seed", type=int, default=0)
    add("--matrices", nargs="+", choices=MATRICES, default=list(MATRICES))
    add("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    add("--steps", type=int, default=128, help="of Lanczos, for each probe")
    add("--probes", type=int, default=1)
    add("--top", type=int, default=20, help="eigenpairs of Hess and G that are found and deflated")
    add("--device", default="auto")
    add("--dtype", choices=("float32", "float64"), default="float32", help="of the products")
    add("--threads", type=int, default=1)
    add("--chunk", type=int, default=1000, help="examples linearised at once, at most")
    add("--compiled", action="store_true", help="products through torch.compile")
    add("--memory-gb", type=float, help="for linearised chunks; by default 1 on a CPU, 8 on a GPU")
    add("--basis-gb", type=float, help="for a Krylov basis; by default likewise")
    add("--save-every", type=float, default=60.0, help="seconds between states of the training")
    return parser.parse_args()


def main() -> None:
    """Train, measure, fit, draw, and print a table."""
    told = options()
    device = prepare(Compute(device=told.device, threads=told.threads))
    results = opened(told)
    data = examples(told, device)
    network = trained(told, data, results)
    network.to(getattr(torch, told.dtype))
    for split in told.splits:
        for matrix in told.matrices:
            if f"{split}/{matrix}" not in results.found["spectra"]:
                record = measured(told, network, data[split], matrix)
                results.add("spectra", f"{split}/{matrix}", record)
                say(f"{split}/{matrix}: {record['seconds']:.0f} s")
    for split, law in laws(results.found).items():
        results.add("laws", split, law)
    picture(results.found, told.out / "spectra.png")
    print(table(results.found))


@dataclass(frozen=True)
class Results:
    """What is found so far, written to ``file`` after every phase."""

    file: Path
    found: dict[str, Any]

    def add(self, section: str, name: str, value: Any) -> None:
        """Put a value under a name of a section."""
        self.found[section][name] = value
        self.save()

    def save(self) -> None:
        """Write what is found so far."""
        with replacing(self.file) as staged:
            staged.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")


def opened(told: argparse.Namespace) -> Results:
    """Return what an earlier call found, or nothing yet; AnatomyError if it was told otherwise."""
    file = told.out / "results.json"
    settings = {name: value for name, value in vars(told).items() if name not in ANYTIME}
    if not file.exists():
        about = {"versions": versions(), "commit": git_commit()}
        empty = {"training": {}, "spectra": {}, "laws": {}}
        results = Results(file, {"settings": settings, **about, **empty})
        results.save()  # before anything is made: a killed training goes on with its settings
        return results
    found = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if found["settings"][name] != value:
            raise AnatomyError(
                f"--{name.replace('_', '-')} is {value}, but {file} was made with "
                f"{found['settings'][name]}. Give the same, or another --out"
            )
    return Results(file, found)


def examples(told: argparse.Namespace, device: torch.device) -> dict[str, Examples]:
    """Return the examples of both splits, on the device."""
    dataset = Dataset(source=told.dataset).resolved()
    where = {"data_root": told.data_root, "download": told.download, "image_size": IMAGE_SIZE}
    train_set = load_examples(
        dataset, "train", n_per_class=told.n_per_class, seed=told.seed, **where
    )
    test_set = load_examples(dataset, "test", **where)
    if told.test_per_class:
        seed = stream(told.seed, "test subset")
        kept = balanced_subset(test_set.labels.numpy(), told.test_per_class, seed)
        test_set = Examples(test_set.inputs[kept], test_set.labels[kept], test_set.class_names)
    return {"train": train_set.to(device), "test": test_set.to(device)}


def trained(told: argparse.Namespace, data: dict[str, Examples], results: Results) -> nn.Module:
    """Return the network after all epochs, trained here unless an earlier call has done so."""
    device, classes = data["train"].inputs.device, len(data["train"].class_names)
    model = VGG11(family="vgg11", width=told.width, hidden=told.hidden)
    shape = tuple(data["train"].inputs.shape[1:])
    seed = stream(told.seed, "init")
    network = build(model, told.norm, shape, classes, init="default", seed=seed).to(device)
    if not results.found["training"]:
        results.found["training"] |= taught(told, network, data)
        results.add("training", "parameters", sum(p.numel() for p in network.parameters()))
    load_network(checkpoint_path(told.out, told.epochs), network)
    return network


def taught(
    told: argparse.Namespace, network: nn.Module, data: dict[str, Examples]
) -> dict[str, Any]:
    """Train ``network``, from a saved state where there is one; return how it went.

    Raises AnatomyError if training diverges.
    """
    state = told.out / "state.safetensors"
    first = load_state(state).epoch if state.exists() else 0
    recipe = Recipe(lr=told.lr, batch=told.batch, epochs=told.epochs, checkpoints=(told.epochs,))
    watch = Watch(data["train"].inputs.device)
    history = train(
        network,
        recipe,
        data["train"],
        data["test"],
        dataset=Dataset(source=told.dataset).resolved(),
        seed=told.seed,
        scratch=told.out,
        save_every=told.save_every,
        label="training",
    )
    last = history[-1]
    if last.diverged:
        raise AnatomyError(
            f"training diverged in epoch {last.epoch} at --lr {told.lr}. Lower it, in another --out"
        )
    remove(state)
    pace = watch.seconds() / max(1, told.epochs - first)
    names = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return {name: getattr(last, name) for name in names} | {
        "device": device_name(watch.device),
        "seconds_per_epoch": pace,
        "peak_bytes": watch.peak(),
    }


class Watch:
    """The time since it was made, and the most memory that was taken since."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds, the device's work included."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.start

    def peak(self) -> int:
        """Return bytes: of a GPU's own memory, or of this whole process since it began."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(
    told: argparse.Namespace, network: nn.Module, data: Examples, matrix: str
) -> dict[str, Any]:
    """Return the spectrum of one matrix on one split, as the workflow's spectrum stage has it."""
    settings = Spectrum(
        top=Spectrum().top | {"Hess": told.top, "G": told.top},
        steps=told.steps,
        probes=told.probes,
    )
    watch = Watch(data.inputs.device)
    operator = OPERATORS[matrix](
        network, data, chunk=told.chunk, memory_gb=told.memory_gb, compiled=told.compiled
    )
    sketch, setup = sketched(operator, told.seed), watch.seconds()
    room = budget(told.basis_gb, operator.device)
    found = matrix_spectrum(operator, matrix, settings, seed=told.seed, basis_bytes=room)
    steps = int(np.isfinite(found.bulk.nodes).sum())
    return plain(found) | {
        "sketch": sketch,
        "products": found.pairs.products + steps + found.trace.probes,
        "chunks_kept": [operator.kept, len(operator.products)],
        "device": device_name(watch.device),
        "seconds_setup": setup,
        "seconds": watch.seconds(),
        "peak_bytes": watch.peak(),
    }


def plain(found: MatrixSpectrum) -> dict[str, Any]:
    """Return a spectrum as JSON has it: what did not converge is no eigenvalue."""
    pairs, bulk, trace = found.pairs, found.bulk, found.trace
    known = [np.isfinite(nodes) for nodes in bulk.nodes]
    return {
        "dimension": pairs.vectors.shape[0],
        "eigenvalues": pairs.values[pairs.converged].tolist(),
        "residuals": pairs.residuals[pairs.converged].tolist(),
        "not_converged": int((~pairs.converged).sum()),
        "outliers": found.outliers.count,
        "bulk_edge": found.outliers.edge,
        "nodes": [nodes[k].tolist() for nodes, k in zip(bulk.nodes, known, strict=True)],
        "weights": [weights[k].tolist() for weights, k in zip(bulk.weights, known, strict=True)],
        "steps": bulk.nodes.shape[1],
        "basis_kept": bulk.kept,
        "orthogonality": bulk.orthogonality,
        "trace": [trace.value, trace.standard_error],
        "square_trace": [trace.square, trace.square_standard_error],
        "moments": [list(moment) for moment in found.moments],
    }


def sketched(operator: LinearOperator, seed: int) -> list[float]:
    """Return a few random projections of A v, for the same random v of every operator."""
    image = (operator @ gaussian(operator, stream(seed, "identity"))).double()
    return [
        float(gaussian(operator, stream(seed, "sketch", i)).double() @ image) for i in range(SKETCH)
    ]


if __name__ == "__main__":
    try:
        main()
    except AnatomyError as error:
        sys.exit(f"error: {error}")
