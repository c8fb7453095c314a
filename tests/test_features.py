"""The front end against librosa, and what the network must not see."""

from dataclasses import replace

import librosa
import matplotlib
import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from deepfake_detector.features import (
    NORMALISATIONS,
    FeatureConfig,
    MelOverview,
    MelSpectrogram,
    mel_filter_bank,
)

from .conftest import TINY_FEATURES

CONTRAST = {"contrast_mels": 13, "contrast_frames": 5}


def config(**changes) -> FeatureConfig:
    return replace(TINY_FEATURES, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_fft": 1024, "hop_length": 256, "n_mels": 128},
        {"n_fft": 512, "hop_length": 160, "n_mels": 64, "f_min_hz": 300.0, "f_max_hz": 3_400.0},
        {"sample_rate": 44_100, "n_fft": 2048, "hop_length": 512, "n_mels": 200, "f_min_hz": 0.0, "f_max_hz": 22_050.0},
    ],
)
def test_mel_equals_librosa(voice: np.ndarray, changes: dict) -> None:
    settings = config(**changes)
    front_end = MelSpectrogram(settings)
    expected = librosa.feature.melspectrogram(
        y=voice,
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        hop_length=settings.hop_length,
        n_mels=settings.n_mels,
        fmin=settings.f_min_hz,
        fmax=settings.f_max_hz,
    )
    power = front_end.power(torch.from_numpy(voice)[None])[0].numpy()
    assert power.shape == expected.shape
    assert np.abs(power - expected).max() <= 1e-5 * expected.max()
    level_db = front_end.decibels(torch.from_numpy(voice)[None])[0].numpy()
    assert np.abs(level_db - librosa.power_to_db(expected, top_db=80.0)).max() < 1e-2
    assert np.abs(level_db - librosa.power_to_db(expected, top_db=80.0)).mean() < 1e-5


def test_filter_bank_equals_librosa() -> None:
    expected = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=128, fmin=20.0, fmax=8_000.0)
    assert np.abs(mel_filter_bank(16_000, 1024, 128, 20.0, 8_000.0) - expected).max() < 1e-8


@pytest.mark.parametrize("normalise", [name for name in NORMALISATIONS if name != "colour"])
def test_recording_level_has_no_influence(voice: np.ndarray, normalise: str) -> None:
    front_end = MelSpectrogram(config(normalise=normalise, **(CONTRAST if "contrast" in normalise else {})))
    wave = torch.from_numpy(voice)[None]
    assert torch.allclose(front_end(wave), front_end(wave * 0.1), atol=1e-3)


def test_a_window_is_seen_alike_whoever_is_beside_it(voice: np.ndarray) -> None:
    quiet = torch.from_numpy(
        1e-3 * voice[16_000:32_000] + 1e-5 * np.random.default_rng(0).standard_normal(16_000)
    ).float()
    loud = torch.from_numpy(voice[:16_000])
    for normalise in ("picture", "band"):
        front_end = MelSpectrogram(config(normalise=normalise))
        assert torch.allclose(front_end(torch.stack((loud, quiet)))[1], front_end(quiet[None])[0], atol=1e-4)
    band = front_end(quiet[None])[0, 0]
    assert band.mean(1).abs().max() < 1e-3 < band.mean(0).abs().max()  # of each band over time, not the other way


def test_contrast_is_what_a_cell_has_over_its_surroundings() -> None:
    level_db = torch.randn(2, 32, 40, generator=torch.Generator().manual_seed(0))
    expected = np.stack([cells - uniform_filter(cells, (13, 5), mode="nearest") for cells in level_db.numpy()])
    expected = (expected - expected.mean((1, 2), keepdims=True)) / expected.std((1, 2), keepdims=True)
    seen = MelSpectrogram(config(normalise="contrast", **CONTRAST)).normalise(level_db)[:, 0].numpy()
    assert np.abs(seen - expected).max() < 0.02  # a thousandth is added to the deviation, which has one degree less
    both = MelSpectrogram(config(normalise="picture+contrast", **CONTRAST)).normalise(level_db)
    assert both.shape == (2, 2, 32, 40) and torch.equal(both[:, 1], torch.from_numpy(seen))


