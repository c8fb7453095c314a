"""Labelled clips from a CSV, from folders or from the ASVspoof 2019 LA archive, checked before the first step."""

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..audio import AudioError, stream_audio
from ..interrupt import killed_workers_told
from ..model import BONAFIDE, SPOOF
from .asvspoof import PROTOCOL_FOLDER, read_protocols

LABELS = {"bonafide": BONAFIDE, "bona fide": BONAFIDE, "bona-fide": BONAFIDE, "real": BONAFIDE, "human": BONAFIDE}
LABELS |= {"spoof": SPOOF, "spoofed": SPOOF, "fake": SPOOF, "0": BONAFIDE, "1": SPOOF}
SPLITS = ("train", "dev", "eval")
AUDIO_SUFFIXES = {
    *(".wav", ".w64", ".aiff", ".aif", ".au", ".caf", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".amr", ".wma", ".sph"),
    *(".m4a", ".m4b", ".aac", ".ac3", ".ape", ".tta", ".wv", ".webm", ".mka", ".mkv", ".mp4", ".mov", ".3gp", ".avi"),
    *(".aifc", ".mp2", ".3g2", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".wave", ".m4v", ".weba"),
}
DEV_SHARE = 0.15
UNKNOWN = "unknown"


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
    page: str = ""  # where it was published: spoofs of one page often have the recordings they imitate beside them
    original: Path | None = None  # of a vocoded copy: the recording that it copies
    speaker: str = ""  # who speaks, or the group if the data name no speakers but groups; empty: unknown


def read_clips(sources: Iterable[str | Path]) -> list[Clip]:
    """Read data sets: a CSV, a folder with manifest.csv, an ASVspoof 2019 LA archive, or a folder with real/ and fake/.

    Raises DataError, naming every wrong row at once. Whether the files can be read, `check_clips` tells.
    """
    clips, faults = _read_sources(sources)
    refuse(faults)
    return clips


def check_clips(clips: list[Clip], sample_rate: int, n_workers: int = 0) -> None:
    """Decode every file once; raises DataError naming all that cannot be read, before a long run starts."""
    refuse(list(find_unreadable(clips, sample_rate, n_workers).values()), f" of {len(clips)} files cannot be read")


def read_sound_clips(
    sources: Iterable[str | Path],
    sample_rate: int,
    n_workers: int = 0,
    skip_bad_files: bool = False,
    leave_out: Iterable[str] = (),
    split: str = "all",
) -> tuple[list[Clip], dict[Path, str]]:
    """`read_clips` and `check_clips` in one for the clips of a split: every fault of all data sets in one DataError.

    With `skip_bad_files` unreadable files are left out and returned with their faults; wrong rows are still refused. Clips
    of the corpora to leave out (see `without_corpora`) are not even decoded, and unknown names are refused at once.
    """
    clips, faults = _read_sources(sources)
    try:
        clips = [clip for clip in without_corpora(clips, leave_out) if split in (clip.split, "all")]
    except DataError as error:
        refuse([*faults, str(error)])
    unreadable = find_unreadable(clips, sample_rate, n_workers)
    refuse(faults + ([] if skip_bad_files else list(unreadable.values())))
    return [clip for clip in clips if clip.path not in unreadable], unreadable


def find_unreadable(clips: list[Clip], sample_rate: int, n_workers: int = 0) -> dict[Path, str]:
    """Decode every file once, in `n_workers` processes: path -> fault of those that cannot be read; raises WorkerKilled."""
    files = list(dict.fromkeys(clip.path for clip in clips))
    checks = DataLoader(_Checks(files, sample_rate), batch_size=None, num_workers=n_workers)
    faults = zip(files, tqdm(checks, "checking files", leave=False), strict=True)
    with killed_workers_told():
        return {path: fault for path, fault in faults if fault}


class _Checks(Dataset):
    """File -> what is wrong with it, or an empty text."""

    def __init__(self, files: list[Path], sample_rate: int) -> None:
        self.files, self.sample_rate = files, sample_rate

    def __getitem__(self, index: int) -> str:
        path = self.files[index]
        try:
            for _ in stream_audio(path, self.sample_rate):
                pass
        except AudioError as error:
            return f"{path.parent}: {error}"
        return ""

    def __len__(self) -> int:
        return len(self.files)


def of_split(clips: list[Clip], split: str) -> list[Clip]:
    """The clips of one split or of "all"; raises DataError unless both classes are there."""
    chosen = [clip for clip in clips if split in (clip.split, "all")]
    for label, name in ((BONAFIDE, "bona fide"), (SPOOF, "spoofed")):
        if not any(clip.label == label for clip in chosen):
            raise DataError(f"{'The data have' if split == 'all' else f'The {split} split has'} no {name} clip.")
    return chosen


