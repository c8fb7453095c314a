"""Training items: one window of one clip, augmented; drawn so that no system and no corpus answers for a label."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio import fill_window, load_audio
from ..model import BONAFIDE, SPOOF
from ..resynthesis import filtered_copy, griffin_lim_copy, spliced_copy
from .augment import AugmentConfig, Noises, augment
from .manifest import UNKNOWN, Clip, DataError, real_path

Draw = tuple[int, int, bool]  # (clip index, seed of the item, make a copy of it)

MAX_LEAD_SAMPLES = 256  # a hop of the longest frames that copies are made in


class TrainingWindows(Dataset):
    """Draws -> (waveform (crop_samples,), label). The same draw always gives the same item, in any process."""

    def __init__(
        self, clips: list[Clip], sample_rate: int, crop_samples: int, config: AugmentConfig, noises: Noises | None
    ) -> None:
        self.clips, self.sample_rate, self.crop_samples = clips, sample_rate, crop_samples
        self.config, self.noises = config, noises

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, int]:
        index, seed, copy = draw
        clip, rng = self.clips[index], np.random.default_rng(seed)
        samples = random_window(load_audio(clip.path, self.sample_rate), self.crop_samples, rng)
        if copy:
            samples = random_copy(samples, self.sample_rate, rng)
        samples = augment(samples, self.sample_rate, self.config, self.noises, rng)
        waveform = torch.from_numpy(fill_window(samples, self.crop_samples).astype(np.float32))
        return waveform, SPOOF if copy else clip.label

    def __len__(self) -> int:
        return len(self.clips)


def random_copy(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """What a machine makes of a recording (samples,): as often filtered to another voice, spliced anew, or vocoded.

    Its frames start anywhere, as a stranger's do: on the grid of the model's own frames every copy would look alike.
    """
    n_lead = int(rng.integers(MAX_LEAD_SAMPLES))
    return _copy(np.pad(samples, (n_lead, 0), mode="reflect"), sample_rate, rng)[n_lead:]


def _copy(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    kind = rng.integers(3)
    if kind == 0:
        return filtered_copy(samples, sample_rate, rng)
    if kind == 1:
        return spliced_copy(samples, sample_rate, rng)
    own_phase, n_mels = bool(rng.integers(2)), int(rng.choice([60, 80, 100, 128]))
    n_iterations = int(rng.integers(1, 9) if own_phase else rng.integers(8, 33))
    return griffin_lim_copy(samples, sample_rate, n_mels, n_iterations, own_phase, seed=int(rng.integers(2**62)))


def random_window(samples: np.ndarray, window_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random stretch of at most a window, now and then a shorter one, because users' clips are short too."""
    longest = min(len(samples), window_samples)
    length = int(longest * rng.uniform(0.35, 1.0)) if rng.random() < 0.25 else longest
    start = int(rng.integers(0, len(samples) - length + 1))
    return samples[start : start + length]


