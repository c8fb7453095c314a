"""Measuring a checkpoint: files written by train.py --evaluate, against the Detector's own verdicts."""

import csv
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepfake_detector import Detector, Verdict
from deepfake_detector.card import model_card, summarise
from deepfake_detector.data.asvspoof import CORPUS, PROTOCOL_FOLDER, asv_score_file, read_asv_scores
from deepfake_detector.data.manifest import Clip, DataError, read_clips
from deepfake_detector.evaluation import Scores, asvspoof_scores, calibrated, report, score_clips, tandem_cost
from deepfake_detector.metrics import AsvErrors, equal_error_rate, min_tdcf
from deepfake_detector.model import BONAFIDE, SPOOF

from .conftest import ROOT, VOICE, tone

ASV_SCORES = "bonafide target 9.5\nbonafide target 2.5\nbonafide nontarget -4.0\nbonafide nontarget -3.0\nA01 spoof 3.5\nA02 spoof 2.0\n"  # fmt: skip
TRIALS = {"LA_D_1": "-", "LA_D_2": "-", "LA_D_3": "-", "LA_D_4": "A01", "LA_D_5": "A01", "LA_D_6": "A02"}


def evaluate(checkpoint: Path, data: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    arguments = ["--evaluate", str(checkpoint), "--data", str(data), "--output", str(output), "--device", "cpu", *more]
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def piece(voice: np.ndarray, index: int) -> np.ndarray:
    """A stretch of speech of a second and a half that differs from clip to clip."""
    start = 4_000 + 5_000 * index
    return voice[start : start + 24_000] + 0.002 * np.random.default_rng(index).standard_normal(24_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, voice: np.ndarray) -> Path:
    """Three real and three fake voices, and a real clip without one."""
    root = tmp_path_factory.mktemp("labelled")
    for index in range(6):
        path = root / ("real", "fake")[index % 2] / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, piece(voice, index), 16_000)
    soundfile.write(root / "real" / "whistle.wav", tone(1.5), 16_000)
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, voice: np.ndarray) -> Path:
    """The dev partition of an ASVspoof 2019 LA archive of six trials, with speaker-verification scores."""
    root = tmp_path_factory.mktemp("archive")
    (root / "elsewhere").mkdir(parents=True)
    (root / "LA").mkdir()
    (root / "LA" / "ASVspoof2019_LA_dev").symlink_to(root / "elsewhere")  # a part on another disk
    flac = root / "LA" / "ASVspoof2019_LA_dev" / "flac"
    flac.mkdir(parents=True)
    for index, name in enumerate(TRIALS):
        soundfile.write(flac / f"{name}.flac", piece(voice, index), 16_000)
    protocol = root / "LA" / PROTOCOL_FOLDER / "ASVspoof2019.LA.cm.dev.trl.txt"
    protocol.parent.mkdir()
    protocol.write_text("".join(f"LA_0069 {name} - {a} {'bonafide' if a == '-' else 'spoof'}\n" for name, a in TRIALS.items()))  # fmt: skip
    scores = root / "LA" / "ASVspoof2019_LA_asv_scores" / "ASVspoof2019.LA.asv.dev.gi.trl.scores.txt"
    scores.parent.mkdir()
    scores.write_text(ASV_SCORES)
    return root


