"""A vocoded copy of a recording: the words and the voice stay, the waveform is made anew by a machine."""

import numpy as np
import torch

from .features import mel_filter_bank

N_FFT, HOP_LENGTH = 1024, 256
MOMENTUM = 0.99


def griffin_lim_copy(samples: np.ndarray, sample_rate: int, n_mels: int = 80, n_iterations: int = 32) -> np.ndarray:
    """Recording (samples,) -> mel-spectrogram -> waveform (samples,) by fast Griffin-Lim (Perraudin et al. 2013).

    The mel step blurs fine frequency detail and the phase is invented: the two losses that neural vocoders share.
    The level of the recording is kept.
    """
    bank = torch.from_numpy(mel_filter_bank(sample_rate, N_FFT, n_mels, 0.0, sample_rate / 2))
    window = torch.hann_window(N_FFT)
    waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))

    def analyse(x: torch.Tensor) -> torch.Tensor:
        return torch.stft(x, N_FFT, HOP_LENGTH, window=window, pad_mode="constant", return_complex=True)

    def synthesise(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=window, length=len(waveform))

    mel = bank @ analyse(waveform).abs()
    magnitude = (torch.linalg.pinv(bank) @ mel).clamp_min(0)
    angle = torch.exp(2j * torch.pi * torch.rand(magnitude.shape, generator=_seeded(samples)))
    previous = torch.zeros_like(angle)
    for _ in range(n_iterations):
        rebuilt = analyse(synthesise(magnitude * angle))
        angle = rebuilt - MOMENTUM / (1 + MOMENTUM) * previous
        angle = angle / angle.abs().clamp_min(1e-12)
        previous = rebuilt
    copy = synthesise(magnitude * angle).numpy()
    return copy * (np.sqrt(np.mean(samples**2)) / max(float(np.sqrt(np.mean(copy**2))), 1e-9))


def _seeded(samples: np.ndarray) -> torch.Generator:
    """The same recording always gives the same copy."""
    return torch.Generator().manual_seed(len(samples))
