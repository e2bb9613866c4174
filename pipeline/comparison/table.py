"""The comparison as text: a row for each published value, as CSV and as Markdown."""

import csv
from io import StringIO

from pipeline.comparison.rows import Row, by_experiment
from pipeline.reference.published import NEAR, SHARE

COLUMNS = (
    "paper",
    "network",
    "data",
    "what",
    "value",
    "lowest",
    "highest",
    "published",
    "published_low",
    "published_high",
    "ratio",
    "verdict",
    "accepted_low",
    "accepted_high",
    "training",
    "runs",
    "seeds",
    "cube",
    "source",
)
HEAD = f"""# Beside the papers' values

S is "Measuring the Spectrum of Deepnet Hessians", D is "Dissecting Hessian". A value is the mean
over seeds, with its range in brackets; of several layers, over seeds and layers. The ratio is value
over published value, of logarithms that of their exponentials. Within means: in the range that the
paper prints; where it prints none, a ratio of {1 / NEAR:g} to {NEAR:g}, or, of squared cosines, R^2
and other shares near one, a distance of at most {SHARE:g}. The last column says how the runs depart
from the paper's, with the paper's setting in brackets.
"""


def as_csv(rows: list[Row]) -> str:
    """Return the rows as CSV, numbers in full."""
    text = StringIO(newline="")
    lines = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    lines.writeheader()
    lines.writerows(map(_cells, rows))
    return text.getvalue()


def as_markdown(rows: list[Row]) -> str:
    """Return the rows as a table for each network of the papers."""
    lines = [HEAD]
    for name, some in by_experiment(rows).items():
        lines += [f"## {name}", ""]
        lines += ["| what | here | published | ratio | verdict | the runs here |", "|---" * 6 + "|"]
        lines += [f"| {' | '.join(_words(row))} |" for row in some]
        lines.append("")
    return "\n".join(lines)


def here(row: Row, *, digits: int = 4) -> str:
    """Return the value with its range in brackets, nothing where there is none."""
    one = row.measured
    if one is None:
        return ""
    value, low, high = (_rounded(number, digits) for number in (one.value, one.low, one.high))
    return f"{value} ({low} to {high})" if low != high else value


def _rounded(number: float, digits: int) -> str:
    whole = abs(number) >= 10**digits
    return f"{number:.0f}" if whole else f"{number:.{digits}g}"


def _published(row: Row) -> str:
    """Return the published value, with the range that the paper prints."""
    one = row.published
    spread = "" if one.low is None else f" ({one.low:g} to {one.high:g})"
    return f"{one.number:g}{spread}"


def _words(row: Row) -> list[str]:
    ratio = f"{row.published.ratio(row.measured.value):.2f}" if row.measured else ""
    return [row.published.what, here(row), _published(row), ratio, row.verdict, row.scale]


def _cells(row: Row) -> dict[str, object]:
    one, experiment = row.published, row.published.experiment
    low, high = one.accepted
    cells: dict[str, object] = {
        "paper": experiment.paper,
        "network": experiment.network,
        "data": experiment.data,
        "what": one.what,
        "published": one.number,
        "published_low": one.low,
        "published_high": one.high,
        "verdict": row.verdict,
        "accepted_low": low,
        "accepted_high": high,
        "training": row.scale,
        "runs": row.found.runs if row.found else None,
        "cube": one.cube,
        "source": one.source,
    }
    if row.measured:
        cells |= {
            "value": row.measured.value,
            "lowest": row.measured.low,
            "highest": row.measured.high,
            "ratio": one.ratio(row.measured.value),
            "seeds": row.measured.seeds,
        }
    return cells
