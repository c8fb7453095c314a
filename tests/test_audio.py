"""Every kind of recording a person has decodes to the same sound, and windows cover all of it."""

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr

from deepfake_detector.audio import SourceInfo, iter_windows, load_audio, stream_audio, within_full_scale

from .conftest import ROOT, add_video, encode, tone


def correlation(a: np.ndarray, b: np.ndarray, max_shift: int = 2_400) -> float:
    """Best correlation of two sounds over the small delays that codecs add."""
    n = min(len(a), len(b)) - 2 * max_shift
    inner, around = a[max_shift : max_shift + n], b[: n + 2 * max_shift]
    products = scipy.signal.correlate(around, inner, mode="valid", method="fft")
    shift = int(np.argmax(products))
    return float(np.corrcoef(inner, b[shift : shift + n])[0, 1])


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAV", "ALAW", 2e-2),
        ("WAV", "ULAW", 2e-2),
        ("AIFF", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("CAF", "PCM_16", 1e-4),
    ],
)
def test_lossless_formats_give_the_samples_back(
    tmp_path: Path, voice: np.ndarray, container: str, subtype: str, tolerance: float
) -> None:
    path = tmp_path / f"clip.{container.lower()}"
    soundfile.write(path, voice, 16_000, format=container, subtype=subtype)
    samples = load_audio(path, 16_000)
    assert samples.dtype == np.float32 and samples.shape == voice.shape
    assert np.abs(samples - voice).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("song.mp3", "mp3", 44_100),
        ("whatsapp.opus", "libopus", 48_000),
        ("memo.m4a", "aac", 44_100),
        ("raw.aac", "aac", 44_100),
        ("browser.webm", "libopus", 48_000),
        ("lossless.m4a", "alac", 44_100),
    ],
)
def test_compressed_formats_keep_the_sound(tmp_path: Path, voice: np.ndarray, name: str, codec: str, rate: int) -> None:
    path = encode(tmp_path / name, soxr.resample(voice, 16_000, rate), rate, codec)
    samples = load_audio(path, 16_000)
    assert len(samples) / 16_000 == pytest.approx(len(voice) / 16_000, abs=0.12)
    assert correlation(voice, samples) > 0.95


def test_ogg_vorbis_keeps_the_sound(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "vorbis.ogg", voice, 16_000, format="OGG", subtype="VORBIS")
    assert correlation(voice, load_audio(tmp_path / "vorbis.ogg", 16_000)) > 0.95


@pytest.mark.parametrize("name", ["film.mp4", "film.mov"])
def test_sound_track_of_a_video(tmp_path: Path, voice: np.ndarray, name: str) -> None:
    path = add_video(tmp_path / name, soxr.resample(voice, 16_000, 48_000))
    assert correlation(voice, load_audio(path, 16_000)) > 0.95


def test_flac_with_the_lowest_16_bit_sample(tmp_path: Path) -> None:
    """Real ASVspoof files hold -32768, on which libsndfile 1.2.2 stumbles."""
    samples = (np.random.default_rng(0).standard_normal(32_000) * 9_000).clip(-32768, 32767).astype(np.int16)
    samples[::1000] = -32768
    path = encode(tmp_path / "full_scale.flac", samples / np.float32(32768), 16_000, "flac")
    assert load_audio(path, 16_000).min() == -1.0


def test_asvspoof_archive_decodes() -> None:
    archive = ROOT.parent / "shared" / "asvspoof2019_la_mini" / "LA"
    if not archive.is_dir():
        pytest.skip("needs the ASVspoof 2019 LA miniature in ../shared")
    files = sorted((archive / "ASVspoof2019_LA_dev" / "flac").glob("*.flac"))
    assert all(len(load_audio(path, 16_000)) > 8_000 for path in files[:40])


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000, 192_000])
def test_sample_rates_are_converted(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(2.0, rate), rate)
    samples = load_audio(tmp_path / "tone.wav", 16_000)
    expected = tone(2.0)
    assert abs(len(samples) - len(expected)) <= 1
    assert np.abs(samples[800:31_000] - expected[800:31_000]).max() < 1e-3


@pytest.mark.parametrize("n_channels", [1, 2, 3, 6, 8])
def test_channels_are_averaged(tmp_path: Path, n_channels: int) -> None:
    channels = np.stack([tone(1.0) * (i + 1) / n_channels for i in range(n_channels)], axis=1)
    soundfile.write(tmp_path / "many.wav", channels, 16_000, subtype="FLOAT")
    assert np.abs(load_audio(tmp_path / "many.wav", 16_000) - channels.mean(axis=1)).max() < 1e-6


def test_samples_beyond_full_scale_survive(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", tone(1.0) * 20, 16_000, subtype="FLOAT")
    assert load_audio(tmp_path / "loud.wav", 16_000).max() == pytest.approx(6.0, abs=0.01)


def test_overshoot_is_cut_off_and_another_scale_is_made_quieter() -> None:
    usual = tone(0.1) / np.abs(tone(0.1)).max()
    assert np.array_equal(within_full_scale(usual), usual) and len(within_full_scale(usual[:0])) == 0
    assert np.array_equal(within_full_scale(1.2 * usual), np.clip(1.2 * usual, -1, 1))
    assert np.allclose(within_full_scale(30_000 * usual), usual)


def test_streamed_blocks_equal_one_resampling(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(44_100 * 25).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "long.wav", noise, 44_100, subtype="FLOAT")
    info = SourceInfo()
    blocks = list(stream_audio(tmp_path / "long.wav", 16_000, info))
    assert len(blocks) > 2 and max(map(len, blocks)) < 16_000 * 11
    assert info.duration_seconds == pytest.approx(25.0, abs=1e-3) and not info.is_cut_short
    whole = soxr.resample(noise, 44_100, 16_000)
    assert np.abs(np.concatenate(blocks)[: len(whole)] - whole).max() < 1e-4


@pytest.mark.parametrize("n_samples", [1, 99, 100, 101, 149, 150, 151, 1234])
@pytest.mark.parametrize("n_blocks", [1, 3, 40])
def test_windows_cover_everything_once_cut(n_samples: int, n_blocks: int) -> None:
    samples = np.arange(n_samples, dtype=np.float32)
    windows = list(iter_windows(np.array_split(samples, n_blocks), window_samples=100, hop_samples=50))
    covered = np.zeros(n_samples, bool)
    for start, end, window in windows:
        covered[start:end] = True
        assert len(window) == 100
        assert (window[: end - start] == samples[start:end]).all()
    assert covered.all()
    assert len(windows) == max(1, -(-max(n_samples - 100, 0) // 50) + 1)


def test_short_clip_is_repeated_not_padded() -> None:
    (window,) = iter_windows([np.array([1, 2, 3], np.float32)], window_samples=8, hop_samples=4)
    assert window[:2] == (0, 3) and window[2].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
