"""What benchmarks/full_size.py has found, as a picture and a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.catalogue import MATRICES
from pipeline.curvature.memory import GIB
from pipeline.figures import style
from pipeline.figures.log_density import LOG_WIDTH
from pipeline.figures.power_law import Tail, tail_of
from pipeline.reference.paper_s import PUBLISHED, VGG11_MNIST
from pipeline.spectra.smoothing import LOG_OFFSET, log_density

POINTS = 1024  # of a density that is drawn
Record = dict[str, Any]  # what results.json holds, or a part of it


def laws(found: Record) -> dict[str, Record]:
    """Return by split H's power law, and how far Hess v is from G v + H v where all three are."""
    made: dict[str, Record] = {}
    for split, records in by_split(found).items():
        made[split] = asdict(tail(records["H"]).law) if "H" in records else {}
        if set(records) == set(MATRICES):
            made[split]["identity_error"] = identity_error(records)
    return made


def identity_error(found: dict[str, Record]) -> float:
    """Return ||Hess v - G v - H v|| / ||Hess v||, both as their random projections tell."""
    whole, G, H = (np.array(found[matrix]["sketch"]) for matrix in ("Hess", "G", "H"))
    return float(np.linalg.norm(whole - G - H) / np.linalg.norm(whole))


def published(found: Record) -> dict[str, float]:
    """Return S's exponents by split, none where network, examples or epochs are not S's."""
    of = VGG11_MNIST
    own = {"dataset": of.dataset.source, "norm": of.norm, "test_per_class": 0}  # 0: all
    own |= {"n_per_class": of.training.n_per_class, "epochs": of.training.epochs}
    own |= {name: getattr(of.model, name) for name in ("width", "hidden")}
    if any(found["settings"][name] != value for name, value in own.items()):
        return {}
    return {one.at["split"]: one.number for one in PUBLISHED if one.variable == "tail_exponent"}


def by_split(found: Record) -> dict[str, dict[str, Record]]:
    """Return the spectra by split and matrix."""
    spectra: dict[str, dict[str, Record]] = {}
    for name, record in found["spectra"].items():
        split, matrix = name.split("/")
        spectra.setdefault(split, {})[matrix] = record
    return spectra


def pooled(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return a whole spectrum (1, points) and its weights, which sum to 1."""
    p, known, probes = record["dimension"], record["eigenvalues"], len(record["nodes"])
    weights = np.concatenate(record["weights"]) * (p - len(known)) / p / probes
    values = np.concatenate([*record["nodes"], known])
    return values[None], np.concatenate([weights, np.full(len(known), 1 / p)])[None]


def tail(record: Record) -> Tail:
    """Return the upper tail of a spectrum, with its power law."""
    return tail_of(*pooled(record), nodes=record["steps"], points=POINTS)


def picture(found: Record, file: Path) -> None:
    """Draw the log spectra, and below them H's tail with its power law and S's."""
    spectra, p = by_split(found), found["training"]["parameters"]
    title = f"VGG11, {p:,} parameters, {found['settings']['dataset']}"
    with style.theme():
        figure, axes = style.panels(2, len(spectra), title=title, row_height=2.3)
        for column, (split, records) in enumerate(spectra.items()):
            above, below = axes[:, column]
            for matrix, record in records.items():
                _log_spectrum(above, record, matrix)
            above.set(yscale="log", title=style.SPLIT_NAMES[split])
            highest = max(line.get_ydata().max() for line in above.lines)
            above.set_ylim(0.2 / p, 4 * highest)
            above.minorticks_off()
            above.set_xlabel(r"$\log_{10}$ (|eigenvalue| + $10^{-6}$) (nat)")
            if "H" in records:
                _tail(below, tail(records["H"]), published(found).get(split))
            below.set_xlabel("|eigenvalue| of H (nat)")
        axes[0, 0].set_ylabel("density (1/decade)")
        axes[1, 0].set_ylabel("density (1/nat)")
        axes[0, 0].legend(loc="lower left")
        style.save(figure, [file], dpi=160)


def _log_spectrum(panel: Axes, record: Record, matrix: str) -> None:
    values, weights = pooled(record)
    ends = np.log10([LOG_OFFSET, np.abs(values).max() + LOG_OFFSET])
    grid = np.linspace(ends[0] - 3 * LOG_WIDTH, ends[1] + 3 * LOG_WIDTH, POINTS)
    heights = log_density(values, weights, grid, width=LOG_WIDTH)[0]
    panel.plot(grid, heights, color=style.MATRIX_COLOURS[matrix], label=matrix)


def _tail(panel: Axes, found: Tail, theirs: float | None) -> None:
    law = found.law
    ends = np.array([law.low, law.high])
    fit = law.coefficient * ends**law.exponent
    panel.plot(found.magnitudes, found.heights, color=style.MATRIX_COLOURS["H"])
    label = f"fit: exponent {law.exponent:.2f}, $R^2$ {law.r_squared:.3f}"
    panel.plot(ends, 2 * fit, "--", color=style.INK, label=label)
    if theirs is not None:
        # Through the middle of the fit, to be seen beside it.
        slope = (ends / np.sqrt(ends.prod())) ** theirs * np.sqrt(fit.prod())
        panel.plot(ends, slope / 2, ":", color=style.INK, label=f"S's exponent {theirs}")
    panel.set(xscale="log", yscale="log")
    panel.minorticks_off()
    panel.legend(loc="upper right")


def table(found: Record) -> str:
    """Return the results as Markdown."""
    training = found["training"]
    devices = dict.fromkeys(one["device"] for one in (training, *found["spectra"].values()))
    lines = [
        f"{', '.join(devices)}: {training['parameters']:,} parameters; "
        f"{training['seconds_per_epoch']:.2f} s an epoch, peak {_gib(training)} GiB; "
        f"training loss {training['train_loss']:.2e}, "
        f"test accuracy {training['test_accuracy']:.4f}",
        "",
        "| split | matrix | time (s) | products | peak (GiB) | chunks kept | deflated | outliers "
        "| basis kept | max of QQ^T - I | trace by quadrature | trace by sign vectors |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for split, records in by_split(found).items():
        lines += [_row(split, matrix, record) for matrix, record in records.items()]
    lines += [
        "",
        "| split | exponent of H | S's | R^2 | fitted from | to | error of Hess = G + H |",
        "|---|---|---|---|---|---|---|",
    ]
    theirs = published(found)
    lines += [_law(split, law, theirs.get(split, "")) for split, law in found["laws"].items()]
    return "\n".join(lines)


def _law(split: str, law: Record, theirs: float | str) -> str:
    numbers = {"exponent": ".2f", "r_squared": ".3f", "low": ".1e", "high": ".1e"}
    cells = [format(law[name], form) if name in law else "" for name, form in numbers.items()]
    error = f"{law['identity_error']:.0e}" if "identity_error" in law else ""
    return f"| {split} | {cells[0]} | {theirs} | {' | '.join(cells[1:])} | {error} |"


def _row(split: str, matrix: str, record: Record) -> str:
    kept, chunks = record["chunks_kept"]
    traces = (record["moments"][0], record["trace"])
    cells = [
        split,
        matrix,
        f"{record['seconds']:.0f}",
        record["products"],
        _gib(record),
        f"{kept} of {chunks}",
        len(record["eigenvalues"]),
        record["outliers"],
        f"{record['basis_kept']} of {record['steps']}",
        f"{record['orthogonality']:.0e}",
        *(f"{value:.3g} ± {error:.1g}" for value, error in traces),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _gib(record: Record) -> str:
    return f"{record['peak_bytes'] / GIB:.1f}"
