"""The layers and overlap jobs, on trained networks, against what is computed without them."""

from itertools import groupby

import numpy as np
import pytest
import torch
from small_run import RECIPE, folder_of, job_of, parts_of

from pipeline import open_run
from pipeline.anatomy.overlap import eigenspace_overlap, from_cosines
from pipeline.atomic import sha256
from pipeline.config import FNet
from pipeline.cubes.eigenspaces import eigenspace
from pipeline.cubes.store import opened_part, read_part
from pipeline.curvature import layer_hessian
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.errors import ArtifactError
from pipeline.jobs import overlap
from pipeline.jobs.layers import write_layers
from pipeline.jobs.overlap import write_overlaps
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe
from pipeline.runs import Run, checkpoint_path, overlap_path
from pipeline.stages import Compute, Layers, Overlap
from pipeline.tasks import LayersJob, OverlapJob

JOB = LayersJob(
    layers=Layers(rank=12, full=6, tolerance=1e-9),
    compute=Compute(device="cpu", dtype="float64", chunk=40),
    code="test",
)


def part_of(folder):
    return parts_of(folder, "layers")[30, "train"]


def overlap_job(root, seeds, recipes=("sgd",), across=()):
    return OverlapJob(
        results=str(root),
        dataset="digits",
        model="small",
        norm="batch",
        seeds=tuple((recipe, 9, seeds) for recipe in recipes),
        checkpoints=dict.fromkeys(recipes, (30,)),
        splits=("train",),
        overlap=Overlap(across=across),
        compute=JOB.compute,
        code="test",
    )


