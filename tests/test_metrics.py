"""Figures of merit against scikit-learn, hand-worked cases and a published score file."""

import gzip

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from deepfake_detector.metrics import (
    AsvErrors,
    balanced_accuracy,
    eer_interval,
    equal_error_rate,
    expected_calibration_error,
    fit_bounds,
    fit_calibration,
    min_tdcf,
)

from .conftest import ROOT


def random_scores(seed: int = 0, n: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return labels, rng.standard_normal(n) + 1.5 * labels


def test_eer_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.4, 0.7, 0.85, 0.9])  # one of four wrong on each side at 0.7
    assert equal_error_rate(labels, scores)[0] == pytest.approx(0.25)
    assert equal_error_rate(labels, labels)[0] == 0.0
    assert equal_error_rate(labels, 1 - labels)[0] == 1.0  # never the better of the two directions


def test_equal_scores_are_called_alike_whatever_the_order() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0])
    for order in (labels, labels[::-1]):
        assert equal_error_rate(order, np.zeros(6))[0] == 0.5
    scores = np.array([2, 1, 1, 1, 1, 0])  # of the four in the middle none or all can be called fake
    for order in ([0, 1, 2, 3, 4, 5], [0, 4, 3, 2, 1, 5]):
        assert equal_error_rate(labels[order], scores[order])[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_eer_equals_the_roc_curve(seed: int) -> None:
    labels, scores = random_scores(seed)
    false_alarm, hit, _ = roc_curve(labels, scores, drop_intermediate=False)
    best = np.argmin(np.abs(false_alarm - (1 - hit)))
    eer, threshold = equal_error_rate(labels, scores)
    assert eer == pytest.approx((false_alarm[best] + 1 - hit[best]) / 2, abs=2e-3)
    assert (scores[labels == 0] > threshold).mean() == pytest.approx(eer, abs=5e-3)


def read_reference(name: str) -> list[list[str]]:
    path = ROOT.parent / "shared" / "metric_reference" / name
    if not path.is_file():
        pytest.skip("needs the published score files in ../shared")
    with gzip.open(path, "rt") as file:
        return [line.split() for line in file]


def test_eer_and_tdcf_of_a_published_system() -> None:
    rows = read_reference("la_eval_cm_scores.txt.gz")
    labels = np.array([int(row[-2] == "spoof") for row in rows])
    scores = -np.array([float(row[-1]) for row in rows])  # the challenge scores "more bona fide"
    asv = {kind: [] for kind in ("target", "nontarget", "spoof")}
    for _, kind, score in read_reference("la_eval_asv_scores.txt.gz"):
        asv[kind].append(float(score))
    errors = AsvErrors.from_scores(*(np.array(asv[kind]) for kind in ("target", "nontarget", "spoof")))
    assert errors.false_alarm == pytest.approx(0.024604675, abs=1e-6)
    assert errors.miss == pytest.approx(0.024581006, abs=2e-4)
    assert errors.miss_spoof == pytest.approx(0.239347547, abs=2e-4)
    assert 100 * equal_error_rate(labels, scores)[0] == pytest.approx(1.0601, abs=5e-5)
    assert min_tdcf(labels, scores, errors) == pytest.approx(0.0335, abs=5e-5)


def test_tdcf_of_a_perfect_and_a_useless_countermeasure() -> None:
    asv, labels = AsvErrors(false_alarm=0.02, miss=0.02, miss_spoof=0.25), np.array([0, 1] * 20)
    assert min_tdcf(labels, labels, asv) == 0.0
    assert min_tdcf(labels, np.zeros(40), asv) == pytest.approx(1.0, abs=0.06)
    with pytest.raises(ValueError, match="chance"):
        min_tdcf(labels, labels, AsvErrors(false_alarm=1.0, miss=1.0, miss_spoof=0.0))


def test_eer_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="bona fide and spoofed"):
        equal_error_rate(np.ones(5), np.arange(5))


