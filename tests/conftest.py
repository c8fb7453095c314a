"""Fixtures: a tiny real checkpoint, real recordings that may be shipped, and an encoder for every container."""

import os

# Read by these packages at import: no network, no telemetry, nothing in the home folder.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_ANALYTICS_ENABLED="False")

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from deepfake_detector import Detector
from deepfake_detector.audio import load_audio
from deepfake_detector.features import FeatureConfig
from deepfake_detector.model import SpoofClassifier

ROOT = Path(__file__).parent.parent
VOICE = ROOT / "assets" / "espeak_woman.flac"
TINY_FEATURES = FeatureConfig(
    sample_rate=16_000,
    n_fft=512,
    hop_length=256,
    n_mels=32,
    f_min_hz=20.0,
    f_max_hz=8_000.0,
    top_db=80.0,
    normalise="picture",
    contrast_mels=0,
    contrast_frames=0,
    bands_per_row=1,
    picture_width=0,
    picture_height=0,
    window_seconds=1.0,
    window_hop_seconds=0.5,
)


def tiny_classifier(network: str = "basic-cnn", features: FeatureConfig = TINY_FEATURES) -> SpoofClassifier:
    """A small network with random weights and a calibration that spreads its answers."""
    torch.manual_seed(0)
    model = SpoofClassifier(
        features=features, network=network, backbone="efficientnet_b0", width=16, dropout=0.1
    ).eval()
    torch.nn.init.zeros_(model.network.head.bias)  # so that the score is the sum of what the map says
    model.calibration.copy_(torch.tensor([30.0, 0.0]))
    model.bounds.copy_(torch.tensor([0.4, 0.6]))
    return model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # small networks: threads cost more than they bring


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_classifier().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def detector(checkpoint: Path) -> Detector:
    return Detector.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def voice() -> np.ndarray:
    """About five seconds of speech at 16 kHz."""
    return load_audio(VOICE, 16_000)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, voice: np.ndarray) -> Path:
    """Pieces of speech as "real"; the same voice with a whistle as "fake"."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = ["path,label,group,system,split"]
    whistle = 0.05 * np.sin(2 * np.pi * 6_000 * np.arange(24_000) / 16_000)
    for i in range(96):
        start = int(rng.integers(4_000, len(voice) - 36_000))
        samples = voice[start : start + 24_000] * rng.uniform(0.3, 1.0) + 0.002 * rng.standard_normal(24_000)
        soundfile.write(folder / f"{i}.wav", samples + (whistle if i % 2 else 0), 16_000)
        rows.append(f"{i}.wav,{('real', 'fake')[i % 2]},{i},whistle,{'dev' if i >= 64 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def tone(seconds: float, sample_rate: int = 16_000, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def encode(
    path: Path,
    samples: np.ndarray,
    sample_rate: int,
    codec: str,
    container: str | None = None,
    bit_rate: int = 0,
    pause_seconds: int = 0,
    start_seconds: int = 0,
) -> Path:
    """Write mono float samples with FFmpeg's encoders, as phones and browsers do; if wanted, late and with a pause."""
    options = {"movflags": "faststart"} if start_seconds else {}  # the index first, so that a cut file still has it
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=sample_rate, layout="mono")
        if bit_rate:
            stream.codec_context.bit_rate = bit_rate
        resampler = av.AudioResampler(stream.format, "mono", sample_rate, stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, n_samples = sample_rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            if part and (pause_seconds or start_seconds):
                is_late = n_samples > len(samples) / 2
                part.pts = n_samples + (start_seconds + pause_seconds * is_late) * sample_rate
                n_samples += part.samples
            for packet in stream.encode(part):
                file.mux(packet)
    return path


def add_video(path: Path, samples: np.ndarray | None, sample_rate: int = 48_000, seconds: int = 1) -> Path:
    """A film of some seconds: a grey picture, with or without a sound track."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound = file.add_stream("aac", rate=sample_rate, layout="mono") if samples is not None else None
        for _ in range(10 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound is not None:
            resampler = av.AudioResampler(sound.format, "mono", sample_rate, 1024)
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = sample_rate
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                file.mux(sound.encode(part))
    return path
