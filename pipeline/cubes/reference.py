"""The cube reference of docs/, written from the schema."""

from pipeline.cubes.schema import SCHEMA, leading_dims

HEAD = """# The cubes

Each cube is a Zarr store, `<results>/cubes/<name>.zarr`, opened by `xarray.open_zarr`, or by
`pipeline.open_cube`, which looks at every byte first: Zarr reads a chunk that was lost as NaN. All
its variables begin with the dimensions that stand under its name; further ones are listed.
Combinations that are not in the grid, runs that diverged and what did not converge are NaN.
`order` counts eigenvalues from 0, algebraically largest first; `index`, `bin`, `node` and `probe`
count from 0, `k` from 1. Beside each cube, `<name>.manifest.json` has a checksum for every file it
was gathered from.

A chunk holds one data set, network, norm and recipe. Of a variable that is larger than 16 MiB
for these it holds one label more of each dimension in turn (`n_per_class`, `seed`, `epoch`, ...),
until it is not. What is absent is not written: a cube that would be terabytes if it were dense
takes what its parts hold, is gathered one part at a time, and `sel` reads the chunks asked for.

Each variable has a short `long_name` (label), a `description`, `units` and a `source`. A
dimension that has no labels in an experiment (`knockout` without knockouts, say) has one entry,
"" or 0, whose values are all NaN: xarray combines no dimension of length zero.

A name means the same in every cube, so that cubes are combined without renaming. Two cubes of one
experiment, or of two experiments, are merged by

    xr.merge([one, other], join="outer", compat="no_conflicts")

`xr.concat([one, other], "dataset", join="outer", data_vars="minimal")` does the same for
experiments of different data sets. `xr.combine_by_coords` needs labels in growing order and
`join="outer", compat="no_conflicts", data_vars="minimal", combine_attrs="drop_conflicts"`, because
each cube has its own `provenance`.

S is "Measuring the Spectrum of Deepnet Hessians", D is "Dissecting Hessian".
"""


def cube_reference() -> str:
    """Return the Markdown text: a table of variables for each cube."""
    lines = [HEAD]
    for name, variables in SCHEMA.items():
        leading = ", ".join(f"`{dim}`" for dim in leading_dims(name)) or "none"
        lines += [f"## {name}", "", f"Dimensions of all: {leading}.", ""]
        lines += ["| variable | further dimensions | label | what | units | source |"]
        lines += ["|---|---|---|---|---|---|"]
        for key, v in variables.items():
            dims = ", ".join(v.dims) or "none"
            label, what = (text.replace("|", "\\|") for text in (v.long_name, v.description))
            lines.append(f"| {key} | {dims} | {label} | {what} | {v.units} | {v.source} |")
        lines.append("")
    return "\n".join(lines)
