import pytest
import torch
from torch import nn
from torchvision import models

from pipeline.config import VGG11, DenseNet40, FNet, LeNet5, OwnModel, ResNet18
from pipeline.errors import AnatomyError
from pipeline.models.registry import build


def made(model, norm="none", in_shape=(1, 32, 32), classes=10, init="default", seed=0):
    return build(model, norm, in_shape, classes, init=init, seed=seed)


FNET = FNet(family="fnet", width=200, depth=2)
LENET = LeNet5(family="lenet5")


@pytest.mark.parametrize(
    ("model", "in_shape", "parameters"),
    [
        (FNET, (1, 28, 28), 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10),
        (LENET, (1, 32, 32), 61706),
        (LENET, (3, 32, 32), 62006),
        (LeNet5(family="lenet5", fc1=80), (3, 32, 32), 62006 - 40 * 401 - 40 * 84),
        (VGG11(family="vgg11", width=8, hidden=9), (3, 32, 32), 224 + 7 * 584 + 81 + 90 + 100),
    ],
)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_shapes_and_parameters(model, in_shape, parameters, norm):
    network = made(model, norm, in_shape)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.eval()(torch.randn(2, *in_shape)).shape == (2, 10)


# For 10 classes.  VGG11: S's settings; ResNet18 and DenseNet40 with BatchNorm: as published.
LARGE = {
    "vgg11": (VGG11(family="vgg11"), {"none": 28_144_010, "batch": 28_157_706}),
    "resnet18": (ResNet18(family="resnet18"), {"none": 11_169_162, "batch": 11_173_962}),
    "densenet40": (DenseNet40(family="densenet40"), {"none": 1_002_538, "batch": 1_019_722}),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_large_networks_have_their_published_parameters(name, norm):
    model, counts = LARGE[name]
    network = made(model, norm, (3, 32, 32))
    assert sum(p.numel() for p in network.parameters()) == counts[norm]
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    norms = [layer for layer in network.modules() if "BatchNorm" in type(layer).__name__]
    assert bool(norms) == (norm == "batch")
    assert not [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]


def test_where_they_coincide_the_networks_are_torchvisions():
    ours = made(LARGE["resnet18"][0], "batch", (3, 32, 32))
    theirs = models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)
    ours = made(LARGE["vgg11"][0], "none", (3, 32, 32))
    theirs = models.vgg11(num_classes=10)
    convolutions = theirs.features.state_dict().values()
    for mine, other in zip(ours.state_dict().values(), convolutions, strict=False):
        mine.copy_(other)
    x = torch.randn(2, 3, 32, 32)
    own = ours[: list(dict(ours.named_children())).index("flatten")]
    assert torch.allclose(own.eval()(x), theirs.features.eval()(x), atol=1e-5)


def test_batch_norm_stands_behind_each_relu_without_affine_part():
    layers = list(made(LENET, "batch").named_children())
    relus = [index for index, (_, layer) in enumerate(layers) if isinstance(layer, nn.ReLU)]
    assert len(relus) == 4
    for index in relus:
        following = layers[index + 1][1]
        assert isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d)
        assert not following.affine


def test_layers_have_the_papers_names():
    names = [name for name, layer in made(LENET).named_modules() if hasattr(layer, "weight")]
    assert names == ["conv1", "conv2", "fc1", "fc2", "fc3"]


def test_a_network_is_a_function_of_its_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = made(FNET, seed=1), made(FNET, seed=1), made(FNET, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.fc1.weight, same.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


def test_xavier_has_zero_bias_and_glorots_variance():
    network = made(FNET, init="xavier")
    assert not network.fc1.bias.any()
    assert float(network.fc1.weight.detach().var()) == pytest.approx(2 / (1024 + 200), rel=0.02)


@pytest.mark.parametrize("init", ["default", "xavier"])
def test_a_single_logit_is_a_pair(init):
    model = FNet(family="fnet", width=6, depth=1, single_logit=True)
    network = made(model, classes=2, init=init, in_shape=(1, 4, 4))
    assert [name for name, _ in network.named_parameters()] == [
        "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
    ]  # fmt: skip
    assert network.fc2.weight.shape == (1, 6)
    x = torch.randn(5, 1, 4, 4)
    z = network(x)
    assert torch.equal(z[:, 0], torch.zeros(5))
    assert torch.equal(z[:, 1:], network[:-1](x))
    assert "pair.weight" not in network.state_dict()
    labels = torch.tensor([0, 1, 1, 0, 1])
    logistic = nn.functional.binary_cross_entropy_with_logits(z[:, 1], labels.float())
    assert torch.allclose(nn.functional.cross_entropy(z, labels), logistic)
    with pytest.raises(AnatomyError, match="network of 10 classes"):
        made(model)


def test_the_users_own_network_of_a_single_logit():
    model = OwnModel(family="test_models:own", options={"width": 1}, single_logit=True)
    network = made(model, classes=2)
    assert network(torch.randn(3, 1, 32, 32)).shape == (3, 2)
    assert sum(p.numel() for p in network.parameters()) == 1025


def own(in_shape, classes, norm, width):
    """Return a network of the user's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[1] * in_shape[2], classes * width))


def not_a_network(in_shape, classes, norm):
    return "network"


def test_the_users_own_network():
    model = OwnModel(family="test_models:own", options={"width": 2})
    assert made(model)(torch.randn(3, 1, 32, 32)).shape == (3, 20)
    with pytest.raises(AnatomyError, match="returned a str"):
        made(OwnModel(family="test_models:not_a_network"))
    with pytest.raises(AnatomyError, match="cannot be imported"):
        made(OwnModel(family="no_such_module:own"))


def torchvisions(name, norm, in_shape=(3, 64, 64), **options):
    family = "pipeline.models.torchvision_nets:network"
    model = OwnModel(family=family, image_size=64, options={"name": name, **options})
    return made(model, norm, in_shape, classes=7)


def test_torchvisions_own_networks_with_and_without_batch_norm():
    published, bare = torchvisions("resnet18", "batch"), torchvisions("resnet18", "none")
    theirs = models.resnet18(num_classes=7)
    assert [p.shape for p in published.parameters()] == [p.shape for p in theirs.parameters()]
    norms = sum(p.numel() for n, p in published.named_parameters() if "bn" in n)
    norms += sum(p.numel() for n, p in published.named_parameters() if "downsample.1" in n)
    counts = [sum(p.numel() for p in network.parameters()) for network in (published, bare)]
    assert counts[1] == counts[0] - norms == counts[0] - 9600
    assert not [layer for layer in bare.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert bare.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    same = torchvisions("resnet18", "batch")
    assert torch.equal(published.conv1.weight, same.conv1.weight)
    width = torchvisions("mobilenet_v2", "none", width_mult=0.25)
    assert not [layer for layer in width.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("squeezenet1_1", "batch", r"squeezenet1_1 has no BatchNorm.* Let norms be \[none\]"),
        ("shufflenet_v2_x0_5", "none", r"cannot be built without BatchNorm.*\[batch\]"),
        ("resnet19", "none", "no classifier 'resnet19'. Name one .*resnet18"),
    ],
)
def test_torchvisions_networks_have_the_norms_that_they_have(name, norm, message):
    with pytest.raises(AnatomyError, match=message):
        torchvisions(name, norm)


def test_torchvisions_networks_take_three_channels():
    with pytest.raises(AnatomyError, match="images of 1 channels"):
        torchvisions("resnet18", "batch", (1, 64, 64))
