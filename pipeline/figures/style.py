"""How all figures look: sizes in inches for a page, colours that the colour-blind tell apart."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # figures are files; a cluster node has no screen

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.atomic import replacing

PAGE_WIDTH, COLUMN_WIDTH = 6.9, 3.5  # of a paper in two columns
ROW_HEIGHT = 1.65
TITLE_DENSITY = 15  # letters of a title per inch
PALETTE = sns.color_palette("colorblind")
INK = "0.25"
MATRIX_COLOURS = {"Hess": PALETTE[0], "G": PALETTE[1], "H": PALETTE[2]}
COMPONENT_COLOURS = {
    "G": PALETTE[1],
    "A1": PALETTE[3],
    "A2": PALETTE[5],
    "B1": PALETTE[4],
    "B2": PALETTE[9],
}
NORM_COLOURS = {"none": PALETTE[0], "batch": PALETTE[3]}
SPLIT_NAMES = {"train": "training examples", "test": "test examples"}
NORM_NAMES = {"none": "no normalisation", "batch": "BatchNorm"}

SETTINGS: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "svg.hashsalt": "hessian-anatomy",
}


@contextmanager
def theme() -> Iterator[None]:
    """Draw within this project's style, and leave the caller's as it was."""
    with plt.rc_context():
        sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=SETTINGS)
        yield


def panels(
    rows: int,
    columns: int,
    *,
    title: str | list[str],
    row_height: float = ROW_HEIGHT,
    **options: Any,
) -> tuple[Figure, Any]:
    """Return a figure and its (rows, columns) array of axes: page-wide, or one column alone.

    The lines of its title are broken to fit its width.
    """
    width = min(PAGE_WIDTH, COLUMN_WIDTH * columns)
    lines = title.split("\n") if isinstance(title, str) else title
    broken = [_broken(line, int(TITLE_DENSITY * width)) for line in lines]
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, row_height * rows + 0.9),
        squeeze=False,
        layout="constrained",
        **options,
    )
    figure.suptitle("\n".join(broken))
    return figure, axes


def _broken(text: str, letters: int) -> str:
    """Return ``text`` on as few lines as there must be, of lengths as even as can be."""
    fewest = wrapped = textwrap.wrap(text, letters, break_long_words=False)
    while letters > 1 and len(wrapped) == len(fewest):
        fewest, letters = wrapped, letters - 1
        wrapped = textwrap.wrap(text, letters, break_long_words=False)
    return "\n".join(fewest)


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Put one legend for all panels below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _uncut(figure: Figure) -> None:
    """Break panel titles that leave the figure, and give legends that do fewer columns."""
    figure.draw_without_rendering()
    width = figure.bbox.width
    for axes in figure.axes:
        title, box = axes.title, axes.title.get_window_extent()
        over = max(-box.x0, box.x1 - width)
        if over > 0:
            fit = int(len(title.get_text()) * (1 - 2 * over / box.width))  # it is centred
            title.set_text(_broken(title.get_text(), fit))
    for legend in [*figure.legends]:
        handles = legend.legend_handles
        labels = [text.get_text() for text in legend.get_texts()]
        columns = len(handles)
        while columns > 1 and legend.get_window_extent().width > width:
            columns -= 1
            legend.remove()
            legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
            figure.draw_without_rendering()


def note(axes: Axes, text: str, *, corner: str = "upper right") -> None:
    """Write a short note in a corner of a panel."""
    vertical, horizontal = corner.split()
    axes.text(
        0.97 if horizontal == "right" else 0.03,
        0.94 if vertical == "upper" else 0.06,
        text,
        transform=axes.transAxes,
        ha=horizontal,
        va="top" if vertical == "upper" else "bottom",
        fontsize=7,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def network_name(net: dict[str, str]) -> str:
    """Return how a panel names a network: "digits, lenet5, BatchNorm"."""
    return f"{net['dataset']}, {net['model']}, {NORM_NAMES[net['norm']]}"


def count(number: int, thing: str) -> str:
    """Return "1 outlier", "9 outliers"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size_name(n_per_class: int) -> str:
    """Return how an axis names a number of training examples per class."""
    return str(n_per_class) if n_per_class else "full"


def examples(n_per_class: int) -> str:
    """Return how a title names a number of training examples per class."""
    return f"{n_per_class} training examples per class" if n_per_class else "full training set"


def save(figure: Figure, files: Sequence[Path], *, dpi: int, about: str = "") -> None:
    """Write a figure to files, by suffix, ``about`` within; equal figures give equal bytes."""
    _uncut(figure)
    for file in files:
        metadata = {"Description": about} if about else {}
        if file.suffix == ".svg":  # which alone records a date by default
            metadata["Date"] = None
        with replacing(file) as staged:
            # The suffix tells the format, so it must end the staged name too.
            drawn = staged.with_name(staged.name + file.suffix)
            figure.savefig(drawn, dpi=dpi, metadata=metadata)
            drawn.rename(staged)
    plt.close(figure)
