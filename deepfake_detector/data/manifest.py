"""Labelled clips from a CSV, from folders or from the ASVspoof 2019 LA archive, checked before the first step."""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..audio import AudioError, stream_audio
from ..model import BONAFIDE, SPOOF
from .asvspoof import PROTOCOL_FOLDER, read_protocols

LABELS = {"bonafide": BONAFIDE, "bona fide": BONAFIDE, "bona-fide": BONAFIDE, "real": BONAFIDE, "human": BONAFIDE}
LABELS |= {"spoof": SPOOF, "spoofed": SPOOF, "fake": SPOOF, "0": BONAFIDE, "1": SPOOF}
SPLITS = ("train", "dev", "eval")
AUDIO_SUFFIXES = {
    *(".wav", ".w64", ".aiff", ".aif", ".au", ".caf", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".amr", ".wma"),
    *(".m4a", ".m4b", ".aac", ".webm", ".mka", ".mp4", ".mov", ".3gp"),
}
DEV_SHARE = 0.15


class DataError(ValueError):
    """A data set that cannot be used; the message names every fault for the user."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording. `group` is what must not be shared between splits (source recording, speaker)."""

    path: Path
    label: int
    split: str
    group: str
    system: str  # what made it: an attack or a synthesis system; "human" for bona fide
    family: str
    corpus: str


def read_clips(sources: Iterable[str | Path]) -> list[Clip]:
    """Read data sets: a CSV, a folder with manifest.csv, an ASVspoof 2019 LA archive, or a folder with real/ and fake/.

    Raises DataError, naming every wrong row at once. Whether the files can be read, `check_clips` tells.
    """
    clips = [clip for source in sources for clip in _read_source(Path(source))]
    if not clips:
        raise DataError("No labelled clips were found.")
    return clips


def check_clips(clips: list[Clip], sample_rate: int) -> None:
    """Decode every file once; raises DataError naming all that cannot be read, before a long run starts."""
    faults = []
    for clip in tqdm(clips, "checking files", leave=False):
        try:
            for _ in stream_audio(clip.path, sample_rate):
                pass
        except AudioError as error:
            faults.append(f"{clip.path.parent}: {error}")
    if faults:
        raise DataError(list_faults(f"{len(faults)} of {len(clips)} files cannot be read", faults))


def of_split(clips: list[Clip], split: str) -> list[Clip]:
    """The clips of one split; raises DataError unless both classes are there."""
    chosen = [clip for clip in clips if clip.split == split]
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoofed")):
        if not any(clip.label == label for clip in chosen):
            raise DataError(f"The {split} split has no {name} clip.")
    return chosen


def _read_source(source: Path) -> list[Clip]:
    if source.is_file():
        return _read_csv(source)
    for folder in (source, source / "LA"):
        if (folder / PROTOCOL_FOLDER).is_dir():
            return [_clip(trial) for trial in read_protocols(folder)]
    if (source / "manifest.csv").is_file():
        return _read_csv(source / "manifest.csv")
    if source.is_dir():
        return _read_folders(source)
    raise DataError(f"There is no data set at {source}.")


def _read_csv(path: Path) -> list[Clip]:
    """CSV with the columns path,label and optionally group,system,split,family,corpus,speaker; paths relative to it."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a mark at the start
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it again as CSV UTF-8.") from None
    if not rows or not {"path", "label"} <= rows[0].keys():
        raise DataError(f"{path} needs a header with the columns path,label and at least one row.")
    faults = [
        f"line {line}: label {row['label']!r}, split {row.get('split')!r}"
        for line, row in enumerate(rows, start=2)
        if (row["label"] or "").strip().lower() not in LABELS or (row.get("split") or "train") not in SPLITS
    ]
    if faults:
        raise DataError(list_faults(f"{path} has {len(faults)} rows with an unknown label or split", faults))
    return [_clip(row, path.parent) for row in rows]


def _read_folders(folder: Path) -> list[Clip]:
    named = [child for child in folder.iterdir() if child.is_dir() and child.name.lower() in LABELS]
    if not named:
        raise DataError(f"{folder} has neither manifest.csv, nor real/ and fake/, nor the ASVspoof 2019 LA protocols.")
    clips = []
    for child in sorted(named):
        for file in sorted(child.rglob("*")):
            if file.suffix.lower() in AUDIO_SUFFIXES:
                # real/a.wav and its copy fake/a.mp3 are one group, wherever the folder lies.
                group = file.relative_to(child).with_suffix("").as_posix()
                clips.append(_clip({"path": str(file), "label": child.name, "group": group}))
    return clips


def _clip(row: dict, folder: Path = Path()) -> Clip:
    label = LABELS[row["label"].strip().lower()]
    group = row.get("group") or row.get("speaker") or row["path"]
    return Clip(
        path=folder / row["path"],
        label=label,
        split=row.get("split") or _split_of(group),
        group=group,
        system="human" if label == BONAFIDE else row.get("system") or "unknown",
        family="human" if label == BONAFIDE else row.get("family") or "unknown",
        corpus=(row.get("corpus") or "unknown").split(":")[0],
    )


def _split_of(group: str) -> str:
    """A group's split where the data set names none: the same on every machine, whatever else is in the set."""
    share = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32
    return "dev" if share < DEV_SHARE else "train"


def list_faults(headline: str, faults: list[str], shown: int = 20) -> str:
    more = [f"... and {len(faults) - shown} more"] if len(faults) > shown else []
    return "\n  ".join([headline + ":", *faults[:shown], *more])
