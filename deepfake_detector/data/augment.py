"""Waveform augmentation: what phones, rooms and the internet do to a voice, whoever or whatever spoke."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..audio import MIN_SECONDS, AudioError, load_audio

CODECS = (  # (container, subtype, sample rates in Hz); soundfile's compression level is drawn at random
    ("MP3", "MPEG_LAYER_III", (16000, 22050, 44100)),
    ("OGG", "VORBIS", (16000, 22050, 44100)),
    ("OGG", "OPUS", (8000, 12000, 16000, 24000, 48000)),
    ("WAV", "ULAW", (8000,)),
    ("WAV", "ALAW", (8000,)),
)


@dataclass(frozen=True)
class AugmentConfig:
    """Chance of each step (0..1) and its range."""

    equaliser: float
    room: float
    noise: float
    noise_snr_db: tuple[float, float]
    clip: float
    low_pass: float
    codec: float
    gain_db: tuple[float, float]


class Noises:
    """Noise, music and room responses listed in a CSV of `path,kind`; held in memory."""

    def __init__(self, listing: Path, sample_rate: int) -> None:
        self.noises: list[np.ndarray] = []
        self.rooms: list[np.ndarray] = []
        if not listing.is_file():
            raise AudioError(f"There is no noise listing at {listing}.")
        with open(listing, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"path", "kind"} <= rows[0].keys():
            raise AudioError(f"{listing} needs a header with the columns path,kind and at least one row.")
        for row in rows:
            if row.get("seconds") and float(row["seconds"]) < MIN_SECONDS:
                continue  # a click; listed lengths keep a damaged file from passing as a short one
            samples = load_audio(listing.parent / row["path"], sample_rate)
            (self.rooms if row["kind"] == "rir" else self.noises).append(samples)


def augment(
    samples: np.ndarray, sample_rate: int, config: AugmentConfig, noises: Noises | None, rng: np.random.Generator
) -> np.ndarray:
    """A new array (samples,), the chain in the order in which the world applies it: source, room, device, codec."""
    if rng.random() < config.equaliser:
        samples = equalise(samples, rng)
    if noises and noises.rooms and rng.random() < config.room:
        samples = reverberate(samples, noises.rooms[rng.integers(len(noises.rooms))], rng)
    if rng.random() < config.noise:
        samples = add_noise(samples, _draw_noise(len(samples), noises, rng), rng.uniform(*config.noise_snr_db))
    if rng.random() < config.clip:
        samples = overdrive(samples, rng.uniform(1.0, 4.0))
    if rng.random() < config.low_pass:
        samples = through_rate(samples, sample_rate, int(rng.integers(7000, 15500)))
    samples = at_level(samples, rng.uniform(*config.gain_db))
    if rng.random() < config.codec:
        samples = through_codec(samples, sample_rate, rng)
    return samples


def equalise(samples: np.ndarray, rng: np.random.Generator, n_points: int = 8, range_db: float = 9.0) -> np.ndarray:
    """A smooth random frequency response, as of another microphone."""
    spectrum = np.fft.rfft(samples)
    points_db = rng.uniform(-range_db, range_db, n_points)
    curve_db = np.interp(np.linspace(0, n_points - 1, len(spectrum)), np.arange(n_points), points_db)
    return np.fft.irfft(spectrum * 10 ** (curve_db / 20), len(samples)).astype(np.float32)


def reverberate(samples: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a room response, its decay shortened at random; the length and the onset are kept."""
    onset = int(np.argmax(np.abs(room)))
    response = room[onset : onset + 16000] * np.exp(-np.arange(min(16000, len(room) - onset)) / rng.uniform(800, 8000))
    n = len(samples) + len(response)
    wet = np.fft.irfft(np.fft.rfft(samples, n) * np.fft.rfft(response, n), n)[: len(samples)]
    return (wet / max(float(np.abs(response).max()), 1e-9)).astype(np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Mix noise (samples,) at a signal-to-noise ratio in dB."""
    signal_power, noise_power = np.mean(samples**2), np.mean(noise**2)
    scale = np.sqrt(signal_power / max(float(noise_power), 1e-12) / 10 ** (snr_db / 10))
    return (samples + scale * noise).astype(np.float32)


def overdrive(samples: np.ndarray, drive: float) -> np.ndarray:
    """Cut the peaks off as an overloaded microphone does."""
    peak = max(float(np.abs(samples).max()), 1e-9)
    return np.clip(samples * drive, -peak, peak)


def through_rate(samples: np.ndarray, sample_rate: int, other_rate: int) -> np.ndarray:
    """Resample to another rate and back, which cuts the band at half the lower rate."""
    back = soxr.resample(soxr.resample(samples, sample_rate, other_rate), other_rate, sample_rate)
    return np.resize(back, len(samples))


def at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """Bring the peak to a level in dB relative to full scale."""
    return samples * np.float32(10 ** (level_db / 20) / max(float(np.abs(samples).max()), 1e-9))


def through_codec(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Encode and decode with a random codec, rate and quality; length kept, codec delay left in."""
    container, subtype, rates = CODECS[rng.integers(len(CODECS))]
    rate = int(rng.choice(rates))
    file = io.BytesIO()
    level = {"compression_level": float(rng.uniform(0.2, 0.99))} if container != "WAV" else {}
    soundfile.write(file, soxr.resample(samples, sample_rate, rate), rate, format=container, subtype=subtype, **level)
    file.seek(0)
    decoded, decoded_rate = soundfile.read(file, dtype="float32")
    return np.resize(soxr.resample(decoded, decoded_rate, sample_rate), len(samples))


def _draw_noise(n_samples: int, noises: Noises | None, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a listed noise, or coloured noise if there is none or by a coin's chance."""
    if noises and noises.noises and rng.random() < 0.75:
        noise = noises.noises[rng.integers(len(noises.noises))]
        return noise.take(np.arange(n_samples) + rng.integers(len(noise)), mode="wrap")
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0.0, 0.5), n_samples)
