"""The picture set of the first recipe: mel-spectrograms of recordings and of augmented copies, as RGB PNGs in a folder.

`plan_pictures` says what is drawn, `make_pictures` draws it with the model's own front end, `random_split` and
`disjoint_split` divide it, `Pictures` reads it. The same plan always gives the same files.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor
from tqdm import tqdm

from ..audio import AudioError, fill_window, load_audio
from ..features import FeatureConfig, MelSpectrogram
from ..files import StorageError, csv_text, write_whole
from ..interrupt import killed_workers_told
from ..model import BONAFIDE, SPOOF
from .augment import AugmentConfig, augment
from .manifest import Clip, DataError, refuse

PICTURE_FOLDER = "pictures"
LABELS_FILE = "updated_labels.csv"
SETTINGS_FILE = "picture_settings.json"
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
SPLIT_TRIALS = 200


@dataclass(frozen=True)
class SetSize:
    """How many pictures are drawn, and from how many bona fide recordings."""

    bonafide_clips: int
    bonafide_pictures: int
    spoof_pictures: int

    def scaled(self, clips: list[Clip]) -> "SetSize":
        """The size for another data set, by its share of the bona fide clips; never more spoofs than it has."""
        n_bonafide = sum(clip.label == BONAFIDE for clip in clips)
        share = n_bonafide / self.bonafide_clips
        n_spoof = min(round(self.spoof_pictures * share), len(clips) - n_bonafide)
        return SetSize(n_bonafide, round(self.bonafide_pictures * share), n_spoof)


@dataclass(frozen=True)
class Picture:
    """One PNG of the set: its file below the set's folder, the recording, and which copy of it (0: as recorded)."""

    file: str
    clip: Clip
    copy: int
    seed: int  # of the copy's augmentation

    @property
    def label(self) -> int:
        return self.clip.label


Split = dict[str, list[Picture]]  # by the names in SHARES


