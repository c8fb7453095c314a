"""The augmentation chain: every step acts, as strongly as it says, and on both classes alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepfake_detector.data import augment as steps
from deepfake_detector.data.augment import augment
from deepfake_detector.data.dataset import TrainingWindows
from deepfake_detector.model import BONAFIDE, SPOOF

from .conftest import tone
from .test_data import ALWAYS, CHANCES, NEVER, clip


def below_the_voice_db(voice: np.ndarray, out: np.ndarray) -> float:
    """How far what was added to a voice lies below it, whatever level both were brought to."""
    part = np.dot(out, voice) / np.dot(voice, voice) * voice
    return 10 * np.log10(np.mean(part**2) / np.mean((out - part) ** 2))


@pytest.mark.parametrize("step", CHANCES)
def test_every_step_of_the_chain_acts_if_its_chance_is_one(voice: np.ndarray, step: str) -> None:
    samples = np.pad(voice[8_000:20_000], (4_000, 0))  # with an edge to move
    config, changed = replace(NEVER, **{step: 1.0}), 0
    untouched = augment(samples, 16_000, NEVER, None, np.random.default_rng(0))
    for seed in range(6):
        out = augment(samples, 16_000, config, None, np.random.default_rng(seed))
        changed += below_the_voice_db(untouched, out) < 60
    assert changed >= 4


def test_noise_and_hum_are_as_far_below_the_voice_as_they_should_be(voice: np.ndarray) -> None:
    found = {"noise": [], "hum": []}
    for step, ratios_db in found.items():
        for seed in range(30):
            out = augment(voice, 16_000, replace(NEVER, **{step: 1.0}), None, np.random.default_rng(seed))
            ratios_db.append(below_the_voice_db(voice, out))
    for (low, high), ratios_db in ((NEVER.noise_snr_db, found["noise"]), (steps.HUM_SNR_DB, found["hum"])):
        assert (
            low - 1 < min(ratios_db) < low + 0.3 * (high - low)
            and high - 0.3 * (high - low) < max(ratios_db) < high + 1
        )


def test_what_is_done_to_real_clips_is_done_to_fake_ones_and_to_copies(tmp_path: Path, voice: np.ndarray) -> None:
    """Otherwise the augmentation itself would tell the label."""
    soundfile.write(tmp_path / "x.wav", voice, 16_000)
    clips = [clip(label, path=str(tmp_path / "x.wav")) for label in (BONAFIDE, SPOOF)]
    treated, plain = (TrainingWindows(clips, 16_000, 16_000, config, None) for config in (ALWAYS, NEVER))
    for seed in range(4):
        assert torch.equal(treated[0, seed, False][0], treated[1, seed, False][0])
        assert below_the_voice_db(plain[0, seed, True][0].numpy(), treated[0, seed, True][0].numpy()) < 30


def test_a_lower_rate_takes_high_tones_away() -> None:
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    before, after = (np.abs(np.fft.rfft(x)) ** 2 for x in (noise, steps.through_rate(noise, 16_000, 8_000)))
    assert after[8_500:].sum() < 0.001 * before[8_500:].sum()  # above 4,250 Hz
    assert after[:7_000].sum() == pytest.approx(before[:7_000].sum(), rel=0.02)


def test_overdrive_cuts_peaks_off() -> None:
    sound = tone(1.0)
    driven = steps.overdrive(sound, 4.0)
    assert np.abs(driven).max() == pytest.approx(np.abs(sound).max()) and np.std(driven) > 1.2 * np.std(sound)
    assert np.allclose(steps.overdrive(sound, 1.0), sound)


def test_a_room_answers_after_the_voice_which_stays_where_it_was() -> None:
    click, room = np.zeros(8_000, np.float32), np.zeros(3_000, np.float32)
    click[2_000], room[500], room[800] = 1.0, 0.5, 0.4  # half a thousand samples on the way
    wet = steps.reverberate(click, room, np.random.default_rng(0))
    assert np.argmax(np.abs(wet)) == 2_000 and wet[2_000] == pytest.approx(1.0, rel=0.01)
    assert 0.2 < wet[2_300] < 0.8 and wet[:1_990] == pytest.approx(0.0, abs=1e-4)


def test_echoes_come_after_the_voice_and_some_so_soon_that_frequencies_vanish() -> None:
    click, delays, deepest_db = np.eye(1, 8_000, 1_000, dtype=np.float32)[0], [], []
    for seed in range(40):
        wet = steps.echo(click, 16_000, np.random.default_rng(seed))
        found = np.flatnonzero(wet) - 1_000
        assert found[0] == 0 and wet[1_000] == 1.0 and 1 <= len(found[1:]) <= steps.MAX_ECHOES
        delays += list(found[1:] / 16_000)
        deepest_db.append(20 * np.log10(np.abs(np.fft.rfft(wet)).min()))
        short = steps.echo(click[:3_000], 16_000, np.random.default_rng(seed))  # shorter than the latest echo
        assert len(short) == 3_000
    assert min(delays) < 0.001 and 0.1 < max(delays) <= 0.3
    assert min(deepest_db) < -12


def test_noise_reduction_and_gate_quieten_pauses_alone() -> None:
    noise = 0.003 * np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
    sound = noise + np.where(np.arange(64_000) // 16_000 % 2, 0.0, 0.5 * tone(4.0) / np.abs(tone(4.0)).max())
    for name, options in (
        ("afftdn", {"nr": 20, "nf": -40}),
        ("agate", {"threshold": 0.03, "range": 0.01, "ratio": 50}),
    ):
        out = steps.through_filter(sound, 16_000, name, **options)
        spoken, pause = slice(36_000, 44_000), slice(56_000, 64_000)
        assert len(out) == len(sound)
        assert np.std(out[pause]) < 0.3 * np.std(sound[pause]), name
        assert np.std(out[spoken]) == pytest.approx(np.std(sound[spoken]), rel=0.05), name


def test_another_tempo_keeps_the_pitch_and_compression_evens_out() -> None:
    sound = (0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)).astype(np.float32)
    faster = steps.through_filter(sound, 16_000, "atempo", tempo=1.25)
    assert len(faster) == pytest.approx(32_000 / 1.25, rel=0.03)
    assert np.argmax(np.abs(np.fft.rfft(faster, 32_000))) / 2 == pytest.approx(440, abs=2)
    sound[:16_000] *= 0.1
    even = steps.through_filter(sound, 16_000, "acompressor", threshold=0.05, ratio=8)
    assert np.std(even[24_000:]) < 0.5 * np.std(sound[24_000:])
    assert np.std(even[8_000:16_000]) == pytest.approx(np.std(sound[8_000:16_000]), rel=0.1)


@pytest.mark.parametrize("name", steps.EDITS)
def test_every_edit_takes_short_and_silent_clips(voice: np.ndarray, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(steps, "EDITS", {name: steps.EDITS[name]})
    for samples in (voice, voice[:1_600], np.zeros(16_000, np.float32)):
        for seed in range(5):
            out = steps.edit(samples, 16_000, np.random.default_rng(seed))
            assert len(out) == len(samples) and np.isfinite(out).all() and out.any() == samples.any()


def test_another_microphone_has_another_smooth_response() -> None:
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    for seed in range(4):
        response_db = 20 * np.log10(
            np.abs(np.fft.rfft(steps.equalise(noise, np.random.default_rng(seed)))) / np.abs(np.fft.rfft(noise))
        )
        assert 2 < np.ptp(response_db) <= 18.1 and np.abs(np.diff(response_db)).max() < 0.1
