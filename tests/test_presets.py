"""The papers' presets, held to what the papers print of their own settings."""

from collections import Counter
from dataclasses import replace

import pytest
from workflow import ROOT

from pipeline.assign import comparison_job
from pipeline.configfile import read_config
from pipeline.reference.scale import departures, is_of, measured_otherwise
from pipeline.reference.values import PUBLISHED

# The papers' presets, and how they are known to measure otherwise.
PRESETS = {"dissecting-paper": ("D", ()), "spectrum-paper": ("S", ("spectrum.steps 128 (2048)",))}


@pytest.mark.parametrize("name", PRESETS)
def test_a_papers_preset_has_the_papers_settings(name):
    paper, otherwise = PRESETS[name]
    config = read_config([ROOT / "config.yaml", ROOT / f"presets/{name}.yaml"])
    job = comparison_job(config)
    of_paper = [one for one in PUBLISHED if one.experiment.paper == paper]
    for one in of_paper:
        stage = {"bounds": job.bounds, "spectrum": job.spectrum}.get(one.cube)
        assert measured_otherwise(stage, one.settings) == otherwise, one.what
        assert () in told(config, one), one.experiment.name
    assert of_paper


def told(config, published):
    """Return how each group of a network's runs departs from the paper's training."""
    seeds = Counter(replace(run, seed=0) for run in config.runs(published.cube))
    return [
        departures(
            published.experiment,
            dataset=config.datasets[run.dataset],
            recipe=config.recipe(run.recipe),
            n_per_class=run.n_per_class,
            seeds=count,
        )
        for run, count in seeds.items()
        if is_of(
            published.experiment,
            config.datasets[run.dataset],
            config.models[run.model],
            run.norm,
        )
    ]
