"""Networks whose products in blocks were other than their single products, or wrong altogether."""

import pytest
import torch
from generated_networks import Spec
from test_generated_networks import differences
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from pipeline.curvature import gauss_newton, hessian, residual
from pipeline.curvature.preactivations import output_hessian
from pipeline.errors import AnatomyError

FLAT = "lambda h: h.flatten(1)"
IMAGE, LAST = (1, 4, 4), "nn.Linear(8, 3)"
MEAN = ("lambda h: h.mean((2, 3))", "nn.Linear(2, 3)")

# The two networks of the reported case, and further ones of the same kind.
STRIDED = {
    "circular": Spec(
        (
            "nn.Conv2d(1, 3, 2, padding=1, padding_mode='circular')",
            "nn.ReLU()",
            "nn.Conv2d(3, 2, 3, padding=1, padding_mode='circular')",
            "nn.ReLU()",
            *MEAN,
        ),
        (1, 5, 5),
    ),
    "shifted channels": Spec(
        (
            "nn.Conv2d(1, 3, 2, padding=1)",
            "nn.ReLU()",
            "lambda h: assigned(h, torch.zeros_like, "
            "moved((slice(None), slice(2), slice(1, None)), (slice(None), slice(2), slice(-1))), "
            "put((slice(None), slice(2, None))))",
            "nn.Conv2d(3, 2, 3, padding=1)",
            "nn.ReLU()",
            *MEAN,
        ),
        (1, 5, 5),
    ),
    "circular after transposed": Spec(
        (
            "nn.ConvTranspose2d(2, 1, 3, stride=2, padding=1, output_padding=1)",
            "nn.Conv2d(1, 1, 3, padding=1, padding_mode='circular')",
            "lambda h: h.flatten(1)[:, ::4]",
            "nn.Linear(25, 2)",
        ),
        (2, 5, 5),
        classes=2,
        chunk=7,
    ),
    "select and copy_": Spec(
        (
            "nn.Conv1d(3, 3, 2, stride=2, padding=1, dilation=2)",
            "lambda h: torch.bmm(h, h.transpose(1, 2))",
            "lambda h: assigned(h, torch.clone, "
            "lambda out, h: out.select(1, 0).copy_(h.select(1, -1)))",
            "nn.Conv1d(3, 1, 1, stride=2, padding=1)",
            FLAT,
            "nn.Linear(3, 2)",
        ),
        (3, 4),
        classes=2,
    ),
    "every second": Spec(
        (
            "nn.Conv1d(2, 2, 2)",
            "lambda h: assigned(h, torch.clone, put((..., slice(1, None, 2)), torch.sin))",
            "nn.Conv1d(2, 2, 2)",
            FLAT,
            "nn.Linear(6, 3)",
        ),
        (2, 5),
    ),
    "windows": Spec(
        ("nn.Linear(6, 5)", "nn.Tanh()", "lambda h: strided(h, (4, 2), (1, 1))", FLAT, LAST), (6,)
    ),
}

FORMATS = {
    "contiguous": Spec(
        (
            "nn.Conv2d(1, 2, 2)",
            "lambda h: h.contiguous(memory_format=torch.channels_last)",
            "nn.Tanh()",
            "nn.Conv2d(2, 2, 2)",
            FLAT,
            LAST,
        ),
        IMAGE,
    ),
    "to": Spec(
        (
            "nn.Conv2d(1, 2, 2)",
            "lambda h: h.to(memory_format=torch.channels_last)",
            "nn.Tanh()",
            "nn.Conv2d(2, 2, 2)",
            FLAT,
            LAST,
        ),
        IMAGE,
    ),
    "clone": Spec(
        (
            "nn.Conv2d(1, 2, 2)",
            "lambda h: h.clone(memory_format=torch.channels_last).tanh_()",
            "nn.Conv2d(2, 2, 2)",
            FLAT,
            LAST,
        ),
        IMAGE,
    ),
    "inputs and weights": Spec(
        (
            "nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)",
            "nn.GELU()",
            "nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)",
            FLAT,
            LAST,
        ),
        (2, 4, 4),
        layout="channels_last",
    ),
}

