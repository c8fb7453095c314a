"""Copies of a recording as machines make them: vocoded, or filtered to another voice."""

from functools import lru_cache

import numpy as np
import torch

from .features import mel_filter_bank

N_FFT, HOP_LENGTH = 1024, 256
MOMENTUM = 0.99
MAX_FILTER_NEPER = 2.3  # some 20 dB
MIN_DISTANCE_FRAMES = 12  # some 0.1 s, so that a frame does not take its neighbour's envelope


def griffin_lim_copy(samples: np.ndarray, sample_rate: int, n_mels: int = 80, n_iterations: int = 32) -> np.ndarray:
    """Recording (samples,) -> mel-spectrogram -> waveform (samples,) by fast Griffin-Lim (Perraudin et al. 2013).

    The mel step blurs fine frequency detail and the phase is invented: the two losses that neural vocoders share.
    The level of the recording is kept.
    """
    bank, inverse = _mel_basis(sample_rate, n_mels)
    window = torch.hann_window(N_FFT)
    waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))

    def analyse(x: torch.Tensor) -> torch.Tensor:
        return torch.stft(x, N_FFT, HOP_LENGTH, window=window, pad_mode="constant", return_complex=True)

    def synthesise(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=window, length=len(waveform))

    mel = bank @ analyse(waveform).abs()
    magnitude = (inverse @ mel).clamp_min(0)
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=_seeded(samples))
    angle = torch.polar(torch.ones_like(phase), phase)
    previous = torch.zeros_like(angle)
    for _ in range(n_iterations):
        rebuilt = analyse(synthesise(magnitude * angle))
        angle = torch.sgn(torch.sub(rebuilt, previous, alpha=MOMENTUM / (1 + MOMENTUM)))
        previous = rebuilt
    return _at_level_of(synthesise(magnitude * angle).numpy(), samples)


@lru_cache
def _mel_basis(sample_rate: int, n_mels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Filters (n_mels, bins) and their pseudo-inverse (bins, n_mels)."""
    bank = torch.from_numpy(mel_filter_bank(sample_rate, N_FFT, n_mels, 0.0, sample_rate / 2))
    return bank, torch.linalg.pinv(bank)


def filtered_copy(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Voice conversion by spectral filtering, as attacks A06 and A19 of ASVspoof 2019: no vocoder, the source's own phase.

    Each frame of (samples,) gets the spectral envelope of the frame that is most like it in another place of the recording,
    warped along frequency as another vocal tract would (Kobayashi et al. 2014 filter alike). Pitch and level stay.
    """
    n_fft, hop_length = 512, sample_rate // 125
    window = torch.hann_window(n_fft)
    waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    spectrum = torch.stft(waveform, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-4 * spectrum.abs().max() + 1e-9).log(), dim=0)
    shape = cepstrum[1 : int(rng.integers(20, 45))]  # without the level, and too smooth for the pitch to be in it
    n_frames = shape.shape[1]
    apart = (torch.arange(n_frames)[:, None] - torch.arange(n_frames)).abs()
    likeness = torch.cdist(shape.T, shape.T).masked_fill(apart < min(MIN_DISTANCE_FRAMES, n_frames // 3), torch.inf)
    other = shape[:, likeness.argmin(1)]
    warp = float(rng.uniform(0.85, 0.95) if rng.random() < 0.5 else rng.uniform(1.05, 1.18))
    places = (torch.arange(n_fft // 2 + 1) * warp).clamp_max(n_fft // 2).round().long()
    gain = _envelope(other, n_fft)[places] - _envelope(shape, n_fft)
    filtered = spectrum * gain.clamp(-MAX_FILTER_NEPER, MAX_FILTER_NEPER).exp()
    copy = torch.istft(filtered, n_fft, hop_length, window=window, length=len(waveform)).numpy()
    return _at_level_of(copy, samples)


def _envelope(cepstrum: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Cepstral coefficients from the first on (n, frames) -> log-magnitudes (bins, frames)."""
    quefrency = torch.arange(1, len(cepstrum) + 1)
    bins = torch.arange(n_fft // 2 + 1)
    return 2 * torch.cos(2 * torch.pi * bins[:, None] * quefrency / n_fft) @ cepstrum


def _at_level_of(copy: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return copy * (np.sqrt(np.mean(samples**2)) / max(float(np.sqrt(np.mean(copy**2))), 1e-9))


def _seeded(samples: np.ndarray) -> torch.Generator:
    """The same recording always gives the same copy."""
    return torch.Generator().manual_seed(len(samples))
