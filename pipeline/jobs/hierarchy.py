"""The hierarchy job: the levels of G of checkpoints of a run on its splits, one part each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.anatomy.hierarchy import Hierarchy, Network, hierarchy
from pipeline.api import OpenRun
from pipeline.cubes.assemble import padded
from pipeline.curvature.memory import budget
from pipeline.jobs.parts import Record, options_of, write_parts
from pipeline.spectra.lanczos import Quadrature
from pipeline.tasks import Access, HierarchyJob

COMPONENTS = ("G", "A1", "A2", "B1", "B2")


def write_hierarchies(
    files: Sequence[Path], job: HierarchyJob, access: Access | None = None
) -> None:
    """Write the hierarchy parts ``files``."""
    write_parts(files, job, access, partial(_part, job), labels={})


def _part(job: HierarchyJob, run: OpenRun, split: str, record: Record) -> xr.Dataset:
    """Return the hierarchy of one network on one split."""
    network = Network(
        model=run.model,
        data=getattr(run, split),
        classes=len(run.class_names),
        settings=job.hierarchy,
        seed=run.spec.seed,
        room=budget(job.compute.basis_gb, run.device),
        options=options_of(job),
        wrap=record,
    )
    return _dataset(hierarchy(network), job, run.class_names)


def _dataset(found: Hierarchy, job: HierarchyJob, class_names: tuple[str, ...]) -> xr.Dataset:
    knockouts = job.hierarchy.knockouts
    shape = (job.hierarchy.probes, job.hierarchy.steps)
    eigenvalues = padded([found.eigenvalues.get(name, np.zeros(0)) for name in COMPONENTS])
    by_pair = ("true_class", "cross_class")
    pairs = np.array(found.pairs.pairs, dtype=float)
    variables: dict[str, Any] = {
        "probability": (by_pair, found.shares),
        "component_eigenvalue": (("component", "order"), eigenvalues),
        "component_trace": ("component", [float(found.traces[name].value) for name in COMPONENTS]),
        "component_trace_stderr": (
            "component",
            [float(found.traces[name].error) for name in COMPONENTS],
        ),
        "within_trace": (by_pair, found.within.value),
        "within_trace_stderr": (by_pair, found.within.error),
        "gram": (("pair", "pair_2"), found.pairs.gram.numpy()),
        "pair_true": ("pair", pairs[:, 0]),
        "pair_cross": ("pair", pairs[:, 1]),
        "embedding": (("point", "axis"), found.embedding.coordinates),
        "class_index": ("true_class", np.arange(float(len(class_names)))),
        "hierarchy_basis_kept": float(min(q.kept for q in found.quadratures.values())),
        "embedding_divergence": found.embedding.divergence,
        "embedding_seed": float(found.embedding_seed),
        "identity_error": found.identity_error,
        "identity_error_stderr": found.identity_error_stderr,
    }
    for prefix, dim, quadratures in (
        ("component", "component", [found.quadratures.get(name) for name in COMPONENTS]),
        ("knockout", "knockout", [found.quadratures[name] for name in knockouts]),
        ("class", "true_class", [found.of_class.get(c) for c in range(len(class_names))]),
    ):
        nodes, weights = _stacked(quadratures, shape)
        variables[f"{prefix}_ritz_value"] = ((dim, "probe", "node"), nodes)
        variables[f"{prefix}_ritz_weight"] = ((dim, "probe", "node"), weights)
    coords = {
        "component": np.array(COMPONENTS, dtype=object),
        "knockout": np.array(knockouts, dtype=object),
        "true_class": np.array(class_names, dtype=object),
        "cross_class": np.array(class_names, dtype=object),
    }
    return xr.Dataset(variables, coords=coords)


def _stacked(
    quadratures: list[Quadrature | None], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights (n, probes, steps), NaN where there is no quadrature."""
    nodes = np.full((len(quadratures), *shape), np.nan)
    weights = nodes.copy()
    for place, found in enumerate(quadratures):
        if found is not None:
            nodes[place], weights[place] = found.nodes, found.weights
    return nodes, weights
