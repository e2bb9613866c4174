"""S's large networks, made narrow, through every analysis of curvature."""

import numpy as np
import pytest
import torch
from reference import relative
from small_run import job_of, parts_of
from torch import nn

from pipeline import open_run
from pipeline.config import VGG11, DenseNet40, ResNet18
from pipeline.cubes.store import read_part
from pipeline.curvature import hessian, layer_hessian
from pipeline.curvature.layer import layer_names
from pipeline.jobs.hierarchy import write_hierarchies
from pipeline.jobs.layers import write_layers
from pipeline.jobs.spectrum import write_spectra
from pipeline.jobs.train import train_run
from pipeline.models.vgg import vgg11
from pipeline.recipes import Recipe
from pipeline.stages import Compute, Hierarchy, Layers, Spectrum
from pipeline.tasks import HierarchyJob, LayersJob, SpectrumJob

RECIPE = Recipe(lr=0.01, batch=10, epochs=3, checkpoints=(3,))
NARROW = {
    "vgg11": VGG11(family="vgg11", width=8, hidden=16),
    "resnet18": ResNet18(family="resnet18", width=4),
    "densenet40": DenseNet40(family="densenet40", growth=2),
}
COMPUTE = Compute(device="cpu", memory_gb=0.01)


@pytest.fixture(
    scope="module",
    params=[
        ("vgg11", "none"),
        ("vgg11", "batch"),
        pytest.param(("resnet18", "none"), marks=pytest.mark.slow),
        ("resnet18", "batch"),
        pytest.param(("densenet40", "batch"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def folder(request, tmp_path_factory):
    """Return the folder of a narrow network trained on two digits of each class."""
    model, norm = request.param
    root = tmp_path_factory.mktemp("results")
    folder = root / "runs" / "digits" / model / norm / "brief" / "n2" / "seed0"
    train_run(folder, job_of(RECIPE).model_copy(update={"model": NARROW[model]}), save_every=1e9)
    return folder


def part_of(folder, cube):
    return parts_of(folder, cube, epochs=(3,))[3, "train"]


def test_the_spectrum(folder):
    settings = Spectrum(
        splits=("train",), top={"Hess": 3, "G": 3, "H": 1}, exact=0, steps=8, trace_probes=2
    )
    job = SpectrumJob(spectrum=settings, compute=COMPUTE, code="test")
    write_spectra([part_of(folder, "spectrum")], job)
    found = read_part(part_of(folder, "spectrum"))
    for matrix, count in settings.top.items():
        one = found.sel(matrix=matrix)
        assert one.converged.values[:count].all()
        assert np.isfinite(one.ritz_value).all()
        assert np.isfinite(one.trace)
    run = open_run(folder)
    operator = hessian(run.model, run.train)
    v = torch.randn(operator.shape[0], 1, generator=torch.Generator().manual_seed(0))
    quotient = float((v.T @ operator.matmat(v)) / (v.T @ v))
    assert quotient <= float(found.eigenvalue.sel(matrix="Hess", order=0)) * 1.001
    assert quotient >= float(found.bottom_eigenvalue.sel(matrix="Hess", from_bottom=0)) * 1.001


def test_the_hierarchy(folder):
    settings = Hierarchy(splits=("train",), knockouts=("G-A1",), steps=8, trace_probes=2)
    job = HierarchyJob(hierarchy=settings, compute=COMPUTE, code="test")
    write_hierarchies([part_of(folder, "hierarchy")], job)
    found = read_part(part_of(folder, "hierarchy"))
    assert float(found.identity_error) < 1e-5
    assert float(found.probability.sum()) == pytest.approx(1, rel=1e-5)
    traces = found.component_trace.sel(component=["A1", "A2", "B1", "B2"])
    assert float(traces.sum()) == pytest.approx(
        float(found.component_trace.sel(component="G")), rel=1e-4
    )
    assert np.isfinite(found.component_ritz_value.sel(component=["G", "B2"])).all()


def test_the_layers(folder):
    job = LayersJob(layers=Layers(rank=4, full=2, probes=2), compute=COMPUTE, code="test")
    write_layers([part_of(folder, "layers")], job)
    found, run = read_part(part_of(folder, "layers")), open_run(folder)
    assert found.layer.values.tolist() == layer_names(run.model)
    dead = 0
    for layer in found.layer.values:
        one = found.sel(layer=layer)
        known = int(one.layer_eigenvalue.notnull().sum())
        if not known:  # in so narrow a network all units of a layer may be off for all examples
            dead += 1
            operator = layer_hessian(run.model, run.train, layer=layer)
            assert not (operator @ torch.randn(operator.shape[0])).any(), layer
            continue
        assert known == 4, layer
        assert one.kronecker_eigenvalue.notnull().sum() >= 4, layer
        assert np.isfinite(one.decoupling_error), layer
    assert dead <= 1


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_product_of_s_vgg11_is_autograds(norm):
    torch.manual_seed(0)
    model = vgg11(
        (1, 32, 32), 3, norm, hidden=16
    )  # S's convolutions, and its three BatchNorms' kinds
    inputs, labels = torch.randn(3, 1, 32, 32), torch.arange(3)
    with torch.no_grad():
        model.train()(torch.randn(20, 1, 32, 32))
    parameters = [*model.eval().parameters()]
    operator = hessian(model, (inputs, labels), memory_gb=2.0)
    assert operator.kept == 1
    v = torch.randn(operator.shape[0])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    along = torch.cat([g.flatten() for g in gradient]) @ v
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(along, parameters)])
    assert relative(operator @ v, expected) < 1e-3
