"""The closing figure: with a run, without one, and in the corner cases of a small or perfect set."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import ndtri

from deepfake_detector.curves import FAKE, draw_curves, png, read_log
from deepfake_detector.metrics import calibration_bins, error_rates

LOG = "epoch,train_loss,dev_eer,unjudged\n1,0.7,,\n2,0.5,0.3,0\n3,0.4,0.2,0\n"

TITLE = "a name that is no text or no formula: \udcff a$_$b"


def curves(scores: np.ndarray, labels: np.ndarray, log: list[dict] | None, bounds: tuple[float, float]) -> Figure:
    figures = {"eer": 0.1, "eer_interval": (0.05, 0.2), "real_below": bounds[0], "fake_above": bounds[1]}
    probabilities = 1 / (1 + np.exp(-scores))
    return draw_curves(labels, scores, probabilities, {**figures, "expected_calibration_error": 0.03}, TITLE, log)


def two_classes(n: int = 200, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 2
    return np.random.default_rng(0).standard_normal(n) + apart * (labels - 0.5), labels


@pytest.fixture
def log(tmp_path: Path) -> list[dict]:
    (tmp_path / "metrics.csv").write_text(LOG)
    return read_log(tmp_path / "metrics.csv")


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_four_panels_of_a_run(log: list[dict]) -> None:
    assert log[0] == {"epoch": 1.0, "train_loss": 0.7, "dev_eer": None, "unjudged": None}
    figure = curves(*two_classes(), log, (0.2, 0.8))
    assert len(titles(figure)) == 4 and titles(figure)[0] == "Training"
    loss, eer = figure.axes[0].lines[0], figure.axes[-1].lines[0]
    assert loss.get_ydata() == pytest.approx([0.7, 0.5, 0.4])
    assert eer.get_xdata() == pytest.approx([2, 3]) and eer.get_ydata() == pytest.approx([30, 20])
    picture = Image.open(io.BytesIO(png(figure)))
    assert picture.format == "PNG" and picture.width > 1000 and picture.height > 1000
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_three_panels_without_a_run() -> None:
    figure = curves(*two_classes(), None, (0.0, 1.0))
    assert len(titles(figure)) == 3 and "Training" not in titles(figure)
    picture = Image.open(io.BytesIO(png(figure)))
    assert picture.width > 2 * picture.height


@pytest.mark.parametrize("apart", [-2.0, 0.0, 40.0])
def test_a_single_epoch_and_bad_or_perfect_scores(log: list[dict], apart: float) -> None:
    for rows in (log[:1], log[1:2]):
        assert png(curves(*two_classes(4, apart), rows, (0.5, 0.5)))


def test_histogram_counts_every_clip_and_marks_the_bounds() -> None:
    scores, labels = two_classes(apart=60.0)  # far beyond the axis
    histogram = curves(scores, labels, None, (0.2, 1.0)).axes[1]
    for patch in histogram.patches[:2]:  # outlines of the two classes: shares of each add up to 100 %
        assert patch.get_xy()[:, 1].max() == pytest.approx(100)
    assert [line.get_xdata()[0] for line in histogram.lines] == pytest.approx([np.log(0.25)])  # 1.0 is no bound


def test_axes_and_legends_are_what_they_are_called() -> None:
    labels = np.repeat([0, 1], [4, 2])
    scores = np.array([-3.0, -3.0, -3.0, 1.5, 1.0, 3.0])  # the best threshold calls a quarter of the real ones fake
    det, histogram, reliability = curves(scores, labels, None, (0.2, 0.8)).axes[:3]
    miss, false_alarm, _ = error_rates(labels, scores)
    rates = {"real called fake, %": miss, "fake called real, %": false_alarm}
    for axis, drawn in ((det.xaxis, det.lines[0].get_xdata()), (det.yaxis, det.lines[0].get_ydata())):
        rate = np.clip(rates[axis.get_label_text()], 0.125, 0.875)
        assert drawn == pytest.approx(ndtri(rate))
    assert {text.get_text() for text in histogram.get_legend().get_texts()} > {"real (4 clips)", "fake (2 clips)"}
    named = dict(zip(*reversed(histogram.get_legend_handles_labels()), strict=True))
    assert named["fake (2 clips)"].get_facecolor()[:3] == to_rgb(FAKE)
    promised, observed, _ = calibration_bins(labels, 1 / (1 + np.exp(-scores)))
    assert reliability.get_xlabel() == "probability of fake, %"
    assert reliability.lines[1].get_xdata() == pytest.approx(100 * promised)
    assert reliability.lines[1].get_ydata() == pytest.approx(100 * observed)