def without_corpora(clips: list[Clip], names: Iterable[str]) -> list[Clip]:
    """The clips without those of the train split that are of the named corpora; raises DataError for unknown names."""
    names = set(names)
    unknown = sorted(names - {clip.corpus for clip in clips if clip.split == "train"})
    if unknown:
        raise DataError(f"The train split has no corpus named {' or '.join(unknown)}.")
    return [clip for clip in clips if clip.split != "train" or clip.corpus not in names]


def _read_sources(sources: Iterable[str | Path]) -> tuple[list[Clip], list[str]]:
    """Clips of all data sets, and what is wrong with the sets; raises DataError if there is neither."""
    clips, faults = [], []
    for source in sources:
        try:
            clips += _read_source(Path(source), faults)
        except DataError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(_sentence(error))
    clips = _with_splits(_with_relatives_together(_with_groups(clips)))
    faults += _contradictions(clips)
    if not clips and not faults:
        raise DataError("No labelled clips were found.")
    return clips, faults


def _with_groups(clips: list[Clip]) -> list[Clip]:
    """The clips, copies without a group in that of the recording they copy.

    If that is not in the data, its name and folder are the group: the same on every machine.
    """
    if all(clip.group for clip in clips):
        return clips
    group_of = {real_path(clip.path): clip.group for clip in clips if clip.group}

    def group_of_original(original: Path) -> str:
        return group_of.get(original) or "/".join(original.parts[-2:])

    return [clip if clip.group else replace(clip, group=group_of_original(real_path(clip.original))) for clip in clips]


