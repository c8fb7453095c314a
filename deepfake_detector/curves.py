"""The closing figure of a run or an evaluation: how training went, and how good and how honest the scores are."""

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import logit, ndtri

from .metrics import calibration_bins, error_rates
from .plots import COLOURS

REAL, FAKE, INK = COLOURS["real"], COLOURS["fake"], "#333333"
PANEL_INCHES, DPI = (5.6, 4.4), 120
DET_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
ODDS_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
CURVES = {  # column of metrics.csv: name, colour, line, is it a share?
    "train_loss": ("training loss (left)", INK, "-", False),
    "validation_loss": ("validation loss (left)", INK, ":", False),
    "dev_eer": ("dev EER in % (right)", FAKE, "--", True),
    "train_accuracy": ("training accuracy in % (right)", REAL, "-", True),
    "validation_accuracy": ("validation accuracy in % (right)", REAL, ":", True),
}
WIDEST_ODDS = float(logit(0.9995))  # surer answers are counted in the outermost bins


def draw_curves(
    labels: np.ndarray,
    scores: np.ndarray,
    probabilities: np.ndarray,
    figures: dict,
    title: str,
    log: list[dict] | None = None,
) -> Figure:
    """Three panels - DET curve, score histogram, reliability - and before them the curves of training if there is a log.

    labels, scores and probabilities: (n,) of both classes, larger = more spoof; figures: what `evaluation.report` says
    of them; log: rows of a run's metrics.csv, see `read_log`.
    """
    rows, columns = (2, 2) if log else (1, 3)
    figure = Figure((PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.6), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(h_pad=0.15, w_pad=0.12)
    # It may name a file, whose name need not be text, or may look like formulas.
    figure.suptitle(title.encode(errors="replace").decode(), fontsize=14, parse_math=False)
    panels = list(figure.subplots(rows, columns).flat)
    if log:
        _draw_training(panels.pop(0), log)
    det, histogram, reliability = panels
    _draw_det(det, labels, scores, figures)
    _draw_histogram(histogram, labels, probabilities, (figures["real_below"], figures["fake_above"]))
    _draw_reliability(reliability, labels, probabilities, figures["expected_calibration_error"])
    for panel in figure.axes:
        panel.spines["top"].set_visible(False)
    return figure


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def read_log(path: Path) -> list[dict]:
    """Rows of a run's metrics.csv: numbers, and None where an epoch was not evaluated."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]


def _draw_training(axes: Axes, log: list[dict]) -> None:
    """Losses on the left axis, shares in % on the right one: whatever of them the log has."""
    axes.set(title="Training", xlabel="epoch", ylabel="loss")
    axes.set_xlim(0.5, len(log) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    twin, lines, largest = axes.twinx(), [], 0.0
    for column, (name, colour, style, is_share) in CURVES.items():
        points = [(row["epoch"], row[column]) for row in log if row.get(column) is not None]
        if not points:
            continue
        epochs, values = np.array(points).T
        if is_share:
            values, largest = 100 * values, max(largest, 100 * values.max())
        marker = "o" if len(points) == 1 or column == "dev_eer" else None  # one point makes no line
        lines += (twin if is_share else axes).plot(
            epochs, values, color=colour, linestyle=style, marker=marker, markersize=5, label=name
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
    twin.set_ylim(0.0, max(5.0, 1.5 * largest))
    twin.set_yticks([tick for tick in twin.get_yticks() if tick <= 100])
    twin.set_ylabel("%")
    axes.legend(handles=lines, loc="upper center", fontsize=9, ncols=2)


def _draw_det(axes: Axes, labels: np.ndarray, scores: np.ndarray, figures: dict) -> None:
    """Both error rates on axes on which two Gaussian classes make a straight line (Martin et al. 1997)."""
    eer, (low, high) = figures["eer"], figures["eer_interval"]
    miss, false_alarm, _ = error_rates(labels, scores)
    smallest = 0.5 / max((labels == 0).sum(), (labels == 1).sum())  # rates of 0 and 1 have no place on these axes
    start, end = ndtri(max(smallest, 0.0001)), ndtri(0.99 if eer > 0.3 else 0.9)
    rates = (ndtri(np.clip(rate, smallest, 1 - smallest)) for rate in (miss, false_alarm))
    axes.plot(*rates, color=INK, drawstyle="steps-post")
    axes.plot((start, end), (start, end), color="#999999", linewidth=0.8, linestyle=":")
    at = ndtri(np.clip(eer, smallest, 1 - smallest))
    name = f"EER {100 * eer:.1f} %\n(95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    axes.plot(at, at, color=FAKE, marker="o", markersize=8, linestyle="", clip_on=False, zorder=3, label=name)
    ticks = [rate for rate in DET_TICKS if start <= ndtri(rate) <= end]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ndtri(ticks), [f"{100 * rate:g}" for rate in ticks])
    axes.set(title="Errors at every threshold (DET)", xlim=(start, end), ylim=(start, end))
    axes.set(xlabel="real called fake, %", ylabel="fake called real, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right" if at < (start + end) / 2 else "lower left", fontsize=9)


def _draw_histogram(axes: Axes, labels: np.ndarray, probabilities: np.ndarray, bounds: tuple[float, float]) -> None:
    odds = np.clip(logit(np.clip(probabilities, 1e-9, 1 - 1e-9)), -WIDEST_ODDS, WIDEST_ODDS)
    edges = np.linspace(-WIDEST_ODDS, WIDEST_ODDS, 41)
    for label, name, colour, hatch in ((0, "real", REAL, "///"), (1, "fake", FAKE, None)):
        values = odds[labels == label]
        axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), histtype="stepfilled", alpha=0.45,
                  facecolor=colour, edgecolor=colour, hatch=hatch, label=f"{name} ({len(values)} clips)")  # fmt: skip
    left, right = (float(np.clip(logit(bound), -WIDEST_ODDS, WIDEST_ODDS)) for bound in bounds)
    if left < right:
        axes.axvspan(left, right, color="#DDDDDD", alpha=0.6, zorder=0, label='"can\'t tell"')
    for bound, place in zip(bounds, (left, right), strict=True):
        if 0 < bound < 1:
            axes.axvline(place, color=INK, linewidth=1.0, linestyle="--")
    axes.set_xticks(logit(ODDS_TICKS), [f"{100 * tick:g}" for tick in ODDS_TICKS])
    axes.set(title="Scores of each class, and the bounds", xlabel="probability of fake, %", ylabel="% of the class")
    axes.set_xlim(-WIDEST_ODDS, WIDEST_ODDS)
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper right", fontsize=9, ncols=3)


def _draw_reliability(axes: Axes, labels: np.ndarray, probabilities: np.ndarray, error: float) -> None:
    promised, observed, sizes = calibration_bins(labels, probabilities)
    real = 100 * (labels == 0).mean()  # the probability may suppose another share
    axes.plot((0, 100), (0, 100), color="#999999", linewidth=0.8, linestyle=":", label="perfectly calibrated")
    axes.plot(100 * promised, 100 * observed, color=REAL, linewidth=1.2)
    axes.scatter(100 * promised, 100 * observed, 20 + 380 * sizes / sizes.max(), color=REAL, alpha=0.7, zorder=3)
    axes.plot(
        [], [], color=REAL, marker="o", label=f"clips (area: how many)\nECE {error:.3f}, {real:.0f} % of them real"
    )
    axes.set(title="Is the probability true? (reliability)", xlim=(-4, 104), ylim=(-4, 104))
    axes.set(xlabel="probability of fake, %", ylabel="of these, really fake, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
