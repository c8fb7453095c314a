"""Wrong inputs only: each gets one clear sentence, and the next request works."""

import json
import os
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from safetensors.torch import load_file, save_file

from deepfake_detector import AudioError, CheckpointError, Detector
from deepfake_detector.audio import load_audio

from .conftest import VOICE, add_video, encode, tone


def wav_header(data_bytes: int, rate: int = 16_000, channels: int = 1, bits: int = 16) -> bytes:
    frame_bytes = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame_bytes, frame_bytes, bits)
    sizes = min(data_bytes + 36, 2**32 - 1)
    return (
        b"RIFF"
        + struct.pack("<I", sizes)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", data_bytes)
    )


def ten_hours_of_header(folder: Path) -> Path:
    """A FLAC of a second whose header promises ten hours (36 bits of sample count, at byte 21)."""
    path = folder / "ten hours.flac"
    soundfile.write(path, tone(1.0), 16_000)
    data = bytearray(path.read_bytes())
    data[22:26] = struct.pack(">I", 10 * 3600 * 16_000)
    path.write_bytes(data)
    return path


def bad_files(folder: Path) -> dict[str, Path]:
    """Name of the fault -> a file that has it."""
    names = ("empty.wav", "text.wav", "noise.mp3", "playlist.mp3", "nan.wav", "inf.wav", "huge.wav")
    files = {name: folder / name for name in names}
    files["empty.wav"].write_bytes(b"")
    files["text.wav"].write_text("Dear diary, this is not a recording.\n" * 50)
    files["noise.mp3"].write_bytes(np.random.default_rng(0).bytes(50_000))
    files["playlist.mp3"].write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{VOICE}\n#EXT-X-ENDLIST\n")
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf), ("huge.wav", 1e25)):
        samples = tone(1.0)
        samples[5_000] = value
        soundfile.write(files[name], samples, 16_000, subtype="FLOAT")
    files["short.wav"] = folder / "short.wav"
    soundfile.write(files["short.wav"], tone(0.3), 16_000)
    files["just too short.wav"] = folder / "just too short.wav"
    soundfile.write(files["just too short.wav"], tone(0.4995), 16_000)
    files["header only.wav"] = folder / "header only.wav"
    files["header only.wav"].write_bytes(wav_header(4_000_000_000))
    files["1 Hz.wav"] = folder / "1 Hz.wav"
    files["1 Hz.wav"].write_bytes(wav_header(4_000, rate=1) + bytes(4_000))
    files["no decoder.wav"] = folder / "no decoder.wav"
    files["no decoder.wav"].write_bytes(
        wav_header(32_000).replace(struct.pack("<HH", 1, 1), b"\x34\x12\x01\x00") + bytes(32_000)
    )
    files["64 bit.wav"] = folder / "64 bit.wav"
    files["64 bit.wav"].write_bytes(wav_header(16_000, bits=64) + bytes(16_000))
    files["long name.wav"] = folder / ("n" * 300 + "long name.wav")
    files["ten hours.flac"] = ten_hours_of_header(folder)
    files["silent film.mp4"] = add_video(folder / "silent film.mp4", None)
    files["nowhere.wav"] = folder / "nowhere.wav"
    files["a folder.wav"] = folder / "a folder.wav"
    files["a folder.wav"].mkdir()
    files["pipe.wav"] = folder / "pipe.wav"
    os.mkfifo(files["pipe.wav"])
    return files


