import subprocess
import sys
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from pipeline.atomic import sha256
from pipeline.catalogue import FIGURES
from pipeline.cubes.assemble import Placed, assemble
from pipeline.cubes.schema import SCHEMA
from pipeline.cubes.store import to_zarr
from pipeline.cubes.variable import RUN_DIMS
from pipeline.figures import power_law, style
from pipeline.figures.spectral import checkpoint, count_above, curve, mean_and_error
from pipeline.jobs import figure
from pipeline.runs import Run
from pipeline.stages import Figures

SETTINGS = Figures(points=400)
RUNS = [
    Run("digits", model, norm, "sgd", 20, seed)
    for model in ("fnet", "lenet5")
    for norm in ("none", "batch")
    for seed in (0, 1)
]
DIVERGED = Run("digits", "lenet5", "batch", "sgd", 20, 0)  # after its first checkpoint


def matrix(draw, outliers):
    """Return one matrix's spectrum: nodes of a semicircle, and outliers from 3 to 8."""
    top = np.r_[np.linspace(8, 3, outliers), np.full(10 - outliers, np.nan)]
    return {
        "ritz_value": (("probe", "node"), np.cos(np.linspace(0, np.pi, 30))[None]),
        "ritz_weight": (("probe", "node"), draw.dirichlet(np.ones(30))[None]),
        "eigenvalue": ("order", top),
        "residual": ("order", np.zeros(10)),
        "converged": ("order", np.isfinite(top).astype(float)),
        "bottom_eigenvalue": ("from_bottom", [-1.0]),
        "bottom_residual": ("from_bottom", [1e-5]),
        "exact": float(outliers == 0),
        "basis_kept": 30.0,
        "complete": 1.0,
        "square_trace": 2.0,
        "square_trace_stderr": 0.1,
        "moment": ("degree", [1.1, 1.9]),
        "moment_stderr": ("degree", [0.1, np.nan]),
        "outlier_fewest": float(outliers),
        "outlier_most": float(outliers) + 1,
        "deflated_count": float(outliers),
        "trace": 1.0,
        "trace_stderr": 0.1,
        "outlier_count": float(outliers),
        "bulk_edge": 1.0,
        "bulk_edge_low": 0.8,
        "bulk_edge_high": 1.3,
    }


def spectrum_cube():
    draw = np.random.default_rng(0)
    parts = []
    for run in RUNS:
        for epoch in (0, 9):
            for split in ("train", "test"):
                three = [xr.Dataset(matrix(draw, n)) for n in (9, 9, 0)]
                part = xr.concat(three, xr.Variable("matrix", ["Hess", "G", "H"]))
                part = part.assign_coords(degree=[1, 2])
                part["dimension"], part["classes"] = 1000.0, 10.0
                part = part if run != DIVERGED or epoch == 0 else xr.Dataset()
                place = {"epoch": epoch, "split": split}
                parts.append(Placed(asdict(run) | place, part))
    return assemble("spectrum", RUNS, parts)


def training_cube():
    sizes = {"epoch": 10, "candidate": 4}
    rows = {
        key: (known.dims[0], np.linspace(1, 0.1, sizes[known.dims[0]]))
        for key, known in SCHEMA["training"].items()
    }
    part = xr.Dataset(rows, coords={"epoch": np.arange(10)})
    part["candidate_diverged"] = ("candidate", [0.0, 0.0, 0.0, 1.0])
    part["candidate_selected"] = ("candidate", [0.0, 1.0, 0.0, 0.0])
    return assemble("training", RUNS, [Placed(asdict(run), part) for run in RUNS])


def hierarchy_cube():
    draw = np.random.default_rng(0)
    names = [str(c) for c in range(3)]
    coords = {
        "component": ["G", "A1", "A2", "B1", "B2"],
        "knockout": ["G-A1", "G-B1"],
        "true_class": names,
        "cross_class": names,
    }
    pairs = np.array([(c, k) for c in range(3) for k in range(3)], dtype=float)

    def part(epoch):
        eigenvalues = np.full((5, 3), np.nan)
        eigenvalues[1:4] = [[8, 7, 0.1], [2, 1, 0.1], [0.5, 0.3, 0.1]]
        rows = {
            "component_eigenvalue": (("component", "order"), eigenvalues * (1 + epoch)),
            "component_trace": ("component", np.ones(5)),
            "embedding": (("point", "axis"), draw.standard_normal((12, 2))),
            "class_index": ("true_class", np.arange(3.0)),
            "pair_true": ("pair", pairs[:, 0]),
            "pair_cross": ("pair", pairs[:, 1]),
            "identity_error": 1e-7,
            "dimension": 1000.0,
            "classes": 3.0,
        }
        for prefix, dim in (("component", "component"), ("knockout", "knockout")):
            size = len(coords[dim])
            nodes = np.geomspace(1e-5, 3, 20) * np.ones((size, 1, 1))
            shares = draw.dirichlet(np.ones(20), (size, 1))
            if prefix == "component":
                nodes[1:4], shares[1:4] = np.nan, np.nan
            rows[f"{prefix}_ritz_value"] = ((dim, "probe", "node"), nodes)
            rows[f"{prefix}_ritz_weight"] = ((dim, "probe", "node"), shares)
        return xr.Dataset(rows, coords=coords)

    places = [(run, {"epoch": epoch, "split": "train"}) for run in RUNS for epoch in (0, 9)]
    parts = [
        Placed(
            asdict(run) | at,
            part(at["epoch"]) if run != DIVERGED or not at["epoch"] else xr.Dataset(),
        )
        for run, at in places
    ]
    return assemble("hierarchy", RUNS, parts)


