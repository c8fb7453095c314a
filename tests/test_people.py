"""Real voices out of unpacked packages: a data set made of files that nobody recorded for it."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepfake_detector.audio import load_audio
from deepfake_detector.data.manifest import read_clips
from deepfake_detector.data.packages import split_speech
from deepfake_detector.data.people import MAX_SECONDS, MIN_SECONDS, SAMPLE_RATE, VOICES, pieces_of, spoken_part
from deepfake_detector.model import BONAFIDE
from deepfake_detector.speech import SpeechDetector

from .conftest import ROOT, VOICE

WORDS = next(voice for voice in VOICES if voice.package == "klettres-data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every package unpacked, but only one holds files: eight words, a silence, a broken one, and another language's."""
    for voice in VOICES:
        (tmp_path / "packages" / voice.package).mkdir(parents=True, exist_ok=True)
    words = tmp_path / "packages" / WORDS.package / "klettres" / WORDS.language / "alpha"
    words.mkdir(parents=True)
    samples = load_audio(VOICE, 44_100)[:44_100]
    for number in range(8):
        soundfile.write(words / f"word{number}.ogg", samples, 44_100)
    soundfile.write(words / "word3_silence.ogg", np.zeros(44_100), 44_100)
    (words / "word4_broken.ogg").write_bytes(b"no sound")
    other = words.parents[1] / "xx"
    other.mkdir()
    soundfile.write(other / "word.ogg", samples, 44_100)
    return tmp_path


def make(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "deepfake_detector.data.people", folder]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment or None)


def test_words_are_joined_to_clips_of_a_real_voice(folder: Path) -> None:
    done = make(folder)
    assert done.returncode == 0, done.stderr
    clips = read_clips([folder])
    assert {(clip.label, clip.split, clip.corpus) for clip in clips} == {(BONAFIDE, "train", WORDS.corpus)}
    seconds = [len(load_audio(clip.path, SAMPLE_RATE)) / SAMPLE_RATE for clip in clips]
    assert len(clips) == 2 and all(MIN_SECONDS <= length <= MAX_SECONDS for length in seconds)
    assert sum(seconds) <= 8  # nothing but the eight words


def test_only_the_spoken_part_is_kept_with_a_margin() -> None:
    voice = load_audio(VOICE, SAMPLE_RATE)[: 2 * SAMPLE_RATE]
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    part = spoken_part(np.concatenate((silence, voice, silence)), SpeechDetector())
    assert SAMPLE_RATE < len(part) <= len(voice) + 0.5 * SAMPLE_RATE
    assert not len(spoken_part(silence, SpeechDetector()))


def test_a_talk_is_cut_where_somebody_speaks(tmp_path: Path) -> None:
    voice = load_audio(VOICE, SAMPLE_RATE)[: 3 * SAMPLE_RATE]
    pause = np.zeros(24 * SAMPLE_RATE, np.float32)
    talk = np.concatenate((np.tile(voice, 6), pause, voice))  # speech from 0 to 18 and from 42 to 45 seconds
    soundfile.write(tmp_path / "talk.wav", talk, SAMPLE_RATE)
    seconds = [len(piece) / SAMPLE_RATE for piece in pieces_of([tmp_path / "talk.wav"], SpeechDetector())]
    assert len(seconds) == 4 and all(MIN_SECONDS <= length <= MAX_SECONDS for length in seconds)


def test_without_debian_one_sentence_says_so(tmp_path: Path) -> None:
    done = make(tmp_path / "new", PATH="/nowhere")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].endswith("this needs Debian or Ubuntu.")
    assert not (tmp_path / "new" / "manifest.csv").exists()


def test_spoken_lines_are_split_out_of_a_games_archive(tmp_path: Path) -> None:
    files = {"020001P2.SB": b"first line", "TITLE.PCX": b"a picture", "020006J1.SB": b"second"}
    table, content, start = b"", b"", 15 + 21 * len(files)
    for name, data in files.items():
        table += struct.pack(">12sBII", name.encode(), 1, start + len(content), len(data))
        content += data
    (tmp_path / "queen.1c").write_bytes(b"QTBLCEM10\0\0\0\1" + struct.pack(">H", len(files)) + table + content)
    split_speech(tmp_path / "queen.1c")
    lines = {file.name: file.read_bytes() for file in tmp_path.glob("*.mp3")}
    assert lines == {"020001P2.SB.mp3": b"first line", "020006J1.SB.mp3": b"second"}
