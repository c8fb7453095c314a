"""Training items: one window of one clip, augmented; drawn so that no system and no corpus answers for a label."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio import fill_window, load_audio
from ..model import BONAFIDE, SPOOF
from ..resynthesis import griffin_lim_copy
from .augment import AugmentConfig, Noises, augment
from .manifest import Clip

Draw = tuple[int, int, bool]  # (clip index, seed of the item, make a vocoded copy of it)


class TrainingWindows(Dataset):
    """Draws -> (waveform (crop_samples,), label, source). The same draw always gives the same item, in any process.

    `source` numbers what made the clip: its system, for bona fide its corpus; vocoded copies have a number of their own.
    """

    def __init__(
        self, clips: list[Clip], sample_rate: int, crop_samples: int, config: AugmentConfig, noises: Noises | None
    ) -> None:
        self.clips, self.sample_rate, self.crop_samples = clips, sample_rate, crop_samples
        self.config, self.noises = config, noises
        names = sorted({_source(clip) for clip in clips})
        self._source_numbers = {name: number for number, name in enumerate(names)}
        self.n_sources = len(names) + 1

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, int, int]:
        index, seed, vocode = draw
        clip, rng = self.clips[index], np.random.default_rng(seed)
        samples = random_window(load_audio(clip.path, self.sample_rate), self.crop_samples, rng)
        if vocode:
            n_mels, n_iterations = int(rng.choice([60, 80, 100, 128])), int(rng.integers(8, 33))
            samples = griffin_lim_copy(samples, self.sample_rate, n_mels, n_iterations)
        samples = augment(samples, self.sample_rate, self.config, self.noises, rng)
        waveform = torch.from_numpy(fill_window(samples, self.crop_samples).astype(np.float32))
        if vocode:
            return waveform, SPOOF, self.n_sources - 1
        return waveform, clip.label, self._source_numbers[_source(clip)]

    def __len__(self) -> int:
        return len(self.clips)


def random_window(samples: np.ndarray, window_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random stretch of at most a window, now and then a shorter one, because users' clips are short too."""
    longest = min(len(samples), window_samples)
    length = int(longest * rng.uniform(0.35, 1.0)) if rng.random() < 0.25 else longest
    start = int(rng.integers(0, len(samples) - length + 1))
    return samples[start : start + length]


class BalancedBatches:
    """Batch sampler: half of each batch bona fide, the rest spoofed, of which `n_copies` are vocoded copies of the
    batch's own bona fide clips (only the vocoding tells such a pair apart).

    Within a label a clip's chance falls with the square root of its group's size (system for spoofs, corpus for bona
    fide). Epoch e of a seed is always the same list; `skip` batches of it can be left out to resume.
    """

    def __init__(self, clips: list[Clip], batch_size: int, n_copies: int, seed: int) -> None:
        self.batch_size, self.n_copies, self.seed, self.n_clips = batch_size, n_copies, seed, len(clips)
        self.epoch = self.skip = 0
        self._pools = {label: _pool(clips, label) for label in (BONAFIDE, SPOOF)}

    def __len__(self) -> int:
        return max(1, self.n_clips // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for number in range(len(self)):
            bonafide = self._draw(BONAFIDE, self.batch_size // 2, rng)
            spoofed = self._draw(SPOOF, self.batch_size - len(bonafide) - self.n_copies, rng)
            batch = [(index, False) for index in bonafide + spoofed]
            batch += [(index, True) for index in bonafide[: self.n_copies]]
            seeds = rng.integers(2**62, size=len(batch))
            if number >= self.skip:
                yield [(index, int(seed), vocode) for (index, vocode), seed in zip(batch, seeds, strict=True)]

    def _draw(self, label: int, n: int, rng: np.random.Generator) -> list[int]:
        indices, weights = self._pools[label]
        return [int(index) for index in rng.choice(indices, size=n, p=weights)]


def _pool(clips: list[Clip], label: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip indices of a label and their chances."""
    indices = [i for i, clip in enumerate(clips) if clip.label == label]
    groups = [_source(clips[i]) for i in indices]
    sizes = Counter(groups)
    weights = np.array([sizes[group] ** -0.5 for group in groups])
    return np.array(indices), weights / weights.sum()


def _source(clip: Clip) -> tuple[int, str]:
    """Where a clip comes from: the corpus of a bona fide one, the system of a spoofed one."""
    return clip.label, clip.corpus if clip.label == BONAFIDE else clip.system