class BalancedBatches:
    """Batch sampler: a bona fide half, then a spoofed half whose item i is the partner of the first half's item i.

    The first `n_copies` partners are copies of the bona fide clip itself: only what a machine did to it tells them apart.
    They are made on the spot (`random_copy`), or as often each of those that the data set holds (`Clip.original`), which
    are drawn for nothing else; a copy whose recording is missing is a spoof like any other. Of the rest, `place_share` are
    pairs from one place (a corpus or a demo page that has both kinds), so that neither corpus nor page answers for the
    label; spoofs of a corpus without recordings are in none, for there the voice would answer. The others are drawn freely,
    each label by itself. A corpus's chance, like a place's, grows with the square root of its size, a system's within its
    corpus too; spoofs of unknown corpora count as one corpus a system. Epoch e of a seed is always the same list; `skip`
    batches of it can be left out to resume. Raises DataError if all spoofs are copies of recordings that are there.
    """

    def __init__(self, clips: list[Clip], batch_size: int, n_copies: int, place_share: float, seed: int) -> None:
        self.half, self.n_copies, self.seed = batch_size // 2, n_copies, seed
        if self.half < n_copies:
            raise DataError(f"A batch of {batch_size} has no room for {n_copies} recordings and their copies.")
        self.epoch = self.skip = 0
        self._copies = _copies(clips)
        copies = {index for held in self._copies.values() for index in held}
        free = [index for index in range(len(clips)) if index not in copies]
        if all(clips[index].label == BONAFIDE for index in free):
            raise DataError(
                "Every spoofed clip to train on is a copy of a real one that is there; others are needed too."
            )
        self.n_batches = max(1, len(free) // batch_size)
        self._pools = {label: _pool(clips, free, label) for label in (BONAFIDE, SPOOF)}
        self._places = _places(clips, free)
        self._place_chances = _chances([min(len(reals), len(fakes)) ** 0.5 for reals, fakes in self._places])
        self.n_place_pairs = round(place_share * (self.half - n_copies)) if self._places else 0

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for number in range(len(self)):
            copied = self._draw(BONAFIDE, self.n_copies, rng)
            copies = [self._draw_copy(index, rng) for index in copied]
            pairs = [self._draw_pair(rng) for _ in range(self.n_place_pairs)]
            n_free = self.half - len(copied) - len(pairs)
            bonafide = copied + [real for real, _ in pairs] + self._draw(BONAFIDE, n_free, rng)
            spoofed = [fake for _, fake in pairs] + self._draw(SPOOF, n_free, rng)
            batch = [(index, False) for index in bonafide] + copies + [(index, False) for index in spoofed]
            seeds = rng.integers(2**62, size=len(batch))
            if number >= self.skip:
                yield [(index, int(seed), copy) for (index, copy), seed in zip(batch, seeds, strict=True)]

    def _draw(self, label: int, n: int, rng: np.random.Generator) -> list[int]:
        indices, chances = self._pools[label]
        return [int(index) for index in rng.choice(indices, size=n, p=chances)]

    def _draw_copy(self, index: int, rng: np.random.Generator) -> tuple[int, bool]:
        """(clip, copy it now?) for a copy of a bona fide clip, each of its copies with the same chance."""
        held = self._copies.get(index, [])
        choice = int(rng.integers(len(held) + 1))
        return (index, True) if choice == len(held) else (held[choice], False)

    def _draw_pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """A bona fide and a spoofed clip of one place."""
        reals, fakes = self._places[rng.choice(len(self._places), p=self._place_chances)]
        return int(rng.choice(reals)), int(rng.choice(fakes))


def _copies(clips: list[Clip]) -> dict[int, list[int]]:
    """Index of a recording -> indices of the copies that the data set holds."""
    index_of = {real_path(clip.path): i for i, clip in enumerate(clips) if clip.label == BONAFIDE}
    copies: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        if clip.label == SPOOF and clip.original and real_path(clip.original) in index_of:
            copies.setdefault(index_of[real_path(clip.original)], []).append(i)
    return copies


def _pool(clips: list[Clip], free: list[int], label: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the free clips' indices that have a label, and their chances."""
    indices = [i for i in free if clips[i].label == label]
    sources = [_source(clips[i]) for i in indices]
    sizes, corpus_sizes, corpus_weights = Counter(sources), Counter(corpus for corpus, _ in sources), Counter()
    for (corpus, _), size in sizes.items():
        corpus_weights[corpus] += size**0.5
    weights = [corpus_sizes[source[0]] ** 0.5 / corpus_weights[source[0]] / sizes[source] ** 0.5 for source in sources]
    return np.array(indices), _chances(weights)


def _places(clips: list[Clip], free: list[int]) -> list[tuple[list[int], list[int]]]:
    """Indices of the bona fide and of the spoofed clips of each corpus and each page that has both."""
    usable = {UNKNOWN, *(clips[i].corpus for i in free if clips[i].label == BONAFIDE)}
    places: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for i in free:
        clip = clips[i]
        if clip.corpus not in usable:
            continue
        for place in (("corpus", clip.corpus), ("page", clip.page)):
            if place[1] not in ("", UNKNOWN):
                places.setdefault(place, ([], []))[clip.label].append(i)
    return [(reals, fakes) for reals, fakes in places.values() if reals and fakes]


def _chances(weights: list[float]) -> np.ndarray:
    return np.array(weights) / np.sum(weights)


def _source(clip: Clip) -> tuple[str, str]:
    """Where a clip comes from: its corpus, or the system where no corpus is known; and the system."""
    return clip.system if clip.corpus == UNKNOWN else clip.corpus, clip.system
