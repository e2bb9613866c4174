import warnings
from functools import cache

import layer_cubes
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from layer_cubes import CLASSES, SEEDS, SHAPES, STORED
from matplotlib.colors import same_color

from pipeline.atomic import sha256
from pipeline.catalogue import FIGURES
from pipeline.cubes.assemble import Placed, assemble
from pipeline.figures import layerwise, overlap, style, weights
from pipeline.jobs import figure
from pipeline.stages import Figures

OF_LAYERS = [name for name in FIGURES if FIGURES[name] == ("layers",)]
OF_OVERLAP = [name for name in FIGURES if FIGURES[name] == ("overlap",)]
NAMES = [*OF_LAYERS, *OF_OVERLAP, "theory"]
CUBES = {
    "layers": layer_cubes.layers_cube(),
    "overlap": layer_cubes.overlap_cube(),
    "theory": layer_cubes.theory_cube(),
}
SMALL = {key: cube.isel(model=[0]) for key, cube in CUBES.items() if "model" in cube.dims}
FIRST = {"dataset": "digits", "norm": "none", "recipe": "sgd", "n_per_class": 20}
SHOWN = {**FIRST, "epoch": 9, "split": "train"}


@pytest.fixture
def drawn():
    """Return a function that draws a figure; warnings are errors, and figures are closed."""
    with style.theme(), warnings.catch_warnings():
        warnings.simplefilter("error")

        def draw(name, **cubes):
            return figure.FIGURES[name](CUBES | cubes, Figures())

        yield draw
        plt.close("all")


def words(found):
    return [text.get_text() for panel in found.axes for text in notes(panel, names=True)]


def notes(panel, names=False):
    """Return a panel's notes, with or without the names of rows, which are bold."""
    return [text for text in panel.texts if names or text.get_weight() != "bold"]


def titled(found, text, which=0):
    """Return one of the panels whose title ends in ``text``."""
    titles = [(p, p.get_title() or p.get_title(loc="left")) for p in found.axes]
    return [panel for panel, title in titles if text in title][which]


def labelled(panel, text):
    return next(line for line in panel.lines if str(line.get_label()).startswith(text))


def check(found):
    """Hold what every figure owes: nothing empty, nothing clipped, no two texts on one spot."""
    found.draw_without_rendering()
    box = found.bbox
    for panel in found.axes:
        bar = panel.get_label() == "<colorbar>"
        assert panel.lines or panel.texts or panel.images or bar, panel.get_title()
    titles = [found._suptitle]
    titles += [t for p in found.axes for t in (p.title, p._left_title) if t.get_text()]
    boxes = [title.get_window_extent() for title in titles]
    for title, extent in zip(titles, boxes, strict=True):
        assert extent.x0 >= box.x0, f"clipped: {title.get_text()}"
        assert extent.x1 <= box.x1, f"clipped: {title.get_text()}"
        assert extent.y1 <= box.y1, f"clipped: {title.get_text()}"
    for i, one in enumerate(boxes):
        for j, other in enumerate(boxes[:i]):
            assert not _cover(one, other), (titles[i].get_text(), titles[j].get_text())
    for panel in found.axes:
        for name in (text for text in panel.texts if text.get_weight() == "bold"):
            for title, extent in zip(titles, boxes, strict=True):
                own = title is panel._left_title
                assert own or not _cover(name.get_window_extent(), extent), title.get_text()
    assert any(panel.get_xlabel() for panel in found.axes)
    assert any(panel.get_ylabel() for panel in found.axes)


def _cover(one, other):
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 1 and high > 1


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_whole(name, drawn):
    check(drawn(name))


