"""The picture of a verdict, and the words beside it."""

from dataclasses import replace

import numpy as np
import pytest

import app
from deepfake_detector import Detector, Verdict
from deepfake_detector.detector import Window
from deepfake_detector.plots import clock, draw_inspection, timeline_cells

from .conftest import TINY_FEATURES, VOICE


def verdict(
    *windows: tuple[float, float, float | None], label: str = "fake", probability: float | None = 0.9
) -> Verdict:
    return Verdict(
        file="<b>clip</b>.wav",
        label=label,
        spoof_probability=probability,
        score=None if probability is None else 2.0,
        real_below=0.3,
        fake_above=0.7,
        duration_seconds=windows[-1][1],
        speech_seconds=4.0,
        windows=tuple(Window(*window) for window in windows),
        notes=(),
        model="test",
    )


def test_overlapping_windows_become_cells_side_by_side() -> None:
    cells = timeline_cells(verdict((0, 3, 0.2), (1.5, 4.5, 0.8), (3, 6, None)))
    assert cells == [(0, 1.5, 0.2), (1.5, 3, 0.5), (3, 4.5, 0.8), (4.5, 6, None)]


def test_picture_shows_the_heat_only_when_asked(detector: Detector) -> None:
    plain, heat = (draw_inspection(detector.inspect(VOICE, asked), TINY_FEATURES) for asked in (False, True))
    assert plain.size == heat.size == (1024, 768) and plain.mode == "RGB"
    assert (np.asarray(plain) != np.asarray(heat)).any(axis=2).mean() > 0.1


def test_time_line_lies_under_the_spectrogram(detector: Detector) -> None:
    """Paint only the second half loud: the bright half of the picture must be the right one."""
    inspection = detector.inspect(VOICE)
    mel_db = np.full_like(inspection.mel_db, -80.0)
    mel_db[:, mel_db.shape[1] // 2 :] = 0.0
    pixels = np.asarray(draw_inspection(replace(inspection, mel_db=mel_db), TINY_FEATURES)).astype(int)
    upper = pixels[150:350].sum(axis=2).mean(axis=0)
    left, right = round(0.1 * 1024), round(0.98 * 1024)
    middle = (left + right) // 2
    assert upper[left + 5 : middle - 5].max() < upper[middle + 5 : right - 5].min()


@pytest.mark.parametrize(("seconds", "duration", "text"), [(2.5, 10, "2.5"), (65, 300, "1:05"), (3600, 4000, "60:00")])
def test_clock(seconds: float, duration: float, text: str) -> None:
    assert clock(seconds, duration) == text


def test_card_says_what_how_sure_and_where() -> None:
    card = app.verdict_card(verdict((0, 3, 0.6), (1.5, 4.5, 0.95), (3, 6, 0.7)))
    assert "Sounds like a machine" in card and "<b>90 %</b> sure that a machine" in card
    assert "from 1.5 to 3 seconds" in card or "from 3 to 4.5 seconds" in card
    real = app.verdict_card(verdict((0, 3, 0.1), label="real", probability=0.1))
    assert "real person" in real and "<b>90 %</b> sure that a person" in real
    assert "We can't tell" in app.verdict_card(verdict((0, 3, 0.5), label="can't tell", probability=0.5))


def test_card_without_a_voice_has_no_number() -> None:
    card = app.verdict_card(verdict((0, 3, None), label="no voice", probability=None))
    assert "No voice to judge" in card and "%" not in card


def test_messages_cannot_carry_markup() -> None:
    assert "<script>" not in app.message_card("<script>alert(1)</script>.wav is empty.")
