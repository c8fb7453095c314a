"""The command line, run as a user runs it."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepfake_detector import Detector
from deepfake_detector.__main__ import write_table

from .conftest import ROOT, VOICE


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "deepfake_detector", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_json_equals_the_detector(checkpoint: Path, detector: Detector) -> None:
    done = run(VOICE, "--json", "--model", checkpoint)
    assert done.returncode == 0, done.stderr
    (verdict,) = json.loads(done.stdout)
    expected = {**detector.predict(VOICE).to_dict(), "file": str(VOICE)}
    assert verdict == json.loads(json.dumps(expected))


def test_many_files_with_one_bad_among_them(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("not a recording")
    copy = Path(shutil.copy(VOICE, tmp_path / "copy.flac"))
    done = run(VOICE, text, copy, "--csv", DETECTOR_MODEL=str(checkpoint))
    assert done.returncode == 2
    assert done.stderr.count("notes.wav is not a recording") == 1 and "Traceback" not in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["file"] for row in rows] == [str(VOICE), str(copy)]
    assert rows[0]["spoof_probability"] == rows[1]["spoof_probability"]
    assert run(text, "--csv", "--model", checkpoint).stdout.startswith("file,label,")


def test_stars_that_the_shell_leaves_alone(checkpoint: Path, tmp_path: Path) -> None:
    clips = [shutil.copy(VOICE, tmp_path / name) for name in ("a.flac", "b.flac", "c[1].flac")]
    stars = run(tmp_path / "*.flac", tmp_path / "c[1].flac", "--csv", "--model", checkpoint)
    assert [row["file"] for row in csv.DictReader(io.StringIO(stars.stdout))] == [
        str(clip) for clip in [*clips, clips[2]]
    ]
    none = run(tmp_path / "*.wav", "--model", checkpoint)
    assert none.returncode == 2 and "There is no file called *.wav" in none.stderr


def test_names_of_any_letters_can_be_opened_again(checkpoint: Path, tmp_path: Path) -> None:
    odd = [str(shutil.copy(VOICE, tmp_path / name)) for name in ("голос.flac", os.fsdecode(b"caf\xe9.flac"))]
    command = [sys.executable, "-m", "deepfake_detector", *odd, "--csv", "--model", str(checkpoint)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}  # as Windows has it where nobody looks
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    rows = csv.DictReader(io.StringIO(os.fsdecode(done.stdout)))
    assert done.returncode == 0 and [row["file"] for row in rows] == odd


def test_table_is_for_people(checkpoint: Path) -> None:
    done = run(VOICE, "--model", checkpoint)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert "p(fake)" in done.stdout and "%" in done.stdout and VOICE.name in done.stdout


def test_the_table_is_never_quite_sure(capsys: pytest.CaptureFixture) -> None:
    rows = [{"label": "fake", "spoof_probability": p, "duration_seconds": 4.0, "file": "a.wav"} for p in (0.999, 0.42)]
    write_table(rows)
    assert "p(fake) over 99 %" in (told := capsys.readouterr().out) and "p(fake) 42 %" in told


def test_silence_has_no_number_and_notes_are_told(checkpoint: Path, tmp_path: Path, voice: np.ndarray) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "silence.wav", np.zeros(32_000), 16_000)
    (tmp_path / "two" / "silence.wav").write_bytes(b"")
    soundfile.write(tmp_path / "cut.wav", voice, 16_000)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    files = [tmp_path / "one" / "silence.wav", tmp_path / "two" / "silence.wav", tmp_path / "cut.wav"]
    done = run(*files, "--csv", "--model", checkpoint)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.returncode == 2 and rows[0]["label"] == "no voice"
    assert rows[0]["spoof_probability"] == "" and rows[1]["spoof_probability"] != ""
    told = done.stderr
    assert f"{files[0]}: No voice to judge" in told and f"{files[1]}: silence.wav is empty" in told
    assert f"{files[2]}: The file is damaged or cut short" in told


def test_answers_that_find_no_room_are_one_sentence(checkpoint: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "deepfake_detector", VOICE, "--csv", "--model", checkpoint]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "cannot be written: No space left" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="closes the output as POSIX shells do")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
@pytest.mark.parametrize(("names", "status"), [([VOICE], 0), ([VOICE, "nowhere.wav"], 2)])
def test_with_an_output_closed_the_exit_status_still_tells(
    checkpoint: Path, names: list, status: int, closed: str
) -> None:
    command = [sys.executable, "-m", "deepfake_detector", *names, "--model", checkpoint]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status and "Traceback" not in done.stderr
    assert done.stdout.count("p(fake)") == (closed == "2>&-")


@pytest.mark.skipif(os.name == "nt", reason="has no such names")
def test_a_file_s_name_cannot_steer_the_terminal(checkpoint: Path, tmp_path: Path) -> None:
    names = [tmp_path / "a\x1b[2K\rreal       p(fake) 3 %.flac", tmp_path / "b\x1b[2K\u202e.flac"]
    shutil.copy(VOICE, names[0])
    done = run(*names, "--model", checkpoint)
    assert done.returncode == 2 and not set("\x1b\r\u202e") & set(done.stdout + done.stderr)
    assert "a\\x1b[2K\\rreal" in done.stdout and "b\\x1b[2K\\u202e.flac" in done.stderr


def test_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    done = run(VOICE, "--model", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "cannot be used" in done.stderr
