"""What the plan says of jobs before they run, held to what they do."""

from collections import Counter
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from workflow import ROOT

from pipeline.assign import stage_job, train_job
from pipeline.config import Config, Dataset, FNet, LeNet5, OwnModel, ResNet18
from pipeline.configfile import load_config, read_config
from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.recorded import Recorded
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run
from pipeline.models.registry import build
from pipeline.plan import jobs as jobs_module
from pipeline.plan.cost import Cost
from pipeline.plan.costs import room_of, train_cost
from pipeline.plan.facts import DataFacts, data_facts, network_facts
from pipeline.plan.jobs import Account, Job, plan_of
from pipeline.plan.layer_costs import layer_route
from pipeline.plan.table import print_plan
from pipeline.recipes import Recipe
from pipeline.runs import run_folder
from pipeline.workload import workload

IMAGES = DataFacts((1, 32, 32), classes=3, train=10, test=10)
MODELS = {
    "fnet": FNet(family="fnet", width=7, depth=2),
    "lenet5": LeNet5(family="lenet5", fc1=8),
    "resnet18": ResNet18(family="resnet18", width=2),
}
BLOCK = {
    "datasets": ["digits"],
    "models": ["tiny"],
    "norms": ["none", "batch"],
    "recipes": ["sgd"],
    "n_per_class": [8],
    "seeds": [0, 1],
}
TINY = {
    "datasets": {"digits": {"source": "digits"}, "mine": {"source": "nowhere:load"}},
    "models": {"tiny": {"family": "fnet", "width": 12, "depth": 1}},
    "recipes": {"sgd": {"lr": 0.05, "batch": 16, "epochs": 4, "checkpoints": [4]}},
    "grid": [BLOCK],
    "spectrum": {
        "exact": 0,
        "steps": 10,
        "top": {"Hess": 8, "G": 8, "H": 3},
        "splits": ["train"],
    },
    "hierarchy": {"steps": 10, "splits": ["train"], "knockouts": ["G-A1"]},
    "theory": {"widths": [32], "seeds": [0]},
    "compute": {"device": "cpu"},
}


def config(results="results", **changes) -> Config:
    return load_config(TINY | {"results": str(results)} | changes)


def account(settings):
    return Account(settings, device_gb=80)


def printed(settings, **options):
    text = StringIO()
    print_plan(settings, Console(file=text, width=400), **{"tflops": 10, "device_gb": 80} | options)
    return text.getvalue()


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("family", "norm"), [("fnet", "none"), ("lenet5", "batch"), ("resnet18", "none")]
)
@pytest.mark.parametrize("kept", [1, 0])
def test_products_cost_what_is_said(family, norm, kept):
    facts = network_facts(MODELS[family], norm, IMAGES)
    network = build(MODELS[family], norm, IMAGES.shape, 3, init="default", seed=0).eval()
    data = torch.randn(10, *IMAGES.shape), torch.arange(10) % 3
    for name, operator in {"Hess": hessian, "G": gauss_newton, "H": residual}.items():
        A = operator(network, data, memory_gb=8.0 * kept)
        v = torch.randn(A.shape[0])
        found, said = counted(lambda A=A, v=v: A @ v), 10 * facts.product(name, kept=kept)
        exact = name == "G" or (name == "Hess" and kept)
        assert found == said if exact else 0.89 * said < found <= said
    B1 = component(network, data, name="B1", memory_gb=8.0 * kept)
    v = torch.randn(B1.shape[0])
    assert counted(lambda: B1 @ v) == pytest.approx(10 * facts.component(kept=kept), rel=0.02)


