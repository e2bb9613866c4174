"""Sweeps of the learning rate, and what else a recipe says of training."""

import csv
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small_run import folder_of, job_of

from pipeline import open_run
from pipeline.atomic import sha256
from pipeline.config import Dataset
from pipeline.data.examples import Examples, normalised
from pipeline.errors import AnatomyError, ArtifactError
from pipeline.jobs.select import select_run
from pipeline.jobs.train import train_run
from pipeline.models.lenet import lenet5
from pipeline.recipes import Recipe, Sweep
from pipeline.runs import Run, checkpoint_path, run_folder
from pipeline.tasks import SelectJob
from pipeline.training.augment import augmentation
from pipeline.training.loop import train

SHORT = {"batch": 16, "epochs": 3, "checkpoints": (0, 3)}
GREY = Dataset(source="digits", mean=(0.5,), std=(0.5,))


def test_a_range_is_even_by_logarithm_and_its_names_tell_the_rates():
    rates = Sweep(low=1e-4, high=0.25, count=100).values()
    assert (rates[0], rates[-1], len(set(rates))) == (1e-4, 0.25, 100)
    steps = [late / early for early, late in pairwise(rates)]
    assert max(steps) / min(steps) == pytest.approx(1, abs=2e-3)
    found = Recipe(sweep=Sweep(low=1e-4, high=0.25, count=100), **SHORT).candidates("sgd")
    assert [float(name.removeprefix("sgd+lr")) for name in found] == list(rates)
    assert [recipe.lr for recipe in found.values()] == list(rates)