def test_bad_files_are_all_named_or_left_out(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    good = [f"{path},{path.parent.name}" for path in sorted(folder.rglob("*.wav"))]
    data, output = tmp_path / "set.csv", tmp_path / "out"
    data.write_text("\n".join(["path,label", *good, "lost.wav,real", "thing.wav,thing"]))
    done = evaluate(checkpoint, data, output, "--skip-bad-files")
    assert done.returncode == 1 and "'thing'" in done.stderr and not output.exists()
    done = evaluate(checkpoint, data, output)
    assert all(fault in done.stderr for fault in ("2 faults", "lost.wav", "'thing'")) and "Traceback" not in done.stderr
    data.write_text("\n".join(["path,label", *good, "lost.wav,real"]))
    output.mkdir()
    (output / "scores.txt").write_text("of another checkpoint")
    done = evaluate(checkpoint, data, output, "--skip-bad-files")
    assert done.returncode == 0 and "1 files are skipped" in done.stderr
    assert sorted(file.name for file in output.iterdir()) == ["figure.png", "metrics.json", "scores.csv", "skipped.txt"]
    assert json.loads((output / "metrics.json").read_text())["clips"] == len(good)


def test_folder_without_splits(checkpoint: Path, folder: Path, detector: Detector, tmp_path: Path) -> None:
    done = evaluate(checkpoint, folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["figure.png", "metrics.json", "scores.csv"]
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    for row in rows:
        verdict = detector.predict(row["path"])
        assert row["label"] == ("bonafide" if Path(row["path"]).parent.name == "real" else "spoof")
        assert row["verdict"] == verdict.label and float(row["speech_seconds"]) == verdict.speech_seconds
        assert (float(row["score"]) if row["score"] else None) == verdict.score
        assert (float(row["probability"]) if row["probability"] else None) == verdict.spoof_probability
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["clips"], figures["without_voice"], figures["split"]) == (7, 1, "all")
    assert figures["without_voice_files"] == ["whistle.wav"] and "1 of 7 clips have no voice" in done.stdout
    judged = [row for row in rows if row["score"]]
    labels = np.array([row["label"] == "spoof" for row in judged], dtype=int)
    assert figures["eer"] == equal_error_rate(labels, np.array([float(row["score"]) for row in judged]))[0]
    assert "min_tdcf" not in figures and figures["per_attack"] == {}


def test_asvspoof_archive(checkpoint: Path, archive: Path, detector: Detector, tmp_path: Path) -> None:
    done = evaluate(checkpoint, archive, tmp_path / "out", "--split", "dev", "--asvspoof-scores")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (tmp_path / "out" / "scores.txt").read_text().splitlines()]
    assert [line[:2] for line in lines] == [[name, attack] for name, attack in TRIALS.items()]
    assert [line[2] for line in lines] == ["bonafide"] * 3 + ["spoof"] * 3
    flac = archive / "LA" / "ASVspoof2019_LA_dev" / "flac"
    ours = np.array([detector.predict(flac / f"{name}.flac").score for name in TRIALS])
    assert [float(line[3]) for line in lines] == [-score for score in ours]  # the challenge: larger = more bona fide

    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert figures["eer"] == equal_error_rate(labels, ours)[0]
    assert {name: row["clips"] for name, row in figures["per_attack"].items()} == {"A01": 2, "A02": 1}
    assert figures["per_attack"]["A02"]["eer"] == equal_error_rate(labels[[0, 1, 2, 5]], ours[[0, 1, 2, 5]])[0]
    asv = AsvErrors(false_alarm=0.5, miss=0.0, miss_spoof=0.0)  # by hand: both classes' scores part at -3
    assert figures["min_tdcf"] == min_tdcf(labels, ours, asv)