def test_a_layers_product_costs_what_is_said():
    facts = network_facts(MODELS["lenet5"], "none", IMAGES)
    network = build(MODELS["lenet5"], "none", IMAGES.shape, 3, init="default", seed=0).eval()
    data = torch.randn(10, *IMAGES.shape), torch.arange(10) % 3
    assert [layer.name for layer in facts.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    # By factors; conv1, whose factors take 1.3 MB, by the matrices of three chunks; and anew.
    for memory, layers in ((1.0, facts.layers), (0.0005, facts.layers[:1]), (0.0, facts.layers)):
        compute = {"memory_gb": memory, "chunk": 4}
        room = room_of(config(compute=compute), "layers", device_gb=80)
        for layer in layers:
            A = layer_hessian(network, data, layer=layer.name, **compute)
            v = torch.randn(A.shape[0])
            found, said = counted(lambda A=A, v=v: A @ v), layer_route(facts, room, layer, 10).each
            assert found == said if memory else found <= said


def test_what_candidates_keep_until_their_sweep_is_decided_is_told():
    facts = network_facts(MODELS["lenet5"], "none", IMAGES)
    recipe, room = (
        Recipe(lr=0.1, epochs=2, checkpoints=(0, 2)),
        room_of(config(), "train", device_gb=8),
    )
    kept, gone = (train_cost(recipe, facts, room, train=9, test=9, kept=k) for k in (True, False))
    assert (kept.disk, kept.waiting) == (gone.waiting, gone.disk) == (2 * facts.state * 4, 0)
    assert (gone + gone).waiting == 2 * gone.waiting


def test_a_networks_facts_need_no_data():
    paper = read_config([ROOT / "config.yaml", ROOT / "presets/dissecting-paper.yaml"])
    mnist = data_facts(paper.datasets["mnist"], "nowhere")
    facts = network_facts(paper.models["fnet200x2"], "none", mnist)
    assert (facts.parameters, facts.forward, facts.inputs) == (199_210, 2 * 198_800, 784)
    cifar = data_facts(paper.datasets["cifar10"], "nowhere")
    vgg = read_config([ROOT / "config.yaml"]).models["vgg11"]
    assert network_facts(vgg, "batch", cifar).parameters == 28_157_706
    binary = data_facts(paper.datasets["mnist-2"], "nowhere")
    assert (binary.classes, binary.train) == (2, 60_000)
    assert binary.examples("train", 100) == 200
    assert binary.examples("test", 100) == 10_000


def own_network(in_shape, classes, norm):
    width = int(torch.ones(1).item()) + 4  # looks at a number: the meta device has none
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, width * classes // 5))


def test_a_users_network_may_look_at_its_numbers():
    model = OwnModel(family=f"{__name__}:own_network")
    assert network_facts(model, "none", IMAGES).parameters == 1025 * 3


def own_images(split, data_root):
    return torch.rand(12, 3, 5, 5), [0, 1] * 6


def test_a_users_data_set_is_read():
    found = data_facts(Dataset(source=f"{__name__}:own_images"), "nowhere")
    assert found == DataFacts((3, 5, 5), classes=2, train=12, test=12)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return, of one run's jobs, the FLOPs counted and the products recorded, by rule."""
    settings = config(tmp_path_factory.mktemp("planned"))
    write = {"spectrum": write_spectra, "hierarchy": write_hierarchies, "layers": write_layers}
    flop, products = {}, Counter()
    matmat = Recorded.matmat

    def counting(self, V):
        products[work.rule] += V.shape[1]
        return matmat(self, V)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorded, "matmat", counting)
        for work in (work for work in workload(settings) if work.run == settings.runs()[0]):
            words = {"dataset": "digits", "model": "tiny"}
            if work.rule == "train":
                job = train_job(settings, **words, recipe="sgd")
                folder = run_folder(settings.results, work.run)
                flop["train"] = counted(lambda f=folder, j=job: train_run(f, j, save_every=1e9))
                continue
            job = stage_job(settings, work.rule, **words)
            flop[work.rule] = counted(lambda w=work, j=job: write[w.rule](list(w.outputs), j))
    return settings, flop, products


def test_jobs_cost_what_is_said(ran):
    settings, flop, _ = ran
    told = account(settings)
    said = {work.rule: told.cost(work).flop for work in workload(settings) if work.run}
    assert said["train"] == flop["train"]
    for rule, allowed in {"spectrum": 0.25, "hierarchy": 0.25, "layers": 0.6}.items():
        assert said[rule] == pytest.approx(flop[rule], rel=allowed), rule


def test_products_are_as_many_as_estimated(ran):
    settings, _, products = ran
    told = account(settings)
    work = next(work for work in workload(settings) if work.rule == "spectrum")
    assert told.cost(work).passes == pytest.approx(products["spectrum"], rel=0.25)


def test_disk_holds_what_is_said(ran):
    settings, _, _ = ran
    told = account(settings)
    for work in workload(settings):
        if work.run == settings.runs()[0]:
            found = sum(file.stat().st_size for file in work.outputs)
            assert 0.5 * found < told.cost(work).disk < 2 * found, work.rule


def test_every_job_has_its_place_in_a_row(ran):
    settings, _, _ = ran
    plan, works = plan_of(settings, device_gb=80), list(workload(settings))
    assert {rule: row.jobs for rule, row in plan.rows.items()} == Counter(w.rule for w in works)
    assert [plan.rows[rule].done for rule in ("train", "spectrum", "layers", "cube")] == [
        1,
        1,
        1,
        0,
    ]
    train = plan.rows["train"]
    assert train.left == pytest.approx(0.75 * train.cost.flop)
    assert not plan.notes


def test_what_cannot_be_told_is_unknown_and_stops_nothing():
    settings = config(grid=[BLOCK, BLOCK | {"datasets": ["mine"]}])
    rows = plan_of(settings, device_gb=80).rows
    assert [(rows[rule].jobs, rows[rule].unknown) for rule in ("train", "overlap")] == [
        (8, 4),
        (4, 2),
    ]
    assert "unknown: mine (AnatomyError: a data set's source names nowhere:load" in printed(
        settings
    )


