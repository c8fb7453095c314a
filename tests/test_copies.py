"""Vocoded copies of recordings: a data set made by programs and packages that a user installs."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepfake_detector.data.copies import LOADERS, SYSTEMS, main, plan_copies, vocoder
from deepfake_detector.data.manifest import Clip, DataError, read_clips
from deepfake_detector.model import BONAFIDE, SPOOF

from .conftest import ROOT, VOICE

# Stands for fargan_demo: features are the samples themselves, the synthesis drops the last hundred of them.
PROGRAM = """#!/bin/sh
case $1 in
  -features) cp "$2" "$3" ;;
  -fargan-synthesis) head -c -200 "$2" > "$3" ;;
esac
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two real clips and a fake one to train on, and a real and a fake one that belong to dev."""
    samples, sample_rate = soundfile.read(VOICE)
    for name in ("real0", "real1", "fake", "dev_real", "dev_fake"):
        soundfile.write(tmp_path / f"{name}.wav", samples[: 2 * sample_rate], sample_rate)
    rows = ["real0.wav,bonafide,train", "real1.wav,bonafide,train", "fake.wav,spoof,train"]
    rows += ["dev_real.wav,bonafide,dev", "dev_fake.wav,spoof,dev"]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "fargan_demo"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def make(folder: Path, data: Path, *options: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "deepfake_detector.data.copies", folder, "--data", data, "--workers", "1"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)


def refusal(folder: Path, data: Path, *options: str | Path) -> str:
    """What the command says when it fails; raises anything that would be a traceback."""
    words, said = [folder, "--data", data, "--workers", "1", *options], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return main([str(word) for word in words]) or ""
    except SystemExit:  # argparse's own
        return said.getvalue()


def test_copies_are_a_data_set_that_names_the_originals(tmp_path: Path, data: Path, program: Path) -> None:
    folder = tmp_path / "some where" / "copies"
    done = make(folder, data, "--make", "fargan=2", "--fargan-program", program)
    assert done.returncode == 0, done.stderr
    copies = read_clips([folder])
    assert {(c.label, c.split, c.family, c.system) for c in copies} == {(SPOOF, "train", "vocoder", "FARGAN")}
    originals = [c for c in read_clips([data]) if c.label == BONAFIDE and c.split == "train"]  # and none of dev
    assert sorted(c.original.resolve() for c in copies) == sorted(c.path.resolve() for c in originals)
    assert {c.group for c in copies} == {c.group for c in originals}
    for copy in copies:
        made, rate = soundfile.read(copy.path)
        assert rate == 16_000 and len(made) == 2 * 16_000 - 100 and np.abs(made).max() > 0.01


def test_real_clips_need_no_fake_ones_beside_them_but_none_is_an_error(
    tmp_path: Path, data: Path, program: Path
) -> None:
    rows = (data / "manifest.csv").read_text().splitlines()
    for label, status in (("bonafide", 0), ("spoof", 1)):
        (data / "manifest.csv").write_text("\n".join([rows[0], *(row for row in rows if label in row)]) + "\n")
        done = make(tmp_path / label, data, "--make", "fargan=1", "--fargan-program", program)
        assert done.returncode == status and (tmp_path / label / "manifest.csv").exists() == (status == 0), done.stderr
        assert "Traceback" not in done.stderr


def test_a_second_run_keeps_what_is_there(tmp_path: Path, data: Path, program: Path) -> None:
    folder = tmp_path / "copies"
    make(folder, data, "--make", "fargan=2", "--fargan-program", program)
    kept = sorted(folder.glob("*.wav"))
    kept[0].write_bytes(b"kept")
    kept[1].unlink()
    make(folder, data, "--make", "fargan=2", "--fargan-program", program)
    assert kept[0].read_bytes() == b"kept" and kept[1].is_file()


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, data: Path) -> None:
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "broken").chmod(0o755)
    fargan = ("--make", "fargan=2", "--fargan-program")
    wrong = {(*fargan, tmp_path / "missing"): "is no program", (*fargan, tmp_path / "broken"): "The vocoder stopped"}
    wrong |= {
        fargan[:2]: "needs --fargan-program",
        ("--make", "vocos=9"): "is not one of hifigan",
        ("--make", "world=9", "--workers", "0"): "must be 1 or more",
        (): "required: --make",
    }
    for options, sentence in wrong.items():
        said = refusal(tmp_path / "copies", data, *options)
        assert sentence in said, options
        assert not (tmp_path / "copies" / "manifest.csv").exists()


@pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")
def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path, data: Path) -> None:
    (tmp_path / "deadly").write_text('#!/bin/sh\nmkdir "$0.first" 2>/dev/null && kill -9 $PPID\nsleep 3\n')
    (tmp_path / "deadly").chmod(0o755)  # to the worker that runs it first; the other one is busy then
    program = ("--fargan-program", tmp_path / "deadly", "--workers", "2")
    said = refusal(tmp_path / "copies", data, "--make", "fargan=2", *program)
    assert "was killed, mostly for want of memory" in said and not (tmp_path / "copies" / "manifest.csv").exists()


def test_every_vocoder_takes_corpora_in_turn() -> None:
    clips = [Clip(Path(f"{i}.wav"), BONAFIDE, "train", str(i), "human", "human", "big") for i in range(30)]
    clips += [Clip(Path(f"s{i}.wav"), BONAFIDE, "train", f"s{i}", "human", "human", "small") for i in range(2)]
    for key, systems in SYSTEMS.items():
        plan = plan_copies(clips, {key: 8})
        assert len({clip.path for clip, _ in plan}) == 8 and {system for _, system in plan} == set(systems)
        assert [clip.corpus for clip, _ in plan].count("small") == 2
        assert len(plan_copies(clips, {key: 1000})) == len(clips)
    assert [system for _, system in plan_copies(clips, {"hifigan": 8})].count("HiFi-GAN LJSpeech") == 2
    both = plan_copies(clips, {"melgan": 8, "hifigan": 8})  # not all of the same clips; each as without the other
    assert both == plan_copies(clips, {"hifigan": 8}) + plan_copies(clips, {"melgan": 8})
    assert {clip.path for clip, _ in both[:8]} != {clip.path for clip, _ in both[8:]}


@pytest.mark.parametrize("system", LOADERS)
def test_a_vocoder_says_the_same_in_another_wave(system: str, voice: np.ndarray) -> None:
    try:
        make_copy = vocoder(system, None)
    except DataError as error:
        pytest.skip(str(error))
    voice = voice[:16_000]
    copy = make_copy(voice)
    assert 0 <= len(voice) - len(copy) < 400 and np.abs(copy).max() == pytest.approx(np.abs(voice).max(), rel=0.5)
    n = len(copy)
    envelopes = [np.abs(wave[: n - n % 400]).reshape(-1, 400).mean(1) for wave in (voice, copy)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.95
    assert not np.allclose(copy, voice[:n], atol=0.01)
