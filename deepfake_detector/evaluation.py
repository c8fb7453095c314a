"""Measuring a checkpoint: whole recordings are scored, calibrated and counted as a user meets them."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from .audio import AudioError
from .data.manifest import Clip, DataError
from .detector import Detector
from .metrics import balanced_accuracy, equal_error_rate, expected_calibration_error, fit_bounds, fit_calibration
from .model import SpoofClassifier


@dataclass(frozen=True)
class Scores:
    """Uncalibrated whole-recording scores of the clips that could be judged, and the clips without a voice."""

    clips: list[Clip]
    labels: np.ndarray
    values: np.ndarray
    unjudged: list[Clip]


def score_clips(detector: Detector, clips: list[Clip]) -> Scores:
    """Judge whole recordings exactly as a user's; raises DataError naming every file that cannot be read."""
    judged, values, unjudged, faults = [], [], [], []
    for clip in tqdm(clips, "dev", leave=False):
        try:
            verdict = detector.predict(clip.path)
        except AudioError as error:
            faults.append(str(error))
            continue
        if verdict.score is None:
            unjudged.append(clip)
        else:
            judged.append(clip)
            values.append(verdict.score)
    if faults:
        raise DataError("\n  ".join([f"{len(faults)} files cannot be judged:", *faults]))
    if len({clip.label for clip in judged}) < 2:
        raise DataError("One class has no clip with a voice in it, so that nothing can be measured.")
    return Scores(judged, np.array([clip.label for clip in judged]), np.array(values), unjudged)


def calibrate(classifier: SpoofClassifier, scores: Scores, max_wrong_share: float) -> None:
    """Fit calibration and the bounds of "can't tell" on dev scores, into the classifier's buffers."""
    classifier.calibration.copy_(torch.tensor(fit_calibration(scores.labels, scores.values)))
    classifier.bounds.copy_(
        torch.tensor(fit_bounds(scores.labels, calibrated(classifier, scores.values), max_wrong_share))
    )


def calibrated(classifier: SpoofClassifier, scores: np.ndarray) -> np.ndarray:
    """Scores (n,) -> probabilities of spoof (n,), as the classifier's own calibration has it."""
    on_device = torch.tensor(scores, dtype=torch.float32, device=classifier.calibration.device)
    return classifier.calibrate(on_device).double().cpu().numpy()


def report(detector: Detector, clips: list[Clip]) -> dict:
    """Every figure of the card, on whole recordings: overall, per family and per corpus."""
    scores = score_clips(detector, clips)
    model = detector.model
    probabilities = calibrated(model, scores.values)
    real_below, fake_above = (float(bound) for bound in model.bounds)
    undecided = (probabilities >= real_below) & (probabilities < fake_above)
    spoofed, bonafide = scores.labels == 1, scores.labels == 0
    family, corpus = defaultdict(list), defaultdict(list)
    for i, clip in enumerate(scores.clips):
        if clip.label == 1:
            family[clip.family].append(i)
        corpus[clip.corpus].append(i)
    return {
        "clips": len(clips),
        "without_voice": len(scores.unjudged),
        "eer": equal_error_rate(scores.labels, scores.values)[0],
        "balanced_accuracy": balanced_accuracy(scores.labels, probabilities),
        "bonafide_called_fake": float((probabilities[bonafide] >= 0.5).mean()),
        "spoof_called_real": float((probabilities[spoofed] < 0.5).mean()),
        "expected_calibration_error": expected_calibration_error(scores.labels, probabilities),
        "real_below": real_below,
        "fake_above": fake_above,
        "cannot_tell": float(undecided.mean()),
        "wrong_when_fake": _share(bonafide[probabilities >= fake_above]),
        "wrong_when_real": _share(spoofed[probabilities < real_below]),
        "per_family": {
            name: {
                "clips": len(rows),
                "eer": equal_error_rate(
                    np.r_[np.zeros(bonafide.sum()), np.ones(len(rows))],
                    np.r_[scores.values[bonafide], scores.values[rows]],
                )[0],
                "called_real": float((probabilities[rows] < 0.5).mean()),
            }
            for name, rows in sorted(family.items())
        },
        "per_corpus": {
            name: _corpus_row(scores.labels[rows], probabilities[rows])
            for name, rows in sorted(corpus.items(), key=lambda item: -len(item[1]))
            if len(rows) >= 10
        },
    }


def _corpus_row(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    row = {"bonafide": int((labels == 0).sum()), "spoof": int((labels == 1).sum())}
    row["bonafide_called_fake"] = _share(probabilities[labels == 0] >= 0.5)
    row["spoof_called_real"] = _share(probabilities[labels == 1] < 0.5)
    if 0 < labels.sum() < len(labels):
        row["eer"] = equal_error_rate(labels, probabilities)[0]
    return row


def _share(flags: np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
