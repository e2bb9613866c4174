"""The tutorial's code, taken from its page and run."""

import re
import sys

import pytest
import torch
from workflow import ROOT

from pipeline.configfile import read_config
from pipeline.data.examples import load_examples
from pipeline.models.registry import build

PAGE = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with the page's module, overlay and script, the module to be imported."""
    folder = tmp_path_factory.mktemp("tutorial")
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
    for name, text in zip(("my_shapes.py", "shapes.yaml", "dissect.py"), blocks, strict=True):
        assert name in PAGE or name == "dissect.py"
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_data_and_network_of_the_tutorial_go_through_the_instruments(written, norm):
    from dissect import dissect

    config = read_config([ROOT / "config.yaml", written / "shapes.yaml"])
    (run,) = [run for run in config.runs() if run.norm == norm and run.seed == 0]
    data = load_examples(
        config.datasets[run.dataset], "train", data_root="", n_per_class=run.n_per_class
    )
    network = build(config.models[run.model], norm, (1, 16, 16), 3, init="default", seed=0).eval()
    pairs, bulk, shared, layer = dissect(network, data.inputs, data.labels)
    assert len(data.labels) == 150
    assert pairs.converged.all()
    assert layer.converged.all()
    assert torch.all((shared > 0) & (shared <= 1 + 1e-6))
    assert bulk.weights.sum(1) == pytest.approx(1)


def test_what_the_tutorial_says_of_the_default_experiment_is_so():
    default = read_config([ROOT / "config.yaml"])
    assert f"trains {len(default.runs())} small networks" in PAGE
    assert f"{default.spectrum.steps} Lanczos steps, {default.spectrum.probes} probes" in PAGE
    assert f"`bounds` ({default.bounds.epochs} epochs)" in PAGE
