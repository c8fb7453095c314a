"""From a file to a verdict: the rule for windows, the heat map, and what a caller can rely on."""

import itertools
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import gradio as gr
import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch

from deepfake_detector import Detector
from deepfake_detector.audio import iter_windows, load_audio
from deepfake_detector.detector import (
    LABELS,
    MAX_HEAT_WINDOWS,
    N_BANDS,
    STRETCH_WINDOWS,
    Reason,
    band_hz,
    label_of,
    pool_windows,
)
from deepfake_detector.explain import grad_cam, without_bands
from deepfake_detector.features import FeatureConfig
from deepfake_detector.model import log_odds
from deepfake_detector.plots import draw_inspection

from .conftest import TINY_FEATURES, VOICE, encode, tiny_classifier

COLOUR = replace(TINY_FEATURES, normalise="colour", picture_width=113, picture_height=46)


def test_verdict_of_a_voice(detector: Detector) -> None:
    verdict = detector.predict(VOICE)
    assert verdict.label in LABELS[:3] and 0 < verdict.spoof_probability < 1
    assert verdict.duration_seconds == pytest.approx(soundfile.info(VOICE).duration)
    assert 2 < verdict.speech_seconds <= verdict.duration_seconds
    assert verdict.windows[0].start_seconds == 0
    assert verdict.windows[-1].end_seconds == pytest.approx(verdict.duration_seconds)
    assert json.loads(json.dumps(verdict.to_dict()))["label"] == verdict.label


@pytest.fixture(scope="module")
def bundled() -> Detector:
    return Detector.from_pretrained()


FIRST_TRIED = {  # by a visitor: the people in the gradio package, and this project's robots
    **{gr.media.get_audio(name): "real" for name in ("heath_ledger.mp3", "cate_blanch.mp3", "cate_blanch_2.mp3")},
    **{str(path): "fake" for path in sorted(VOICE.parent.glob("*.flac"))},
}


@pytest.mark.parametrize(("path", "truth"), FIRST_TRIED.items(), ids=lambda value: Path(value).stem)
def test_what_visitors_try_first_is_right_or_unsure(bundled: Detector, path: str, truth: str) -> None:
    assert bundled.predict(path).label in (truth, "can't tell")


def test_score_is_the_model_on_the_windows(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "second.wav", voice[8_000:24_000], 16_000, subtype="FLOAT")
    verdict = detector.predict(tmp_path / "second.wav")
    with torch.inference_mode():
        expected = detector.model.score(torch.from_numpy(voice[8_000:24_000])[None])
    assert verdict.score == pytest.approx(expected.item(), abs=1e-5)
    assert verdict.spoof_probability == pytest.approx(detector.model.calibrate(expected).item(), abs=1e-6)


def test_inspection_agrees_with_prediction(detector: Detector) -> None:
    inspection = detector.inspect(VOICE, heat_map=True)
    assert inspection.verdict == detector.predict(VOICE)
    assert inspection.mel_db.shape == inspection.heat.shape
    assert inspection.heat.min() >= 0 and inspection.heat.max() == pytest.approx(1.0)
    seconds = inspection.mel_db.shape[1] * TINY_FEATURES.hop_length / TINY_FEATURES.sample_rate
    assert seconds == pytest.approx(inspection.verdict.duration_seconds, abs=0.05)


