"""Networks that would have a wrong curvature silently are refused; what a copy mends is right."""

import random
from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from reference import relative
from test_given import FUNCTIONS
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from pipeline.curvature import gauss_newton, hessian, residual
from pipeline.errors import AnatomyError, ArgumentError

N, C = 12, 3
X = torch.randn(N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C


class Net(nn.Module):
    """Two linear layers around a function of the hidden units."""

    def __init__(self, function=torch.tanh):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, C)
        self.function, self.calls = function, 0

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def dense(model, inputs, labels):
    """Return Hess by plain double backward; parameters without a part in it have zeros."""
    parameters = list(model.parameters())

    def flat(gradients):
        pairs = zip(gradients, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    options = {"allow_unused": True, "retain_graph": True}
    loss = F.cross_entropy(model(inputs), labels)
    gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True, **options))
    return torch.stack([flat(torch.autograd.grad(g, parameters, **options)) for g in gradient])


def holds(model, inputs=X, reference=None):
    """Hold Hess and G + H of ``model``, kept and recomputed, to plain double backward."""
    model = model.double().eval()
    matrix = dense((reference or model).double().eval(), inputs, Y)
    V = torch.randn(len(matrix), 3, dtype=X.dtype, generator=torch.Generator().manual_seed(1))
    expected = matrix @ V
    for memory_gb in (None, 0.0):
        how = {"chunk": 5, "memory_gb": memory_gb}
        assert relative(hessian(model, (inputs, Y), **how) @ V, expected) < 1e-10
        G, H = (make(model, (inputs, Y), **how) for make in (gauss_newton, residual))
        assert relative(G @ V + H @ V, expected) < 1e-10


def noisy_rows(h):
    return h + torch.randn(len(h), 1, dtype=h.dtype)


NOISE = {
    **{f"dropout {p:g}": partial(F.dropout, p=p) for p in (0.5, 0.01, 1e-4, 1e-6)},
    "randn": lambda h: h + 1e-9 * torch.randn_like(h),
    "rows": noisy_rows,
    "NumPy": lambda h: h * (1 + 1e-6 * np.random.rand()),
    "Python": lambda h: h * (1 + 1e-6 * random.random()),
    "drawn and not used": lambda h: h + 0 * torch.rand(1).item(),
    "rare": lambda h: h * 2 if random.random() < 1e-9 else h,
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("function", ["Hess", "G", "B1", "layer", "pairs"])
def test_a_network_that_draws_random_numbers_is_refused_as_random(kind, function):
    layer = {"layer": "a"} if function == "layer" else {}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for seed in range(3):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with pytest.raises(AnatomyError, match="draws random numbers in eval mode"):
            FUNCTIONS[function](Net(NOISE[kind]).double().eval(), (X, Y), **layer)
        torch.manual_seed(seed)
        assert torch.equal(before, torch.get_rng_state())
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


class Counts(Net):
    """A network whose logits depend on how often it was called."""

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 1e-9 * self.calls)


def test_a_network_that_changes_from_call_to_call_is_refused():
    with pytest.raises(AnatomyError, match="other logits at a second call"):
        hessian(Counts().double(), (X, Y))


class Listed(Net):
    """Parameters read from a container beside the modules."""

    def __init__(self, container):
        super().__init__()
        own = [self.a.weight, self.a.bias]
        self.own = {"list": own, "dict": dict(enumerate(own)), "tuple": tuple(own)}[container]

    def forward(self, x):
        return self.b(F.linear(x, self.own[0], self.own[1]).tanh())


class Partly(Net):
    """A weight read as an attribute and from a list, with a tiny effect there."""

    def __init__(self, size):
        super().__init__()
        self.own, self.size = [self.b.bias], size

    def forward(self, x):
        return super().forward(x) + self.size * self.own[0]


def closure():
    weight = nn.Parameter(torch.randn(5, 5, dtype=torch.float64))
    model = Net(lambda h: (h @ weight).tanh())
    model.register_parameter("weight", weight)
    return model


