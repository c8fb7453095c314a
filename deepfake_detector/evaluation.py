"""Measuring a checkpoint: whole recordings are scored, calibrated and counted as a user meets them."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from .audio import AudioError
from .data.asvspoof import CORPUS, asv_score_file, read_asv_scores
from .data.manifest import Clip, DataError
from .detector import Detector, Verdict
from .files import csv_text
from .metrics import (
    balanced_accuracy,
    eer_interval,
    equal_error_rate,
    expected_calibration_error,
    fit_bounds,
    fit_calibration,
    min_tdcf,
)
from .model import BONAFIDE, SPOOF, SpoofClassifier

CODEC = "codec"  # the family that makes no voice, but passes one on
MIN_CORPUS_CLIPS = 10  # for a row of its own
MIN_WORST_BONAFIDE = 20  # below which a corpus is too small to be called the worst
SCORE_COLUMNS = ("path", "label", "system", "corpus", "score", "probability", "verdict", "speech_seconds")


@dataclass(frozen=True)
class Scores:
    """Verdicts on whole recordings in the order of the data set; no figure counts the clips without a voice."""

    trials: list[tuple[Clip, Verdict]]

    @cached_property
    def clips(self) -> list[Clip]:
        """The clips that could be judged."""
        return [clip for clip, verdict in self.trials if verdict.score is not None]

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (n,) of `clips`."""
        return np.array([clip.label for clip in self.clips])

    @cached_property
    def values(self) -> np.ndarray:
        """Uncalibrated log-odds (n,) of `clips`, larger = more spoof."""
        return np.array([verdict.score for _, verdict in self.trials if verdict.score is not None])

    @cached_property
    def unjudged(self) -> list[Clip]:
        """The clips without a voice."""
        return [clip for clip, verdict in self.trials if verdict.score is None]


def score_clips(detector: Detector, clips: list[Clip]) -> Scores:
    """Judge whole recordings exactly as a user's; raises DataError naming every file that cannot be read."""
    trials, faults = [], []
    for clip in tqdm(clips, "judging", leave=False):
        try:
            trials.append((clip, detector.predict(clip.path)))
        except AudioError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n  ".join([f"{len(faults)} files cannot be judged:", *faults]))
    scores = Scores(trials)
    if len(set(scores.labels)) < 2:
        raise DataError("One class has no clip with a voice in it, so that nothing can be measured.")
    return scores


def calibrate(classifier: SpoofClassifier, scores: Scores, bonafide_share: float, max_wrong_share: float) -> None:
    """Fit calibration and the bounds of "can't tell" on dev scores, into the classifier's buffers."""
    classifier.calibration.copy_(torch.tensor(fit_calibration(scores.labels, scores.values, bonafide_share)))
    probabilities = calibrated(classifier, scores.values)
    bounds = fit_bounds(scores.labels, probabilities, max_wrong_share, bonafide_share)
    classifier.bounds.copy_(torch.tensor(bounds))


def calibrated(classifier: SpoofClassifier, scores: np.ndarray) -> np.ndarray:
    """Scores (n,) -> probabilities of spoof (n,), as the classifier's own calibration has it."""
    on_device = torch.tensor(scores, dtype=torch.float32, device=classifier.calibration.device)
    return classifier.calibrate(on_device).cpu().double().numpy()  # in this order: Apple's GPUs have no double


def report(model: SpoofClassifier, scores: Scores) -> dict:
    """Every figure of the card: overall, per family, per attack of ASVspoof and per corpus.

    EERs are shares (0..1) of the judged clips. What no clip speaks for is None. Answers are counted by the model's own bounds,
    also for voice messages, to which the detector itself never answers "fake".
    """
    labels, values, probabilities = scores.labels, scores.values, calibrated(model, scores.values)
    family, attack, corpus = defaultdict(list), defaultdict(list), defaultdict(list)
    for i, clip in enumerate(scores.clips):
        corpus[clip.corpus].append(i)
        if clip.label == SPOOF:
            family[clip.family].append(i)
            if clip.corpus == CORPUS:
                attack[clip.system].append(i)
    bonafide = np.flatnonzero(labels == BONAFIDE)
    asvspoof_bonafide = np.array([i for i in corpus[CORPUS] if labels[i] == BONAFIDE], dtype=int)
    per_corpus = {
        name: _corpus_row(labels[rows], values[rows], probabilities[rows], float(model.bounds[1]))
        for name, rows in sorted(corpus.items(), key=lambda item: -len(item[1]))
        if len(rows) >= MIN_CORPUS_CLIPS
    }
    synthesised = [i for name, rows in family.items() if name != CODEC for i in rows]
    return {
        "clips": len(scores.trials),
        "without_voice": len(scores.unjudged),
        "bonafide_without_voice": sum(clip.label == BONAFIDE for clip in scores.unjudged),
        "without_voice_files": [clip.path.name for clip in scores.unjudged],
        "eer": equal_error_rate(labels, values)[0],
        "eer_interval": eer_interval(labels, values),
        "eer_without_codec": _eer_against(values[bonafide], values[synthesised]),
        **_answers(labels, probabilities, model),
        "per_family": {
            name: _system_row(values[bonafide], values[rows], probabilities[rows])
            for name, rows in sorted(family.items())
        },
        "per_attack": {
            name: _system_row(values[asvspoof_bonafide], values[rows], probabilities[rows])
            for name, rows in sorted(attack.items())
        },
        "worst_corpus": _worst(per_corpus),
        "per_corpus": per_corpus,
    }