def test_heat_map_shows_what_the_network_uses() -> None:
    """A network that hears only high tones must look there, and only for the side they speak for."""

    class Treble(torch.nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

        def forward_head(self, x: torch.Tensor) -> torch.Tensor:
            spoof = x[:, :, 24:].mean((1, 2, 3))
            return torch.stack((-spoof, spoof), dim=1)

    picture = torch.zeros(1, 1, 32, 40)
    picture[:, :, 28, 10:20] = 1.0
    cam = grad_cam(Treble(), picture, towards_spoof=True)[0]
    assert cam[28, 10:20].min() == cam.max() > 0 and cam[:28].max() == 0
    assert grad_cam(Treble(), picture, towards_spoof=False).max() == 0


def test_a_band_is_worth_what_is_missing_without_it() -> None:
    class Treble(torch.nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            treble = picture[:, 0, 24:].amax((1, 2))
            return torch.stack([torch.zeros_like(treble), treble], dim=1)

    picture = torch.zeros(2, 1, 32, 40)
    picture[0, 0, 28], picture[1, 0, 30] = 8.0, 16.0
    scores = without_bands(Treble(), picture, 8)
    assert scores.shape == (8, 2)
    means = picture.mean((1, 2, 3))  # what a blanked band holds
    whole = torch.tensor([8.0, 16.0])
    assert torch.equal(scores[:7], whole.expand(7, 2)) and torch.allclose(scores[7], means)


def test_bands_cover_all_tones_and_are_equally_wide_in_mel() -> None:
    bands = [band_hz(TINY_FEATURES, band) for band in range(N_BANDS)]
    assert bands[0][0] == pytest.approx(TINY_FEATURES.f_min_hz) and bands[-1][1] == pytest.approx(
        TINY_FEATURES.f_max_hz
    )
    assert all(low[1] == high[0] for low, high in itertools.pairwise(bands))
    widths = [librosa.hz_to_mel(high) - librosa.hz_to_mel(low) for low, high in bands]
    assert max(widths) == pytest.approx(min(widths))


@pytest.mark.parametrize("features", [TINY_FEATURES, COLOUR], ids=["mels", "colours"])
def test_the_reason_is_the_band_without_which_the_verdict_is_weakest(
    features: FeatureConfig, voice: np.ndarray, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "second.wav", voice[8_000:24_000], 16_000, subtype="FLOAT")
    model = tiny_classifier("basic-cnn", features)
    inspection = Detector(model, "tiny").inspect(tmp_path / "second.wav", heat_map=True)
    probabilities = []
    with torch.inference_mode():
        whole = model.features(torch.from_numpy(voice[8_000:24_000])[None])
        mels = torch.arange(N_BANDS + 1) * whole.shape[2] / N_BANDS
        for first, last in itertools.pairwise(mels.round().int().tolist()):
            picture = whole.clone()
            picture[:, :, first:last] = whole.mean((2, 3), keepdim=True)
            probabilities.append(model.calibrate(log_odds(model.network(picture))).item())
    if features is COLOUR:
        probabilities.reverse()  # high tones are at the top
    weakest = min if inspection.verdict.spoof_probability >= 0.5 else max
    band = probabilities.index(weakest(probabilities))
    low_hz, high_hz = band_hz(features, band)
    with_band = pytest.approx(inspection.verdict.spoof_probability, abs=1e-5)  # one window: the verdict is its own
    expected = Reason(low_hz, high_hz, with_band, pytest.approx(probabilities[band], abs=1e-5))
    assert inspection.reason == expected and len(set(probabilities)) > 1
    assert Detector(model, "tiny").inspect(tmp_path / "second.wav").reason is None


@pytest.mark.parametrize("network", ["basic-cnn", "res-efficientcnn"])
def test_heat_map_of_a_network_that_sees_colours(network: str) -> None:
    inspection = Detector(tiny_classifier(network, COLOUR), "colour").inspect(VOICE, heat_map=True)
    assert inspection.mel_db.shape == inspection.heat.shape and inspection.heat.max() == pytest.approx(1.0)
    assert draw_inspection(inspection, COLOUR).size == (1024, 768)


def test_grad_cam_works_on_inference_tensors() -> None:
    network = tiny_classifier("res-efficientcnn").network
    with torch.inference_mode():
        picture = torch.randn(2, 1, 32, 63)
    assert grad_cam(network, picture, towards_spoof=True).shape == (2, 32, 63)


def test_a_checkpoint_that_was_never_calibrated_says_so(detector: Detector) -> None:
    model = tiny_classifier()
    model.calibration.copy_(torch.tensor([1.0, 0.0]))
    assert any("how often" in note for note in Detector(model, "raw").predict(VOICE).notes)
    assert not detector.predict(VOICE).notes


def test_few_windows_are_averaged() -> None:
    assert pool_windows(np.array([1.0])) == 1.0
    assert pool_windows(np.array([1.0, 2.0, -3.0, 4.0])) == pytest.approx(1.0)


def test_short_fake_passage_does_not_drown() -> None:
    recording = np.full(60, -2.0)
    recording[30:34] = 4.0
    assert recording.mean() < 0 < pool_windows(recording)


def test_one_stray_window_does_not_condemn_a_long_recording() -> None:
    recording = np.full(60, -2.0)
    recording[30] = 4.0
    assert pool_windows(recording) < 0


def test_searching_longer_needs_more_evidence() -> None:
    passage = np.full(4, 2.0)
    pooled = [pool_windows(np.concatenate((np.full(n, -2.0), passage))) for n in (4, 40, 400)]
    assert pooled == sorted(pooled, reverse=True) and pooled[0] > 0


def test_labels_meet_at_their_bounds() -> None:
    assert [label_of(p, 0.3, 0.8) for p in (0.0, 0.29, 0.3, 0.79, 0.8, 1.0)] == [
        "real", "real", "can't tell", "can't tell", "fake", "fake",
    ]  # fmt: skip
    assert label_of(None, 0.3, 0.8) == "no voice"


def test_long_recording_in_streamed_batches(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "minute.wav", np.tile(voice, 12), 16_000)
    inspection = detector.inspect(tmp_path / "minute.wav", heat_map=True)
    verdict = inspection.verdict
    assert len(verdict.windows) > 100 and verdict.duration_seconds == pytest.approx(len(voice) * 12 / 16_000)
    longest = MAX_HEAT_WINDOWS * verdict.windows[0].end_seconds / verdict.duration_seconds
    assert 0 < (inspection.heat.max(0) > 0).mean() <= longest + 0.02  # only the loudest windows are explained


@pytest.mark.parametrize(("name", "tolerance_seconds"), [("long.wav", 1e-6), ("long.mp3", 0.2)])
def test_who_waits_is_told_how_far_it_is(
    detector: Detector, voice: np.ndarray, tmp_path: Path, name: str, tolerance_seconds: float
) -> None:
    soundfile.write(tmp_path / name, np.tile(voice, 8), 16_000)
    told: list[tuple[float, float]] = []
    inspection = detector.inspect(tmp_path / name, on_progress=lambda *seconds: told.append(seconds))
    heard, expected = zip(*told, strict=True)
    duration = inspection.verdict.duration_seconds
    assert len(told) > 2 and list(heard) == sorted(heard) and heard[-1] == duration
    assert expected == pytest.approx([duration] * len(told), abs=tolerance_seconds)


def test_a_voice_far_beyond_full_scale_is_judged_as_any(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    verdicts = []
    for peak in (1, 32_768):  # as 16-bit numbers saved as floats have it
        soundfile.write(tmp_path / "loud.wav", voice * (peak / np.abs(voice).max()), 16_000, subtype="FLOAT")
        verdicts.append(detector.predict(tmp_path / "loud.wav"))
    usual, loud = verdicts
    assert loud.speech_seconds == usual.speech_seconds > 0.5
    assert loud.spoof_probability == pytest.approx(usual.spoof_probability, abs=1e-3)


def test_speech_is_heard_whatever_the_model_s_rate(detector: Detector, voice: np.ndarray) -> None:
    usual, other = (
        detector.speech_detector.frames(soxr.resample(voice, 16_000, rate), rate) for rate in (16_000, 24_000)
    )
    assert len(usual) == len(other) and np.mean(usual != other) < 0.05 < np.mean(usual)


@pytest.mark.parametrize(("peak_db", "offset"), [(-50, 0.0), (-65, 0.0), (-50, 0.06)])
def test_a_quiet_voice_is_heard(
    detector: Detector, voice: np.ndarray, tmp_path: Path, peak_db: float, offset: float
) -> None:
    quiet = voice / np.abs(voice).max() * 10 ** (peak_db / 20) + np.float32(offset)
    soundfile.write(tmp_path / "quiet.wav", quiet, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "whisper.wav", np.concatenate((voice, quiet)), 16_000, subtype="FLOAT")
    as_usual = detector.predict(VOICE).speech_seconds
    assert detector.predict(tmp_path / "quiet.wav").speech_seconds == pytest.approx(as_usual, abs=0.3)
    # Beside a loud voice it is what a pause holds.
    assert detector.predict(tmp_path / "whisper.wav").speech_seconds < 1.6 * as_usual


@pytest.mark.parametrize(("file", "codec", "kbits", "is_squeezed"), [
    ("message.ogg", "libopus", 16, True), ("message.webm", "libopus", 24, True),
    ("microphone.webm", "libopus", 128, False), ("song.mp3", "libmp3lame", 32, False),
])  # fmt: skip
def test_a_voice_message_is_never_called_a_machine_s(
    detector: Detector, voice: np.ndarray, tmp_path: Path, file: str, codec: str, kbits: int, is_squeezed: bool
) -> None:
    model = deepcopy(detector.model)
    path = encode(tmp_path / file, voice, 16_000, codec, bit_rate=1000 * kbits)
    unsure = "can't tell" if is_squeezed else "fake"
    for offset, label in ((5.0, unsure), (30.0, unsure), (-5.0, "real")):
        model.calibration.copy_(torch.tensor([1.0, offset]))
        verdict = Detector(model, "test").predict(path)
        assert verdict.label == label and verdict.fake_above == (1.0 if is_squeezed else pytest.approx(0.6))
        assert any("never called a machine" in note for note in verdict.notes) == (is_squeezed and label != "real")


def test_silent_stretches_are_not_judged(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    samples = np.concatenate((voice, np.zeros(5 * 16_000, np.float32)))
    soundfile.write(tmp_path / "pause.wav", samples, 16_000)
    verdict = detector.predict(tmp_path / "pause.wav")
    windows, voiced_until = verdict.windows, len(voice) / 16_000
    assert all(w.spoof_probability is None for w in windows if w.start_seconds > voiced_until)
    assert any(w.spoof_probability is not None for w in windows)
    scores, is_heard = (
        window_scores(detector, tmp_path / "pause.wav"),
        [w.spoof_probability is not None for w in windows],
    )
    assert verdict.score == pytest.approx(pool_windows(scores[is_heard]), abs=1e-5)
    assert verdict.score != pytest.approx(pool_windows(scores), abs=1e-3)


def window_scores(detector: Detector, path: Path) -> np.ndarray:
    """The model's log-odds of every window of a file (n,)."""
    windows = iter_windows([load_audio(path, 16_000)], 16_000, 8_000)
    with torch.inference_mode():
        return detector.model.score(torch.from_numpy(np.stack([window for _, _, window in windows]))).numpy()


@pytest.mark.parametrize(
    ("seconds", "is_voice", "note"), [(0.4, False, "at least a short spoken"), (1.2, True, "seconds of speech")]
)
def test_a_syllable_is_not_judged_and_little_speech_is_told(
    detector: Detector, voice: np.ndarray, tmp_path: Path, seconds: float, is_voice: bool, note: str
) -> None:
    spoken = voice[20_000 : 20_000 + round(16_000 * seconds)]
    soundfile.write(tmp_path / "little.wav", np.pad(spoken, 24_000), 16_000)
    verdict = detector.predict(tmp_path / "little.wav")
    assert verdict.speech_seconds > 0.3  # heard, but too little of it
    assert (verdict.label != "no voice") == is_voice and any(note in told for told in verdict.notes)


def test_heat_and_reason_are_of_the_windows_that_speak_loudest(
    detector: Detector, voice: np.ndarray, tmp_path: Path
) -> None:
    loudness = np.linspace(1.0, 0.2, 12).repeat(len(voice))
    noise = np.random.default_rng(0).standard_normal(12 * len(voice))
    soundfile.write(tmp_path / "minute.wav", loudness * np.tile(voice, 12) + 0.002 * noise, 16_000)
    inspection = detector.inspect(tmp_path / "minute.wav", heat_map=True)
    windows, n_columns = inspection.verdict.windows, inspection.heat.shape[1]
    towards_spoof = inspection.verdict.spoof_probability >= 0.5
    scores = window_scores(detector, tmp_path / "minute.wav")
    judged = [i for i, window in enumerate(windows) if window.spoof_probability is not None]
    loudest = sorted(judged, key=lambda i: scores[i], reverse=towards_spoof)
    chosen = np.zeros(n_columns, bool)
    for i in loudest[:MAX_HEAT_WINDOWS]:
        edges = (windows[i].start_seconds, windows[i].end_seconds)
        first, last = (round(edge / inspection.verdict.duration_seconds * n_columns) for edge in edges)
        chosen[first:last] = True
    is_hot = inspection.heat.max(axis=0) > 0
    assert chosen.mean() < 0.8 and (is_hot & ~chosen).sum() == 0 and is_hot.sum() > 0.8 * chosen.sum()
    most_telling = torch.tensor(scores[loudest[:STRETCH_WINDOWS]].mean())
    assert inspection.reason.with_band == pytest.approx(detector.model.calibrate(most_telling).item(), abs=1e-4)