CUBES = {
    "spectrum": spectrum_cube(),
    "training": training_cube(),
    "hierarchy": hierarchy_cube(),
}


# Those of layers have their own file.
SPECTRAL = [name for name in FIGURES if set(FIGURES[name]) <= set(CUBES)]


@pytest.mark.parametrize("name", SPECTRAL)
def test_each_figure_draws_something_in_every_panel(name):
    with style.theme():
        drawn = figure.FIGURES[name]({cube: CUBES[cube] for cube in FIGURES[name]}, SETTINGS)
    try:
        assert drawn.get_suptitle()
        for panel in drawn.axes:
            assert panel.lines or panel.texts or panel.images, panel.get_title()
            assert all(len(line.get_xdata()) for line in panel.lines if line.get_marker() == "None")
        assert any(panel.get_xlabel() for panel in drawn.axes)
        assert any(panel.get_ylabel() for panel in drawn.axes)
        drawn.canvas.draw()
        box = drawn.bbox
        for text in [drawn._suptitle, *(panel.title for panel in drawn.axes)]:
            extent = text.get_window_extent()
            assert extent.x0 >= box.x0, f"clipped: {text.get_text()}"
            assert extent.x1 <= box.x1, f"clipped: {text.get_text()}"
    finally:
        plt.close(drawn)


@pytest.mark.parametrize("name", [n for n in SPECTRAL if FIGURES[n] != ("training",)])
def test_figures_say_so_where_everything_diverged(name):
    empty = xr.Dataset({"classes": 10.0}, coords={"matrix": ["Hess", "G", "H"]})
    places = [{"epoch": epoch, "split": split} for epoch in (0, 9) for split in ("train", "test")]
    parts = [Placed(asdict(run) | at, empty) for run in RUNS for at in places]
    cubes = {cube: assemble(cube, RUNS, parts) for cube in ("spectrum", "hierarchy")}
    with style.theme():
        drawn = figure.FIGURES[name](cubes, SETTINGS)
    assert any("diverged" in text.get_text() for panel in drawn.axes for text in panel.texts)
    plt.close(drawn)


def test_certificates_read_no_quadratures(tmp_path):
    to_zarr(CUBES["spectrum"], tmp_path / "c.zarr")
    for key in ("ritz_value", "ritz_weight"):
        for chunk in (tmp_path / "c.zarr" / key / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"not to be read")
    with style.theme():
        drawn = figure.FIGURES["certificate"](
            {"spectrum": xr.open_zarr(tmp_path / "c.zarr")}, SETTINGS
        )
    assert all(panel.lines for panel in drawn.axes)
    plt.close(drawn)


def test_a_tail_finds_its_exponent_at_any_scale():
    # Eigenvalues with density t**-2 from a tenth of the largest on.
    values = 1 / np.linspace(1, 100, 4000)
    for scale in (1.0, 1e-5):
        cube = one_matrix("H").copy(deep=True)
        cube = cube.drop_dims("order").assign(
            eigenvalue=("order", scale * values), converged=("order", np.ones(4000))
        )
        cube["dimension"] = 4000.0
        cube["bottom_eigenvalue"] = cube.bottom_eigenvalue * np.nan
        cube["ritz_value"], cube["ritz_weight"] = cube.ritz_value * 0, cube.ritz_weight * 0
        law = power_law.tail(cube, SETTINGS).law
        assert law.exponent == pytest.approx(-2, abs=0.45)


def test_bands_are_over_networks_where_there_are_several():
    heights = np.array([[1.0, 1.0], [1.0, 1.0], [3.0, 3.0], [3.0, 3.0]])
    mean, error = mean_and_error(heights, np.array([0, 0, 1, 1]))
    assert mean.tolist() == [2, 2]
    assert error == pytest.approx([1, 1])
    assert mean_and_error(heights[:1], np.array([0]))[1].tolist() == [0, 0]


