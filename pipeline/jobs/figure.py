"""The figure job: cubes in, one drawing out, in every format asked for."""

from pathlib import Path

import xarray as xr

from pipeline.atomic import replacing
from pipeline.figures import (
    attribution,
    autocorrelation,
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
    power_law,
    reshaped,
    split,
    split_initial,
    style,
    tail,
    theory,
    training,
    weights,
)
from pipeline.tasks import FigureJob

FIGURES = {
    "training": training.draw,
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
}


def draw_figure(name: str, files: list[Path], job: FigureJob) -> None:
    """Draw the figure ``name`` to ``files``."""
    cubes = {cube: xr.open_zarr(path) for cube, path in job.cubes.items()}
    with style.theme():
        figure = FIGURES[name](cubes, job.figures)
        for file in files:
            with replacing(file) as staged:
                # The suffix tells the format, so it must end the staged name too.
                drawn = staged.with_name(staged.name + file.suffix)
                style.save(figure, [drawn], dpi=job.figures.dpi)
                drawn.rename(staged)
