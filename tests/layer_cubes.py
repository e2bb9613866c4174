"""Synthetic cubes of layers, overlap and theory: no two slices hold the same numbers."""

from dataclasses import asdict
from itertools import combinations

import numpy as np
import xarray as xr

from pipeline.cubes.assemble import Placed, assemble, padded
from pipeline.runs import Run

CLASSES = 10
SHAPES = {
    "fnet": {"fc1": (32, 64), "fc2": (32, 32), "fc3": (10, 32)},
    "lenet5": {
        "conv1": (6, 25),
        "conv2": (16, 150),
        "fc1": (120, 400),
        "fc2": (84, 120),
        "fc3": (10, 84),
    },
}
SEEDS, SIZES, EPOCHS, SPLITS = (0, 1, 2), (10, 20), (0, 9), ("train", "test")
STORED = 5000  # elements of an eigenvector that is kept
PAIRS = 60  # eigenpairs of a layer


def runs(models=("fnet", "lenet5"), norms=("none", "batch"), seeds=SEEDS):
    return [
        Run("digits", model, norm, "sgd", size, seed)
        for model in models
        for norm in norms
        for size in SIZES
        for seed in seeds
    ]


def places(found, seed=True):
    """Return each run's words with an epoch and a split, and a stream of its own numbers."""
    for run in found:
        for epoch in EPOCHS:
            for split in SPLITS:
                words = asdict(run) | {"epoch": epoch, "split": split}
                if not seed:
                    del words["seed"]
                draw = np.random.default_rng([*"/".join(map(str, words.values())).encode()])
                yield run, words, draw


def spectrum(draw, size, outliers, fall=0.05):
    """Return eigenvalues, largest first: some outliers, then a slow fall."""
    top = np.geomspace(8, 2, min(outliers, size)) * draw.uniform(0.9, 1.1)
    rest = 0.08 * np.exp(-fall * np.arange(max(0, size - outliers))) * draw.uniform(0.9, 1.1)
    return np.r_[top, rest][:size]


def unit(values):
    return values / np.sqrt((values**2).sum(-1, keepdims=True))


def layer(draw, shape, norm):
    """Return one layer's lists and scalars, without padding."""
    m, n = shape
    p = min(PAIRS, m * n)
    orders = np.arange(p)[:, None]
    ranks = np.arange(min(m, n))[None]
    singular = unit(
        np.exp(-2.0 * ranks / (1 + 0.05 * orders)) + 0.01 * draw.random((p, ranks.size))
    )
    output = 0.7 * np.exp(-((orders % m - np.arange(m)) ** 2) / 2) + 0.05 * draw.random((p, m))
    inputs = 0.8 * np.exp(-np.arange(n) / 3) + 0.05 * draw.random((p, n))
    outer = [np.outer(draw.standard_normal(m), draw.standard_normal(n)).ravel() for _ in range(3)]
    one_sided = 40.0 if norm == "none" else 6.0
    return {
        "outputs": float(m),
        "inputs": float(n),
        "layer_complete": 1.0,
        "closed_form": 1.0,
        "residual_share": 1e-6,
        "layer_eigenvalue": spectrum(draw, p, CLASSES - 1),
        "layer_residual": np.full(p, 1e-5),
        "singular_value": singular,
        "eigenvector": unit(np.array(outer)) if m * n <= STORED else np.zeros((0, 0)),
        "autocorrelation_eigenvalue": np.r_[one_sided, 2 * np.exp(-0.1 * np.arange(n - 1))]
        * draw.uniform(0.9, 1.1),
        "spectral_ratio": one_sided / 2,
        "mean_alignment": draw.uniform(0.9, 1) if norm == "none" else draw.uniform(0.3, 0.6),
        "output_hessian_eigenvalue": spectrum(draw, m, CLASSES - 1, 0.02),
        "output_gap": draw.uniform(20, 30),
        "rowspace_overlap": draw.uniform(0.9, 1) if m in (32, 84) else np.nan,
        "kronecker_eigenvalue": spectrum(draw, p, CLASSES - 1) * 0.8,
        "kronecker_overlap": 0.95 - 0.4 * np.arange(p) / p * draw.uniform(0.9, 1.1),
        "decoupling_error": draw.uniform(0.1, 0.4),
        "correspondence_output": output,
        "correspondence_input": inputs,
    }


def stacked(lists):
    """Return arrays of different shapes as one, NaN beyond their ends."""
    arrays = [np.asarray(a) for a in lists]
    if arrays[0].ndim < 2:
        return padded(arrays) if arrays[0].ndim else np.array(arrays)
    shape = np.max([a.shape for a in arrays], axis=0)
    full = np.full((len(arrays), *shape), np.nan)
    for row, a in zip(full, arrays, strict=True):
        row[: a.shape[0], : a.shape[1]] = a
    return full


INNER = {
    "layer_eigenvalue": ("order",),
    "layer_residual": ("order",),
    "singular_value": ("order", "index"),
    "eigenvector": ("shown", "element"),
    "autocorrelation_eigenvalue": ("index",),
    "output_hessian_eigenvalue": ("index",),
    "kronecker_eigenvalue": ("order",),
    "kronecker_overlap": ("k",),
    "correspondence_output": ("order", "index"),
    "correspondence_input": ("order", "index"),
}


