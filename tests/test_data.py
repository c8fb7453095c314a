"""Data sets: what is read, what is refused, how clips are split, drawn and augmented."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch
from scipy.signal import lfilter
from torch.utils.data import DataLoader

from deepfake_detector.data import augment as steps
from deepfake_detector.data.asvspoof import PROTOCOL_FOLDER, PROTOCOLS
from deepfake_detector.data.augment import AugmentConfig, Noises, augment
from deepfake_detector.data.dataset import (
    MAX_LEAD_SAMPLES,
    BalancedBatches,
    TrainingWindows,
    random_copy,
    random_window,
)
from deepfake_detector.data.manifest import (
    Clip,
    DataError,
    check_clips,
    find_unreadable,
    of_split,
    read_clips,
    read_sound_clips,
    torn_groups,
    torn_systems,
    without_corpora,
)
from deepfake_detector.model import BONAFIDE, SPOOF
from deepfake_detector.resynthesis import filtered_copy, griffin_lim_copy, spliced_copy

from .conftest import ROOT, tone

CHANCES = (
    "speed", "equaliser", "echo", "room", "noise", "low_cut", "hum", "clip", "low_pass", "edit", "raw_boost", "microphone",
    "silence", "time_cut", "codec",
)  # fmt: skip
ALWAYS = AugmentConfig(**dict.fromkeys(CHANCES, 1.0), noise_snr_db=(10, 20), gain_db=(-20, -1))
NEVER = AugmentConfig(**dict.fromkeys(CHANCES, 0.0), noise_snr_db=(10, 20), gain_db=(-6, -6))


def write_clips(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(0.6), 16_000)


def clip(label: int, corpus: str = "c", system: str = "s", path: str = "x.wav") -> Clip:
    return Clip(Path(path), label, "train", path, system, "tts", corpus)


def test_csv_with_splits(tmp_path: Path) -> None:
    write_clips(tmp_path, ["a.wav", "b.wav", "c.wav", "d.wav"])
    rows = ["path,label,group,system,split", "a.wav,real,anna,,train", "b.wav,fake,ben,tts1,train"]
    (tmp_path / "set.csv").write_text("\n".join([*rows, "c.wav,0,carl,,dev", "d.wav,SPOOF,dora,tts2,dev"]))
    clips = read_clips([tmp_path / "set.csv"])
    assert [(c.label, c.split, c.group) for c in clips] == [
        (BONAFIDE, "train", "anna"), (SPOOF, "train", "ben"), (BONAFIDE, "dev", "carl"), (SPOOF, "dev", "dora"),
    ]  # fmt: skip
    assert [c.system for c in of_split(clips, "train")] == ["human", "tts1"]


def test_every_word_for_a_label(tmp_path: Path) -> None:
    words = {
        BONAFIDE: ("bonafide", "bona fide", "Bona-Fide", "real", "human", "0"),
        SPOOF: ("spoof", "spoofed", "FAKE", "1"),
    }
    for label, names in words.items():
        rows = [f"{i}.wav,{name},train" for i, name in enumerate(names)]
        (tmp_path / "set.csv").write_text("\n".join(["path,label,split", *rows]))
        assert [c.label for c in read_clips([tmp_path / "set.csv"])] == [label] * len(names)


def test_partitions_of_the_archive_by_their_official_names(tmp_path: Path) -> None:
    for split, protocol in (("train", "train.trn"), ("dev", "dev.trl"), ("eval", "eval.trl")):
        (tmp_path / f"ASVspoof2019_LA_{split}").mkdir()
        (tmp_path / "ASVspoof2019_LA_cm_protocols").mkdir(exist_ok=True)
        listing = tmp_path / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{protocol}.txt"
        listing.write_text(f"LA_1 {split}_1 - - bonafide\nLA_1 {split}_2 - A19 spoof\n")
    clips = read_clips([tmp_path])
    assert [(c.split, c.label, c.system) for c in clips if c.split == "eval"] == [
        ("eval", BONAFIDE, "human"), ("eval", SPOOF, "A19"),
    ]  # fmt: skip
    assert clips[-1].path == tmp_path / "ASVspoof2019_LA_eval" / "flac" / "eval_2.flac" and len(clips) == 6


def test_every_wrong_row_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("path,label,split\na.wav,maybe,train\nb.wav,fake,later\nc.wav,fake,dev\n")
    with pytest.raises(DataError) as caught:
        read_clips([tmp_path / "set.csv"])
    assert "line 2" in str(caught.value) and "line 3" in str(caught.value) and "line 4" not in str(caught.value)


def test_contradictions_are_named(tmp_path: Path) -> None:
    rows = ["label,path,split", "real,a.wav,train", "fake,./a.wav,train", "real,b.wav,train", "real,b.wav,dev", "fake"]
    (tmp_path / "clips.csv").write_text("\n".join([*rows, "fake,c.wav,dev", "fake,c.wav,dev"]))
    with pytest.raises(DataError, match="3 faults") as error:
        read_clips([tmp_path / "clips.csv"])
    sentences = str(error.value).splitlines()
    assert "line 6: no path" in sentences[1] and "a.wav is listed" in sentences[2] and "b.wav is listed" in sentences[3]


def test_damaged_protocol_is_named(tmp_path: Path) -> None:
    for folder in (PROTOCOL_FOLDER, "ASVspoof2019_LA_train"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ASVspoof2019_LA_dev").mkdir()
    lines = ["LA_0079 LA_T_1 - - bonafide", "LA_0079 LA_T_2 -", "LA_0079 LA_T_3 - - human"]
    (tmp_path / PROTOCOL_FOLDER / PROTOCOLS["train"]).write_text("\n".join(lines))
    with pytest.raises(DataError, match="3 faults") as error:
        read_clips([tmp_path])
    assert all(
        words in str(error.value) for words in ("line 2 is not", "line 3 is not", f"{PROTOCOLS['dev']} is missing")
    )


def test_every_unreadable_file_is_named_at_once(tmp_path: Path) -> None:
    write_clips(tmp_path, ["good.wav"])
    (tmp_path / "text.wav").write_text("not a recording")
    (tmp_path / "set.csv").write_text(
        "\ufeffpath,label\ngood.wav,real\ntext.wav,fake\nlost.wav,fake\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="2 of 3") as caught:
        check_clips(read_clips([tmp_path / "set.csv"]), 16_000)
    assert all(name in str(caught.value) for name in ("text.wav", "lost.wav")) and "good.wav" not in str(caught.value)


def test_faults_of_all_data_sets_are_named_together(tmp_path: Path) -> None:
    write_clips(tmp_path, ["good.wav"])
    (tmp_path / "text.wav").write_text("not a recording")
    (tmp_path / "one.csv").write_text("path,label\ngood.wav,real\ntext.wav,fake\ngood.wav,maybe\n")
    (tmp_path / "two.csv").write_text("path,label\nlost.wav,fake\n")
    sources = [tmp_path / "one.csv", tmp_path / "two.csv", tmp_path / "nowhere"]
    for workers in (0, 2):
        with pytest.raises(DataError, match="4 faults") as caught:
            read_sound_clips(sources, 16_000, workers)
        message = str(caught.value)
        assert all(part in message for part in ("one.csv, line 4", "text.wav", "lost.wav", "nowhere"))
        assert "good.wav" not in message
    with pytest.raises(DataError, match="2 faults"):  # a wrong label is no bad file
        read_sound_clips(sources, 16_000, skip_bad_files=True)


def test_bad_files_are_left_out_on_request(tmp_path: Path) -> None:
    write_clips(tmp_path, ["good.wav"])
    (tmp_path / "set.csv").write_text("path,label\ngood.wav,real\nlost.wav,fake\n")
    clips, faults = read_sound_clips([tmp_path / "set.csv"], 16_000, skip_bad_files=True)
    assert [clip.path.name for clip in clips] == ["good.wav"]
    assert [path.name for path in faults] == ["lost.wav"] and "no file called lost.wav" in faults[tmp_path / "lost.wav"]


def test_corpora_are_left_out_of_training_only(tmp_path: Path) -> None:
    rows = "a.wav,real,train,VCTK\nb.wav,fake,train,Studio: anna\nc.wav,fake,dev,Studio\nd.wav,fake,train,\n"
    (tmp_path / "set.csv").write_text(f"path,label,split,corpus\n{rows}")
    clips = read_clips([tmp_path / "set.csv"])
    assert [clip.path.name for clip in without_corpora(clips, ["Studio"])] == ["a.wav", "c.wav", "d.wav"]
    assert without_corpora(clips, []) == clips
    with pytest.raises(DataError, match="no corpus named Stage or Studios"):
        without_corpora(clips, ["Studios", "VCTK", "Stage"])


def test_what_is_left_out_is_not_decoded_and_a_wrong_name_is_told_first(tmp_path: Path) -> None:
    write_clips(tmp_path, ["good.wav"])
    rows = "good.wav,real,train,VCTK\nlost.wav,fake,train,Studio\n"
    (tmp_path / "set.csv").write_text(f"path,label,split,corpus\n{rows}")
    clips, _ = read_sound_clips([tmp_path / "set.csv"], 16_000, leave_out=["Studio"])
    assert [clip.path.name for clip in clips] == ["good.wav"]
    with pytest.raises(DataError, match="no corpus named Studios") as caught:
        read_sound_clips([tmp_path / "set.csv"], 16_000, leave_out=["Studios"])
    assert "lost.wav" not in str(caught.value)


def test_a_wrong_name_to_leave_out_hides_no_other_fault(tmp_path: Path) -> None:
    write_clips(tmp_path, ["real/a.wav", "fake/b.wav"])
    with pytest.raises(DataError) as caught:
        read_sound_clips([tmp_path, tmp_path / "typo"], 16_000, leave_out=["Studio"])
    assert "no data set at" in str(caught.value) and "no corpus named Studio" in str(caught.value)


def test_a_file_that_two_listings_name_is_one_recording(tmp_path: Path) -> None:
    names = [f"{label}/{i}.wav" for label in ("real", "fake") for i in range(20)]
    write_clips(tmp_path, names)
    (tmp_path / "set.csv").write_text(
        "\n".join(["path,label,group", *(f"{name},{name[:4]},g{name}" for name in names)])
    )
    (tmp_path / "link").symlink_to(tmp_path / "real")  # by another name too
    (tmp_path / "link.csv").write_text("path,label,group\nlink/3.wav,real,another\n")
    clips = read_clips([tmp_path, tmp_path / "set.csv", tmp_path / "link.csv"])
    groups: dict[str, set[tuple[str, str]]] = {}
    for clip in clips:
        groups.setdefault(os.path.realpath(clip.path), set()).add((clip.group, clip.split))
    assert len(clips) == 81 and len(groups) == 40 and all(len(listed) == 1 for listed in groups.values())


def test_paths_that_no_file_can_have_are_told(tmp_path: Path) -> None:
    write_clips(tmp_path, ["real/a.wav"])
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "set.csv").write_bytes(b"path,label\nreal/a.wav,real\ncircle.wav,fake\nnull\0.wav,fake\n")
    with pytest.raises(DataError) as caught:
        read_sound_clips([tmp_path / "set.csv"], 16_000)
    assert "line 4: no path that a file can have" in str(caught.value) and "circle.wav may not be" in str(caught.value)


def test_copies_of_one_recording_share_a_group(tmp_path: Path) -> None:
    write_clips(tmp_path, ["real/anna/1.wav", "fake/anna/1.flac", "fake/ben/1.wav"])
    groups = {clip.path.relative_to(tmp_path).as_posix(): clip.group for clip in read_clips([tmp_path])}
    assert groups["real/anna/1.wav"] == groups["fake/anna/1.flac"] == "anna/1" != groups["fake/ben/1.wav"]


def test_rows_without_a_split_follow_their_group_and_their_original(tmp_path: Path) -> None:
    rows = ["path,label,group,split,original", "a.wav,real,anna,dev,", "b.wav,fake,anna,,"]
    rows += [line for i in range(40) for line in (f"r{i}.wav,real,,,", f"c{i}.wav,fake,,,r{i}.wav")]
    (tmp_path / "set.csv").write_text("\n".join(rows))
    split_of = {clip.path.name: clip.split for clip in read_clips([tmp_path / "set.csv"])}
    assert split_of["b.wav"] == "dev"
    assert all(split_of[f"r{i}.wav"] == split_of[f"c{i}.wav"] for i in range(40))
    assert len({split_of[f"r{i}.wav"] for i in range(40)}) == 2


def test_a_copy_without_a_speaker_has_that_of_its_original(tmp_path: Path) -> None:
    rows = ["path,label,speaker,original"]
    rows += [line for i in range(40) for line in (f"r{i}.wav,real,person{i},", f"c{i}.wav,fake,,r{i}.wav")]
    (tmp_path / "set.csv").write_text("\n".join(rows))
    told = {clip.path.name: (clip.group, clip.split) for clip in read_clips([tmp_path / "set.csv"])}
    assert all(told[f"r{i}.wav"] == told[f"c{i}.wav"] for i in range(40)) and len(set(told.values())) == 40


def test_a_copy_in_another_voice_and_a_copy_of_a_copy_stay_with_their_recording(tmp_path: Path) -> None:
    rows = ["path,label,speaker,original"]
    for n in range(20):
        rows += [f"r{n}.wav,real,s{n},", f"c{n}.wav,fake,t{n},r{n}.wav", f"d{n}.wav,fake,,c{n}.wav"]
    (tmp_path / "set.csv").write_text("\n".join(rows))
    clips = read_clips([tmp_path / "set.csv"])
    groups = {n: {clip.group for clip in clips if clip.path.stem[1:] == str(n)} for n in range(20)}
    assert all(len(group) == 1 for group in groups.values()) and len({clip.group for clip in clips}) == 20
    assert {clip.split for clip in clips} == {"train", "dev"}


def test_what_is_moved_for_one_class_does_not_rob_the_other(tmp_path: Path) -> None:
    for n in range(40):  # of three groups, which fall anywhere
        rows = [f"a.wav,real,a{n}", f"b.wav,real,b{n}", f"c.wav,fake,b{n}", f"d.wav,fake,c{n}"]
        (tmp_path / "set.csv").write_text("\n".join(["path,label,group", *rows]))
        clips = read_clips([tmp_path / "set.csv"])
        assert {(clip.split, clip.label) for clip in clips} == {
            (s, label) for s in ("train", "dev") for label in (0, 1)
        }


def test_groups_of_one_speaker_are_one(tmp_path: Path) -> None:
    rows = [f"{i}.wav,{('real', 'fake')[i % 2]},talk{i // 2},person{i // 2 % 5}" for i in range(200)]
    (tmp_path / "set.csv").write_text("\n".join(["path,label,group,speaker", *rows]))
    clips = read_clips([tmp_path / "set.csv"])
    splits = {
        speaker: {clip.split for clip in clips if clip.speaker == speaker} for speaker in {c.speaker for c in clips}
    }
    assert len(splits) == 5 and all(len(found) == 1 for found in splits.values())
    assert not torn_groups(clips) and len({clip.group for clip in clips}) == 5
    rows = ["path,label,split,group,speaker", "a.wav,real,train,talk1,anna", "b.wav,fake,dev,talk2,anna"]
    (tmp_path / "torn.csv").write_text("\n".join(rows))
    assert torn_groups(read_clips([tmp_path / "torn.csv"])) == ["talk1"]
    rows = [f"{i}.wav,{('real', 'fake')[i % 2]},talk{i // 2},Unknown" for i in range(200)]
    (tmp_path / "nobody.csv").write_text("\n".join(["path,label,group,speaker", *rows]))
    assert len({clip.group for clip in read_clips([tmp_path / "nobody.csv"])}) == 100


def test_copies_of_a_recording_that_is_elsewhere_stay_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [f"{i}.wav,{('real', 'fake')[i % 2]},../elsewhere/r{i}.wav" for i in range(60)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.csv").write_text("\n".join(["path,label,original", *rows]))
    clips = read_clips([tmp_path / "a", tmp_path / "b"])
    splits = {(clip.path.name, clip.split) for clip in clips}
    assert len(splits) == 60 and len({split for _, split in splits}) == 2
    (tmp_path / "torn.csv").write_text("path,label,split,original\na.wav,fake,train,r.wav\nb.wav,fake,dev,r.wav\n")
    with pytest.raises(
        DataError, match=r"b\.wav is in another split than r\.wav, which it copies, or its other copies"
    ):
        read_clips([tmp_path / "torn.csv"])


@pytest.mark.parametrize("n_clips", [2, 8])
def test_a_small_folder_has_both_classes_in_both_splits(tmp_path: Path, n_clips: int) -> None:
    write_clips(tmp_path, [f"{name}/{name}{i}.wav" for name in ("real", "fake") for i in range(n_clips)])
    clips = read_clips([tmp_path])
    for split in ("train", "dev"):
        assert {clip.label for clip in of_split(clips, split)} == {BONAFIDE, SPOOF}
    assert clips == read_clips([tmp_path])


def test_a_copy_in_another_split_is_a_fault_and_a_torn_speaker_is_named(tmp_path: Path) -> None:
    rows = ["path,label,speaker,split,original", "a.wav,real,anna,train,", "b.wav,fake,ben,dev,a.wav"]
    (tmp_path / "torn.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"b\.wav is in another split than a\.wav, which it copies"):
        read_clips([tmp_path / "torn.csv"])
    rows = ["path,label,speaker,split", "a.wav,real,anna,train", "b.wav,fake,anna,dev", "c.wav,fake,ben,dev"]
    (tmp_path / "speaker.csv").write_text("\n".join(rows))
    assert torn_groups(read_clips([tmp_path / "speaker.csv"])) == ["anna"]
    rows = ["path,label,system,split", "a.wav,fake,tts1,train", "b.wav,fake,tts1,dev", "c.wav,fake,tts2,dev"]
    (tmp_path / "systems.csv").write_text("\n".join([*rows, "d.wav,fake,,train", "e.wav,fake,,dev"]))
    assert torn_systems(read_clips([tmp_path / "systems.csv"])) == ["tts1"]  # of unknown ones nothing can be said


def test_odd_tables_and_names_are_one_sentence(tmp_path: Path) -> None:
    odd = {"latin.csv": "path,label\nM\xfcller.wav,real\n".encode("latin-1")}
    odd["quote.csv"] = b'path,label\n"a.wav,real\n' + b"b.wav,fake\n" * 20_000
    odd["short.csv"] = b"kind,path\nrir\n"
    for name, content in odd.items():
        (tmp_path / name).write_bytes(content)
    for name in odd:
        with pytest.raises(DataError, match=name):
            read_clips([tmp_path / name])
    (tmp_path / "gone.csv").write_text("kind,path,seconds\nrir,gone.wav,9\nnoise,lost.wav,2\nnoise,a.wav,long\n")
    soundfile.write(tmp_path / "header only.wav", np.zeros(0), 16_000)
    (tmp_path / "header.csv").write_text("kind,path\nrir,header only.wav\n")
    for name, words in (
        ("latin.csv", "UTF-8"),
        ("quote.csv", "CSV"),
        ("short.csv", "folder"),
        ("header.csv", "header only.wav holds 0.00 seconds"),
        ("gone.csv", "3 faults"),
    ):
        with pytest.raises(DataError, match=words) as error:
            Noises(tmp_path / name, 16_000)
    assert all(word in str(error.value) for word in ("gone.wav", "lost.wav", "long"))
    write_clips(tmp_path, ["real/a.wav", "fake/b.wav"])
    odd_folder = tmp_path / "real" / os.fsdecode(b"caf\xe9")
    for odd_name in (odd_folder.with_suffix(".wav"), odd_folder / "a.wav"):
        odd_name.parent.mkdir(exist_ok=True)
        odd_name.write_bytes(b"")
        with pytest.raises(DataError, match="rename it"):
            read_clips([tmp_path])
        odd_name.unlink()


@pytest.mark.parametrize("names", [("real", "fake"), ("bonafide", "spoof")])
def test_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    write_clips(tmp_path, [f"{name}/deep/{i}.wav" for name in names for i in range(3)])
    (tmp_path / names[0] / "notes.txt").write_text("not a clip")
    assert Counter(c.label for c in read_clips([tmp_path])) == {BONAFIDE: 3, SPOOF: 3}


def test_linked_folders_are_read_once_and_links_back_end(tmp_path: Path) -> None:
    write_clips(tmp_path, ["set/real/a.wav", "set/fake/b.wav", "elsewhere/c.wav"])
    (tmp_path / "set" / "fake" / "b.wav").rename(tmp_path / "set" / "fake" / "b.wave")
    (tmp_path / "set" / "real" / "corpus").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "real" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set" / "real")
    assert sorted(c.path.name for c in read_clips([tmp_path / "set"])) == ["a.wav", "b.wave", "c.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_folders_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    write_clips(tmp_path, ["real/a.wav", "real/closed/b.wav", "fake/c.wav"])
    closed = tmp_path / "real" / "closed"
    closed.chmod(0)
    with pytest.raises(DataError, match="closed cannot be read: Permission denied"):
        read_clips([tmp_path])
    closed.chmod(0o700)


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError):
            read_clips([path])


def test_a_group_is_never_in_two_splits(tmp_path: Path) -> None:
    names = [f"{i}.wav" for i in range(200)]
    write_clips(tmp_path, names)
    rows = [f"{name},{('real', 'fake')[i % 2]},speaker{i % 40}" for i, name in enumerate(names)]
    (tmp_path / "set.csv").write_text("path,label,group\n" + "\n".join(rows))
    clips = read_clips([tmp_path / "set.csv"])
    split_of = {}
    assert all(split_of.setdefault(c.group, c.split) == c.split for c in clips)
    assert 0.02 < Counter(split_of.values())["dev"] / 40 < 0.4


def test_asvspoof_archive() -> None:
    archive = ROOT.parent / "shared" / "asvspoof2019_la_mini"
    if not archive.is_dir():
        pytest.skip("needs the ASVspoof 2019 LA miniature in ../shared")
    clips = read_clips([archive])
    counts = Counter((c.split, c.label) for c in clips)
    assert counts == {("train", 0): 226, ("train", 1): 51, ("dev", 0): 101, ("dev", 1): 240}
    assert {c.system for c in clips} == {"human", *(f"A0{i}" for i in range(1, 7))}


def test_batches_are_balanced_and_paired() -> None:
    clips = [clip(BONAFIDE, corpus="big") for _ in range(400)] + [clip(BONAFIDE, corpus="small") for _ in range(4)]
    clips += [clip(SPOOF, system=f"s{i % 5}", corpus="unknown") for i in range(100)]
    counts = Counter()
    for batch in BalancedBatches(clips, batch_size=16, n_copies=3, place_share=0.5, seed=0):
        originals = [index for index, _, vocode in batch if not vocode and clips[index].label == BONAFIDE]
        copies = [index for index, _, vocode in batch if vocode]
        assert len(batch) == 16 and len(originals) == 8 and copies == originals[:3]
        counts.update(clips[index].corpus for index in originals)
    assert 0.04 < counts["small"] / counts.total() < 0.2  # a hundredth of the clips, a tenth of the draws


def test_a_corpus_of_many_systems_is_drawn_no_more_for_them_and_without_recordings_it_makes_no_pair() -> None:
    clips = [replace(clip(BONAFIDE, corpus=f"r{i % 4}"), page="demo") for i in range(100)]
    clips += [replace(clip(SPOOF, system=f"s{i % 20}", corpus="only fake"), page="demo") for i in range(100)]
    clips += [replace(clip(SPOOF, system=f"t{i % 4}", corpus="r0"), page="demo") for i in range(100)]
    clips += [clip(SPOOF, system=f"u{i % 2}", corpus="unknown") for i in range(200)]
    counts, pairs = Counter(), set()
    for seed in range(10):
        for batch in BalancedBatches(clips, batch_size=16, n_copies=2, place_share=0.5, seed=seed):
            drawn = [clips[index] for index, _, _ in batch[8:]]
            pairs.update(fake.corpus for fake in drawn[2:5])
            counts.update(fake.system if fake.corpus == "unknown" else fake.corpus for fake in drawn[5:])
    assert pairs == {"r0"}
    assert all(0.2 < counts[source] / counts.total() < 0.3 for source in ("only fake", "r0", "u0", "u1"))


def test_copies_are_drawn_with_their_recordings_and_without_them_as_any_spoof() -> None:
    real = [clip(BONAFIDE, path=f"r{i}.wav") for i in range(32)]
    copies = [replace(clip(SPOOF, path=f"c{i}.wav", system="v"), original=Path(f"r{i}.wav")) for i in range(32)]
    with pytest.raises(DataError, match="others are needed"):
        BalancedBatches(real + copies, batch_size=16, n_copies=3, place_share=0.0, seed=0)
    orphans = [replace(copy, original=Path(f"elsewhere/{copy.path}")) for copy in copies]
    lone = BalancedBatches(real + orphans, batch_size=16, n_copies=3, place_share=0.0, seed=0)
    assert all(index >= 32 for batch in lone for index, _, _ in batch[11:])
    held = BalancedBatches(
        real + copies + [clip(SPOOF, path="s.wav")], batch_size=16, n_copies=3, place_share=0.0, seed=0
    )
    partners = [(batch[i][0], batch[8 + i]) for batch in held for i in range(3)]
    assert all(index == original if vocode else index == original + 32 for original, (index, _, vocode) in partners)
    assert {vocode for _, (_, _, vocode) in partners} == {True, False}
    assert all(index == 64 for batch in held for index, _, _ in batch[11:])


def test_pairs_come_from_one_place() -> None:
    clips = [clip(label, corpus=f"c{i % 4}") for i in range(40) for label in (BONAFIDE, SPOOF)]
    clips += [clip(BONAFIDE, corpus="only real") for _ in range(40)]
    clips += [replace(clip(label, corpus="unknown"), page="demo") for _ in range(10) for label in (BONAFIDE, SPOOF)]
    pages = set()
    for batch in BalancedBatches(clips, batch_size=16, n_copies=2, place_share=2 / 3, seed=0):
        drawn = [clips[index] for index, _, _ in batch]
        for real, fake in list(zip(drawn[:8], drawn[8:], strict=True))[2:6]:
            assert (real.label, fake.label) == (BONAFIDE, SPOOF)
            assert (real.corpus, real.page) == (fake.corpus, fake.page) and real.corpus != "only real"
            pages.add(real.page)
    assert "demo" in pages  # where no corpus is known


def test_copies_lie_beside_their_originals_and_nowhere_else(tmp_path: Path) -> None:
    rows = ["path,label,split,system,corpus,original"]
    rows += [f"real{i}.wav,bonafide,train,,c{i % 3}," for i in range(12)]
    rows += [f"fake{i}.wav,spoof,train,s,c{i % 3}," for i in range(12)]
    rows += [f"copy{i}.wav,spoof,train,HiFi-GAN,c{i % 3},sub/../real{i}.wav" for i in range(6)]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "sub").mkdir()
    clips = read_clips([tmp_path])
    held = vocoded = 0
    for seed in range(20):
        for batch in BalancedBatches(clips, batch_size=12, n_copies=3, place_share=2 / 3, seed=seed):
            for (real, _, _), (fake, _, vocode) in zip(batch[:3], batch[6:9], strict=True):
                assert fake == real if vocode else clips[fake].original.resolve() == clips[real].path.resolve()
                held, vocoded = held + (not vocode), vocoded + vocode
            assert not any(clips[index].original for index, _, _ in batch[:6] + batch[9:])
    assert held > 20 < vocoded  # half of the clips have a copy, half of whose draws use it


def test_resumed_epoch_draws_the_rest_of_the_same_list() -> None:
    clips = [clip(i % 2) for i in range(64)]
    whole, rest, other = (BalancedBatches(clips, 8, 1, 0.5, seed) for seed in (0, 0, 1))
    rest.skip = 3
    assert list(whole)[3:] == list(rest) and list(whole) != list(other)
    rest.epoch, rest.skip = 1, 0
    assert list(whole) != list(rest)


def test_items_are_the_same_in_every_process(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "x.wav", voice, 16_000)
    clips = [clip(label, path=str(tmp_path / "x.wav")) for label in (BONAFIDE, SPOOF)]
    dataset = TrainingWindows(clips, 16_000, 16_000, ALWAYS, None)
    loads = [
        list(DataLoader(dataset, batch_sampler=BalancedBatches(clips, 4, 1, 0.5, seed=0), num_workers=workers))
        for workers in (0, 2)
    ]
    assert all(torch.equal(a, b) for one, two in zip(*loads, strict=True) for a, b in zip(one, two, strict=True))


def test_item_follows_its_draw(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "x.wav", voice, 16_000)
    dataset = TrainingWindows([clip(BONAFIDE, path=str(tmp_path / "x.wav"))], 16_000, 16_000, ALWAYS, None)
    first, again, other = dataset[0, 7, False], dataset[0, 7, False], dataset[0, 8, False]
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert first[0].shape == (16_000,) and first[1] == BONAFIDE and dataset[0, 7, True][1] == SPOOF


def test_the_partner_of_a_recording_is_a_copy_of_it_and_not_the_recording(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "x.wav", voice, 16_000)
    dataset = TrainingWindows([clip(BONAFIDE, path=str(tmp_path / "x.wav"))], 16_000, 16_000, NEVER, None)
    for seed in range(6):
        (real, _), (copy, label) = dataset[0, seed, False], dataset[0, seed, True]
        assert label == SPOOF and not torch.allclose(real, copy, atol=0.01)


def test_augmentation_keeps_length_and_the_caller_s_array(voice: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(1.0, hz=100), 16_000)
    soundfile.write(tmp_path / "room.wav", np.exp(-np.arange(9_000) / 900) * tone(9_000 / 16_000, hz=3_000), 16_000)
    (tmp_path / "noise.csv").write_text("path,kind\nhum.wav,noise\nroom.wav,rir\n")
    noises = Noises(tmp_path / "noise.csv", 16_000)
    assert len(noises.noises) == len(noises.rooms) == 1
    soundfile.write(tmp_path / "small room.wav", np.exp(-np.arange(3_000) / 300) * tone(3_000 / 16_000), 16_000)
    (tmp_path / "noise.csv").write_text("path,kind,seconds\nhum.wav,noise,1.0\nsmall room.wav,rir,0.19\n")
    assert [len(room) for room in Noises(tmp_path / "noise.csv", 16_000).rooms] == [3_000]
    samples = voice[:20_000].copy()
    for seed in range(20):
        out = augment(samples, 16_000, ALWAYS, noises, np.random.default_rng(seed))
        assert out.shape == samples.shape and np.isfinite(out).all() and out.std() > 0
    assert np.array_equal(samples, voice[:20_000])


def test_digital_silence_survives_augmentation() -> None:
    for seed in range(20):
        silence = augment(np.zeros(16_000, np.float32), 16_000, ALWAYS, None, np.random.default_rng(seed))
        assert len(silence) == 16_000 and np.isfinite(silence).all()


def test_no_augmentation_changes_the_level_only(voice: np.ndarray) -> None:
    out = augment(voice, 16_000, NEVER, None, np.random.default_rng(0))
    assert np.abs(out).max() == pytest.approx(10 ** (-6 / 20), rel=1e-3)
    assert np.corrcoef(out, voice)[0, 1] > 0.9999


def test_speed_moves_the_pitch() -> None:
    for speed in (0.85, 1.18):
        hertz = np.argmax(np.abs(np.fft.rfft(steps.change_speed(tone(1.0, hz=400), 16_000, speed))))  # of one second
        assert hertz == pytest.approx(400 * speed, abs=2)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_robot_clips_are_a_data_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepfake_detector.data.robots", str(tmp_path / "robots"), "--takes", "1"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    clips = read_clips([tmp_path / "robots"])
    assert {(c.label, c.split) for c in clips} == {(SPOOF, "train")} and len({c.path for c in clips}) == len(clips)
    espeak = [c for c in clips if c.corpus == "espeak-ng"]
    assert len(espeak) == 240 and max(Counter(c.system for c in espeak).values()) == 3
    for corpus in ("SVOX Pico", "hibari", "Piper", "Festival", "Flite"):  # other voices, where their packages are
        assert (f"{corpus} is not installed" in output) == (corpus not in {c.corpus for c in clips})
    assert not find_unreadable(clips[::40], 16_000)


def test_noise_comes_from_anywhere_in_its_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "ramp.wav", np.linspace(0, 0.9, 160_000), 16_000, subtype="FLOAT")
    (tmp_path / "noise.csv").write_text("path,kind\nramp.wav,noise\n")
    noises = Noises(tmp_path / "noise.csv", 16_000)
    drawn = [steps._draw_noise(16_000, noises, np.random.default_rng(seed)) for seed in range(60)]
    assert max(noise.max() for noise in drawn if noise.min() >= 0) > 0.8


def test_invented_rooms_answer_after_the_direct_sound_and_fade() -> None:
    for seed in range(20):
        room = steps.invented_room(16_000, np.random.default_rng(seed))
        energy = room**2
        assert np.argmax(energy) == 0 and energy[1:16].sum() == 0 < energy[16:].sum() < 3.2
        assert energy[6_000:].sum() < 0.1 * energy[16:2_000].sum()
        early, late = (np.abs(np.fft.rfft(room[start : start + 1_600])) ** 2 for start in (16, 1_616))
        low, high = (late[band].sum() / early[band].sum() for band in (slice(50), slice(300, None)))  # 0.5 kHz, 3 kHz
        assert high < 1.2 * low


def test_noise_has_the_ratio_it_says() -> None:
    signal, noise = tone(1.0), np.random.default_rng(0).standard_normal(16_000)
    added = steps.add_noise(signal, noise, 12.0) - signal
    assert 10 * np.log10(np.mean(signal**2) / np.mean(added**2)) == pytest.approx(12.0, abs=0.1)


@pytest.mark.parametrize("codec", steps.CODECS, ids=lambda codec: codec.name)
def test_codecs_change_a_voice_but_keep_it(
    voice: np.ndarray, codec: steps.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CODECS", (codec,))
    out = steps.through_codec(voice, 16_000, np.random.default_rng(1))
    assert out.shape == voice.shape and not np.array_equal(out, voice)
    spectra = [np.log(np.abs(np.fft.rfft(x))[:20_000:40] + 1e-3) for x in (voice, out)]
    assert np.corrcoef(*spectra)[0, 1] > 0.7


def test_some_of_the_opus_in_training_is_the_speech_model_of_voice_messages_at_every_rate(voice: np.ndarray) -> None:
    """Else real voices are called fake after it (benchmarks/results/ablation.md). The mode is in RFC 6716, section 3.1."""
    (codec,) = (codec for codec in steps.CODECS if codec.options.get("application") == "voip")
    for rate in codec.sample_rates:
        for kilobits in codec.kbits_per_second:
            sent = soxr.resample(voice, 16_000, rate)
            packets, _ = steps.encode(sent, rate, codec.name, kilobits * 1000, codec.options)
            numbers = [bytes(packet)[0] >> 3 for packet in packets]
            assert len(numbers) > 20 and max(numbers) < 16  # SILK alone, or below a transform for the highest tones


@pytest.mark.parametrize("seed", range(5))
def test_raw_boost_distorts_but_keeps_the_voice(voice: np.ndarray, seed: int) -> None:
    out = steps.raw_boost(voice, np.random.default_rng(seed))
    assert out.shape == voice.shape and out.dtype == np.float32 and not np.array_equal(out, voice)
    assert 0.3 < np.corrcoef(out, voice)[0, 1] < 0.99999


def test_browser_chain_suppresses_noise_and_evens_out_loudness(voice: np.ndarray) -> None:
    noisy = voice + 0.003 * np.random.default_rng(0).standard_normal(len(voice)).astype(np.float32)
    clean, quiet = steps.suppress_noise(noisy, 0.2, 2.0, 15.0), np.abs(voice) < 0.001
    assert np.std(clean[quiet]) < 0.6 * np.std(noisy[quiet]) and np.corrcoef(clean, voice)[0, 1] > 0.95
    half = len(voice) // 2
    uneven = np.r_[voice[:half], 0.1 * voice[half:]]
    even = steps.even_out(uneven, 4_000, 0.5)
    assert np.std(even[:half]) / np.std(even[half:]) < 0.5 * np.std(uneven[:half]) / np.std(uneven[half:])
    assert steps.through_browser(voice, 16_000, np.random.default_rng(0)).shape == voice.shape


def test_silence_at_the_edges_varies(voice: np.ndarray) -> None:
    speech = voice[8_000:24_000]
    padded = np.r_[np.zeros(6_000, np.float32), speech, np.zeros(4_000, np.float32)]
    onsets = [
        int(np.argmax(np.abs(steps.vary_edges(padded, 16_000, np.random.default_rng(seed))) > 0.02))
        for seed in range(40)
    ]
    assert min(onsets) < 1_500 and max(onsets) > 4_500
    assert steps.vary_edges(padded, 16_000, np.random.default_rng(0)).shape == padded.shape


def test_time_cut_takes_a_piece_out() -> None:
    ramp = np.arange(16_000, dtype=np.float32)
    steps_between = np.diff(steps.cut_time(ramp, 16_000, np.random.default_rng(0)))
    (place,) = np.flatnonzero((steps_between != 1) & (steps_between > 0))
    assert 320 < steps_between[place] <= 4_001


def test_short_windows_are_drawn_too(voice: np.ndarray) -> None:
    lengths = [len(random_window(voice, 16_000, np.random.default_rng(seed))) for seed in range(200)]
    assert max(lengths) == 16_000 and 5_000 < min(lengths) < 8_000
    assert len(random_window(voice[:16_000], 16_000, np.random.default_rng(1))) <= 16_000  # exactly one window


def test_vocoded_copy_sounds_alike_but_is_another_waveform(voice: np.ndarray) -> None:
    copy = griffin_lim_copy(voice, 16_000)
    assert copy.shape == voice.shape and np.array_equal(copy, griffin_lim_copy(voice, 16_000))
    assert np.sqrt(np.mean(copy**2)) == pytest.approx(np.sqrt(np.mean(voice**2)), rel=0.01)
    assert abs(np.corrcoef(copy, voice)[0, 1]) < 0.5
    envelopes = [np.convolve(np.abs(x), np.ones(800), "valid")[::400] for x in (voice, copy)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.95


def test_vocoded_copy_can_keep_near_the_recording_s_own_phase(voice: np.ndarray) -> None:
    copy = griffin_lim_copy(voice, 16_000, n_iterations=3, own_phase=True)
    assert copy.shape == voice.shape
    assert 0.8 < np.corrcoef(copy, voice)[0, 1] < 0.999


@pytest.mark.parametrize("seed", range(4))
def test_filtered_copy_has_another_envelope_and_the_same_pitch(voice: np.ndarray, seed: int) -> None:
    copy = filtered_copy(voice, 16_000, np.random.default_rng(seed))
    assert copy.shape == voice.shape and copy.dtype == np.float32
    assert np.sqrt(np.mean(copy**2)) == pytest.approx(np.sqrt(np.mean(voice**2)), rel=0.01)
    loud = librosa.feature.rms(y=voice)[0] > 0.05
    before, after = (np.median(librosa.yin(x, fmin=70, fmax=400, sr=16_000)[loud]) for x in (voice, copy))
    assert after == pytest.approx(before, rel=0.03)
    power = [librosa.feature.melspectrogram(y=x, sr=16_000, n_mels=40).mean(axis=1) for x in (voice, copy)]
    assert np.std(10 * np.log10(power[0] / power[1])) > 0.5


def test_filtered_copy_moves_formants_as_another_vocal_tract_does() -> None:
    pulses = np.zeros(32_000)
    pulses[:: 16_000 // 100] = 1.0  # a voice of 100 Hz that says one vowel: no other place has another envelope
    vowel = lfilter([0.1], np.poly(0.97 * np.exp([2j * np.pi * 0.125, -2j * np.pi * 0.125])).real, pulses)  # at 2 kHz
    moved = set()
    for seed in range(8):
        copy = filtered_copy(vowel.astype(np.float32), 16_000, np.random.default_rng(seed))
        power = [np.convolve(np.abs(np.fft.rfft(x)) ** 2, np.ones(400), "same") for x in (vowel, copy)]
        before, after = (np.average(np.arange(len(p)), weights=p**2) for p in power)
        assert 0.02 < abs(after / before - 1) < 0.2
        moved.add(bool(after > before))
    assert moved == {True, False}


def test_spliced_copy_is_the_recording_s_own_sound_from_other_places(voice: np.ndarray) -> None:
    copy = spliced_copy(voice, 16_000, np.random.default_rng(0))
    assert copy.shape == voice.shape and copy.dtype == np.float32
    assert np.sqrt(np.mean(copy**2)) == pytest.approx(np.sqrt(np.mean(voice**2)), rel=0.01)
    # Pieces of 20 ms, less than half of the shortest unit: most lie in the recording as they are, few where they were.
    starts = [n for n in range(0, len(voice) - 320, 400) if np.std(copy[n : n + 320]) > 0.02]
    places = [best_place(copy[n : n + 320], voice) for n in starts]
    assert np.mean([likeness > 0.999 for _, likeness in places]) > 0.5
    assert np.mean([abs(place - n) < 320 for n, (place, _) in zip(starts, places, strict=True)]) < 0.2


def best_place(piece: np.ndarray, recording: np.ndarray) -> tuple[int, float]:
    """Where a piece lies in a recording, and the correlation there."""
    norms = np.sqrt(np.convolve(recording**2, np.ones(len(piece)), "valid")) * np.sqrt(np.sum(piece**2))
    likeness = np.correlate(recording, piece, "valid") / np.maximum(norms, 1e-3)
    return int(likeness.argmax()), float(likeness.max())


@pytest.mark.parametrize("make_copy", [filtered_copy, spliced_copy])
@pytest.mark.parametrize("n_samples", [1, 20, 400, 3_000])
def test_the_shortest_recordings_can_be_copied_too(voice: np.ndarray, make_copy: Callable, n_samples: int) -> None:
    copy = make_copy(voice[9_000 : 9_000 + n_samples], 16_000, np.random.default_rng(0))
    assert copy.shape == (n_samples,) and np.isfinite(copy).all()


def test_copies_are_filtered_spliced_and_vocoded(voice: np.ndarray) -> None:
    samples, kinds = voice[8_000:16_000], Counter()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        n_lead, _ = rng.integers(MAX_LEAD_SAMPLES), rng.integers(3)  # where its frames start, and the kind
        led = np.pad(samples, (n_lead, 0), mode="reflect")
        copy, state = random_copy(samples, 16_000, np.random.default_rng(seed)), rng.bit_generator.state
        for make_copy in (filtered_copy, spliced_copy):
            rng.bit_generator.state = state
            kinds[make_copy] += np.array_equal(copy, make_copy(led, 16_000, rng)[n_lead:])
    assert kinds[filtered_copy] >= 3 and kinds[spliced_copy] >= 3 and kinds.total() < 21


def test_vocoded_copies_have_no_phase_in_common() -> None:
    rng, sums = np.random.default_rng(0), 0.0
    n_copies = 60
    for seed in range(n_copies):
        copy = random_copy(rng.standard_normal(8_000).astype(np.float32), 16_000, np.random.default_rng(seed))
        spectrum = librosa.stft(copy, n_fft=1024, hop_length=256)
        sums = sums + spectrum / np.abs(spectrum)
    # Of phases that have nothing in common the mean has a power of 1 / n; a template in some copies would add to it.
    assert np.mean(np.abs(sums / n_copies) ** 2) == pytest.approx(1 / n_copies, rel=0.1)


def test_low_cut_takes_deep_tones_away() -> None:
    deep, high = tone(1.0, hz=30.0), tone(1.0, hz=2_000.0)
    for seed in range(8):
        cut = [steps.cut_lows(sound, 16_000, np.random.default_rng(seed)) for sound in (deep, high)]
        assert np.std(cut[0]) < 0.85 * np.std(deep) and np.std(cut[1]) > 0.95 * np.std(high)


def test_mains_hum_is_a_tone_and_its_overtones() -> None:
    n_lines = set()
    for seed in range(20):
        hum = steps.mains_hum(160_000, 16_000, np.random.default_rng(seed))
        power = np.abs(np.fft.rfft(hum * np.hanning(len(hum)))) ** 2
        lines = np.flatnonzero(power > 1e-4 * power.max()) / 10  # Hz
        bases = np.outer((50, 60), np.linspace(0.998, 1.002, 41)).ravel()
        base = min(bases, key=lambda hz: np.abs(lines - hz * np.round(lines / hz)).max())
        assert np.abs(lines - base * np.round(lines / base)).max() < 0.5  # Hz
        n_lines.add(len(np.unique(np.round(lines / base))))
    assert min(n_lines) == 1 and max(n_lines) > 5