def test_wrong_calls_are_one_sentence(checkpoint: Path, folder: Path, archive: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.csv"
    lone.write_text(f"path,label\n{VOICE},fake\n")
    for model, data, more, sentence in (
        (checkpoint, archive, ("--split", "eval"), "eval split has no bona fide clip"),
        (folder, folder, (), "cannot be used"),
        (checkpoint, lone, (), "The data have no"),
    ):
        done = evaluate(model, data, tmp_path / "none", *more)
        assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


def test_tandem_cost_says_what_is_missing(archive: Path, tmp_path: Path) -> None:
    clips = read_clips([archive])
    path = asv_score_file(clips[0].path, "dev")
    assert path.read_text() == ASV_SCORES
    elsewhere = [Clip(tmp_path / "a" / "b" / "c.flac", c.label, "dev", "", c.system, "", CORPUS) for c in clips]
    cost, reason = tandem_cost(made_up(elsewhere))
    assert cost is None and f"{path.name} is missing" in reason
    path.write_bytes(b"\xff\xfe")
    assert "no text" in tandem_cost(made_up(clips))[1]
    mixed = [*clips[:3], *(Clip(c.path, c.label, "eval", "", c.system, "", CORPUS) for c in clips[3:])]
    assert "--split" in tandem_cost(made_up(mixed))[1]
    for text, fault in (("A01 attack 1.0\n", "line 1"), ("A01 spoof much\n", "line 1"), ("A01 spoof 1\n", "lacks")):
        (tmp_path / "scores.txt").write_text(text)
        with pytest.raises(ValueError, match=fault):
            read_asv_scores(tmp_path / "scores.txt")


def made_up(clips: list[Clip], values: list[float | None] | None = None) -> Scores:
    """Scores that nobody judged: the label, unless values are given."""
    values = values or [float(clip.label) for clip in clips]
    return Scores([
        (clip, Verdict(clip.path.name, "", None, value, 0.4, 0.6, 1.0, 1.0, (), (), ""))
        for clip, value in zip(clips, values, strict=True)
    ])  # fmt: skip


def clip(label: int, family: str, corpus: str, system: str = "s") -> Clip:
    return Clip(Path("some where.wav"), label, "dev", "", system, family, corpus)


def test_report_by_family_attack_and_corpus(detector: Detector) -> None:
    clips = [clip(BONAFIDE, "human", "good")] * 25 + [clip(BONAFIDE, "human", "bad")] * 20
    clips += [clip(BONAFIDE, "human", "small")] * 15
    clips += [clip(SPOOF, family, "good") for family in ("tts", "vc", "vocoder", "codec") for _ in range(10)]
    values = [-1.0] * 25 + [1.0] * 5 + [-1.0] * 15 + [1.0] * 15 + [2.0] * 30 + [-2.0] * 10
    figures = report(detector.model, made_up(clips, values))
    assert figures["eer_without_codec"] == 0.0 < figures["eer"]
    assert figures["per_family"]["codec"]["eer"] == 1.0
    answered_fake = figures["per_corpus"]["bad"]["bonafide_answered_fake"]
    assert figures["worst_corpus"] == {
        "name": "bad", "bonafide": 20, "bonafide_called_fake": 0.25, "bonafide_answered_fake": answered_fake,
    }  # fmt: skip
    low, high = figures["eer_interval"]
    assert low < figures["eer"] < high
    assert report(detector.model, made_up(clips, values)) == figures  # the interval's draws are seeded

    only_codec = [row for row in zip(clips, values, strict=True) if row[0].family in ("human", "codec")]
    figures = report(detector.model, made_up(*map(list, zip(*only_codec, strict=True))))
    assert figures["eer_without_codec"] is None


def test_answers_are_counted_by_their_bounds(detector: Detector) -> None:
    model = deepcopy(detector.model)
    model.calibration.copy_(torch.tensor([1.0, 0.0]))  # so that the probabilities are apart
    clips = [clip(BONAFIDE, "human", "bad")] * 20 + [clip(SPOOF, "tts", "bad")] * 10
    scores = made_up(clips, [1.0] * 5 + [-2.0] * 15 + [-1.0] * 2 + [2.0] * 8)
    lowest, low, high, highest = calibrated(model, np.array([-2.0, -1.0, 1.0, 2.0]))
    model.bounds.copy_(torch.tensor([(lowest + low) / 2, (high + highest) / 2]))
    figures = report(model, scores)
    assert (figures["bonafide_answered_fake"], figures["spoof_answered_real"]) == (0.0, 0.0)
    assert figures["per_corpus"]["bad"]["bonafide_answered_fake"] == 0.0
    assert (figures["wrong_when_fake"], figures["wrong_when_real"]) == (0.0, 0.0)
    assert figures["cannot_tell"] == pytest.approx(7 / 30)
    model.bounds.copy_(torch.tensor([(low + high) / 2, (low + high) / 2]))
    figures = report(model, scores)
    assert (figures["bonafide_answered_fake"], figures["spoof_answered_real"]) == (0.25, 0.2)
    assert figures["worst_corpus"]["bonafide_answered_fake"] == 0.25
    assert (figures["wrong_when_fake"], figures["wrong_when_real"]) == pytest.approx((5 / 13, 2 / 17))
    assert figures["cannot_tell"] == 0.0
    for row in (figures, figures["per_corpus"]["bad"]):  # at 0.5, wherever the bounds are
        assert (row["bonafide_called_fake"], row["spoof_called_real"]) == (0.25, 0.2)
    assert figures["per_family"]["tts"]["called_real"] == 0.2


def test_attacks_are_told_from_their_own_recordings(detector: Detector) -> None:
    clips = [clip(BONAFIDE, "human", CORPUS)] * 10 + [clip(BONAFIDE, "human", "other")] * 10
    clips += [clip(SPOOF, "asvspoof", CORPUS, "A07")] * 10
    figures = report(detector.model, made_up(clips, [-1.0] * 10 + [2.0] * 10 + [1.0] * 10))
    assert figures["per_attack"]["A07"]["eer"] == 0.0 < figures["per_family"]["asvspoof"]["eer"]


def test_card_shows_every_figure(detector: Detector) -> None:
    clips = [clip(BONAFIDE, "human", CORPUS)] * 20 + [clip(SPOOF, "asvspoof", CORPUS, "A07")] * 10
    figures = report(detector.model, made_up(clips, [-1.0] * 20 + [1.0] * 10))
    settings = {"network": "basic-cnn", "epochs": 1, "seed": 0, "start": "random weights", "license": "mit"}
    settings |= {"noise": "invented noise", "bonafide_share": 0.55}
    trained_on = [replace(one, split="train") for one in clips[5:]]
    figures["settings"] = {**settings, "data": summarise(clips + trained_on), "window_seconds": 3.0}
    card = model_card(json.loads(json.dumps(figures)), "python train.py")
    assert "| A07 | 10 | 0.0 % |" in card and "95 % interval 0.0 % to 0.0 %" in card and "(figure.png)" in card
    assert f"{CORPUS}: 0.0 % of 20" in card and "{" not in card
    assert card.startswith("---\nlicense: mit\n") and "model-index:" in card
    assert (
        "rooms, invented noise, low cut, mains hum, RawBoost" in card
        and "supposes that 55 % of the recordings are real" in card
    )
    assert f"Real, clips of each corpus: {CORPUS} 15.\n\nFake, clips of each system: A07 10.\n" in card
    assert "20 real ones are of corpora and 10 fake ones by systems that training has too" in card


def test_challenge_file_keeps_four_columns_and_leaves_out_the_unjudged() -> None:
    clips = [clip(BONAFIDE, "human", "c"), clip(SPOOF, "tts", "c"), clip(SPOOF, "tts", "c", "my tts")]
    scores = made_up(clips, [-1.5, None, 2.0])
    assert asvspoof_scores(scores) == "some_where - bonafide 1.5\nsome_where my_tts spoof -2.0\n"


def test_calibrated_is_the_detector_s_probability(detector: Detector, folder: Path) -> None:
    scores = score_clips(detector, read_clips([folder]))
    told = [verdict.spoof_probability for _, verdict in scores.trials if verdict.score is not None]
    assert calibrated(detector.model, scores.values) == pytest.approx(told, abs=1e-6)
    with pytest.raises(DataError, match="nothing can be measured"):
        score_clips(detector, [clip for clip in read_clips([folder]) if clip.label == SPOOF])