def layers_part(draw, run):
    shapes = SHAPES[run.model]
    found = [layer(draw, shape, run.norm) for shape in shapes.values()]
    rows = {
        key: (("layer", *INNER.get(key, ())), stacked([one[key] for one in found]))
        for key in found[0]
    }
    # One `index` for all lists: their lengths must agree within a part.
    longest = max(values.shape[-1] for dims, values in rows.values() if dims[-1] == "index")
    for key, (dims, values) in rows.items():
        if dims[-1] == "index":
            wide = np.full((*values.shape[:-1], longest), np.nan)
            wide[..., : values.shape[-1]] = values
            rows[key] = dims, wide
    rows["hessian_eigenvalue"] = "order", spectrum(draw, PAIRS, CLASSES - 1)
    rows["full_kronecker_eigenvalue"] = "order", spectrum(draw, PAIRS, CLASSES - 1) * 0.7
    rows["full_kronecker_overlap"] = "k", 0.9 - 0.5 * np.arange(PAIRS) / PAIRS
    rows["dimension"], rows["classes"] = 5000.0, float(CLASSES)
    return xr.Dataset(rows, coords={"layer": list(shapes), "k": 1 + np.arange(PAIRS)})


def layers_cube(found=None, diverged=()):
    """Return the cube; runs for which ``diverged`` holds have sizes alone."""
    found = runs() if found is None else found
    lost = xr.Dataset({"dimension": 5000.0, "classes": float(CLASSES)})
    parts = [
        Placed(words, lost if (run.model, run.norm) in diverged else layers_part(draw, run))
        for run, words, draw in places(found)
    ]
    return assemble("layers", found, parts)


def curve(draw, k, m):
    """Return an overlap that falls after the classes and peaks at the output width."""
    peak = 0.35 * np.exp(-(((k - m) / (0.35 * m)) ** 2)) * (k <= m) + 0.35 * np.exp(
        -np.maximum(0, k - m) / (0.5 * m)
    ) * (k > m)
    return np.clip(0.2 + peak + 0.4 * np.exp(-k / 6) + 0.02 * draw.standard_normal(len(k)), 0, 1)


def overlap_part(draw, run, seeds):
    shapes = SHAPES[run.model]
    longest = max(min(2 * m, m * n) for m, n in shapes.values())
    k = 1 + np.arange(longest)
    size = len(seeds)
    overlap = np.full((len(shapes), longest, size, size), np.nan)
    cosine = np.full((len(shapes), size, size), np.nan)
    outputs = np.array([m for m, _ in shapes.values()], dtype=float)
    for i, (m, n) in enumerate(shapes.values()):
        shown = min(2 * m, m * n)
        for a, b in combinations(range(size), 2):
            overlap[i, :shown, a, b] = curve(draw, k[:shown], m)
            cosine[i, a, b] = 0.1 * draw.standard_normal()
    pairs = overlap.reshape(len(shapes), longest, -1)
    counts = np.isfinite(pairs).sum(-1)
    mean = np.where(counts, np.nansum(pairs, -1) / np.maximum(counts, 1), np.nan)
    std = np.full_like(mean, np.nan)
    if size > 2:
        std[counts > 1] = np.nanstd(pairs[counts > 1], axis=-1, ddof=1)
    baseline = np.array([k / (m * n) for m, n in shapes.values()])
    across = np.full((len(shapes), longest, 1, 2), np.nan)
    across[..., 0, 0 if run.n_per_class == 20 else 1] = 0.8 * mean
    return xr.Dataset(
        {
            "overlap": (("layer", "k", "seed_a", "seed_b"), overlap),
            "overlap_mean": (("layer", "k"), mean),
            "overlap_std": (("layer", "k"), std),
            "random_baseline": (("layer", "k"), np.where(counts, baseline, np.nan)),
            "overlap_outputs": ("layer", outputs),
            "weight_cosine": (("layer", "seed_a", "seed_b"), cosine),
            "across_overlap": (
                ("layer", "k", "other_recipe", "other_n_per_class"),
                across,
            ),
        },
        coords={
            "layer": list(shapes),
            "k": k,
            "seed_a": list(seeds),
            "seed_b": list(seeds),
            "other_recipe": ["sgd"],
            "other_n_per_class": list(SIZES),
        },
    )


def overlap_cube(found=None, seeds=SEEDS, across=True):
    found = runs(seeds=seeds) if found is None else found
    parts = []
    for run, words, draw in places([run for run in found if run.seed == seeds[0]], seed=False):
        part = overlap_part(draw, run, seeds)
        if not across:
            part = part.drop_dims(["other_recipe", "other_n_per_class"])
        parts.append(Placed(words, part))
    return assemble("overlap", found, parts)


LIMITS = {"gaussian": 1.0, "rectified": 0.829}


def theory_cube(widths=(64, 128, 256, 512), seeds=(0, 1, 2)):
    parts = []
    for width in widths:
        for kind, limit in LIMITS.items():
            for seed in seeds:
                draw = np.random.default_rng([width, limit == 1.0, seed])
                part = {
                    "overlap_predicted": limit - draw.uniform(5, 8) / width,
                    "overlap_limit": limit,
                    "eigenvalue_ratio": draw.uniform(5, 8) / width * (1 if limit == 1 else 2),
                    "relative_error": draw.uniform(0.8, 1.2) / np.sqrt(width),
                }
                parts.append(
                    Placed({"width": width, "input": kind, "theory_seed": seed}, xr.Dataset(part))
                )
    return assemble("theory", [], parts)