HIDDEN = {
    **{kind: (partial(Listed, kind), "a.weight, a.bias") for kind in ("list", "dict", "tuple")},
    "partly": (partial(Partly, 1.0), "b.bias"),
    "tiny": (partial(Partly, 1e-12), "b.bias"),
    "closure": (closure, "weight"),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_read_otherwise_than_as_attributes_are_named(kind, frozen):
    make, names = HIDDEN[kind]
    model = make().double().requires_grad_(not frozen)
    with pytest.raises(AnatomyError, match=f"reads {names} otherwise than as attributes"):
        gauss_newton(model, (X, Y))
    assert all(parameter.requires_grad is not frozen for parameter in model.parameters())


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_are_right(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.f = kind(2, 3, batch_first=True), nn.Linear(3, C)

        def forward(self, x):
            return self.f(self.cell(x.view(-1, 3, 2))[0][:, -1])

    holds(Recurrent())


class Keeps(Net):
    """A network that keeps its hidden units on itself."""

    def forward(self, x):
        self.features = self.a(x).tanh()
        return self.b(self.features)


def after_a_step(model):
    F.cross_entropy(model.double()(X), Y).backward()
    model.zero_grad()
    return model


def pruned():
    model = Net()
    prune.l1_unstructured(model.a, "weight", amount=0.5)
    return after_a_step(model)


def normalised(norm):
    model = Net()
    norm(model.a)
    return after_a_step(model)


class Buffered(Net):
    """A network that counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


def without_return():
    class NoReturn(Net):
        def train(self, mode=True):
            super().train(mode)

    return NoReturn()


WORK = {
    "keeps": lambda: after_a_step(Keeps()),
    "pruned": pruned,
    "old spectral_norm": lambda: normalised(spectral_norm),
    "new spectral_norm": lambda: normalised(parametrizations.spectral_norm),
    "train without return": without_return,
    "writes to its inputs": lambda: nn.Sequential(nn.ReLU(inplace=True), Net()),
    "counts in a buffer": Buffered,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("kind", WORK)
def test_unusual_networks_are_right(kind):
    inputs, model = X.clone(), WORK[kind]().double()
    model.eval()
    state = {name: x.clone() for name, x in model.state_dict().items()}
    A = hessian(model, (inputs, Y), chunk=5)
    assert torch.equal(inputs, X)
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    reference = WORK[kind]().double()
    reference.eval()
    reference.load_state_dict(state)
    expected = dense(reference, X.clone(), Y)
    for memory_gb in (None, 0.0):
        A = hessian(model, (inputs, Y), chunk=5, memory_gb=memory_gb)
        assert relative(A @ torch.eye(len(expected), dtype=X.dtype), expected) < 1e-9


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm])
def test_the_fused_weight_norm_is_refused(norm):
    model = normalised(norm).double().eval()
    with pytest.raises(AnatomyError, match="no symmetric matrix"):
        hessian(model, (X, Y))


Named = namedtuple("Named", ["hidden", "logits"])


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


class Returns(Net):
    """A network whose output is made by ``form`` from its logits and hidden units."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        h = self.a(x).tanh()
        return self.form(self.b(h), h)


FORMS = {
    "dict": lambda z, h: {"logits": z, "hidden": h},
    "dict of one": lambda z, h: {"out": z},
    "tuple": lambda z, h: (z, None, h.sum()),
    "namedtuple": lambda z, h: Named(h, z),
    "dataclass": lambda z, h: Output(z),
}
NO_LOGITS = {
    "two candidates": (lambda z, h: (z, h), "tuple, in which the logits"),
    "keys": (lambda z, h: {"a": z, "b": h}, r"dict with keys \['a', 'b'\]"),
    "nothing": (lambda z, h: None, "returns a NoneType"),
    "flat": (lambda z, h: z[:, 0], r"shape \(2,\)"),
    "deep": (lambda z, h: z[..., None], r"shape \(2, 3, 1\)"),
    "classes": (lambda z, h: z.argmax(1, keepdim=True), "torch.int64"),
    "summed": (lambda z, h: z.sum(0, keepdim=True), r"shape \(1, 3\)"),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_in_what_a_network_returns(form):
    holds(Returns(FORMS[form]), reference=Net())


@pytest.mark.parametrize("form", NO_LOGITS)
def test_outputs_without_plain_logits_are_refused(form):
    make, says = NO_LOGITS[form]
    with pytest.raises(ArgumentError, match=says):
        hessian(Returns(make).double(), (X, Y))


def test_wrappers_are_unwrapped():
    model = Net().double().eval()
    v = torch.ones(53, dtype=X.dtype)
    expected = hessian(model, (X, Y)) @ v
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert torch.equal(hessian(wrapped, (X, Y)) @ v, expected)


def mixed():
    model = Net()
    model.a.half()
    return model


MODELS = {
    "half and single": (mixed, "parameters of several types"),
    "half": (lambda: Net().half(), "parameters of torch.float16"),
    "meta": (lambda: Net().to("meta"), "meta device"),
    "two devices": (
        lambda: nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3, device="meta")]),
        "parameters of several devices",
    ),
    "complex": (lambda: nn.Linear(6, 3, dtype=torch.complex64), "torch.complex64"),
    "no parameters": (nn.Flatten, "no parameters"),
    "lazy": (lambda: nn.LazyLinear(3), "lazy parameters"),
    "no network": (lambda: F.relu, "model is a function"),
    "fails": (lambda: Net(lambda h: h @ torch.ones(4, 4)), "RuntimeError: .*mat1 and mat2"),
    "raises": (lambda: Net(lambda h: {}["missing"]), "KeyError: 'missing'"),
    "mixes": (lambda: Net(lambda h: h - h.mean(0)), "depend on the other examples"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("kind", MODELS)
def test_models_without_a_curvature_are_refused(kind):
    make, says = MODELS[kind]
    for function in (hessian, gauss_newton):
        with pytest.raises(AnatomyError, match=says):
            function(make(), (X.float(), Y))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused():
    with pytest.raises(ArgumentError, match="TorchScript"):
        hessian(torch.jit.script(nn.Sequential(nn.Linear(6, C))), (X.float(), Y))
