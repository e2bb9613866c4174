"""What the figures of layers share: slices, and a grid of networks and their layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pipeline.figures import spectral, style
from pipeline.figures.levels import one_split

COLUMNS = 6  # that stay legible on a page; of more layers so many are shown, evenly spaced
MARGIN, LETTER = 1.1, 0.07  # inches: what axis labels take, and a letter of a panel's title
ROUNDING = 1e-5  # of the largest eigenvalue, in float32 with room to spare
NO_PAIR = "diverged,\nor one seed alone"
NO_VALUES = "no values"
SIZES = ("outputs", "inputs", "overlap_outputs")  # of a layer, in either cube
Network = dict[str, str]


@dataclass(frozen=True)
class Panel:
    """A panel of the grid: what it shows of one layer, by norm."""

    axes: Axes
    layer: str
    slices: dict[str, xr.Dataset]

    @property
    def only(self) -> xr.Dataset:
        """The slice of a panel that shows one network."""
        (one,) = self.slices.values()
        return one


def reference(
    cube: xr.Dataset, variable: str = "outputs", *, all_seeds: bool = False
) -> xr.Dataset:
    """Return the slice a figure shows: as the spectra's, one split, the last epoch there is.

    An epoch is there where any network has ``variable``.  A cube of no parts gets a place of NaN.
    """
    cube = spectral.reference(cube, all_seeds=all_seeds or "seed" not in cube.dims)
    if "" in cube.split.values:
        cube = cube.reindex(epoch=[0], split=["train"])
    cube = one_split(cube)
    there = cube[variable].notnull()
    there = there.any([dim for dim in there.dims if dim != "epoch"]).values
    return cube.sel(epoch=cube.epoch.values[there if there.any() else slice(None)][-1])


def by_network(cube: xr.Dataset, variable: str = "classes") -> dict[str, list[Network]]:
    """Return rows of one network each, by name."""
    return {style.network_name(net): [net] for net in spectral.networks(cube, variable)}


def by_model(cube: xr.Dataset, variable: str = "classes") -> dict[str, list[Network]]:
    """Return rows of a model's networks, of all norms, by name."""
    rows: dict[str, list[Network]] = {}
    for net in spectral.networks(cube, variable):
        rows.setdefault(f"{net['dataset']}, {net['model']}", []).append(net)
    return rows


def layers(cube: xr.Dataset, nets: list[Network]) -> list[str]:
    """Return the layers that any of ``nets`` has, in the cube's order."""
    outputs = cube["outputs" if "outputs" in cube else "overlap_outputs"]
    there = [outputs.sel(net).notnull() for net in nets]
    return [
        str(name)
        for name in cube.layer.values
        if any(bool(known.sel(layer=name).any()) for known in there)
    ]


def thinned(names: list[str]) -> list[str]:
    """Return as many of ``names`` as a page has room for, the first and the last among them."""
    kept = np.linspace(0, len(names) - 1, min(len(names), COLUMNS)).round().astype(int)
    return [names[i] for i in kept]


def is_there(cube: xr.Dataset, net: Network, variable: str) -> bool:
    """Return whether ``net`` has any value of ``variable``."""
    return bool(cube[variable].sel(net).notnull().any())


def place(cube: xr.Dataset) -> str:
    """Return where in the cube a slice lies, for a figure's title."""
    if "seed_a" in cube.coords:
        seeds = np.unique(np.r_[cube.seed_a.values, cube.seed_b.values])
        networks = f"pairs of seeds {', '.join(map(str, seeds))}"
    elif cube.seed.size > 1:
        networks = f"mean over {style.count(cube.sizes['seed'], 'seed')}, faint: each seed"
    else:
        networks = f"seed {int(cube.seed.values.flat[0])}"
    return (
        f"epoch {int(cube.epoch)}, {style.SPLIT_NAMES[str(cube.split.values)]}; {networks}; "
        f"{style.examples(int(cube.n_per_class))}"
    )


def grid(
    cube: xr.Dataset,
    rows: dict[str, list[Network]],
    variable: str = "outputs",
    *,
    title: list[str],
    labels: tuple[str, str],
    missing: str = "diverged",
) -> tuple[Figure, list[Panel]]:
    """Return a figure with a row for each of ``rows``, a column per layer, and its panels.

    A row whose networks have no ``variable`` says what is ``missing``.  ``labels`` name the axes.
    """
    rows = rows or {"": []}
    known = [
        layers(cube, [net for net in nets if is_there(cube, net, variable)])
        for nets in rows.values()
    ]
    figure, axes = style.panels(
        len(rows),
        max(1, *(len(thinned(names)) for names in known)),
        title=[*title, place(cube)] if any(known) else title,
        sharey="row",
    )
    letters = int((figure.get_figwidth() - MARGIN) / axes.shape[1] / LETTER)
    found = []
    for line, (name, nets), names in zip(axes, rows.items(), known, strict=True):
        chosen = thinned(names)
        for panel in line[max(1, len(chosen)) :]:
            panel.remove()
        for panel, layer in zip(line, chosen, strict=False):
            slices = {net["norm"]: cube.sel(net).sel(layer=layer) for net in nets}
            found.append(Panel(panel, layer, slices))
            panel.set_title(layer_name(layer, slices, letters), loc="left")
            panel.xaxis.get_major_locator().set_params(integer=True)
        _name_row(line[: max(1, len(chosen))], f"{name}{out_of(chosen, names)}")
        line[0].set_ylabel(labels[1])
        if not chosen:
            line[0].set(xticks=[], yticks=[])
            style.note(line[0], missing)
    label_below(figure, axes, labels[0])
    return figure, found


