"""The picture of a verdict, and the words beside it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import app
from deepfake_detector import Detector, Verdict
from deepfake_detector.detector import BUNDLED, MAX_HEAT_WINDOWS, Inspection, Reason, Window
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


def n_coloured(inspection: Inspection) -> tuple[int, int]:
    """How many pixels of the spectrogram are clearly warm, and how many clearly cool."""
    pixels = np.asarray(draw_inspection(inspection, TINY_FEATURES)).astype(int)[80:390, 150:]
    red, blue_or_green = pixels[..., 0], pixels[..., 1:].max(axis=2)
    return int((red - pixels[..., 2] > 60).sum()), int((blue_or_green - red > 60).sum())


@pytest.mark.parametrize("seconds", [4.0, 60.0, 900.0, 14_400.0])
def test_the_last_time_is_wholly_in_the_picture(detector: Detector, seconds: float) -> None:
    inspection = detector.inspect(VOICE)
    longer = replace(inspection, verdict=verdict((0, seconds, 0.2)))
    assert (np.asarray(draw_inspection(longer, TINY_FEATURES))[:, -2:] == 255).all()


@pytest.mark.parametrize(("probability", "is_warm"), [(0.9, True), (0.1, False)])
def test_heat_is_warm_for_a_machine_and_cool_for_a_person(
    detector: Detector, probability: float, is_warm: bool
) -> None:
    inspection = detector.inspect(VOICE, heat_map=True)
    inspection = replace(inspection, verdict=replace(inspection.verdict, spoof_probability=probability))
    warm, cool = n_coloured(inspection)
    assert (warm > 1000 and cool == 0) if is_warm else (cool > 1000 and warm == 0)
    assert n_coloured(replace(inspection, heat=np.zeros_like(inspection.heat))) == (0, 0)


def test_a_long_recording_says_how_many_passages_are_coloured(detector: Detector) -> None:
    inspection = detector.inspect(VOICE, heat_map=True)
    many = tuple(Window(i, i + 3, 0.9) for i in range(MAX_HEAT_WINDOWS + 1))
    long = replace(inspection, verdict=replace(inspection.verdict, windows=many))
    few = replace(inspection, verdict=replace(inspection.verdict, windows=many[1:]))
    titles = [np.asarray(draw_inspection(each, TINY_FEATURES))[:60] for each in (long, few)]
    assert (titles[0] != titles[1]).any()


def test_a_part_without_a_voice_is_no_bar(detector: Detector) -> None:
    inspection = detector.inspect(VOICE)
    pictures = []
    for probability in (None, 1.0):
        parts = (Window(0, 1, 0.9), Window(1, 2, probability))
        shown = replace(inspection.verdict, windows=parts, duration_seconds=2.0)
        pictures.append(
            np.asarray(draw_inspection(replace(inspection, verdict=shown), TINY_FEATURES))[490:660, 570:940]
        )
    silent, voiced = (picture.reshape(-1, 3).mean() for picture in pictures)
    assert silent > 200 > voiced  # hatched white against full colour


def test_a_part_that_is_surely_a_persons_is_a_bar_too(detector: Detector) -> None:
    inspection = detector.inspect(VOICE)
    parts = (Window(0, 1, 0.0), Window(1, 2, None))
    shown = replace(inspection.verdict, windows=parts, duration_seconds=2.0, real_below=0.3, fake_above=0.7)
    picture = np.asarray(draw_inspection(replace(inspection, verdict=shown), TINY_FEATURES)).astype(int)
    is_blue = picture[450:680, 140:1000, 2] - picture[450:680, 140:1000, 0] > 60
    assert is_blue[:, :400].any(axis=0).all() and not is_blue[:, 440:].any()


def test_time_line_lies_under_the_spectrogram(detector: Detector) -> None:
    """Paint only the second half loud: the bright half of the picture must be the right one."""
    inspection = detector.inspect(VOICE)
    mel_db = np.full_like(inspection.mel_db, -80.0)
    mel_db[:, mel_db.shape[1] // 2 :] = 0.0
    pixels = np.asarray(draw_inspection(replace(inspection, mel_db=mel_db), TINY_FEATURES)).astype(int)
    upper = pixels[150:350].sum(axis=2).mean(axis=0)
    left, right = round(0.13 * 1024), round(0.94 * 1024)
    middle = (left + right) // 2
    assert upper[left + 5 : middle - 5].max() < upper[middle + 5 : right - 5].min()


@pytest.mark.parametrize("has_heat", [False, True])
def test_high_tones_are_at_the_top(detector: Detector, has_heat: bool) -> None:
    inspection = detector.inspect(VOICE)
    mel_db, heat = np.full_like(inspection.mel_db, -80.0), np.zeros_like(inspection.mel_db)
    (heat if has_heat else mel_db)[len(mel_db) // 2 :] = 1.0 if has_heat else 0.0
    shown = replace(inspection, mel_db=mel_db, heat=heat if has_heat else None)
    pixels = np.asarray(draw_inspection(shown, TINY_FEATURES)).astype(int)
    upper, lower = (pixels[rows, 150:940].sum(axis=2).mean() for rows in (slice(90, 210), slice(250, 380)))
    assert upper > 2 * lower


@pytest.mark.parametrize(("seconds", "duration", "text"), [(2.5, 10, "2.5"), (65, 300, "1:05"), (3600, 4000, "60:00")])
def test_clock(seconds: float, duration: float, text: str) -> None:
    assert clock(seconds, duration) == text


def test_card_says_what_how_sure_and_where() -> None:
    card = app.verdict_card(verdict((0, 3, 0.6), (1.5, 4.5, 0.95), (3, 6, 0.7)))
    assert "Sounds like a machine" in card and "<b>90 %</b> sure that a machine" in card
    assert "The most machine-like part is from 1.5 to 4.5 seconds." in card
    real = app.verdict_card(verdict((0, 3, 0.1), label="real", probability=0.1))
    assert "real person" in real and "<b>90 %</b> sure that a person" in real
    assert "We can't tell" in app.verdict_card(verdict((0, 3, 0.5), label="can't tell", probability=0.5))


def test_a_part_is_named_only_where_it_tells_something() -> None:
    assert "stands out" in app.verdict_card(verdict((0, 3, 0.8), (1.5, 4.5, 0.95)))  # machine all over
    for windows in (((0, 3, 0.6), (0.02, 3.02, 0.9)), ((0, 1.2, 0.9),)):  # one window is nearly all of it
        card = app.verdict_card(verdict(*windows))
        assert "part" not in card and "stands out" not in card
    long = app.verdict_card(verdict((0, 3, 0.1), (66, 69, 0.9), (69.4, 72.4, 0.5)))
    assert "The most machine-like part is from 1:06 to 1:09." in long


@pytest.mark.parametrize(("probability", "shown"), [(0.999, "over 99 %"), (0.001, "under 1 %"), (0.314, "31 %")])
def test_nothing_is_quite_sure(probability: float, shown: str) -> None:
    assert app.percent(probability) == shown
    unsure = verdict((0, 3, probability), label="can't tell", probability=probability)
    assert f"<b>{shown}</b> likely to be a machine" in app.verdict_card(unsure)


def test_the_picture_is_described_in_words() -> None:
    windows = ((0, 3, 0.9), (3, 6, 0.8), (6, 9, None), (9, 12, 0.1), (9.02, 12.02, 0.1))
    assert app.description(verdict(*windows)).endswith(
        "0 to 6 seconds: fake; 6 to 9 seconds: no voice; 9 to 12 seconds: real."
    )
    changing = verdict(*((i, i + 1, i % 2 * 0.9) for i in range(40)))
    assert app.description(changing).endswith("; and 28 more parts.")


def test_the_page_quotes_the_figures_of_the_bundled_checkpoint_alone(detector: Detector) -> None:
    assert app.track_record(detector) == ""
    figures = json.loads((BUNDLED / "metrics.json").read_text())
    quoted = re.findall(r"\d+(?= of 100|\s+in 100)", app.track_record(Detector.from_pretrained()))
    expected = [figures[name] for name in ("cannot_tell", "wrong_when_fake", "wrong_when_real")]
    expected.append(figures["settings"]["bonafide_share"])
    assert [int(number) for number in quoted] == [round(100 * share) for share in expected]


def test_card_without_a_voice_has_no_number() -> None:
    card = app.verdict_card(verdict((0, 3, None), label="no voice", probability=None))
    assert "No voice to judge" in card and "%" not in card


def test_messages_cannot_carry_markup() -> None:
    assert "<script>" not in app.message_card("<script>alert(1)</script>.wav is empty.")


@pytest.mark.parametrize(
    ("label", "probability", "without", "start"),
    [
        ("fake", 0.9, 0.65, "The tones from 2.0 to 3.1 kHz tip the scales: without them"),
        ("fake", 0.9, 0.75, "No tones decide alone: even without those from 2.0 to 3.1 kHz, which count most,"),
        ("real", 0.1, 0.4, "The tones"),
        ("can't tell", 0.6, 0.4, "The tones"),  # the answer is the same, but it leans the other way
        ("can't tell", 0.6, 0.55, "No tones"),
    ],
)
def test_the_reason_says_whether_some_tones_decide_alone(
    label: str, probability: float, without: float, start: str
) -> None:
    judged = verdict((0, 3, probability), label=label, probability=probability)
    reason = Reason(2_000.0, 3_140.0, probability, without)
    said = app.grounds(judged, reason)
    assert said.startswith(start) and said.endswith(f"it would be {100 * without:.0f} % likely to be a machine.")
    assert said in app.verdict_card(judged, reason)
    assert said not in app.verdict_card(judged)
    assert " tones below 0.4 kHz " in app.grounds(judged, Reason(20.0, 400.0, probability, 1 - probability))


def test_the_reason_of_a_longer_recording_is_weighed_against_the_same_parts() -> None:
    """The whole is 83 %, its most telling parts 97 %, and those 95 % without the band: nothing speaks for a machine less."""
    windows = [(1.5 * i, 1.5 * i + 3, probability) for i, probability in enumerate([0.97] * 4 + [0.4] * 3)]
    said = app.grounds(verdict(*windows, label="fake", probability=0.83), Reason(2_000.0, 3_140.0, 0.97, 0.95))
    assert said == (
        "In the most telling parts no tones decide alone: even without those from 2.0 to 3.1 kHz, which count most, "
        "those parts would be 95 % likely to be a machine, with them 97 %."
    )
