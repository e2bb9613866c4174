"""The comparison with the papers' values as tables and as a figure, and the job that makes them."""

import csv
from dataclasses import replace
from io import StringIO

import layer_cubes
import matplotlib.pyplot as plt
import yaml
from test_comparison import F200, LENET5, job_of
from workflow import ROOT

from pipeline.assign import comparison_job
from pipeline.atomic import sha256
from pipeline.comparison.rows import ABSENT, Row, compare
from pipeline.comparison.table import as_csv, as_markdown
from pipeline.configfile import load_config
from pipeline.cubes.store import to_zarr
from pipeline.cubes.write import write_manifest
from pipeline.figures import comparison, style
from pipeline.jobs.comparison import write_comparison
from pipeline.reference.values import PUBLISHED
from pipeline.runs import comparison_paths
from pipeline.tasks import ComparisonJob
from pipeline.workload import told, workload


def both():
    """Return a job and cubes with values of F-200^2 and LeNet5."""
    grids = (*F200["layers"], *LENET5)
    found = [run for grid in grids for run in grid.runs()]
    cubes = {
        "layers": layer_cubes.layers_cube(found),
        "overlap": layer_cubes.overlap_cube(found),
    }
    return job_of(dict.fromkeys(cubes, grids)), cubes


def test_the_tables_say_what_the_rows_say():
    job, cubes = both()
    rows = compare(job, cubes)
    table = list(csv.DictReader(StringIO(as_csv(rows))))
    assert len(table) == len(PUBLISHED)
    for line, row in zip(table, rows, strict=True):
        assert float(line["published"]) == row.published.number
        assert line["source"] == row.published.source
        assert line["verdict"] == row.verdict
        assert (line["value"] == "") == (row.measured is None)
        if row.measured:
            assert float(line["value"]) == row.measured.value
            assert float(line["ratio"]) == row.published.ratio(row.measured.value)
            assert line["training"] == row.scale
    text = as_markdown(rows)
    assert text.count(f"| {ABSENT} |") == sum(row.verdict == ABSENT for row in rows) > 0
    assert text.count("## ") == len({row.published.experiment.name for row in rows})
    (peak,) = [line for line in text.splitlines() if "k of the peak" in line]
    assert "9 of 1000 epochs; training examples 20 per class (all); 3 of 5 seeds" in peak


def points(figure):
    return [line for line in figure.axes[0].lines if line.get_marker() == "o"]


def drawn(rows):
    with style.theme():
        figure = comparison.draw(rows)
    figure.draw_without_rendering()
    box = figure.bbox
    for text in [*figure.axes[0].texts, *figure.axes[1].texts, *figure.axes[0].get_yticklabels()]:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 < extent.x1 <= box.x1, f"clipped: {text.get_text()}"
        assert box.y0 <= extent.y0 < extent.y1 <= box.y1, f"clipped: {text.get_text()}"
    plt.close(figure)
    return figure


def words(figure):
    return "\n".join(text.get_text() for panel in figure.axes for text in panel.texts)


def test_the_figure_has_a_point_for_each_value():
    rows = compare(*both())
    valued = [row for row in rows if row.measured]
    figure = drawn(rows)
    assert len(points(figure)) == len(valued) == 33
    assert {line.get_markerfacecolor() for line in points(figure)} == {"white"}
    colours = [line.get_color() for line in points(figure)]
    assert colours == [comparison.COLOURS[row.verdict] for row in valued]
    assert [line.get_xdata()[0] for line in points(figure)] == [
        row.published.ratio(row.measured.value) for row in valued
    ]
    assert "9 of 1000 epochs" in words(figure)
    assert f"D, F-600^2 on MNIST: {ABSENT} (2 values)" in words(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [row.published.what for row in rows if row.found]


def test_points_of_the_papers_own_training_are_filled():
    rows = [
        replace(row, found=replace(row.found, departures=())) if row.found else row
        for row in compare(*both())
    ]
    figure = drawn(rows)
    assert "white" not in {line.get_markerfacecolor() for line in points(figure)}
    assert "as in the paper" in words(figure)


def test_the_figure_says_so_where_nothing_compares():
    figure = drawn([Row(one) for one in PUBLISHED])
    assert comparison.NOTHING in words(figure)
    assert not points(figure)


def test_the_figure_has_room_for_every_value():
    one = next(row for row in compare(*both()) if row.measured)
    figure = drawn([replace(one, published=published) for published in PUBLISHED])
    assert len(points(figure)) == len(PUBLISHED) > 60
    assert figure.get_figheight() < 13


def test_the_job_writes_tables_and_figure_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job, cubes = both()
    for name, cube in cubes.items():
        cube.attrs = {}
        path = tmp_path / f"results/cubes/{name}.zarr"
        to_zarr(cube, path)
        write_manifest(path, parts=[])
    files = comparison_paths("results").values()
    digests = []
    for _ in range(2):
        write_comparison(ComparisonJob.model_validate_json(job.model_dump_json()))
        digests.append([sha256(file) for file in files])
    assert digests[0] == digests[1]
    assert as_csv(compare(job, cubes)) == comparison_paths("results")["csv"].read_text()


def test_it_is_made_where_a_cube_that_it_needs_is_gathered():
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    for cubes, needed in ((["training", "layers"], ["layers"]), (["training", "theory"], [])):
        config = load_config(settings | {"cubes": cubes})
        works = [work for work in workload(config) if work.rule == "comparison"]
        assert len(works) == bool(needed)
        for work in works:
            assert [file.name for file in work.inputs] == ["layers.manifest.json"]
            job = told(config, work)
            assert job == comparison_job(config)
            assert list(job.grids) == needed
            assert set(job.recipes) == {"sgd"}
            assert job.spectrum is None
