"""The mel-spectrogram front end: a module inside the model, so that training and inference cannot differ."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

AMIN_POWER = 1e-10  # librosa.power_to_db's floor

# "picture": zero mean, unit variance. Before that, "band" takes each mel band's mean over time away, and "contrast" each
# cell's surroundings: what is left is fine structure, in which microphone, room and corpus say little.
# "picture+contrast" shows the network both, as two channels. "colour" draws an RGB picture, 0..1.
NORMALISATIONS = ("picture", "band", "contrast", "picture+contrast", "colour")


@dataclass(frozen=True)
class FeatureConfig:
    """What a person chose about the front end. No defaults: every value is in the checkpoint's config.json."""

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    f_min_hz: float
    f_max_hz: float
    top_db: float
    normalise: str  # one of NORMALISATIONS
    contrast_mels: int  # bands and frames, odd: the surroundings that "contrast" takes away; 0 where it does not
    contrast_frames: int
    bands_per_row: int  # neighbouring bands that the network sees as channels of one row; 1: a row is a band
    picture_width: int  # pixels of the RGB picture; 0 without "colour", where a cell is a frame and a mel band
    picture_height: int
    window_seconds: float
    window_hop_seconds: float

    def __post_init__(self) -> None:
        assert self.normalise in NORMALISATIONS, self.normalise
        surroundings = (self.contrast_mels, self.contrast_frames)
        assert all(n > 0 and n % 2 for n in surroundings) if "contrast" in self.normalise else surroundings == (0, 0)
        assert self.bands_per_row > 0 and self.n_mels % self.bands_per_row == 0
        assert self.bands_per_row == 1 or not self.is_drawn
        assert (self.picture_width > 0) == (self.picture_height > 0) == self.is_drawn
        assert 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate / 2
        assert 0 < self.window_hop_seconds <= self.window_seconds and self.window_hop_samples > 0
        assert self.hop_length > 0 and self.top_db > 0

    @property
    def window_samples(self) -> int:
        return round(self.window_seconds * self.sample_rate)

    @property
    def window_hop_samples(self) -> int:
        return round(self.window_hop_seconds * self.sample_rate)

    @property
    def is_drawn(self) -> bool:
        """Whether the network sees an RGB picture, whose first row is that of the highest tones."""
        return self.normalise == "colour"

    @property
    def in_chans(self) -> int:
        """Channels of what the network sees."""
        return 3 if self.is_drawn else self.bands_per_row * (self.normalise.count("+") + 1)

    @property
    def rows(self) -> int:
        """Rows of what the network sees."""
        return self.picture_height or self.n_mels // self.bands_per_row