@pytest.mark.parametrize("name", NAMES)
def test_equal_figures_give_equal_bytes(name, drawn, tmp_path):
    one = {key: cube.isel(norm=[0]) for key, cube in SMALL.items()}
    digests = []
    for time in ("first", "second"):
        found = drawn(name, **one)
        files = [tmp_path / f"{time}.{suffix}" for suffix in ("svg", "png")]
        style.save(found, files, dpi=60)
        digests.append([sha256(file) for file in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", NAMES)
def test_titles_tell_the_place(name, drawn):
    title = drawn(name).get_suptitle().replace("\n", " ")
    assert "seed" in title
    if name != "theory":
        assert "epoch 9, training examples" in title
        assert "20 training examples per class" in title


@cache
def without(model, norm):
    return layer_cubes.layers_cube(diverged=[(model, norm)])


@pytest.mark.parametrize("name", OF_LAYERS)
@pytest.mark.parametrize("lost", [("fnet", "none"), ("lenet5", "batch")])
def test_a_diverged_network_is_told_and_the_others_drawn(name, lost, drawn):
    found = drawn(name, layers=without(*lost))
    check(found)
    assert any(panel.lines or panel.images for panel in found.axes)
    if name != "eigenvectors" and (name != "correspondence" or lost[0] == "lenet5"):
        assert any("diverged" in text for text in words(found))


@pytest.mark.parametrize("name", [*OF_LAYERS, *OF_OVERLAP])
def test_figures_say_so_where_everything_diverged(name, drawn):
    runs = layer_cubes.runs()
    parts = [
        Placed(place, xr.Dataset({"classes": float(CLASSES)}))
        for _, place, _ in layer_cubes.places(runs)
    ]
    cubes = {cube: assemble(cube, runs, parts) for cube in ("layers", "overlap")}
    found = drawn(name, **cubes)
    check(found)
    assert any("diverged" in text for text in words(found))
    assert not any(panel.lines or panel.images for panel in found.axes)


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_cubes_without_parts_say_so(name, drawn):
    runs = layer_cubes.runs()
    found = drawn(name, **{cube: assemble(cube, runs, []) for cube in CUBES})
    check(found)
    assert words(found)


@pytest.mark.parametrize("name", OF_OVERLAP)
def test_one_seed_has_no_pair(name, drawn):
    found = drawn(name, overlap=layer_cubes.overlap_cube(seeds=(0,)))
    check(found)
    assert all(any("one seed alone" in t.get_text() for t in notes(p)) for p in found.axes)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_a_single_seed_is_named(name, drawn):
    runs = layer_cubes.runs(models=("fnet",), seeds=(3,))
    found = drawn(name, layers=layer_cubes.layers_cube(runs))
    check(found)
    assert "seed 3" in found.get_suptitle()


def test_two_seeds_have_no_spread(drawn):
    cube = layer_cubes.overlap_cube(seeds=(0, 1))
    found = drawn("overlap", overlap=cube)
    check(found)
    assert not any(panel.collections for panel in found.axes)
    assert not any("deviation" in text.get_text() for text in found.legends[0].texts)
    assert labelled(titled(found, "fc1"), "mean").get_ydata()[0] > 0


@pytest.mark.parametrize("name", OF_OVERLAP)
def test_no_comparison_across_recipes_is_asked_for(name, drawn):
    cube = layer_cubes.overlap_cube(across=False)
    assert cube.across_overlap.isnull().all()
    check(drawn(name, overlap=cube))


@pytest.mark.parametrize("name", [*OF_LAYERS, *OF_OVERLAP])
@pytest.mark.parametrize("norms", [("none",), ("batch",)])
def test_one_network_of_one_norm(name, norms, drawn):
    runs = layer_cubes.runs(models=("fnet",), norms=norms, seeds=(0, 1))
    cubes = {
        "layers": layer_cubes.layers_cube(runs),
        "overlap": layer_cubes.overlap_cube(runs, seeds=(0, 1)),
    }
    check(drawn(name, **cubes))


@pytest.mark.parametrize("name", OF_LAYERS)
def test_what_a_layer_lacks_is_told(name, drawn):
    """A grouped convolution has no Kronecker factors, a wide layer no stored eigenvector."""
    cube = SMALL["layers"].copy(deep=True)
    for key in cube:
        if "layer" in cube[key].dims and key not in ("outputs", "inputs", "layer_eigenvalue"):
            cube[key].loc[{"layer": "fc2"}] = np.nan
    found = drawn(name, layers=cube)
    check(found)
    assert any(panel.lines or panel.images for panel in found.axes)
    if name in ("reshaped", "correspondence", "autocorrelation", "output_hessian"):
        assert any(layerwise.NO_VALUES in text for text in words(found))
    if name == "kronecker":
        assert [line.get_label() for line in titled(found, "fc2").lines] == ["layer Hessian"]


@pytest.mark.parametrize("name", OF_LAYERS)
def test_figures_without_any_kronecker_factors(name, drawn):
    kept = ("outputs", "inputs", "layer_eigenvalue", "layer_residual", "classes", "dimension")
    cube = SMALL["layers"]
    cube = cube.assign({key: cube[key] * np.nan for key in cube if key not in kept})
    found = drawn(name, layers=cube)
    check(found)
    assert not any("diverged" in text for text in words(found) if name != "eigenvectors")


@pytest.mark.parametrize(
    "name", ["overlap", "kronecker", "autocorrelation", "correspondence", "weights"]
)
def test_of_many_layers_the_page_shows_some(name, drawn, monkeypatch):
    many = {f"stage1.block{i}.conv": (8, 12) for i in range(15)}
    many = {"stem": (8, 3)} | many | {"fc": (10, 8)}
    monkeypatch.setattr(layer_cubes, "SHAPES", {"fnet": many})
    runs = layer_cubes.runs(models=("fnet",))
    cube = {"layers": layer_cubes.layers_cube, "overlap": layer_cubes.overlap_cube}
    found = drawn(name, **{key: make(runs) for key, make in cube.items()})
    check(found)
    where = [found.get_suptitle(), found.axes[0].get_title(), *words(found)[:1]]
    assert any("6 of 17 layers" in text for text in where)
    assert layerwise.thinned(list(many))[0] == "stem"
    assert layerwise.thinned(list(many))[-1] == "fc"


def test_an_epoch_or_a_split_fewer(drawn):
    cube = SMALL["layers"].sel(epoch=[0], split=["test"])
    title = drawn("reshaped", layers=cube).get_suptitle()
    assert "epoch 0, test examples" in title
    # An epoch that no network reached is not the last one.
    padded = SMALL["layers"].reindex(epoch=[0, 9, 11])
    assert "epoch 9" in drawn("reshaped", layers=padded).get_suptitle()


@pytest.mark.parametrize("layer", SHAPES["lenet5"])
def test_overlap_shows_the_cubes_values(layer, drawn):
    one = CUBES["overlap"].sel(SHOWN).sel(model="lenet5", layer=layer).dropna("k", how="all")
    found = drawn("overlap")
    # Rows are fnet's two networks, then lenet5's.
    panel = [p for p in found.axes if f"{layer}:" in p.get_title(loc="left")]
    panel = panel[2] if layer.startswith("fc") else panel[0]
    there = one.overlap_mean.notnull().values
    mean = labelled(panel, "mean")
    assert (mean.get_xdata() == one.k.values[there]).all()
    assert (mean.get_ydata() == one.overlap_mean.values[there]).all()
    baseline = labelled(panel, "random").get_ydata()
    assert (baseline == one.random_baseline.values[there]).all()
    pairs = [line.get_ydata() for line in panel.lines if line.get_alpha() == 0.4]
    expected = [one.overlap.sel(seed_a=a, seed_b=b) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert len(pairs) == 3
    for values, other in zip(pairs, expected, strict=True):
        assert (values == other.values[there]).all()
    edge = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(float((one.overlap_mean + one.overlap_std).max()))
    assert labelled(panel, "k = outputs").get_xdata()[0] == SHAPES["lenet5"][layer][0]
    across = one.across_overlap.sel(other_recipe="sgd", other_n_per_class=10).dropna("k")
    if across.size:
        assert (labelled(panel, "with n = 10").get_ydata() == across.values).all()
    assert not any("n = 20" in str(line.get_label()) for line in panel.lines)


def test_the_peak_is_the_largest_mean_beyond_one():
    mean = xr.DataArray([0.9, 0.3, 0.6, 0.5, np.nan], coords={"k": [1, 2, 3, 5, 8]})
    assert overlap.peak(mean) == (0.6, 3)
    assert overlap.peak(mean.isel(k=[0])) is None
    assert overlap.peak(mean * np.nan) is None


def test_weights_shows_the_cubes_values(drawn):
    cube = CUBES["overlap"].sel(SHOWN).sel(model="lenet5")
    names = layerwise.layers(cube, [{}])
    panel = titled(drawn("weights"), "lenet5, no normalisation")
    cosines = [np.nanmean(np.abs(cube.weight_cosine.sel(layer=name))) for name in names]
    assert labelled(panel, "|cosine|").get_ydata() == pytest.approx(cosines)
    at = [cube.sel(layer=name, k=SHAPES["lenet5"][name][0]) for name in names]
    means = [float(one.overlap_mean) for one in at]
    assert labelled(panel, "overlap").get_ydata().tolist() == means
    random = [float(one.random_baseline) for one in at]
    assert labelled(panel, "random").get_ydata().tolist() == random
    points = np.concatenate([line.get_ydata() for line in panel.lines if line.get_alpha()])
    assert len(points) == 2 * 3 * len(names)
    assert np.isin(np.abs(cube.weight_cosine.values[np.isfinite(cube.weight_cosine)]), points).all()


def test_weights_takes_the_largest_k_there_is():
    one = CUBES["overlap"].sel(SHOWN).sel(model="lenet5", layer="fc1")
    assert int(weights.at_outputs(one).k) == 120
    assert int(weights.at_outputs(one.sel(k=slice(1, 50))).k) == 50
    lost = weights.at_outputs(one.assign(overlap_mean=one.overlap_mean * np.nan))
    assert np.isnan(float(lost.overlap_mean))


def test_kronecker_shows_the_cubes_values(drawn):
    one = CUBES["layers"].sel(SHOWN).sel(model="fnet", seed=0, layer="fc2")
    panel = titled(found := drawn("kronecker"), "fc2: 32 x 32")
    count = 3 * CLASSES
    assert (labelled(panel, "layer").get_ydata() == one.layer_eigenvalue.values[:count]).all()
    approximate = one.kronecker_eigenvalue.values[:count]
    assert (labelled(panel, "$E[M]").get_ydata() == approximate).all()
    twin = next(p for p in found.axes if p is not panel and _same_place(p, panel))
    line = labelled(twin, "overlap")
    assert line.get_xdata().tolist() == list(range(1, count + 1))
    assert (line.get_ydata() == one.kronecker_overlap.values[:count]).all()
    assert notes(panel)[0].get_text() == f"error {float(one.decoupling_error):.2f}"


def _same_place(one, other):
    return one.get_subplotspec() == other.get_subplotspec()


def test_full_kronecker_shows_the_cubes_values(drawn):
    one = CUBES["layers"].sel(SHOWN).sel(model="fnet", seed=0)
    left, right = drawn("full_kronecker").axes[:2]
    count = 3 * CLASSES
    assert (labelled(left, "Hess").get_ydata() == one.hessian_eigenvalue.values[:count]).all()
    approximate = one.full_kronecker_eigenvalue.values[:count]
    assert (labelled(left, "from").get_ydata() == approximate).all()
    assert (right.lines[0].get_ydata() == one.full_kronecker_overlap.values[:count]).all()


def test_reshaped_shows_the_cubes_values(drawn):
    one = CUBES["layers"].sel(SHOWN).sel(model="fnet", seed=0, layer="fc3")
    panel = titled(drawn("reshaped"), "fc3: 10 x 32")
    for order in (0, 4, 19):
        line = labelled(panel, f"order {order}")
        assert (line.get_ydata() == one.singular_value.sel(order=order).values[:10]).all()
    assert notes(panel)[0].get_text() == f"{float(one.singular_value[0, 0]):.3f}"


def test_eigenvectors_shows_the_cubes_values(drawn):
    found = drawn("eigenvectors")
    stored = {name: shape for name, shape in SHAPES["fnet"].items() if np.prod(shape) <= STORED}
    columns = ("none", 0), ("none", 1), ("batch", 0), ("batch", 1)
    assert len(found.axes) == 4 * len(stored)
    for row, (name, shape) in enumerate(stored.items()):
        for column, (norm, i) in enumerate(columns):
            one = CUBES["layers"].sel(SHOWN | {"norm": norm}).sel(model="fnet", seed=0, layer=name)
            values = one.eigenvector.values[i, : np.prod(shape)].reshape(shape)
            (image,) = found.axes[4 * row + column].images
            assert (image.get_array() == values).all()
            assert image.norm.vmax == -image.norm.vmin == np.abs(values).max()


def test_correspondence_shows_the_cubes_values(drawn):
    found = drawn("correspondence")
    rows = found.axes[:-1]
    names = layerwise.layers(CUBES["layers"].sel(SHOWN), [{"model": "lenet5"}])
    assert len(rows) == 4 * len(names)
    for row, name in enumerate(names):
        m, n = SHAPES["lenet5"][name]
        for column, (norm, side, size) in enumerate(
            (norm, *side) for norm in ("none", "batch") for side in (("output", m), ("input", n))
        ):
            one = CUBES["layers"].sel(SHOWN | {"norm": norm})
            one = one.sel(model="lenet5", seed=0, layer=name)
            values = one[f"correspondence_{side}"].values[:30, : min(30, size)]
            (image,) = rows[4 * row + column].images
            assert (image.get_array() == values.T).all()
            assert (image.norm.vmin, image.norm.vmax) == (0, 1)


@pytest.mark.parametrize(
    ("name", "variable", "count"),
    [
        ("autocorrelation", "autocorrelation_eigenvalue", 40),
        ("output_hessian", "output_hessian_eigenvalue", 30),
    ],
)
def test_factors_show_the_means_over_seeds(name, variable, count, drawn):
    panel = titled(drawn(name), "fc2: 32 x 32")
    for norm in ("none", "batch"):
        one = CUBES["layers"].sel(SHOWN | {"norm": norm}).sel(model="fnet", layer="fc2")
        values = one[variable].dropna("index").values[:, :count]
        line = labelled(panel, style.NORM_NAMES[norm])
        assert line.get_ydata() == pytest.approx(values.mean(0))
        assert same_color(line.get_color(), style.NORM_COLOURS[norm])
        faint = [
            other.get_ydata()
            for other in panel.lines
            if other.get_alpha() and same_color(other.get_color(), line.get_color())
        ]
        assert len(faint) == len(SEEDS)
        for seen, expected in zip(faint, values, strict=True):
            assert (seen == expected).all()
        if name == "output_hessian":
            gap, shared = float(one.output_gap.mean()), float(one.rowspace_overlap.mean())
            assert f"{norm} {gap:.2g}; {shared:.2f}" in notes(panel)[0].get_text()
        else:
            ratio, share = float(one.spectral_ratio.mean()), float(one.mean_alignment.mean())
            assert f"{norm} {ratio:.3g}; {share:.2f}" in notes(panel)[0].get_text()


def test_the_line_stands_after_c_minus_one(drawn):
    panel = titled(drawn("output_hessian"), "fc2: 32 x 32")
    assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"] == [
        CLASSES - 1.5
    ]


@pytest.mark.parametrize("zero", [0.0, -1e-19, 1e-19])
def test_rounding_of_zero_sets_no_axis(zero, drawn):
    cube = SMALL["layers"].copy(deep=True)
    cube.output_hessian_eigenvalue.loc[{"index": 9}] = zero
    found = drawn("output_hessian", layers=cube)
    check(found)
    low, high = titled(found, "fc2: 32 x 32").get_ylim()
    assert low > 1e-6
    assert high > 8


def test_a_layer_of_small_numbers_is_seen_beside_one_of_large_ones(drawn):
    cube = CUBES["layers"].copy(deep=True)
    cube.autocorrelation_eigenvalue.loc[{"layer": "conv1"}] *= 1e-6
    found = drawn("autocorrelation", layers=cube)
    lowest = float(cube.autocorrelation_eigenvalue.sel(SHOWN).sel(layer="conv1").min())
    assert titled(found, "conv1").get_ylim()[0] < lowest


def test_a_missing_number_keeps_its_place(drawn):
    # The row space is there for some layers alone; the overlap must not pass for the gap.
    cube = SMALL["layers"].copy(deep=True)
    cube.output_gap.loc[{"layer": "fc2", "norm": "none"}] = np.nan
    text = notes(titled(drawn("output_hessian", layers=cube), "fc2: 32 x 32"))[0].get_text()
    assert text.startswith("none -; 0.9")
    text = notes(titled(drawn("output_hessian"), "fc3: 10 x 32"))[0].get_text()
    assert all(line.endswith("; -") for line in text.splitlines())


def test_theory_shows_the_cubes_values(drawn):
    cube = CUBES["theory"]
    panels = drawn("theory").axes
    for panel, variable in zip(
        panels, ("overlap_predicted", "eigenvalue_ratio", "relative_error"), strict=True
    ):
        for kind, name in (("gaussian", "x ~ N(0, I)"), ("rectified", "x = max")):
            values = cube[variable].sel(input=kind).transpose("theory_seed", "width").values
            line = labelled(panel, name)
            assert line.get_ydata() == pytest.approx(values.mean(0))
            assert line.get_xdata().tolist() == cube.width.values.tolist()
            points = [other.get_ydata() for other in panel.lines if other.get_alpha() == 0.5]
            for row in values:
                assert any((row == seen).all() for seen in points)
    dashed = [line.get_ydata()[0] for line in panels[0].lines if line.get_linestyle() == "--"]
    assert dashed == [1.0, 0.829]
    guide = next(line for line in panels[1].lines if line.get_linestyle() == ":")
    first = float(cube.eigenvalue_ratio.sel(input="gaussian", width=64).mean())
    assert guide.get_ydata() == pytest.approx(first * 64 / cube.width.values)
