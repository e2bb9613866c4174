"""The comparison job: the papers' values beside the cubes', as tables and as a figure."""

import json
from pathlib import Path

from pipeline.atomic import replacing, sha256
from pipeline.comparison.rows import compare
from pipeline.comparison.table import as_csv, as_markdown
from pipeline.cubes.store import manifest_path, open_cube
from pipeline.figures import comparison, style
from pipeline.provenance import provenance
from pipeline.runs import comparison_paths
from pipeline.scratch import only_maker
from pipeline.tasks import ComparisonJob


def write_comparison(job: ComparisonJob) -> None:
    """Write the tables and draw the figure."""
    files = comparison_paths(job.results)
    with only_maker(*files.values()):
        _write(files, job)


def _write(files: dict[str, Path], job: ComparisonJob) -> None:
    paths = {cube: Path(job.results) / "cubes" / f"{cube}.zarr" for cube in job.grids}
    rows = compare(job, {cube: open_cube(path) for cube, path in paths.items()})
    manifests = [manifest_path(path) for path in paths.values()]
    about = provenance(
        settings=job.model_dump(mode="json"),
        code=job.code,
        device="cpu",
        inputs={str(manifest): sha256(manifest) for manifest in manifests},
    )
    for suffix, text in (("csv", as_csv(rows)), ("md", as_markdown(rows))):
        with replacing(files[suffix]) as staged:
            staged.write_text(text, encoding="utf-8")
    with style.theme():
        drawn = [files["svg"], files["png"]]
        style.save(comparison.draw(rows), drawn, dpi=job.figures.dpi, about=json.dumps(about))