DISTANCES = {
    "prototypes": Spec(
        ("Weighted(lambda h, w, s: -torch.cdist(h, w).square(), 4, 6)", "nn.Linear(4, 3)"), (6,)
    ),
    "radial": Spec(
        (
            "nn.Linear(6, 3)",
            "nn.Tanh()",
            "Weighted(lambda h, w, s: (-torch.cdist(h, w)).exp(), 4, 3)",
            "nn.Linear(4, 3)",
        ),
        (6,),
    ),
    "of tokens": Spec(
        ("nn.Linear(2, 2)", "lambda h: torch.cdist(h, h.tanh() + 2)", FLAT, "nn.Linear(9, 3)"),
        (3, 2),
    ),
}

WRITING = {
    "product": Spec(("lambda h: h.mul_(0.5)", "nn.Linear(4, 3)"), (4,)),
    "ReLU": Spec(
        ("nn.ReLU(inplace=True)", "nn.Linear(4, 3)", "nn.Tanh()", "nn.Linear(3, 3)"), (4,)
    ),
    "mean": Spec(
        (
            "lambda h: h.sub_(h.mean(-1, keepdim=True))",
            "nn.Conv2d(1, 2, 2)",
            "nn.Tanh()",
            FLAT,
            "nn.Linear(18, 3)",
        ),
        IMAGE,
    ),
    "a view": Spec(
        ("lambda h: assigned(h, lambda h: h[:, :2], lambda out, h: out.sin_())", "nn.Linear(2, 3)"),
        (4,),
    ),
    "data": Spec(("lambda h: h.data.mul_(0.5)", "nn.Linear(4, 3)"), (4,)),
}

KINDS = {"strided": STRIDED, "formats": FORMATS, "distances": DISTANCES, "writing": WRITING}
SPECS = [
    pytest.param(spec, id=f"{kind}-{name}") for kind in KINDS for name, spec in KINDS[kind].items()
]


@pytest.mark.parametrize("spec", SPECS)
def test_every_operator_is_the_dense_one_in_blocks_and_alone(spec):
    assert differences(spec, thorough=True) == ([], [])


@pytest.mark.parametrize("kind", ["strided", "formats"])
@pytest.mark.parametrize("make", [hessian, gauss_newton, residual])
def test_vectors_share_a_pass_over_kept_chunks(kind, make):
    for name, spec in KINDS[kind].items():
        A = make(spec.network(), spec.data(), chunk=spec.chunk)
        assert A.kept == len(A.products), name
        assert A.vectors == 8, name


def test_a_write_that_changes_only_later_examples_is_found():
    inputs, labels = WRITING["ReLU"].data()
    inputs[:3] = inputs[:3].abs()
    before = inputs.clone()
    gauss_newton(WRITING["ReLU"].network(), (inputs, labels), chunk=4)
    assert torch.equal(inputs, before)


# --- networks that keep something -----------------------------------------------------------------


class Keeping(nn.Module):
    """Two layers; ``keep`` is called with the network and its activations."""

    def __init__(self, keep):
        super().__init__()
        self.one, self.two, self.keep = nn.Linear(4, 5), nn.Linear(5, 3), keep
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        h = self.one(x).tanh()
        return self.two(h if (kept := self.keep(self, h)) is None else kept)


def reassigned(network, h):
    network.mean = 0.9 * network.mean + h.detach().mean(0)


def in_place(network, h):
    network.mean.mul_(0.9).add_(h.detach().mean(0))
    network.count += 1


def counted(network, h):
    network.count = network.count + 1
    return h * (1 + network.count)


def activations(network, h):
    network.last = h