def _with_relatives_together(clips: list[Clip]) -> list[Clip]:
    """The clips, all groups made one that hold the same speaker, the same file, or a recording and copies of it."""
    joined: dict[str, str] = {}  # a group -> another that it is part of

    def whole(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    first_group: dict[str | Path, str] = {}  # of a speaker or a recording
    for clip in clips:
        relations = [clip.speaker] if clip.speaker else []
        relations += [real_path(file) for file in (clip.path, clip.original) if file]
        for relation in relations:
            groups = {whole(clip.group), whole(first_group.setdefault(relation, clip.group))}
            if len(groups) > 1:
                joined[max(groups)] = min(groups)
    return [replace(clip, group=whole(clip.group)) for clip in clips]


def _with_splits(clips: list[Clip]) -> list[Clip]:
    """The clips, those without a split in that of their group: as others of it have it, else by the group's name."""
    split_of = {clip.group: clip.split for clip in clips if clip.split}
    drawn = sorted({clip.group for clip in clips} - split_of.keys(), key=_place_of)
    split_of |= {group: "dev" if _place_of(group) < DEV_SHARE else "train" for group in drawn}
    groups_of = {label: {clip.group for clip in clips if clip.label == label} for label in (BONAFIDE, SPOOF)}

    def n_held(moved: dict[str, str]) -> int:
        """How many of the two classes the two splits hold, in all, if some groups are moved."""
        places = split_of | moved
        return sum(len({places[group] for group in groups} & {"train", "dev"}) for groups in groups_of.values())

    for groups in groups_of.values():  # in a small set chance may leave a split without one of the classes
        movable = [group for group in drawn if group in groups]
        for split, order in (("dev", movable), ("train", movable[::-1])):
            if len(movable) > 1 and split not in {split_of[name] for name in groups}:
                split_of[max(order, key=lambda group: n_held({group: split}))] = split
    return [clip if clip.split else replace(clip, split=split_of[clip.group]) for clip in clips]


def _contradictions(clips: list[Clip]) -> list[str]:
    """Files that are listed with two labels or in two splits, and copies that are not in the split of their recording."""
    told: dict[Path, set[tuple[int, str]]] = {}
    for clip in clips:
        told.setdefault(real_path(clip.path), set()).add((clip.label, clip.split))
    faults = [f"{path} is listed with two labels or in two splits" for path, listed in told.items() if len(listed) > 1]
    split_of = {path: split for path, listed in told.items() for _, split in listed}
    for clip in clips:
        if clip.original and split_of.setdefault(real_path(clip.original), clip.split) != clip.split:
            faults.append(
                f"{clip.path} is in another split than {clip.original.name}, which it copies, or its other copies"
            )
    return faults


def real_path(path: Path) -> Path:
    """The same for every name of a file. Path.resolve would raise for links in a circle, which are to be told of later."""
    return Path(os.path.realpath(path))


def torn_groups(clips: list[Clip]) -> list[str]:
    """Groups (speakers, recordings) that the data themselves put into more than one split, so that figures flatter."""
    return _torn((clip.group, clip.split) for clip in clips)


def torn_systems(clips: list[Clip]) -> list[str]:
    """Attacks or synthesis systems, where known, with spoofs in more than one split: dev knows them from training."""
    return _torn((clip.system, clip.split) for clip in clips if clip.label == SPOOF and clip.system != UNKNOWN)


def _torn(placed: Iterable[tuple[str, str]]) -> list[str]:
    """Of (name, split) the names that are in more than one split."""
    splits: dict[str, set[str]] = {}
    for name, split in placed:
        splits.setdefault(name, set()).add(split)
    return sorted(name for name, found in splits.items() if len(found) > 1)


def _read_source(source: Path, faults: list[str]) -> list[Clip]:
    """The clips of one data set; a wrong row is added to `faults`."""
    if source.is_file():
        return _read_csv(source, faults)
    for folder in (source, source / "LA"):
        if (folder / PROTOCOL_FOLDER).is_dir():
            return [_clip(trial) for trial in read_protocols(folder, faults)]
    if (source / "manifest.csv").is_file():
        return _read_csv(source / "manifest.csv", faults)
    if source.is_dir():
        return _read_folders(source, faults)
    raise DataError(f"There is no data set at {source}.")


def _read_csv(path: Path, faults: list[str]) -> list[Clip]:
    """CSV with the columns path,label and optionally group,system,split,family,corpus,speaker,source_repo,original.

    Paths are relative to the file. `source_repo` is the page where a clip was published, `original` the recording that
    a vocoded copy copies.
    """
    clips = []
    for line, row in enumerate(read_table(path, ("path", "label")), start=2):
        if row["label"].strip().lower() not in LABELS or (row.get("split") or "train") not in SPLITS:
            faults.append(f"{path}, line {line}: unknown label {row['label']!r} or split {row.get('split')!r}")
        elif not row["path"] or "\0" in row["path"] + (row.get("original") or ""):
            faults.append(f"{path}, line {line}: no path that a file can have")
        else:
            clips.append(_clip(row, path.parent))
    return clips


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV, missing cells empty; raises DataError if it cannot be read, is empty or lacks a column."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a mark at the start
            rows = list(csv.DictReader(file, restval=""))
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; save it again as CSV UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from None
    if not rows or not set(columns) <= rows[0].keys():
        raise DataError(f"{path} needs a header with the columns {','.join(columns)} and at least one row.")
    return rows


def _read_folders(folder: Path, faults: list[str]) -> list[Clip]:
    named = [child for child in folder.iterdir() if child.is_dir() and child.name.lower() in LABELS]
    if not named:
        raise DataError(f"{folder} has neither manifest.csv, nor real/ and fake/, nor the ASVspoof 2019 LA protocols.")
    clips = []
    for child in sorted(named):
        for file in _files_below(child, faults):
            if not _is_text(str(file.relative_to(folder))):
                faults.append(f"{str(file)!r} has a name that is no UTF-8; rename it")
            elif file.suffix.lower() in AUDIO_SUFFIXES:
                # real/a.wav and its copy fake/a.mp3 are one group, wherever the folder lies.
                group = file.relative_to(child).with_suffix("").as_posix()
                clip = _clip({"path": str(file), "label": child.name, "group": group})
                clips.append(replace(clip, speaker=""))
    return clips


def _files_below(folder: Path, faults: list[str]) -> list[Path]:
    """All files of a folder and of the folders in it, linked ones too; one that may not be read is added to `faults`."""
    files, seen = [], set()
    for parent, folders, names in os.walk(
        folder, onerror=lambda error: faults.append(_sentence(error)), followlinks=True
    ):
        if os.path.realpath(parent) in seen:  # a link back, else it would have no end
            folders.clear()
            continue
        folders.sort()  # so that of two ways to a folder it is always the same one
        seen.add(os.path.realpath(parent))
        files += [Path(parent, name) for name in names]
    return sorted(files)


def _sentence(error: OSError) -> str:
    return f"{error.filename} cannot be read: {os.strerror(error.errno)}."


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clip(row: dict, folder: Path = Path()) -> Clip:
    """A row as a clip; its split stays empty if the row names none."""
    label = LABELS[row["label"].strip().lower()]
    speaker = row.get("speaker") or ""
    speaker = "" if speaker.lower() == UNKNOWN else speaker  # nobody, not one person of that name
    group = row.get("group") or speaker or ("" if row.get("original") else row["path"])
    return Clip(
        path=folder / row["path"],
        label=label,
        split=row.get("split") or "",
        group=group,
        system="human" if label == BONAFIDE else row.get("system") or UNKNOWN,
        family="human" if label == BONAFIDE else row.get("family") or UNKNOWN,
        corpus=(row.get("corpus") or UNKNOWN).split(":")[0],
        page=row.get("source_repo") or "",
        original=folder / row["original"] if row.get("original") else None,
        speaker=speaker or row.get("group") or "",
    )


def _place_of(group: str) -> float:
    """0..1, by which a group falls into dev or train where the data set names no split: the same on every machine."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32


def refuse(faults: list[str], what: str = " faults in the data") -> None:
    """Raise a DataError that names all faults, if there are any."""
    if faults:
        raise DataError("\n  ".join([f"{len(faults)}{what}:", *faults]) if len(faults) > 1 else faults[0])
