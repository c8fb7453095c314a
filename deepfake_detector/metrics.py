"""Figures of merit. Scores are larger = more spoof; labels are 0 bona fide, 1 spoof."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def error_rates(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Miss rates (bona fide called fake), false-alarm rates (spoof called real) and their thresholds, each (points,).

    The first operating point calls nothing fake, each further one the clips of one more score, so that equal scores are
    called alike and the order of the clips says nothing. Raises ValueError unless both classes are present.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    n_spoof, n_bonafide = int((labels == 1).sum()), int((labels == 0).sum())
    if not n_spoof or not n_bonafide:
        raise ValueError("The EER needs bona fide and spoofed clips.")
    order = np.argsort(-scores, kind="stable")
    ranked, is_bonafide = scores[order], labels[order] == 0
    is_point = np.concatenate(([True], ranked[1:] != ranked[:-1], [True]))
    miss = np.concatenate(([0.0], np.cumsum(is_bonafide) / n_bonafide))
    false_alarm = np.concatenate(([1.0], 1.0 - np.cumsum(~is_bonafide) / n_spoof))
    return miss[is_point], false_alarm[is_point], np.concatenate((ranked[:1], ranked))[is_point]


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """EER (0..1) and its threshold, as the ASVspoof challenge computes it.

    The operating point with the smallest |miss rate - false-alarm rate| counts, with the mean of the two rates; no
    interpolation. Raises ValueError unless both classes are present.
    """
    miss, false_alarm, thresholds = error_rates(labels, scores)
    best = int(np.argmin(np.abs(miss - false_alarm)))
    return float((miss[best] + false_alarm[best]) / 2), float(thresholds[best])


def eer_interval(labels: np.ndarray, scores: np.ndarray, n_draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the EER (0..1): clips are drawn again, each class by itself, `n_draws` times.

    It tells how much the figure owes to which clips happen to be in the set, not how other voices would fare.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    classes, rng = [np.flatnonzero(labels == label) for label in (0, 1)], np.random.default_rng(seed)
    draws = (np.concatenate([rng.choice(clips, len(clips)) for clips in classes]) for _ in range(n_draws))
    low, high = np.quantile([equal_error_rate(labels[drawn], scores[drawn])[0] for drawn in draws], (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class AsvErrors:
    """Error rates (0..1) of the speaker-verification system behind the countermeasure, at its own EER threshold."""

    false_alarm: float  # non-targets accepted
    miss: float  # targets refused
    miss_spoof: float  # spoofs refused

    @classmethod
    def from_scores(cls, target: np.ndarray, nontarget: np.ndarray, spoof: np.ndarray) -> "AsvErrors":
        """From the organisers' scores (larger = more like the target speaker)."""
        labels = np.r_[np.zeros(len(target)), np.ones(len(nontarget))]
        _, negated_threshold = equal_error_rate(labels, -np.r_[target, nontarget])
        threshold = -negated_threshold
        return cls(
            float((nontarget >= threshold).mean()),
            float((target < threshold).mean()),
            float((spoof < threshold).mean()),
        )


def min_tdcf(labels: np.ndarray, scores: np.ndarray, asv: AsvErrors) -> float:
    """Normalised minimum tandem detection cost, legacy cost model of ASVspoof 2019 (Kinnunen et al. 2018, eq. 10).

    Priors: spoof 0.05, target 0.95 * 0.99, non-target 0.95 * 0.01. Costs: ASV miss 1, ASV false alarm 10,
    countermeasure miss 1, countermeasure false alarm 10.
    """
    p_spoof, p_target, p_nontarget = 0.05, 0.95 * 0.99, 0.95 * 0.01
    cost_miss = p_target * (1 - 1 * asv.miss) - p_nontarget * 10 * asv.false_alarm
    cost_false_alarm = 10 * p_spoof * (1 - asv.miss_spoof)
    if cost_miss <= 0 or cost_false_alarm <= 0:
        raise ValueError("The speaker-verification scores are no better than chance, so the t-DCF is not defined.")
    miss, false_alarm, _ = error_rates(labels, scores)
    cost = cost_miss * miss + cost_false_alarm * false_alarm
    return float(cost.min() / min(cost_miss, cost_false_alarm))


def balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of the two classes' accuracies at the boundary 0.5."""
    called_fake = np.asarray(probabilities) >= 0.5
    return float(np.mean([called_fake[labels == 1].mean(), (~called_fake[labels == 0]).mean()]))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> float:
    """ECE: mean |observed share of spoof - mean probability| over `n_bins` equal-width bins, weighted by their size."""
    promised, observed, sizes = calibration_bins(labels, probabilities, n_bins)
    return float(np.sum(np.abs(observed - promised) * sizes) / len(labels))


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal-width bins of the probability that hold a clip: mean probability, observed share of spoof, clips; each (n,)."""
    bins = np.minimum((np.asarray(probabilities) * n_bins).astype(int), n_bins - 1)
    held = [bins == b for b in np.unique(bins)]
    promised, observed = (np.array([values[rows].mean() for rows in held]) for values in (probabilities, labels))
    return promised, observed, np.array([rows.sum() for rows in held])


def _weights(labels: np.ndarray, bonafide_share: float) -> np.ndarray:
    """What each clip (n,) weighs, in all 1, so that `bonafide_share` of the weight is bona fide clips'."""
    labels = np.asarray(labels)
    return np.where(labels == 0, bonafide_share / (labels == 0).sum(), (1 - bonafide_share) / (labels == 1).sum())


def fit_calibration(labels: np.ndarray, scores: np.ndarray, bonafide_share: float) -> tuple[float, float]:
    """Platt scaling (scale, offset) by logistic regression, for recordings of which `bonafide_share` are real.

    However common they are among these clips, the classes weigh as much as they would there, so that probability 0.5 lies
    where such a clip is as likely real as fake.
    """
    from sklearn.linear_model import LogisticRegression

    weights = _weights(labels, bonafide_share) * len(labels)
    fit = LogisticRegression(C=1e6).fit(np.asarray(scores).reshape(-1, 1), labels, sample_weight=weights)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def fit_bounds(
    labels: np.ndarray, probabilities: np.ndarray, max_error: float, bonafide_share: float
) -> tuple[float, float]:
    """Bounds (real_below, fake_above) between which the verdict is "can't tell".

    The widest choices at which "fake", and separately "real", is wrong for at most `max_error` of the clips so
    labelled, as they are and if `bonafide_share` of them were real. 0.5 lies always between them.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    weight = _weights(labels, bonafide_share)

    def widest(side: np.ndarray, wrong: np.ndarray) -> float:
        """Smallest side >= 0.5 at which the weighted share of `wrong` among clips beyond it is small enough.

        It lies halfway between two clips: at a clip, rounding would decide whether that one gets an answer.
        """
        sides = np.unique(np.append(side[side > 0.5], 0.5))
        for below, bound in pairwise([0.5, *sides]):
            beyond = side >= bound
            if all(w[beyond & wrong].sum() <= max_error * w[beyond].sum() for w in (weight, np.ones(len(labels)))):
                return float((below + bound) / 2)
        return 1.0

    return 1.0 - widest(1.0 - probabilities, labels == 1), widest(probabilities, labels == 0)