class Made:
    """A network of a function, as a Spec is one of a grammar."""

    def __init__(self, build, shape=(4,)):
        self.build, self.shape, self.chunk = build, shape, 4

    def network(self):
        torch.manual_seed(0)
        return self.build().double().eval()

    def data(self):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(7, *self.shape, generator=generator, dtype=torch.float64)
        return inputs, torch.arange(7) % 3


class Spectral(nn.Module):
    """A filter of complex weights, which begin at an odd place among the parameters."""

    def __init__(self):
        super().__init__()
        self.one, self.weight = nn.Linear(4, 5), nn.Parameter(torch.randn(3, 2))
        self.two = nn.Linear(5, 3)

    def forward(self, x):
        h = torch.fft.rfft(self.one(x)) * torch.view_as_complex(self.weight)
        return self.two(torch.fft.irfft(h, n=5).tanh())


def repeated():
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3))


def tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    network[2].weight = network[0].weight
    return network


def pruned():
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return network.apply(lambda m: hasattr(m, "weight") and prune.l1_unstructured(m, "weight", 0.4))


@pytest.mark.parametrize(
    "made",
    [
        *(Made(lambda keep=keep: Keeping(keep)) for keep in (reassigned, in_place, activations)),
        Made(Spectral),
        Made(pruned),
        Made(repeated),
        Made(tied),
        Made(lambda: nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))),
    ],
    ids=[
        "reassigned",
        "in place",
        "activations",
        "complex",
        "pruned",
        "repeated",
        "tied",
        "spectral norm",
    ],
)
def test_operators_of_networks_that_keep_tensors_are_the_dense_ones(made):
    assert differences(made, thorough=True) == ([], [])


def test_every_call_starts_from_the_same_buffers():
    found = differences(Made(lambda: Keeping(counted)), layers=False, thorough=True)
    assert found == ([], [])


@pytest.mark.parametrize("normalize", [weight_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_the_output_hessian_of_a_network_that_keeps_results_is_made(normalize):
    network = nn.Sequential(normalize(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    data = Made(None).data()
    H = output_hessian(network, data, layers=["2"]).operator @ torch.eye(3).double()
    pi = network(data[0]).softmax(-1)
    expected = torch.diag(pi.mean(0)) - pi.T @ pi / len(pi)
    torch.testing.assert_close(H, expected.detach())


class Batched(nn.Module):
    """Normalizes by its batch also in eval mode."""

    def __init__(self, normalize):
        super().__init__()
        self.one, self.two, self.normalize = nn.Linear(4, 5), nn.Linear(5, 3), normalize

    def forward(self, x):
        return self.two(self.normalize(self.one(x)).tanh())


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        (lambda h: h - h.mean(0), "depend on the other examples"),
        (lambda h: h + h.cumsum(0), "depend on the other examples"),
        (lambda h: F.batch_norm(h, None, None, training=True), "on 2 examples but not on one"),
        (nn.BatchNorm1d(5, track_running_stats=False), "on 2 examples but not on one"),
    ],
)
def test_networks_that_mix_examples_are_refused(normalize, message):
    made = Made(lambda: Batched(normalize))
    with pytest.raises(AnatomyError, match=message):
        hessian(made.network(), made.data())


class Clipped(nn.Module):
    """Writes to its own weights."""

    def __init__(self, clip):
        super().__init__()
        self.one, self.two, self.clip = nn.Linear(4, 5), nn.Linear(5, 3), clip

    def forward(self, x):
        with torch.no_grad():
            self.clip(self.one.weight)
        return self.two(self.one(x).tanh())


@pytest.mark.parametrize(
    "clip",
    [
        lambda w: w.clamp_(-0.1, 0.1),
        lambda w: w.renorm_(2, 0, 0.5),
        lambda w: setattr(w, "data", w.data * 0.5),
    ],
)
def test_networks_that_write_to_their_parameters_are_refused(clip):
    made = Made(lambda: Clipped(clip))
    with pytest.raises(AnatomyError, match=r"writes to its parameters in forward \(one.weight\)"):
        gauss_newton(made.network(), made.data())
