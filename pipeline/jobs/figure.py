"""The figure job: cubes in, one drawing out, in every format asked for."""

import json
from pathlib import Path

from pipeline.atomic import sha256
from pipeline.cubes.store import manifest_path, open_cube
from pipeline.figures import (
    attribution,
    autocorrelation,
    bounds,
    certificate,
    class_pairs,
    components,
    correspondence,
    density,
    dynamics,
    eigenvectors,
    full_kronecker,
    knockout,
    kronecker,
    log_density,
    output_hessian,
    overlap,
    overview,
    posterior,
    power_law,
    reshaped,
    split,
    split_initial,
    style,
    sweep,
    tail,
    theory,
    training,
    weights,
)
from pipeline.provenance import provenance
from pipeline.scratch import only_maker
from pipeline.tasks import FigureJob

FIGURES = {
    "training": training.draw,
    "sweep": sweep.draw,
    "density": density.draw,
    "split": split.draw,
    "split_initial": split_initial.draw,
    "log_density": log_density.draw,
    "power_law": power_law.draw,
    "certificate": certificate.draw,
    "attribution": attribution.draw,
    "knockout": knockout.draw,
    "components": components.draw,
    "class_pairs": class_pairs.draw,
    "dynamics": dynamics.draw,
    "tail": tail.draw,
    "overview": overview.draw,
    "overlap": overlap.draw,
    "weights": weights.draw,
    "reshaped": reshaped.draw,
    "eigenvectors": eigenvectors.draw,
    "correspondence": correspondence.draw,
    "kronecker": kronecker.draw,
    "full_kronecker": full_kronecker.draw,
    "autocorrelation": autocorrelation.draw,
    "output_hessian": output_hessian.draw,
    "theory": theory.draw,
    "bounds": bounds.draw,
    "posterior": posterior.draw,
}


def draw_figure(name: str, files: list[Path], job: FigureJob) -> None:
    """Draw the figure ``name`` to ``files``."""
    with only_maker(*files), style.theme():
        cubes = {cube: open_cube(Path(path)) for cube, path in job.cubes.items()}
        manifests = [manifest_path(path) for path in job.cubes.values()]
        about = provenance(
            settings=job.model_dump(mode="json"),
            code=job.code,
            device="cpu",
            inputs={str(manifest): sha256(manifest) for manifest in manifests},
        )
        figure = FIGURES[name](cubes, job.figures)
        style.save(figure, files, dpi=job.figures.dpi, about=json.dumps(about))
