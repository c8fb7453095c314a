"""Copies of a recording as machines make them: vocoded, filtered to another voice, or spliced together anew."""

from functools import lru_cache

import numpy as np
import torch

from .features import mel_filter_bank

N_FFT, HOP_LENGTH = 1024, 256
MOMENTUM = 0.99
MAX_FILTER_NEPER = 2.3  # some 20 dB
MIN_DISTANCE_FRAMES = 12  # some 0.1 s, so that a frame does not take its neighbour's envelope


def griffin_lim_copy(
    samples: np.ndarray,
    sample_rate: int,
    n_mels: int = 80,
    n_iterations: int = 32,
    own_phase: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Recording (samples,) -> mel-spectrogram -> waveform (samples,) by fast Griffin-Lim (Perraudin et al. 2013).

    The mel step blurs fine frequency detail and the phase is invented: the two losses that neural vocoders share.
    With `own_phase` it starts from the recording's instead, as the best of them come close to it. The level is kept. The
    invented phase shows in the copy, so copies to learn from need a `seed` each.
    """
    bank, inverse = _mel_basis(sample_rate, n_mels)
    window = torch.hann_window(N_FFT)
    waveform = _waveform(samples)

    def analyse(x: torch.Tensor) -> torch.Tensor:
        return _spectrum(x, N_FFT, HOP_LENGTH, window)

    def synthesise(spectrum: torch.Tensor) -> torch.Tensor:
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=window, length=len(waveform))

    original = analyse(waveform)
    magnitude = (inverse @ (bank @ original.abs())).clamp_min(0)
    angle = torch.sgn(original) if own_phase else _invented_phase(magnitude, seed)
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
    spectrum = _spectrum(_waveform(samples), n_fft, hop_length, window)
    smooth = int(rng.integers(20, 45))  # coefficients: too few for the pitch to be in them
    shape = _cepstrum(spectrum)[1:smooth]  # without the level
    other = shape[:, _unlikeness(shape).argmin(1)]
    warp = float(rng.uniform(0.85, 0.95) if rng.random() < 0.5 else rng.uniform(1.05, 1.18))
    places = (torch.arange(n_fft // 2 + 1) * warp).clamp_max(n_fft // 2).round().long()
    gain = _envelope(other, n_fft)[places] - _envelope(shape, n_fft)
    filtered = spectrum * gain.clamp(-MAX_FILTER_NEPER, MAX_FILTER_NEPER).exp()
    copy = torch.istft(filtered, n_fft, hop_length, window=window, length=len(samples)).numpy()
    return _at_level_of(copy, samples)


def spliced_copy(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Concatenative synthesis by unit selection (Hunt & Black 1996), as attacks A04 and A16 of ASVspoof 2019.

    Each unit of 40 to 160 ms of (samples,) is replaced by the one that is most like it in another place of the recording,
    joined where the two waveforms fit best and faded over 4 ms. Level and length stay.
    """
    n_fft, hop_length = 512, sample_rate // 125
    shortest, longest, n_fade = 5, 20, hop_length // 2  # frames, frames, samples
    cepstrum = _cepstrum(_spectrum(_waveform(samples), n_fft, hop_length, torch.hann_window(n_fft)))
    unlikeness = _unlikeness(cepstrum[:25]).numpy()
    sound = np.pad(samples, (0, (longest + 3) * hop_length))  # so that every unit can be cut whole
    out, fade_in, frame = sound.copy(), np.linspace(0, 1, n_fade, dtype=np.float32), 0
    while frame < len(unlikeness):
        n_frames = min(int(rng.integers(shortest, longest + 1)), len(unlikeness) - frame)
        n_places = len(unlikeness) - n_frames + 1
        costs = sum(unlikeness[frame + k, k : k + n_places] for k in range(n_frames))
        place, start = int(costs.argmin()) * hop_length, frame * hop_length
        before = out[start : start + n_fade].copy()  # how the unit before goes on
        place += _best_joint(sound[place : place + 2 * hop_length + n_fade], before)
        n_unit = n_frames * hop_length + n_fade
        out[start : start + n_unit] = sound[place : place + n_unit]
        out[start : start + n_fade] += (1 - fade_in) * (before - out[start : start + n_fade])
        frame += n_frames
    return _at_level_of(out[: len(samples)], samples)


def _best_joint(sound: np.ndarray, before: np.ndarray) -> int:
    """The offset at which a stretch of sound is nearest to a shorter one."""
    stretches = np.lib.stride_tricks.sliding_window_view(sound, len(before))
    return int(np.square(stretches - before).sum(axis=1).argmin())


def _waveform(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))


def _spectrum(waveform: torch.Tensor, n_fft: int, hop_length: int, window: torch.Tensor) -> torch.Tensor:
    """(samples,) -> complex (bins, frames)."""
    return torch.stft(waveform, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)


def _cepstrum(spectrum: torch.Tensor) -> torch.Tensor:
    """Spectrum (bins, frames) -> real cepstrum (quefrencies, frames), whose first row is the level."""
    return torch.fft.irfft((spectrum.abs() + 1e-4 * spectrum.abs().max() + 1e-9).log(), dim=0)


def _unlikeness(shape: torch.Tensor) -> torch.Tensor:
    """Distances (frames, frames) between the columns of (coefficients, frames), infinite between those near in time."""
    n_frames = shape.shape[1]
    apart = (torch.arange(n_frames)[:, None] - torch.arange(n_frames)).abs()
    return torch.cdist(shape.T, shape.T).masked_fill(apart < min(MIN_DISTANCE_FRAMES, n_frames // 3), torch.inf)


def _envelope(cepstrum: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Cepstral coefficients from the first on (n, frames) -> log-magnitudes (bins, frames)."""
    quefrency = torch.arange(1, len(cepstrum) + 1)
    bins = torch.arange(n_fft // 2 + 1)
    return 2 * torch.cos(2 * torch.pi * bins[:, None] * quefrency / n_fft) @ cepstrum


def _at_level_of(copy: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return copy * (np.sqrt(np.mean(samples**2)) / max(float(np.sqrt(np.mean(copy**2))), 1e-9))


def _invented_phase(magnitude: torch.Tensor, seed: int) -> torch.Tensor:
    """Random complex numbers of length 1 in the shape of the magnitude."""
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed))
    return torch.polar(torch.ones_like(phase), phase)