def tandem_cost(scores: Scores) -> tuple[float | None, str]:
    """Min t-DCF of ASVspoof 2019 LA trials with the archive's speaker-verification scores, or None and a sentence why.

    Legacy cost model of 2019, see `metrics.min_tdcf`.
    """
    splits = {clip.split for clip, _ in scores.trials}
    if len(splits) > 1:
        return None, "min t-DCF is of one partition: choose it with --split dev or --split eval."
    path = asv_score_file(scores.clips[0].path, splits.pop())
    try:
        return min_tdcf(scores.labels, scores.values, read_asv_scores(path)), ""
    except FileNotFoundError:
        return None, f"No min t-DCF: {path.parent.name}/{path.name} is missing from the archive."
    except (OSError, UnicodeDecodeError):
        return None, f"No min t-DCF: {path.parent.name}/{path.name} may not be read, or is no text."
    except ValueError as error:
        return None, f"No min t-DCF: {error}"


def is_asvspoof(scores: Scores) -> bool:
    return all(clip.corpus == CORPUS for clip, _ in scores.trials)


def scores_csv(scores: Scores) -> str:
    """A row a clip, also of those without a voice: their score and probability are empty."""
    rows = []
    for clip, verdict in scores.trials:
        row = (clip.path, _key(clip), clip.system, clip.corpus, verdict.score, verdict.spoof_probability)
        rows.append((*row, verdict.label, verdict.speech_seconds))
    return csv_text(SCORE_COLUMNS, rows)


def asvspoof_scores(scores: Scores) -> str:
    """Lines `utterance attack key score` as the 2019 challenge has them; clips without a voice have no line."""
    lines = []
    for clip, value in zip(scores.clips, scores.values, strict=True):
        attack = "-" if clip.label == BONAFIDE else clip.system
        words = ("_".join(word.split()) for word in (clip.path.stem, attack))  # a name must stay one column
        lines.append(f"{' '.join(words)} {_key(clip)} {challenge_score(value)!r}\n")
    return "".join(lines)


def challenge_score(score: float) -> float:
    """Our scores are larger = more spoof, the challenge's are larger = more bona fide."""
    return -float(score)


def _key(clip: Clip) -> str:
    return "spoof" if clip.label == SPOOF else "bonafide"


def _answers(labels: np.ndarray, probabilities: np.ndarray, model: SpoofClassifier) -> dict:
    """How often the boundary 0.5 and the three answers are right."""
    real_below, fake_above = (float(bound) for bound in model.bounds)
    spoofed, bonafide = labels == SPOOF, labels == BONAFIDE
    undecided = (probabilities >= real_below) & (probabilities < fake_above)
    return {
        "balanced_accuracy": balanced_accuracy(labels, probabilities),
        "bonafide_called_fake": _share(probabilities[bonafide] >= 0.5),
        "spoof_called_real": _share(probabilities[spoofed] < 0.5),
        "bonafide_answered_fake": _share(probabilities[bonafide] >= fake_above),
        "spoof_answered_real": _share(probabilities[spoofed] < real_below),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
        "real_below": real_below,
        "fake_above": fake_above,
        "cannot_tell": float(undecided.mean()),
        "wrong_when_fake": _share(bonafide[probabilities >= fake_above]),
        "wrong_when_real": _share(spoofed[probabilities < real_below]),
    }


def _system_row(bonafide: np.ndarray, spoof: np.ndarray, probabilities: np.ndarray) -> dict:
    """Figures of one family's or attack's clips: scores of all bona fide clips, and its own scores and probabilities."""
    eer = _eer_against(bonafide, spoof)
    return {"clips": len(spoof), "eer": eer, "called_real": _share(probabilities < 0.5)}


def _eer_against(bonafide: np.ndarray, spoof: np.ndarray) -> float | None:
    if not len(bonafide) or not len(spoof):
        return None
    return equal_error_rate(np.r_[np.zeros(len(bonafide)), np.ones(len(spoof))], np.r_[bonafide, spoof])[0]


def _corpus_row(labels: np.ndarray, values: np.ndarray, probabilities: np.ndarray, fake_above: float) -> dict:
    row = {"bonafide": int((labels == 0).sum()), "spoof": int((labels == 1).sum())}
    row["bonafide_called_fake"] = _share(probabilities[labels == 0] >= 0.5)
    row["bonafide_answered_fake"] = _share(probabilities[labels == 0] >= fake_above)
    row["spoof_called_real"] = _share(probabilities[labels == 1] < 0.5)
    if 0 < labels.sum() < len(labels):
        row["eer"] = equal_error_rate(labels, values)[0]
    return row


def _worst(per_corpus: dict[str, dict]) -> dict | None:
    """The corpus of enough real voices whose real voices are called fake most often."""
    large = [{"name": name, **row} for name, row in per_corpus.items() if row["bonafide"] >= MIN_WORST_BONAFIDE]
    if not large:
        return None
    worst = max(large, key=lambda row: row["bonafide_called_fake"])
    return {name: worst[name] for name in ("name", "bonafide", "bonafide_called_fake", "bonafide_answered_fake")}


def _share(flags: np.ndarray) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