class MelSpectrogram(nn.Module):
    """Waveform (batch, samples) -> normalised log-mel picture (batch, in_chans, rows, columns).

    `decibels` equals librosa.power_to_db(librosa.feature.melspectrogram(...)): Hann window, zero-padded centred
    frames, Slaney scale and area norm. Arithmetic is float32 even under autocast.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        bank = mel_filter_bank(config.sample_rate, config.n_fft, config.n_mels, config.f_min_hz, config.f_max_hz)
        self.register_buffer("filter_bank", torch.from_numpy(bank), persistent=False)
        self.register_buffer("hann", torch.hann_window(config.n_fft), persistent=False)
        if config.is_drawn:
            self.register_buffer("colours", _colours("magma"), persistent=False)

    def power(self, waveform: torch.Tensor) -> torch.Tensor:
        """Mel power (batch, n_mels, frames) of a waveform (batch, samples)."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(),
                self.config.n_fft,
                self.config.hop_length,
                window=self.hann,
                pad_mode="constant",  # librosa's; torch's own default mirrors the signal at the edges
                return_complex=True,
            )
            return self.filter_bank @ (spectrum.real.square() + spectrum.imag.square())

    def decibels(self, waveform: torch.Tensor) -> torch.Tensor:
        """Mel power in dB, cut off `top_db` below each picture's loudest cell: (batch, n_mels, frames)."""
        level_db = 10.0 * torch.log10(self.power(waveform).clamp_min(AMIN_POWER))
        return torch.maximum(level_db, level_db.amax((1, 2), keepdim=True) - self.config.top_db)

    def normalise(self, level_db: torch.Tensor) -> torch.Tensor:
        """dB (batch, n_mels, frames) -> what the network sees; the recording level has no influence."""
        if self.config.is_drawn:
            return self.draw(level_db).float() / 255
        kinds = [_standardise(self._without(kind, level_db)) for kind in self.config.normalise.split("+")]
        rows = torch.stack(kinds, dim=1).unflatten(2, (self.config.rows, self.config.bands_per_row))
        return rows.transpose(2, 3).flatten(1, 2)  # a kind's bands of one row are channels side by side

    def draw(self, level_db: torch.Tensor) -> torch.Tensor:
        """dB (batch, n_mels, frames) -> RGB pictures (batch, 3, picture_height, picture_width), uint8.

        The loudest cell of each picture has the last colour, a cell `top_db` below it the first; high tones are at the
        top. Cells are enlarged without blending, as librosa.display.specshow paints them.
        """
        above_floor = 1 + (level_db - level_db.amax((1, 2), keepdim=True)) / self.config.top_db
        colours = self.colours[(above_floor * len(self.colours)).long().clamp(0, len(self.colours) - 1)]
        cells = colours.permute(0, 3, 1, 2).flip(2)
        size = (self.config.picture_height, self.config.picture_width)
        return nn.functional.interpolate(cells, size, mode="nearest-exact")

    def on_mels(self, heat: torch.Tensor) -> torch.Tensor:
        """A map over what the network sees (batch, rows, columns) -> over mel bands (batch, n_mels, columns)."""
        if not self.config.is_drawn:
            return heat.repeat_interleave(self.config.bands_per_row, dim=1)
        size = (self.config.n_mels, heat.shape[2])
        return nn.functional.interpolate(heat.flip(1).unsqueeze(1), size, mode="area").squeeze(1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.decibels(waveform))

    def _without(self, kind: str, level_db: torch.Tensor) -> torch.Tensor:
        """dB (batch, n_mels, frames) less what a kind of normalisation takes away."""
        if kind == "band":
            return level_db - level_db.mean(2, keepdim=True)
        return level_db - self._surroundings(level_db) if kind == "contrast" else level_db

    def _surroundings(self, level_db: torch.Tensor) -> torch.Tensor:
        """Mean around each cell, edges repeated outwards: (batch, n_mels, frames)."""
        size = (self.config.contrast_mels, self.config.contrast_frames)
        rows, columns = (n // 2 for n in size)
        padded = nn.functional.pad(level_db.unsqueeze(1), (columns, columns, rows, rows), mode="replicate")
        in_columns = nn.functional.avg_pool2d(padded, (size[0], 1), stride=1)  # in two steps, a third of the time
        return nn.functional.avg_pool2d(in_columns, (1, size[1]), stride=1).squeeze(1)


def _standardise(cells: torch.Tensor) -> torch.Tensor:
    mean, std = cells.mean((1, 2), keepdim=True), cells.std((1, 2), keepdim=True)
    return (cells - mean) / (std + 1e-3)


def _colours(name: str) -> torch.Tensor:
    """A colour map of matplotlib as a table (256, 3), uint8."""
    from matplotlib import colormaps  # not at the top: most checkpoints draw no picture

    return torch.from_numpy(colormaps[name](np.arange(256), bytes=True)[:, :3].copy())


def hz_to_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above."""
    hz = np.asarray(frequency_hz, dtype=np.float64)
    return np.where(hz < 1000.0, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1e-9) / 1000) * 27 / np.log(6.4))


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


def mel_filter_bank(sample_rate: int, n_fft: int, n_mels: int, f_min_hz: float, f_max_hz: float) -> np.ndarray:
    """Triangular filters of equal area, float32 (n_mels, n_fft // 2 + 1); equals librosa.filters.mel."""
    bins_hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    edges_hz = mel_to_hz(np.linspace(hz_to_mel(f_min_hz), hz_to_mel(f_max_hz), n_mels + 2))
    widths_hz = np.diff(edges_hz)
    ramps = edges_hz[:, None] - bins_hz
    rising, falling = -ramps[:-2] / widths_hz[:-1, None], ramps[2:] / widths_hz[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges_hz[2:] - edges_hz[:-2]))[:, None]).astype(np.float32)


class MelOverview:
    """The mel-spectrogram of a recording of any length, for display: blocks in, at most `MAX_COLUMNS` columns out."""

    MAX_COLUMNS = 2048

    def __init__(self, front_end: MelSpectrogram) -> None:
        self._front_end = front_end
        self._power = np.zeros((front_end.config.n_mels, 0), np.float32)
        self._frames_per_column = 1
        self._pending = np.zeros(0, np.float32)  # samples that do not fill a column yet

    @property
    def columns(self) -> int:
        return self._power.shape[1]

    def feed(self, block: np.ndarray) -> None:
        """Add a block of samples; a frame that straddles two blocks sees only its own."""
        hop_length = self._front_end.config.hop_length
        block = np.concatenate((self._pending, block))
        n_columns = len(block) // (hop_length * self._frames_per_column)
        n_frames = n_columns * self._frames_per_column
        self._pending = block[n_frames * hop_length :]
        if n_columns == 0:
            return
        waveform = torch.from_numpy(block[: n_frames * hop_length])[None].to(self._front_end.hann.device)
        with torch.inference_mode():
            power = self._front_end.power(waveform)[0, :, :n_frames].cpu().numpy()
        self._power = np.concatenate((self._power, self._merge(power, self._frames_per_column)), axis=1)
        while self.columns > self.MAX_COLUMNS:
            even = self.columns // 2 * 2
            self._power = self._merge(self._power[:, :even], 2)
            self._frames_per_column *= 2

    def decibels(self) -> np.ndarray:
        """dB relative to the loudest cell, cut off `top_db` below it: (n_mels, columns)."""
        level_db = 10 * np.log10(np.maximum(self._power, AMIN_POWER))
        level_db -= level_db.max(initial=-np.inf) if level_db.size else 0
        return np.maximum(level_db, -self._front_end.config.top_db)

    @staticmethod
    def _merge(power: np.ndarray, factor: int) -> np.ndarray:
        return power.reshape(len(power), -1, factor).max(2)