def test_equal_figures_give_equal_bytes(tmp_path):
    digests = []
    for name in ("one", "two"):
        files = [tmp_path / f"{name}.{suffix}" for suffix in ("svg", "png")]
        with style.theme():
            drawn = figure.FIGURES["overview"]({"spectrum": CUBES["spectrum"]}, SETTINGS)
            style.save(drawn, files, dpi=60)
        digests.append([sha256(file) for file in files])
    assert digests[0] == digests[1]


def one_matrix(name="G"):
    words = {"dataset": "digits", "model": "fnet", "norm": "none", "seed": 0, "n_per_class": 20}
    return CUBES["spectrum"].isel(recipe=0).sel(**words, epoch=9, split="train", matrix=name)


def test_a_curve_holds_the_whole_spectrum():
    found = curve(one_matrix(), SETTINGS)
    assert np.trapezoid(found.y, found.x) == pytest.approx(1, abs=1e-3)
    assert len(found.outliers) == 9
    assert (found.outlier_heights >= found.atom * 0.999).all()
    wide = curve(one_matrix(), SETTINGS.model_copy(update={"kappa": 1.2}))
    assert wide.y.max() < found.y.max()


def test_counting_above_an_edge():
    assert count_above(one_matrix(), 2.0) == pytest.approx(9)
    assert count_above(one_matrix(), -2.0) == pytest.approx(1000)
    assert count_above(one_matrix("H"), 2.0) == 0


def test_a_diverged_network_has_no_last_checkpoint():
    cube = CUBES["spectrum"].isel(recipe=0, n_per_class=0, seed=0)
    kept = {"dataset": "digits", "model": "fnet", "norm": "none"}
    lost = {"dataset": "digits", "model": "lenet5", "norm": "batch"}
    assert [checkpoint(cube, kept, last=last) for last in (False, True)] == [0, 9]
    assert [checkpoint(cube, lost, last=last) for last in (False, True)] == [0, None]


@pytest.mark.parametrize("name", ["components", "class_pairs"])
def test_an_only_checkpoint_is_drawn_once(name):
    whole = CUBES["hierarchy"]
    with style.theme():
        one, two = (
            figure.FIGURES[name]({"hierarchy": cube}, SETTINGS)
            for cube in (whole.sel(epoch=[9]), whole)
        )
    assert 2 * len(one.axes) == len(two.axes)
    assert any("epoch 9" in panel.get_title() for panel in one.axes)
    plt.close("all")


def test_drawing_imports_no_torch():
    code = "import sys, pipeline.jobs.figure; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_title_or_legend_of_a_narrow_figure_is_cut(tmp_path):
    with style.theme():
        figure, axes = style.panels(1, 1, title="narrow")
        axes[0, 0].set_title("cifar10-images, vgg11, no normalisation: training examples")
        for norm in style.NORM_NAMES.values():
            for split in ("train", "test"):
                axes[0, 0].plot([0, 1], label=f"{norm}, {split}")
        style.legend_below(figure, axes[0, 0], columns=4)
        style.save(figure, [tmp_path / "narrow.png"], dpi=100)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4
    for drawn in (axes[0, 0].title, legend):
        box = drawn.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width


@pytest.mark.parametrize("name", ["density", "split", "overview", "attribution"])
def test_outliers_that_were_not_counted_are_said_to_be_so(name):
    spectrum = CUBES["spectrum"].copy()
    for key in spectrum:
        if key.startswith(("outlier_", "bulk_edge")):
            spectrum[key] = spectrum[key] * np.nan
    drawn = figure.FIGURES[name](CUBES | {"spectrum": spectrum}, SETTINGS)
    texts = [text.get_text() for panel in drawn.axes for text in panel.texts]
    plt.close(drawn)
    assert name == "attribution" or any("outliers not counted" in text for text in texts)


def test_a_placeholder_is_no_panel():
    part = CUBES["hierarchy"].isel(knockout=[]).isel(dict.fromkeys(RUN_DIMS, 0))
    part = part.sel(epoch=0, split="train").drop_dims("knockout")
    placed = Placed(asdict(RUNS[0]) | {"epoch": 0, "split": "train"}, part)
    cube = assemble("hierarchy", RUNS[:1], [placed])
    assert cube.knockout.values.tolist() == [""]
    with style.theme():
        drawn = figure.FIGURES["knockout"]({"hierarchy": cube}, SETTINGS)
    assert not any(panel.lines for panel in drawn.axes)
    assert all(text.get_text() for panel in drawn.axes for text in panel.texts)
    plt.close(drawn)