def overlaps(root, *arguments, **words):
    write_overlaps(overlap_job(root, *arguments, **words))
    return read_part(overlap_path(root, "digits", "small", "batch"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a results folder with three seeds of one recipe, dissected."""
    root = tmp_path_factory.mktemp("results")
    for seed in (0, 1, 2):
        folder = folder_of(root, seed=seed)
        train_run(folder, job_of(RECIPE), save_every=1e9)
        write_layers([part_of(folder)], JOB)
    return root


def test_of_large_layers_no_vectors_are_kept(tmp_path):
    folder = folder_of(tmp_path)
    deep = FNet(family="fnet", width=8, depth=2)
    recipe = Recipe(lr=0.05, batch=16, epochs=1, checkpoints=(1,))
    train_run(folder, job_of(recipe).model_copy(update={"model": deep}), save_every=1e9)
    part = parts_of(folder, "layers", epochs=(1,))[1, "train"]
    # A large layer, fc1 of 512 weights, between small ones.
    layers = Layers(rank=4, full=2, elements=100, names=("fc3", "fc1", "fc2"))
    write_layers([part], JOB.model_copy(update={"layers": layers}))
    found = read_part(part).eigenvector.isel(shown=0).notnull().sum("element")
    assert dict(zip(found.layer.values, found.values, strict=True)) == {
        "fc3": 80,
        "fc1": 0,
        "fc2": 64,
    }


def test_the_part_has_the_layers_dense_eigenpairs(root):
    folder = folder_of(root)
    run = open_run(folder, 30, dtype=torch.float64)
    part = read_part(part_of(folder))
    assert part.layer.values.tolist() == ["fc1", "fc2"]
    assert part.outputs.values.tolist() == [8, 10]
    assert part.closed_form.values.tolist() == [1, 1]
    for layer in ("fc1", "fc2"):
        A = layer_hessian(run.model, run.train, layer=layer)
        H = A @ torch.eye(A.shape[0], dtype=torch.float64)
        exact = torch.linalg.eigvalsh(H).flip(0)[:12].numpy()
        one = part.sel(layer=layer)
        assert np.allclose(one.layer_eigenvalue, exact, atol=1e-8 * exact[0])
        vectors = torch.from_numpy(eigenspace(part, layer)).T
        residuals = (H @ vectors - vectors * torch.from_numpy(exact)).norm(dim=0)
        assert np.allclose(one.layer_residual, residuals, atol=1e-8 * exact[0])
        shown = one.eigenvector.dropna("element", how="all").values
        assert np.array_equal(shown, eigenspace(part, layer)[:3])
        factors = kronecker_factors(run.model, run.train, layer=layer)
        mu, nu = (
            torch.linalg.eigvalsh(F).flip(0).numpy()
            for F in (factors.output_hessian, factors.autocorrelation)
        )
        for name, values in (
            ("output_hessian_eigenvalue", mu),
            ("autocorrelation_eigenvalue", nu),
            ("kronecker_eigenvalue", np.sort(np.outer(mu, nu).ravel())[::-1]),
        ):
            there = one[name].dropna(one[name].dims[0]).values
            assert np.allclose(there, values[: len(there)], atol=1e-9 * values[0]), name
            assert len(there) == min(len(values), 12 if name.startswith("kron") else 50)
        assert float(one.spectral_ratio) == pytest.approx(nu[0] / nu[1])
        if layer == "fc2":  # as wide as there are classes: the last eigenvalue is zero
            assert np.isnan(one.output_gap)
    full = part.hessian_eigenvalue.dropna("order").values
    assert len(full) == 6
    assert float(part.full_kronecker_overlap.sel(k=1)) > 0.3


def test_equal_jobs_write_equal_bytes(root, tmp_path):
    before = sha256(part_of(folder_of(root)))
    part_of(folder_of(root)).unlink()
    write_layers([part_of(folder_of(root))], JOB)
    assert sha256(part_of(folder_of(root))) == before


def test_the_overlaps_are_those_of_the_eigenspaces(root):
    found = overlaps(root, (0, 1, 2)).isel(recipe=0, n_per_class=0, epoch=0, split=0)
    spaces = {}
    for seed in (0, 1, 2):
        with opened_part(part_of(folder_of(root, seed=seed))) as part:
            spaces[seed] = torch.from_numpy(eigenspace(part, "fc1")).T
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [eigenspace_overlap(spaces[a], spaces[b]).numpy() for a, b in pairs]
    fc1 = found.sel(layer="fc1")
    for (a, b), values in zip(pairs, expected, strict=True):
        assert np.allclose(fc1.overlap.sel(seed_a=a, seed_b=b), values)
    for a, b in [(1, 0), (2, 0), (0, 0)]:
        assert fc1.overlap.sel(seed_a=a, seed_b=b).isnull().all()
    assert np.allclose(fc1.overlap_mean, np.mean(expected, 0))
    assert np.allclose(fc1.overlap_std, np.std(expected, 0, ddof=1))
    assert np.allclose(fc1.random_baseline, fc1.k / (64 * 8))
    weights = [open_run(folder_of(root, seed=s), 30).model.fc1.weight.flatten() for s in (0, 1)]
    cosine = float(torch.cosine_similarity(*weights, dim=0).detach())
    assert float(fc1.weight_cosine.sel(seed_a=0, seed_b=1)) == pytest.approx(cosine, rel=1e-5)
    assert found.layer.values.tolist() == ["fc1", "fc2"]


def test_a_new_seed_computes_its_own_pairs_and_reads_each_space_once(root, monkeypatch):
    first = overlaps(root, (0, 1))
    computed, read = [], []

    def counted(cosines):
        computed.append(cosines.shape)
        return from_cosines(cosines)

    def noted(part, layer):
        read.append(layer)
        return eigenspace(part, layer)

    monkeypatch.setattr(overlap, "from_cosines", counted)
    monkeypatch.setattr(overlap, "eigenspace", noted)
    second = overlaps(root, (0, 1, 2))
    assert len(computed) == 2 * 2  # pairs (0, 2) and (1, 2), two layers
    assert sorted(read) == ["fc1"] * 3 + ["fc2"] * 3
    pair = {"seed_a": 0, "seed_b": 1}
    assert second.overlap.sel(pair).equals(first.overlap.sel(pair))
    computed.clear()
    third = overlaps(root, (0, 1, 2))
    assert not computed
    assert third.identical(second)
    # A seed taken out takes its pairs with it.
    overlaps(root, (0, 1))
    assert len(kept_pairs(root)) == 1


def kept_pairs(root):
    folder = overlap_path(root, "digits", "small", "batch").parent / ".overlap"
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("left", [0, 100])
def test_a_kept_pair_that_is_not_whole_is_compared_anew(root, left):
    before = overlaps(root, (0, 1))
    (file,) = kept_pairs(root)
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    assert overlaps(root, (0, 1)).identical(before)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("damage", "refusal"),
    [
        (lambda whole: whole[:-9], "seed1/checkpoints/epoch30.* is not a whole safetensors file"),
        (lambda whole: whole[:-9] + bytes(9), r"seed1/checkpoints/epoch30.* SHA-256 differs"),
    ],
    ids=["truncated", "altered"],
)
def test_a_damaged_checkpoint_is_refused_by_name(root, damage, refusal):
    overlap_path(root, "digits", "small", "batch").unlink(missing_ok=True)
    for file in kept_pairs(root):
        file.unlink()
    checkpoint = checkpoint_path(folder_of(root, seed=1), 30)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(damage(whole))
    try:
        with pytest.raises(ArtifactError, match=refusal):
            overlaps(root, (0, 1))
    finally:
        checkpoint.write_bytes(whole)
    assert not kept_pairs(root)


def test_a_single_seed_and_a_diverged_one_leave_nothing_to_compare(root):
    alone = overlaps(root, (0,))
    assert alone.overlap.isnull().all()
    assert alone.random_baseline.notnull().any()
    wild = Recipe(lr=1e30, batch=16, epochs=30, checkpoints=(30,))
    folder = folder_of(root, seed=7)
    train_run(folder, job_of(wild), save_every=1e9)
    write_layers([part_of(folder)], JOB)
    both = overlaps(root, (0, 1, 7)).isel(recipe=0, n_per_class=0, epoch=0, split=0)
    assert both.overlap.sel(seed_b=7).isnull().all()
    assert both.overlap.sel(seed_a=0, seed_b=1).notnull().any()


def test_across_several_groups_each_space_is_read_once_a_pair_of_groups(root, monkeypatch):
    sides = [
        overlap.Side(Run("d", "m", "none", recipe, n, seed), 30, "train", root, "", {})
        for recipe in ("a", "b", "c")
        for n in (9,)
        for seed in (0, 1, 2)
    ]
    job = overlap_job(root, (0, 1, 2), recipes=("a", "b", "c"), across=("recipe",))
    pairs = sorted(overlap.pairs_of(sides, job), key=lambda pair: [side.group for side in pair])
    batches = [key for key, _ in groupby(pairs, lambda pair: [side.group for side in pair])]
    assert len(pairs) == 3 * 3 + 3 * 6
    assert len(batches) == 3 + 3


@pytest.mark.parametrize(("basis_gb", "reads"), [(None, 4 * 2), (1e-9, (2 + 2 + 4) * 2)])
def test_across_recipes_pairs_of_different_seeds_are_compared(root, monkeypatch, basis_gb, reads):
    import shutil

    for seed in (0, 1):
        folder = folder_of(root, seed=seed)
        other = folder.parents[2] / "other" / folder.parts[-2] / folder.name
        shutil.copytree(folder, other, dirs_exist_ok=True)
        part = part_of(other)
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part_of(folder), part)
    read = []

    def noted(part, layer):
        read.append(layer)
        return eigenspace(part, layer)

    monkeypatch.setattr(overlap, "eigenspace", noted)
    shutil.rmtree(overlap_path(root, "digits", "small", "batch").parent / ".overlap")
    job = overlap_job(root, (0, 1), recipes=("sgd", "other"), across=("recipe",))
    write_overlaps(
        job.model_copy(update={"compute": JOB.compute.model_copy(update={"basis_gb": basis_gb})})
    )
    assert len(read) == reads
    found = read_part(overlap_path(root, "digits", "small", "batch"))
    across = found.across_overlap.sel(
        recipe="sgd", other_recipe="other", n_per_class=9, other_n_per_class=9, split="train"
    )
    # The other recipe's networks are copies: across are the pairs (0, 1') and (1, 0').
    same = found.overlap.sel(recipe="sgd", seed_a=0, seed_b=1).isel(n_per_class=0, epoch=0, split=0)
    assert np.allclose(across.transpose(*same.dims), same, equal_nan=True)
    assert found.across_overlap.sel(recipe="sgd", other_recipe="sgd").isnull().all()