def plan_pictures(clips: list[Clip], size: SetSize, seed: int) -> list[Picture]:
    """What is drawn of these clips: every bona fide one and augmented copies of it in turn, and some of the spoofs.

    Which clips get one copy more than others, and which spoofs are drawn, is the seed's choice.
    """
    size, rng = size.scaled(clips), np.random.default_rng(seed)
    bonafide, spoofed = (
        [clips[i] for i in rng.permutation([i for i, clip in enumerate(clips) if clip.label == label])]
        for label in (BONAFIDE, SPOOF)
    )
    drawn = [(bonafide[i % len(bonafide)], i // len(bonafide)) for i in range(size.bonafide_pictures)]
    drawn += [(clip, 0) for clip in spoofed[: size.spoof_pictures]]
    seeds = rng.integers(2**31, size=len(drawn))
    return [
        Picture(f"{PICTURE_FOLDER}/{number:05d}.png", clip, copy, int(one_seed))
        for number, ((clip, copy), one_seed) in enumerate(zip(drawn, seeds, strict=True))
    ]


def make_pictures(
    pictures: list[Picture], folder: Path, features: FeatureConfig, augmentation: AugmentConfig, n_workers: int
) -> None:
    """Draw the pictures and their label file into a folder, in `n_workers` processes; files that are there are kept.

    Raises DataError if the folder holds another set, or naming every recording that cannot be drawn; and WorkerKilled.
    """
    settings = json.dumps({"features": asdict(features), "augmentation": asdict(augmentation)}, indent=2) + "\n"
    for name, text in ((SETTINGS_FILE, settings), (LABELS_FILE, labels_csv(pictures))):
        if not (folder / name).is_file():
            write_whole(folder / name, text)
        elif (folder / name).read_bytes() != text.encode():
            raise DataError(f"{folder} holds pictures of other data, another seed or other settings; choose another.")
    missing = [picture for picture in pictures if not (folder / picture.file).is_file()]
    painter = Painter(missing, folder, features, augmentation)
    done = tqdm(DataLoader(painter, batch_size=None, num_workers=n_workers), "drawing pictures", leave=False)
    faults = {}
    with killed_workers_told():
        for fault in done:
            if isinstance(fault, StorageError):  # the next picture would meet the same
                raise fault
            if fault:
                faults[fault] = None  # once, however many pictures a recording has
    refuse(list(faults), " recordings cannot be drawn")


def labels_csv(pictures: list[Picture]) -> str:
    """`updated_labels.csv`: Real = 0, Spoofed = 1, and where each picture comes from."""
    rows = []
    for picture in pictures:
        clip = picture.clip
        rows.append((picture.file, clip.label, clip.path.stem, clip.group, clip.system, picture.copy, picture.seed))
    return csv_text(("file", "label", "utterance", "speaker", "system", "copy", "seed"), rows)


class Painter(Dataset):
    """Draws picture number i into its file and gives "", or what is wrong with the recording or the storage."""

    def __init__(
        self, pictures: list[Picture], folder: Path, features: FeatureConfig, augmentation: AugmentConfig
    ) -> None:
        self.pictures, self.folder, self.augmentation = pictures, folder, augmentation
        self.front_end = MelSpectrogram(features)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> str | StorageError:
        picture = self.pictures[index]
        try:
            write_whole(self.folder / picture.file, self.png(picture))
        except AudioError as error:
            return f"{picture.clip.path.parent}: {error}"
        except StorageError as error:  # no room left, or a folder that may not be written
            return error
        return ""

    def png(self, picture: Picture) -> bytes:
        """The first window of the recording (a short one is repeated to fill it), augmented if it is a copy, drawn."""
        config = self.front_end.config
        samples = load_audio(picture.clip.path, config.sample_rate)[: config.window_samples]
        samples = fill_window(samples, config.window_samples)
        if picture.copy:
            rng = np.random.default_rng(picture.seed)
            samples = augment(samples, config.sample_rate, self.augmentation, None, rng).astype(np.float32)
        with torch.inference_mode():
            colours = self.front_end.draw(self.front_end.decibels(torch.from_numpy(samples)[None]))[0]
        file = io.BytesIO()
        # Level 1 of zlib takes a third of the time of the usual 6; the same row repeated costs little at any level.
        Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", compress_level=1)
        return file.getvalue()


class Pictures(Dataset):
    """The pictures from disk: (3, height, width) float32 in 0..1 by torchvision's ToTensor, label.

    Raises DataError if one has gone or is damaged.
    """

    def __init__(self, pictures: list[Picture], folder: Path) -> None:
        self.pictures, self.folder = pictures, folder

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path = self.folder / self.pictures[index].file
        try:
            with Image.open(path) as image:
                return to_tensor(image), self.pictures[index].label
        except (OSError, SyntaxError):  # Pillow's for what is not there, cut short or no PNG; for a damaged one
            sentence = f"{path} is missing or damaged; delete it and repeat the command, which draws it."
            raise DataError(sentence) from None


def random_split(pictures: list[Picture], seed: int) -> Split:
    """The published split: every picture falls by chance. It leaks - copies, speakers and attacks lie on all sides."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    return _checked(
        {name: [pictures[i] for i in part] for name, part in zip(SHARES, _cut(order), strict=True)},
        "so few pictures cannot be split by chance",
    )


def disjoint_split(pictures: list[Picture], seed: int) -> Split:
    """A split whose parts share no recording, no speaker that is known (`Clip.group`) and no attack.

    What fits nowhere is left out.
    A spoof counts only where both its speaker and its attack belong. Of `SPLIT_TRIALS` random allotments the one whose
    rarest class in any part is most frequent is taken. Raises DataError if none leaves both classes in each part.
    """
    rng = np.random.default_rng(seed)
    speakers = sorted({picture.clip.group for picture in pictures})
    attacks = sorted({picture.clip.system for picture in pictures if picture.label == SPOOF})
    sentence = f"{len(speakers)} speakers and {len(attacks)} attacks are too few for a split in which nothing is shared"
    if min(len(speakers), len(attacks)) < len(SHARES):
        raise DataError(sentence + ".")
    splits = [_allot(pictures, _parts_of(speakers, rng), _parts_of(attacks, rng)) for _ in range(SPLIT_TRIALS)]
    return _checked(max(splits, key=_rarest), sentence)


def leaks(split: Split) -> dict[str, float | None]:
    """Share (0..1) of test pictures whose recording, speaker or attack is also in train or validation.

    Of the speakers those that are known count, of the attacks those of spoofs; None if there are none.
    """
    test, others = split["test"], split["train"] + split["validation"]
    known = [picture for picture in test if picture.clip.speaker]
    spoofed = [picture for picture in test if picture.label == SPOOF]
    return {
        "recordings": _share_seen(test, others, lambda picture: picture.clip.path),
        "speakers": _share_seen(known, others, lambda picture: picture.clip.group),
        "attacks": _share_seen(spoofed, others, lambda picture: picture.clip.system),
    }


def _share_seen(asked: list[Picture], others: list[Picture], key: Callable[[Picture], Path | str]) -> float | None:
    seen = {key(picture) for picture in others}
    return sum(key(picture) in seen for picture in asked) / len(asked) if asked else None


def share_of_known_speakers(split: Split) -> float:
    """Share (0..1) of the pictures of all parts whose speaker the data name."""
    pictures = [picture for part in split.values() for picture in part]
    return sum(bool(picture.clip.speaker) for picture in pictures) / len(pictures)


def _cut(names: np.ndarray) -> list[np.ndarray]:
    """Cut an array by SHARES, each part of three or more names getting at least one."""
    n_validation, n_test = (max(1, int(len(names) * SHARES[name])) for name in ("validation", "test"))
    return np.split(names, (len(names) - n_validation - n_test, len(names) - n_test))


def _parts_of(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Name -> the part it is allotted to by chance."""
    return {str(name): part for part, some in zip(SHARES, _cut(rng.permutation(names)), strict=True) for name in some}


def _allot(pictures: list[Picture], part_of_speaker: dict[str, str], part_of_attack: dict[str, str]) -> Split:
    split: Split = {name: [] for name in SHARES}
    for picture in pictures:
        part = part_of_speaker[picture.clip.group]
        if picture.label == BONAFIDE or part_of_attack[picture.clip.system] == part:
            split[part].append(picture)
    return split


def _rarest(split: Split) -> int:
    """The number of pictures of the rarest class in any part."""
    n_spoof = {name: sum(picture.label for picture in part) for name, part in split.items()}
    return min(min(n_spoof[name], len(part) - n_spoof[name]) for name, part in split.items())


def _checked(split: Split, sentence: str) -> Split:
    if _rarest(split) == 0:
        raise DataError(sentence[0].upper() + sentence[1:] + ": a part would lack bona fide or spoofed pictures.")
    return split