def swept(root, rates, **options):
    """Train a candidate of each rate; return the run's folder, the candidates' and the job."""
    folder = folder_of(root)
    recipes = Recipe(sweep=Sweep(rates=rates), **SHORT | options).candidates("sgd")
    run = Run.from_path(folder)
    folders = {name: run_folder(root, replace(run, recipe=name)) for name in recipes}
    for name, recipe in recipes.items():
        train_run(folders[name], job_of(recipe), save_every=1e9)
    kept = options.get("checkpoints", SHORT["checkpoints"])
    return folder, folders, SelectJob(candidates=tuple(recipes), checkpoints=kept, code="test")


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_final_test_error_is_chosen_whole(tmp_path):
    folder, folders, job = swept(tmp_path, (1e-4, 0.1, 1e8))
    select_run(folder, job)
    rows = table(folder)
    assert [row["selected"] for row in rows] == ["0", "1", "0"]
    assert [row["diverged"] for row in rows] == ["0", "0", "1"]
    best = folders["sgd+lr0.1"]
    assert float(rows[1]["test_error"]) < float(rows[0]["test_error"])
    assert (folder / "history.csv").read_bytes() == (best / "history.csv").read_bytes()
    for epoch in (0, 3):
        assert sha256(checkpoint_path(folder, epoch)) == sha256(checkpoint_path(best, epoch))
    record = json.loads((folder / "run.json").read_text())
    assert record["selection"]["lr"] == 0.1
    tables = {name: sha256(folder / name) for name in ("history.csv", "sweep.csv")}
    assert record["tables"] == tables
    run = open_run(folder)
    assert run.spec.recipe == "sgd"
    weights = zip(run.model.parameters(), open_run(best).model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_of_equal_errors_the_lower_loss_wins(tmp_path):
    folder, folders, job = swept(tmp_path, (0.05, 0.1))
    losses = {}
    for name, path in folders.items():
        text = (path / "history.csv").read_text().splitlines()
        columns, last = text[0].split(","), text[-1].split(",")
        last[columns.index("test_accuracy")] = "0.5"
        (path / "history.csv").write_text("\n".join([*text[:-1], ",".join(last)]))
        record = json.loads((path / "run.json").read_text())
        record["tables"] = {"history.csv": sha256(path / "history.csv")}
        (path / "run.json").write_text(json.dumps(record))
        losses[name] = float(last[columns.index("test_loss")])
    select_run(folder, job)
    chosen = next(row["recipe"] for row in table(folder) if row["selected"] == "1")
    assert chosen == min(losses, key=losses.get)


def test_where_all_candidates_diverge_so_does_the_run(tmp_path):
    folder, _, job = swept(tmp_path, (1e8, 1e9))
    select_run(folder, job)
    assert [row["diverged"] for row in table(folder)] == ["1", "1"]
    assert open_run(folder, 3).diverged


def test_a_rate_is_the_recipes_where_no_epoch_tells_it(tmp_path):
    folder, _, job = swept(tmp_path, (0.05, 0.1), epochs=0, checkpoints=(0,))
    select_run(folder, job)
    assert [row["lr"] for row in table(folder)] == ["0.05", "0.1"]
    assert json.loads((folder / "run.json").read_text())["selection"]["lr"] == 0.05


def test_a_candidates_cut_history_is_named(tmp_path):
    folder, folders, job = swept(tmp_path, (1e-4, 0.1))
    history = folders["sgd+lr0.1"] / "history.csv"  # of the best
    whole = history.read_text()
    lines = whole.splitlines(keepends=True)
    for cut in (whole[:-9], "".join(lines[:-1]), lines[0], "epoch\n1\n"):
        history.write_text(cut)
        with pytest.raises(ArtifactError, match=r"\+lr0.1/.*history.csv is not .*Delete .*lr0.1/"):
            select_run(folder, job)
        assert not (folder / "run.json").exists()
    history.write_text(whole)
    select_run(folder, job)


def test_a_candidates_files_are_those_of_its_record(tmp_path):
    folder, folders, job = swept(tmp_path, (0.05,))
    (source,) = folders.values()
    checkpoint, record = checkpoint_path(source, 3), source / "run.json"
    checkpoint.write_bytes(checkpoint_path(source, 0).read_bytes())
    with pytest.raises(ArtifactError, match=r"lr0.05/.*epoch3.* is not the file.*Delete .*lr0.05/"):
        select_run(folder, job)
    assert not checkpoint_path(folder, 3).exists()
    record.write_text(record.read_text()[:-9])
    with pytest.raises(ArtifactError, match=r"record .*lr0.05/.*run.json is corrupt.*Delete it"):
        select_run(folder, job)
    assert not (folder / "run.json").exists()


def images():
    torch.manual_seed(0)
    names = tuple("0123456789")
    return Examples(normalised(torch.rand(48, 1, 32, 32), GREY), torch.arange(48) % 10, names)


def trained(tmp_path, train_set=None, **options):
    """Return LeNet5's weights and last loss after three epochs, trained with ``options``."""
    torch.manual_seed(0)
    network, recipe = lenet5((1, 32, 32), 10, "none"), Recipe(lr=0.05, **SHORT, **options)
    settings = {"dataset": GREY, "seed": 0, "scratch": tmp_path, "save_every": 1e9, "label": "here"}
    history = train(network, recipe, train_set or images(), images(), **settings)
    return torch.cat([p.detach().flatten() for p in network.parameters()]), history[-1].train_loss


def test_augmented_training_is_another_and_repeats_itself(tmp_path):
    flips = {"RandomHorizontalFlip": {}, "RandomCrop": {"size": 32, "padding": 4}}
    plain, _ = trained(tmp_path)
    one, _ = trained(tmp_path, augment=flips)
    again, _ = trained(tmp_path, augment=flips)
    assert torch.equal(one, again)
    assert not torch.allclose(one, plain, atol=1e-3)
    never, _ = trained(tmp_path, augment={"RandomHorizontalFlip": {"p": 0.0}})
    assert torch.equal(never, plain)


def test_transforms_see_pixels_as_they_were_before_normalisation():
    pixels = torch.rand(5, 3, 8, 8)
    for dataset in (GREY, Dataset(source="cifar10").resolved()):
        augment = augmentation({"RandomInvert": {"p": 1.0}}, dataset)
        found = augment(normalised(pixels, dataset))
        torch.testing.assert_close(found, normalised(1 - pixels, dataset), rtol=0, atol=1e-5)
        # Images are brightened, and no further than white.
        bright = augmentation({"ColorJitter": {"brightness": [3.0, 3.0]}}, dataset)
        expected = normalised((3 * pixels).clamp(max=1), dataset)
        found = bright(normalised(pixels, dataset))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_training_is_of_the_transformed_images(tmp_path):
    inverted = replace(images(), inputs=-images().inputs)  # of (x - .5) / .5
    plain, _ = trained(tmp_path, train_set=inverted)
    found, _ = trained(tmp_path, augment={"RandomInvert": {"p": 1.0}})
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("named", "problem"),
    [({"RandomFlop": {}}, "RandomFlop"), ({"RandomCrop": {"sise": 3}}, "refuses the options")],
)
def test_a_wrong_augmentation_is_named(tmp_path, named, problem):
    with pytest.raises(AnatomyError, match=problem):
        trained(tmp_path, augment=named)


def test_layout_and_precision_change_training_by_their_rounding_alone(tmp_path):
    plain, loss = trained(tmp_path)
    last, _ = trained(tmp_path, channels_last=True)
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)
    half, half_loss = trained(tmp_path, precision="bfloat16")
    assert half.dtype == torch.float32
    assert 1e-5 < float((half - plain).abs().max()) < 1e-2
    assert half_loss == pytest.approx(loss, rel=0.1)