def test_calibration_recovers_the_log_odds() -> None:
    labels, scores = random_scores(n=50_000)  # two unit Gaussians 1.5 apart: log-odds = 1.5 * score - 1.125
    scale, offset = fit_calibration(labels, scores, 0.5)
    assert scale == pytest.approx(1.5, abs=0.05) and offset == pytest.approx(-1.125, abs=0.05)
    probabilities = 1 / (1 + np.exp(-(scale * scores + offset)))
    assert expected_calibration_error(labels, probabilities) < 0.01
    assert expected_calibration_error(labels, np.clip(probabilities + 0.2, 0, 1)) > 0.1


def test_calibration_does_not_learn_how_common_fakes_are() -> None:
    labels, scores = random_scores(n=50_000)
    keep = (labels == 1) | (np.arange(len(labels)) % 10 == 0)
    one, other = fit_calibration(labels[keep], scores[keep], 0.5), fit_calibration(labels, scores, 0.5)
    assert one == pytest.approx(other, abs=0.1)


def test_calibration_is_for_the_share_of_real_recordings_that_was_told() -> None:
    labels, scores = random_scores(n=50_000)
    scale, offset = fit_calibration(labels, scores, 0.6)
    assert scale == pytest.approx(1.5, abs=0.05)
    assert offset == pytest.approx(-1.125 + np.log(0.4 / 0.6), abs=0.05)  # the prior log-odds of spoof


def test_bounds_keep_both_answers_right_nineteen_times_in_twenty() -> None:
    labels, scores = random_scores(n=20_000)
    probabilities = 1 / (1 + np.exp(-(1.5 * scores - 1.125)))
    real_below, fake_above = fit_bounds(labels, probabilities, 0.05, 0.5)
    assert 0 < real_below < 0.5 < fake_above < 1
    assert (labels[probabilities >= fake_above] == 0).mean() == pytest.approx(0.05, abs=0.01)
    assert (labels[probabilities < real_below] == 1).mean() == pytest.approx(0.05, abs=0.01)


def test_bounds_keep_their_promise_where_more_are_real() -> None:
    labels, scores = random_scores(n=20_000)
    probabilities = 1 / (1 + np.exp(-(1.5 * scores - 1.125)))
    _, fake_above = fit_bounds(labels, probabilities, 0.05, 0.6)
    called_fake = [(probabilities[labels == label] >= fake_above).mean() for label in (0, 1)]
    wrong = 0.6 * called_fake[0] / (0.6 * called_fake[0] + 0.4 * called_fake[1])
    assert wrong == pytest.approx(0.05, abs=0.01)


def test_bounds_of_a_perfect_and_a_useless_detector() -> None:
    labels = np.array([0, 1] * 50)
    assert fit_bounds(labels, np.where(labels == 1, 0.9, 0.1), 0.05, 0.5) == (0.5, 0.5)
    useless = np.tile([0.2, 0.2, 0.8, 0.8], 25)
    assert fit_bounds(labels, useless, 0.05, 0.5) == (0.0, 1.0)


def test_bounds_lie_halfway_between_two_clips() -> None:
    labels, probabilities = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.45, 0.6, 0.7, 0.9])
    assert fit_bounds(labels, probabilities, 0.05, 0.5) == pytest.approx((0.425, 0.65))
    real_below, fake_above = fit_bounds(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.45, 0.9]), 0.05, 0.5)
    assert real_below == pytest.approx(0.425) and fake_above == 0.5


def test_balanced_accuracy_weighs_the_classes_alike() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(labels, np.zeros(100)) == 0.5


def test_eer_interval_is_that_of_two_gaussian_classes() -> None:
    labels, scores = random_scores(n=2_000)
    low, high = eer_interval(labels, scores)
    eer = equal_error_rate(labels, scores)[0]
    # Both rates are p of 1,000 clips each; on the line of equal rates their deviations average out.
    deviation = np.sqrt(eer * (1 - eer) / 2_000)
    assert low < eer < high and high - low == pytest.approx(2 * 1.96 * deviation, rel=0.25)
    assert eer_interval(labels, scores) == (low, high)
