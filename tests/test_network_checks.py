"""Networks that a user's function builds: refused before training, with the true cause."""

import pytest
import torch
from small_run import folder_of, job_of
from torch import nn
from torch.nn import functional as F

from pipeline.config import OwnModel
from pipeline.errors import AnatomyError
from pipeline.jobs.train import train_run
from pipeline.models.checks import check_outputs
from pipeline.models.registry import build
from pipeline.recipes import Recipe

SHAPE = (1, 8, 8)


class Plain(nn.Module):
    """A linear network, and what a test does to its logits."""

    def __init__(self, after, outputs=10):
        super().__init__()
        self.fc, self.after = nn.Linear(64, outputs), after

    def forward(self, x):
        return self.after(self, self.fc(x.flatten(1)))


def shifted(network):
    network.shift = nn.Parameter(torch.zeros(10, dtype=torch.float64))
    return network


def frozen(network, names):
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    return network


def two_layers():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def raises():
    raise ValueError("my build failed")


def flat(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def batch_statistics():
    return flat(nn.Linear(64, 10), nn.LayerNorm(10), Batch())


class Batch(nn.Module):
    def forward(self, z):
        return z - z.mean(0)


class Untrained(nn.Module):
    """Fails in training mode only."""

    def forward(self, z):
        return (z, z) if self.training else z


WRONG = {
    "17 outputs": (lambda: flat(nn.Linear(64, 17)), "17 outputs for 10 classes"),
    "7 outputs": (lambda: flat(nn.Linear(64, 7)), "7 outputs for 10 classes"),
    "pixels": (lambda: nn.Conv2d(1, 10, 1), r"for 4 images has shape \(4, 10, 8, 8\)"),
    "one row": (lambda: Plain(lambda _, z: z.sum(0)), r"shape \(10,\)"),
    "a dict": (lambda: Plain(lambda _, z: {"logits": z}), "the output is a dict"),
    "a tuple": (lambda: Plain(lambda _, z: (z, z)), "the output is a tuple"),
    "no output": (lambda: Plain(lambda _, z: None), "the output is None"),
    "none": (lambda: None, "returned None"),
    "a class": (lambda: nn.Linear, "returned a type"),
    "softmax": (lambda: flat(nn.Linear(64, 10), nn.Softmax(1)), "outputs are probabilities"),
    "softmax in forward": (lambda: Plain(lambda _, z: F.softmax(3 * z, -1)), "probabilities"),
    "dropout": (lambda: Plain(lambda _, z: F.dropout(z, 0.5)), "random in eval mode"),
    "rare dropout": (lambda: Plain(lambda _, z: F.dropout(z, 1e-6)), "random in eval mode"),
    "little noise": (
        lambda: Plain(lambda _, z: z + 1e-9 * torch.randn_like(z)),
        "random in eval mode",
    ),
    "batch": (batch_statistics, "depend on the other images"),
    "no parameter": (nn.Flatten, "no parameters"),
    "all frozen": (lambda: two_layers().requires_grad_(False), "all parameters are frozen"),
    "two dtypes": (lambda: shifted(Plain(lambda n, z: z + n.shift)), "shift is torch.float64"),
    "float64": (lambda: two_layers().double(), r"1\.weight is torch.float64"),
    "lazy": (lambda: flat(nn.LazyLinear(10)), "no size yet"),
    "raises": (raises, r"raised ValueError: my build failed \(.*test_network_checks\.py, line"),
    "fails": (
        lambda: Plain(lambda _, z: z @ z),
        r"fails in eval mode on 4 images of shape \(1, 8, 8\): RuntimeError: .*checks\.py, line",
    ),
    "fails in training": (lambda: flat(nn.Linear(64, 10), Untrained()), "the output is a tuple"),
    "no gradient": (lambda: Plain(lambda _, z: z.detach()), "fails in training mode"),
    "nan": (lambda: Plain(lambda _, z: z / 0), "NaN or infinite before training"),
    "norm for none": (lambda: flat(nn.BatchNorm1d(64), nn.Linear(64, 10)), "norm none has Batch"),
}


def network(in_shape, classes, norm, *, kind):
    return WRONG[kind][0]() if kind in WRONG else RIGHT[kind]()


def model_of(kind, **options):
    return OwnModel(family="test_network_checks:network", options={"kind": kind}, **options)


def made(model, norm="none", classes=10, init="default"):
    built = build(model, norm, SHAPE, classes, init=init, seed=0)
    check_outputs(built, model, SHAPE, classes)
    return built


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_networks_train_nothing(kind, tmp_path):
    job = job_of(Recipe(lr=0.05, batch=8, epochs=1, checkpoints=(1,)))
    job = job.model_copy(update={"model": model_of(kind)})
    with pytest.raises(AnatomyError, match=WRONG[kind][1]) as error:
        train_run(folder_of(tmp_path, norm="none"), job, save_every=1e9)
    assert str(error.value).startswith("test_network_checks:network")
    assert not list(tmp_path.rglob("run.json"))


def shared():
    layer = nn.Linear(10, 10)
    return flat(nn.Linear(64, 10), nn.ReLU(), layer, nn.ReLU(), layer)


RIGHT = {
    "plain": two_layers,
    "shared": shared,
    "dropout in training": lambda: flat(nn.Linear(64, 10), nn.Dropout(0.5)),
    "partly frozen": lambda: frozen(two_layers(), ["1.weight", "1.bias"]),
    "log softmax": lambda: flat(nn.Linear(64, 10), nn.LogSoftmax(1)),
    "zeros": lambda: Plain(lambda _, z: 0 * z),
    "single": lambda: flat(nn.Linear(64, 1)),
    "layer norm": lambda: flat(nn.LayerNorm(64), nn.Linear(64, 10)),
    "batch norm": lambda: flat(nn.BatchNorm1d(64), nn.Linear(64, 10)),
}


@pytest.mark.parametrize("kind", sorted(RIGHT.keys() - {"single", "batch norm"}))
def test_right_networks_pass_and_stay_as_they_are(kind):
    built = build(model_of(kind), "none", SHAPE, 10, init="default", seed=0)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_outputs(built, model_of(kind), SHAPE, 10)
    assert torch.equal(torch.rand(1), expected)
    after = built.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in built.parameters())