def test_bands_of_one_row_are_channels_and_come_back_as_bands() -> None:
    level_db = torch.randn(2, 32, 40, generator=torch.Generator().manual_seed(0))
    one = config(normalise="picture+contrast", **CONTRAST)
    two = replace(one, bands_per_row=2)
    plain, seen = (MelSpectrogram(settings).normalise(level_db) for settings in (one, two))
    assert (two.rows, two.in_chans) == (16, 4) and seen.shape == (2, 4, 16, 40)
    for kind in (0, 1):
        assert torch.equal(seen[:, 2 * kind], plain[:, kind, ::2])
        assert torch.equal(seen[:, 2 * kind + 1], plain[:, kind, 1::2])
    heat = torch.rand(1, 16, 40)
    assert torch.equal(MelSpectrogram(two).on_mels(heat)[:, 1::2], heat)
    assert MelSpectrogram(two).on_mels(heat).shape == (1, 32, 40)


def test_silence_and_noise_stay_finite() -> None:
    front_end = MelSpectrogram(TINY_FEATURES)
    waves = torch.stack([torch.zeros(16_000), torch.randn(16_000), torch.full((16_000,), 1e-9)])
    assert torch.isfinite(front_end(waves)).all()


def test_picture_is_float32_under_autocast(voice: np.ndarray) -> None:
    front_end, wave = MelSpectrogram(TINY_FEATURES), torch.from_numpy(voice)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        power = front_end.power(wave)
    assert power.dtype == torch.float32 and torch.equal(power, front_end.power(wave))


def test_overview_keeps_time_and_stays_small() -> None:
    front_end = MelSpectrogram(TINY_FEATURES)
    overview = MelOverview(front_end)
    block = np.zeros(160_000, np.float32)
    block[:16_000] = np.sin(np.arange(16_000) * 0.3)  # one second of tone in every ten
    for _ in range(36):
        overview.feed(block)
    level_db = overview.decibels()
    assert level_db.shape[0] == 32 and 1_024 < level_db.shape[1] <= MelOverview.MAX_COLUMNS
    loud = (level_db.max(0) > -20).mean()
    assert loud == pytest.approx(0.1, abs=0.03)


COLOUR = {"normalise": "colour", "picture_width": 226, "picture_height": 92}


def test_colour_picture_is_matplotlibs_colour_map_over_the_spectrogram(voice: np.ndarray) -> None:
    """Against the colour map applied to the decibels with numpy, high tones at the top, each cell enlarged."""
    front_end = MelSpectrogram(config(**COLOUR))
    level_db = front_end.decibels(torch.from_numpy(voice)[None])
    level = level_db[0].numpy()
    cells = matplotlib.colormaps["magma"]((level - level.max() + 80.0) / 80.0, bytes=True)[::-1, :, :3]
    rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in zip((92, 226), level.shape, strict=True))
    expected = cells[rows.astype(int)][:, columns.astype(int)]
    drawn = front_end.draw(level_db)[0].permute(1, 2, 0).numpy()
    assert drawn.dtype == np.uint8 and drawn.shape == (92, 226, 3)
    assert (drawn == expected).all(2).mean() > 0.999  # float32 and float64 may fall on two sides of a step
    picture = front_end(torch.from_numpy(voice)[None])
    assert picture.shape == (1, 3, 92, 226) and picture.min() >= 0 and picture.max() <= 1


def test_map_over_a_colour_picture_comes_back_to_its_mel_bands() -> None:
    front_end = MelSpectrogram(config(**COLOUR))
    heat = torch.zeros(1, 92, 226)
    heat[:, :10] = 1.0  # the top of the picture
    on_mels = front_end.on_mels(heat)
    assert on_mels.shape == (1, 32, 226) and on_mels[0, -3:].min() == 1 and on_mels[0, :16].max() == 0
