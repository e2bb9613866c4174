"""The theory job: random two-layer networks of growing width."""

from itertools import product

import numpy as np
import xarray as xr

from pipeline.anatomy.theory import INPUTS, overlap_limit, two_layer
from pipeline.cubes.store import attributes, write_part
from pipeline.device import device_name, prepare, within_memory
from pipeline.progress import progress
from pipeline.provenance import provenance
from pipeline.runs import theory_path
from pipeline.scratch import only_maker
from pipeline.tasks import TheoryJob

KEYS = ("overlap_predicted", "eigenvalue_ratio", "relative_error")


@within_memory("Lower theory.examples or leave out the largest of theory.widths")
def write_theory(job: TheoryJob) -> None:
    """Write the theory part."""
    target = theory_path(job.results)
    with only_maker(target):
        write_part(_part(job), target)


def _part(job: TheoryJob) -> xr.Dataset:
    """Return what random networks of each width, input and seed are found to be."""
    device, theory = prepare(job.compute), job.theory
    dims = ("width", "input", "theory_seed")
    places = list(product(theory.widths, INPUTS, theory.seeds))
    rows = []
    for width, inputs, seed in progress(places, total=len(places), label="theory"):
        found = two_layer(
            width=width,
            classes=theory.classes,
            exponent=theory.exponent,
            examples=theory.examples,
            inputs=inputs,
            seed=seed,
            device=device,
        )
        rows.append([getattr(found, key) for key in KEYS])
    values = np.array(rows).reshape(len(theory.widths), len(INPUTS), len(theory.seeds), len(KEYS))
    part = xr.Dataset(
        {key: (dims, values[..., i]) for i, key in enumerate(KEYS)}
        | {"overlap_limit": ("input", [overlap_limit(name) for name in INPUTS])},
        coords={
            "width": list(theory.widths),
            "input": np.array(INPUTS, dtype=object),
            "theory_seed": list(theory.seeds),
        },
    )
    part.attrs = attributes(
        provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device=device_name(device),
            seeds=list(theory.seeds),
        )
    )
    return part