def test_a_norm_is_the_one_that_was_asked_for():
    made(model_of("batch norm"), norm="batch")
    with pytest.raises(AnatomyError, match=r"norm batch has no BatchNorm.*let norms be \[none\]"):
        made(model_of("plain"), norm="batch")


def test_a_single_logit_is_one_output():
    made(model_of("single", single_logit=True), classes=2)
    with pytest.raises(AnatomyError, match=r"10 outputs for 1 logit \(single_logit\)"):
        made(model_of("plain", single_logit=True), classes=2)


def test_frozen_parameters_are_neither_initialised_nor_trained(tmp_path):
    job = job_of(Recipe(lr=0.05, batch=8, epochs=1, checkpoints=(0, 1), weight_decay=0.1))
    job = job.model_copy(update={"model": model_of("partly frozen")})
    folder = folder_of(tmp_path, norm="none")
    train_run(folder, job, save_every=1e9)
    from pipeline import open_run

    first, last = (open_run(folder, epoch).model.state_dict() for epoch in (0, 1))
    same = {name: torch.equal(tensor, last[name]) for name, tensor in first.items()}
    assert same == {"1.weight": True, "1.bias": True, "3.weight": False, "3.bias": False}
    default, xavier = (
        build(model_of("partly frozen"), "none", SHAPE, 10, init=init, seed=0).state_dict()
        for init in ("default", "xavier")
    )
    same = {name: torch.equal(tensor, xavier[name]) for name, tensor in default.items()}
    assert same == {"1.weight": True, "1.bias": True, "3.weight": False, "3.bias": False}