def _name_row(row: Sequence[Axes], name: str) -> None:
    """Write a row's name above all titles of its panels, over several of them if it is long."""
    heads = [panel.get_title(loc="left") for panel in row]
    above = 1 + max(head.count("\n") for head in heads) - heads[0].count("\n")
    title = row[0].set_title("\n" * above + heads[0] if heads[0] else " ", loc="left")
    # In the layout, a name that is longer than the panel would push the next one aside.
    row[0].annotate(
        name, (0, 1), xycoords=title, va="top", weight="bold", annotation_clip=False
    ).set_in_layout(False)


def out_of(chosen: list[str], names: list[str]) -> str:
    """Return " (6 of 15 layers)" where not all are shown."""
    return f" ({len(chosen)} of {len(names)} layers)" if len(chosen) < len(names) else ""


def label_below(figure: Figure, axes: Any, text: str) -> None:
    """Label the x axis of each column's lowest panel that was not removed."""
    for column in axes.T:
        [panel for panel in column if panel in figure.axes][-1].set_xlabel(text)


def layer_name(layer: str, slices: dict[str, xr.Dataset], letters: int) -> str:
    """Return how a panel names a layer: "fc1: 32 x 64", or its outputs where these are known.

    A name that exceeds the panel's ``letters`` goes on two lines.
    """
    for one in slices.values():
        sizes = [one[key].max() for key in SIZES if key in one]
        if all(np.isfinite(size) for size in sizes):
            shape = " x ".join(f"{int(size)}" for size in sizes)
            shape = shape if len(sizes) == 2 else f"m = {shape}"
            whole = f"{layer}: {shape}"
            return whole if len(whole) <= letters else f"{shortened(layer, letters)}\n{shape}"
    return shortened(layer, letters)


def shortened(name: str, letters: int) -> str:
    """Return a layer's name without its middle where it has more letters."""
    end = letters // 3
    return name if len(name) <= letters else f"{name[: letters - end - 1]}…{name[-end:]}"


def legend(figure: Figure, *, columns: int) -> None:
    """Put one legend below the panels: whatever any of them has, once."""
    named: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)


def log_rows(found: list[Panel], *, room: float) -> None:
    """Make the grid's y axes logarithmic, with a share of their length more for notes above."""
    rows: dict[int, list[Axes]] = {}
    for panel in found:
        rows.setdefault(panel.axes.get_subplotspec().rowspan.start, []).append(panel.axes)
    for row in rows.values():
        log_scale(row, room=room)


def log_scale(row: list[Axes], *, room: float = 0) -> None:
    """Make a y axis that ``row`` shares logarithmic, from what is no rounding of zero up.

    It has two powers of ten at least, so that numbers stand at these alone.
    """
    limits = [panel.dataLim for panel in row if np.isfinite(panel.dataLim.minposy)]
    if not limits:
        return
    high = max(limit.y1 for limit in limits)
    low = min(max(limit.minposy, ROUNDING * limit.y1) for limit in limits)
    low, high = low / 1.6, 1.6 * high
    if np.floor(np.log10(high)) <= np.ceil(np.log10(low)):
        low, high = 10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high))
    row[0].set_yscale("log", nonpositive="mask")
    row[0].set_ylim(low, high * (high / low) ** room)
    for panel in row:
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(axis="y", which="minor", length=1.5)


def norms_by_index(panel: Panel, variable: str, count: int, *, noted: dict[str, str]) -> None:
    """Plot the first ``count`` eigenvalues by index: a norm's mean over seeds, each seed faintly.

    ``noted`` are scalars' formats: their means over seeds stand in the panel, a line per norm.
    """
    notes = []
    for norm, one in panel.slices.items():
        values = one[variable].isel(index=slice(count)).dropna("index", how="all")
        values = values.dropna("seed", how="all")
        if not values.size:
            there = bool(one.outputs.notnull().any())
            notes.append(f"{norm}: {NO_VALUES}" if there else f"{norm}: diverged")
            continue
        colour = style.NORM_COLOURS[norm]
        for seed in values.seed.values:
            panel.axes.plot(values.index, values.sel(seed=seed), color=colour, lw=0.5, alpha=0.4)
        mean = values.mean("seed")
        label = style.NORM_NAMES[norm]
        panel.axes.plot(values.index, mean, ".-", color=colour, lw=0.9, ms=3, label=label)
        means = [float(one[key].mean()) for key in noted]
        if np.isfinite(means).any():
            pairs = zip(noted.values(), means, strict=True)
            words = [form.format(mean) if np.isfinite(mean) else "-" for form, mean in pairs]
            notes.append(f"{norm} {'; '.join(words)}")
    if notes:
        style.note(panel.axes, "\n".join(notes))