def test_a_network_is_looked_at_once(monkeypatch):
    seen = []

    def looked(model, norm, data):
        seen.append((model, norm))
        return network_facts(model, norm, data)

    monkeypatch.setattr(jobs_module, "network_facts", looked)
    many = config(grid=[BLOCK | {"seeds": list(range(50))}])
    assert plan_of(many, device_gb=80).rows["train"].jobs == 100
    assert len(seen) == 2


def test_hours_are_at_the_stated_rate():
    settings = config()
    flop = sum(row.cost.flop for row in plan_of(settings, device_gb=80).rows.values())
    hours = {
        rate: float(
            next(x for x in printed(settings, tflops=rate).split("\n") if "total" in x).split()[-3]
        )
        for rate in (1e-3, 2e-3)
    }
    assert hours[1e-3] == pytest.approx(flop / 1e9 / 3600, rel=0.01)
    assert hours[2e-3] == pytest.approx(hours[1e-3] / 2, rel=0.01)
    assert "0.001 TFLOP/s" in printed(settings, tflops=1e-3)


def test_main_memory_and_a_gpu_s_are_each_of_the_job_that_takes_most():
    settings = config()
    works = [work for work in workload(settings) if work.rule == "layers"][:2]
    one, other = (
        Job(work, False, Cost(flop=1), main=main, device=device)
        for work, main, device in zip(works, (9e9, 1e9), (1e9, 9e9), strict=True)
    )
    row = jobs_module._row([one, other])
    assert (row.largest, row.fullest) == (one, other)


def test_what_exceeds_the_scheduler_is_warned_of():
    assert "no warnings" in printed(config())
    tight = config(resources={"layers": {"mem_mb": 300, "runtime": 1}})
    text = printed(tight, tflops=1e-6)
    assert "resources.layers.mem_mb asks for 300" in text
    assert "resources.layers.runtime asks for 1 minutes" in text
    gpu = config(resources={"layers": {"gpu": 1}}, compute={"device": "auto"})
    assert "of a GPU's 1e-05 GiB" in printed(gpu, device_gb=1e-5)
    assert "no room for spectrum.top of Hess" in printed(config(compute={"basis_gb": 1e-5}))
    # Of F-12's 910 weights 30 vectors and their images: 16 and more go, 40 are wanted.
    basis = printed(config(compute={"basis_gb": 910 * 8 * (30 + 10) / 2**30}))
    assert "holds under 2 k + 20 vectors of Hess: more products" in basis
    assert "has room for 10 eigenpairs of the whole Hessian, fewer than layers.full" in basis
    assert "of H:" not in basis
    assert "chunks may not all fit" in printed(config(compute={"memory_gb": 1e-5}))


def test_of_a_sweep_all_candidates_are_trained_and_one_is_kept():
    recipe = TINY["recipes"]["sgd"]
    plain = plan_of(config(), device_gb=80).rows["train"]
    for keep in (True, False):
        sweep = {"low": 0.01, "high": 0.1, "count": 3, "keep": keep}
        swept = {key: value for key, value in recipe.items() if key != "lr"} | {"sweep": sweep}
        rows = plan_of(config(recipes={"sgd": swept}), device_gb=80).rows
        assert (rows["train"].jobs, rows["select"].jobs) == (12, 4)
        assert rows["train"].cost.flop == 3 * plain.cost.flop
        assert rows["train"].cost.disk == 3 * keep * plain.cost.disk
        assert rows["select"].cost.disk == plain.cost.disk


def test_processes_share_the_work():
    one = plan_of(config(), device_gb=80).rows["spectrum"]
    two = plan_of(config(resources={"spectrum": {"gpu": 2}}), device_gb=80).rows["spectrum"]
    assert two.cost.flop == one.cost.flop
    assert two.longest.flop == one.longest.flop / 2
    assert two.largest.main > 1.9 * one.largest.main


def test_streamed_images_are_not_held():
    held, streamed = (
        plan_of(config(compute={"stream": choice}), device_gb=80) for choice in (False, True)
    )
    images = 80 * 64 * 4
    kept, read = (plan.rows["spectrum"].cost.held for plan in (held, streamed))
    assert kept - read == images
    assert any("images are streamed" in note for note in streamed.notes)


def _slow(preset):
    """Mark S's own matrix, of 37,000 jobs."""
    return pytest.param(preset, marks=[pytest.mark.slow] * ("spectrum-paper" in preset.name))


@pytest.mark.parametrize(
    "preset",
    [_slow(file) for file in sorted((ROOT / "presets").glob("*.yaml"))],
    ids=lambda preset: preset.stem,
)
def test_a_preset_has_a_plan(preset):
    rows = plan_of(read_config([ROOT / "config.yaml", preset]), device_gb=80).rows
    known = [row for rule, row in rows.items() if rule == "train" and not row.unknown]
    assert all(row.cost.flop > 0 for row in known)
    assert known or preset.stem == "large-networks"  # whose images are the user's to give
