"""The papers' values beside ours: a line for each, our value over the published one."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.comparison.rows import ABSENT, OUTSIDE, WITHIN, Row, by_experiment
from pipeline.comparison.table import here
from pipeline.figures import style
from pipeline.reference.published import NEAR

LINE = 0.155  # inches of height of a line
LETTERS = 118  # of a line of words as wide as the page
ROOM = 1.15  # of the axis beyond what it shows
COLOURS = {WITHIN: style.PALETTE[0], OUTSIDE: style.PALETTE[3]}
PRINTED, TOLERATED = "0.78", "0.92"
COLUMNS = (0.7, 1.0)  # right ends of those of numbers, as shares of their panel
WIDE = 30  # ends of the axis apart, as a ratio: ticks are then powers of ten
NOTHING = "No network of this experiment is one that the papers print values of."


@dataclass(frozen=True)
class Line:
    """A line of the figure: a row's, or words that stand above rows."""

    row: Row | None = None
    words: str = ""
    bold: bool = False


def draw(rows: list[Row]) -> Figure:
    """Draw the rows by network: dots are means over seeds, open where the training is not theirs.

    A network that is not in the experiment has one line of words at the end.
    """
    lines = list(_lines(rows))
    figure, axes = style.panels(
        1,
        2,
        title="Values here over the papers' (S, D)",
        row_height=LINE * (len(lines) + 1),
        sharey=True,
        width_ratios=(5, 4),
    )
    panel, text = axes[0]
    text.set_axis_off()
    for y, line in enumerate(lines):
        if line.row is None:
            _above(panel, y, line)
        else:
            _point(panel, y, line.row)
            _numbers(text, y, line.row)
    named = [(y, line.row.published.what) for y, line in enumerate(lines) if line.row]
    panel.set_yticks([y for y, _ in named], [name for _, name in named])
    panel.set(ylim=(len(lines) - 0.4, -1.4), xlabel="value here / published value")
    panel.tick_params(axis="y", length=0, labelsize=6)
    for side in ("left", "right", "top"):
        panel.spines[side].set_visible(False)
    _scale(panel)
    if any(row.found for row in rows):
        for x, name in zip(COLUMNS, ("here (range)", "published"), strict=True):
            text.text(x, -1, name, transform=text.get_yaxis_transform(), **_small(weight="bold"))
        _legend(figure)
    else:
        panel.set_axis_off()
    return figure


def _lines(rows: list[Row]) -> Iterator[Line]:
    if not any(row.found for row in rows):
        yield Line(words=NOTHING, bold=True)
    groups = by_experiment(rows)
    for name, some in groups.items():
        if not any(row.found for row in some):
            continue
        yield Line(words=name, bold=True)
        for words in dict.fromkeys(row.scale for row in some if row.found):
            yield from (Line(words=part) for part in textwrap.wrap(words, LETTERS))
        yield from (Line(row=row) for row in some)
    for name, some in groups.items():
        if not any(row.found for row in some):
            yield Line(words=f"{name}: {ABSENT} ({style.count(len(some), 'value')})")


def _above(panel: Axes, y: int, line: Line) -> None:
    """Write words from the page's left edge on."""
    panel.annotate(
        line.words,
        (0.01, y),
        xycoords=("figure fraction", "data"),
        **_small(ha="left", weight="bold" if line.bold else "normal"),
        annotation_clip=False,
    ).set_in_layout(False)


def _point(panel: Axes, y: int, row: Row) -> None:
    one = row.published
    band = [one.ratio(value) for value in one.accepted]
    colour = TOLERATED if one.low is None else PRINTED
    panel.fill_betweenx([y - 0.5, y + 0.5], *band, color=colour, lw=0, zorder=0)
    panel.plot([1, 1], [y - 0.5, y + 0.5], color=style.INK, lw=0.7, zorder=0.5)
    if row.measured is None:
        return
    low, at, high = (
        one.ratio(value) for value in (row.measured.low, row.measured.value, row.measured.high)
    )
    colour = COLOURS[row.verdict]
    panel.plot([low, high], [y, y], "-", color=colour, lw=1)
    filled = colour if not row.found.departures else "white"
    panel.plot([at], [y], "o", color=colour, mfc=filled, ms=3.5, mew=0.9)


def _numbers(text: Axes, y: int, row: Row) -> None:
    words = (here(row, digits=3) or row.verdict, f"{row.published.number:g}")
    for x, word in zip(COLUMNS, words, strict=True):
        text.text(x, y, word, transform=text.get_yaxis_transform(), **_small())


def _small(**more: str) -> dict[str, str | float]:
    return {"fontsize": 6, "color": style.INK, "ha": "right", "va": "center_baseline"} | more


def _scale(panel: Axes) -> None:
    """Make the x axis logarithmic, about one."""
    shown = [x for line in panel.lines for x in np.asarray(line.get_xdata(), float) if x > 0]
    low, high = min([*shown, 1 / NEAR]) / ROOM, max([*shown, NEAR]) * ROOM
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    steps = np.arange(-12, 13)
    wanted = 10.0**steps if high / low > WIDE else [*2.0**steps, 1 / NEAR, NEAR]
    ticks = [x for x in wanted if low <= x <= high]
    panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
    panel.minorticks_off()


def _legend(figure: Figure) -> None:
    point = {"ls": "none", "marker": "o", "ms": 3.5}
    handles = {
        "within": Line2D([], [], color=COLOURS[WITHIN], **point),
        "outside": Line2D([], [], color=COLOURS[OUTSIDE], **point),
        "open: the runs depart from the paper's": Line2D(
            [], [], color=style.INK, mfc="white", **point
        ),
        "range over seeds": Line2D([], [], color=style.INK, lw=1),
        "published range": Patch(color=PRINTED),
        "tolerance": Patch(color=TOLERATED),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