FAULTS = {
    "empty.wav": "is empty",
    "text.wav": "is not a recording",
    "noise.mp3": "is not a recording",
    "playlist.mp3": "is not a recording",
    "nan.wav": "no numbers",
    "inf.wav": "no numbers",
    "huge.wav": "far too large",
    "no decoder.wav": "is not a recording",
    "64 bit.wav": "unusual kind",
    "long name.wav": "may not be read",
    "ten hours.flac": "longer than 4 hours",
    "short.wav": "at least 0.5 seconds",
    "just too short.wav": "holds 0.49 seconds",
    "header only.wav": "holds 0.00 seconds",
    "1 Hz.wav": "1 Hz",
    "silent film.mp4": "no sound track",
    "nowhere.wav": "no file called",
    "a folder.wav": "is a folder",
    "pipe.wav": "is a pipe",
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bad_files(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_file_gets_one_sentence(detector: Detector, faulty: dict[str, Path], fault: str) -> None:
    with pytest.raises(AudioError) as caught:
        detector.predict(faulty[fault])
    message = str(caught.value)
    assert FAULTS[fault] in message and fault in message
    assert "\n" not in message and str(faulty[fault].parent) not in message and message.endswith(".")
    assert detector.predict(VOICE).label  # the next request works


def test_header_that_promises_gigabytes(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "promise.wav"
    path.write_bytes(wav_header(4_000_000_000) + (voice * 32767).astype("<i2").tobytes())
    verdict = detector.predict(path)
    assert verdict.duration_seconds == pytest.approx(len(voice) / 16_000, abs=0.01)


def test_truncated_files_are_judged_on_what_is_there(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "whole.wav", voice, 16_000)
    soundfile.write(tmp_path / "whole.flac", voice, 16_000)
    for name in ("whole.wav", "whole.flac"):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut {name}"
        cut.write_bytes(whole[: len(whole) // 2])
        verdict = detector.predict(cut)
        assert 1.0 < verdict.duration_seconds < len(voice) / 16_000 - 1
        assert any("cut short" in note for note in verdict.notes)
        assert not detector.predict(tmp_path / name).notes


def test_a_size_that_counts_the_whole_file_is_no_cut(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "size.wav", voice, 16_000)
    whole = (tmp_path / "size.wav").read_bytes()
    (tmp_path / "size.wav").write_bytes(whole[:4] + struct.pack("<I", len(whole)) + whole[8:])
    assert not detector.predict(tmp_path / "size.wav").notes


def test_a_cut_track_that_began_late_is_told(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    late = encode(tmp_path / "late.m4a", voice, 16_000, "aac", start_seconds=8)
    assert not detector.predict(late).notes
    late.write_bytes(late.read_bytes()[: late.stat().st_size * 6 // 10])
    assert any("cut short" in note for note in detector.predict(late).notes)


@pytest.mark.parametrize("name", ["pause.m4a", "pause.mka"])
def test_a_pause_in_the_time_stamps_is_no_damage(
    detector: Detector, voice: np.ndarray, tmp_path: Path, name: str
) -> None:
    """As of a recorder that was paused, or that leaves silence out."""
    path = encode(tmp_path / name, voice, 16_000, "aac", pause_seconds=4)
    verdict = detector.predict(path)
    assert verdict.duration_seconds == pytest.approx(len(voice) / 16_000, abs=0.2) and not verdict.notes


def test_a_second_sound_track_is_told(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "screen.mkv"), "w") as film:
        tracks = [film.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for track, samples in zip(tracks, (voice, 0 * voice), strict=True):
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            film.mux([*track.encode(frame), *track.encode(None)])
    verdict = detector.predict(tmp_path / "screen.mkv")
    assert verdict.score is not None and any("2 sound tracks; only the first" in note for note in verdict.notes)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_film_whose_sound_ends_before_it_is_whole(
    detector: Detector, voice: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    film = add_video(tmp_path / f"film.{suffix}", voice[:48_000], 16_000, seconds=10)
    verdict = detector.predict(film)
    assert not any("cut short" in note for note in verdict.notes) and 2.9 < verdict.duration_seconds < 3.2


def test_truncated_mp3_and_m4a_do_not_crash(detector: Detector, voice: np.ndarray, tmp_path: Path) -> None:
    mp3 = encode(tmp_path / "whole.mp3", voice, 16_000, "mp3")
    (tmp_path / "cut.mp3").write_bytes(mp3.read_bytes()[:6_000])
    assert detector.predict(tmp_path / "cut.mp3").duration_seconds > 0.5
    m4a = encode(tmp_path / "whole.m4a", soxr.resample(voice, 16_000, 44_100), 44_100, "aac")
    (tmp_path / "cut.m4a").write_bytes(m4a.read_bytes()[:20_000])  # the index is at the end of the file, so it is lost
    with pytest.raises(AudioError, match="is not a recording"):
        detector.predict(tmp_path / "cut.m4a")


@pytest.mark.parametrize("kind", ["silence", "tone", "noise", "faint noise", "clicks"])
def test_no_voice_is_no_number(detector: Detector, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    samples = {
        "silence": np.zeros(64_000, np.float32),
        "tone": tone(4.0),
        "noise": rng.standard_normal(64_000).astype(np.float32) * 0.1,
        "faint noise": rng.standard_normal(64_000).astype(np.float32) * 1e-4,
        "clicks": (rng.random(64_000) > 0.9995).astype(np.float32),
    }[kind]
    soundfile.write(tmp_path / "quiet.wav", samples, 16_000)
    verdict = detector.inspect(tmp_path / "quiet.wav", heat_map=True).verdict
    assert verdict.label == "no voice" and verdict.spoof_probability is None and verdict.score is None
    assert all(window.spoof_probability is None for window in verdict.windows)
    assert any("No voice" in note for note in verdict.notes)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "FLOAT"])
def test_channels_that_cancel_are_told(detector: Detector, tmp_path: Path, voice: np.ndarray, subtype: str) -> None:
    rng = np.random.default_rng(0)
    others = {"cancelled": -0.95 * voice, "silent": 0 * voice, "unrelated": 0.1 * rng.standard_normal(len(voice))}
    for name, other in others.items():
        soundfile.write(tmp_path / f"{name}.wav", np.stack([voice, other], axis=1), 16_000, subtype=subtype)
        told = any("cancel each other" in note for note in detector.predict(tmp_path / f"{name}.wav").notes)
        assert told == (name == "cancelled")


def break_checkpoint(folder: Path, fault: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    match fault:
        case "weights cut":
            weights.write_bytes(weights.read_bytes()[:2_000])
        case "weights missing":
            weights.unlink()
        case "config missing":
            (folder / "config.json").unlink()
        case "config damaged":
            (folder / "config.json").write_text("{")
        case "field missing":
            del config["width"]
        case "feature missing":
            del config["features"]["hop_length"]
        case "field unknown":
            config["colour"] = "blue"
        case "network unknown":
            config["network"] = "transformer"
        case "wrong type":
            config["features"]["n_fft"] = "many"
        case "backbone unknown":
            config.update(network="res-efficientcnn", backbone="no_such_net")
        case "other size":
            config.update(network="res-efficientcnn")
        case "hub backbone":
            config.update(network="res-efficientcnn", backbone="hf-hub:me/backbone")
        case "wrong value":
            config["dropout"] = 1.5
        case "no hop":
            config["features"]["hop_length"] = 0
        case "weights not numbers":
            tensors = load_file(weights)
            tensors["network.head.weight"][:] = float("nan")
            save_file(tensors, weights)
    if fault not in ("config missing", "config damaged"):
        (folder / "config.json").write_text(json.dumps(config))


BROKEN = {
    "weights cut": "model.safetensors is damaged",
    "weights missing": "model.safetensors is missing",
    "config missing": "config.json is missing",
    "config damaged": "config.json is damaged",
    "field missing": "lacks: width",
    "feature missing": "lacks: hop_length",
    "field unknown": "unknown fields: colour",
    "network unknown": "'transformer' is unknown",
    "wrong type": "do not fit",
    "backbone unknown": "do not fit",
    "other size": "do not fit",
    "hub backbone": "not timm's own",
    "wrong value": "do not fit",
    "no hop": "do not fit",
    "weights not numbers": "not finite",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_checkpoint_gets_one_sentence(checkpoint: Path, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    break_checkpoint(folder, fault)
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        Detector.from_pretrained(folder)
    assert BROKEN[fault] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "a/b/c", "plain", "../up", ""])
def test_unknown_model_gets_one_sentence(name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        Detector.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"lost\.wav"):
        load_audio(tmp_path / "lost.wav", 16_000)
