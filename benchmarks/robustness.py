"""How much a checkpoint loses when recordings are treated as phones, rooms and web sites treat them.

    python benchmarks/robustness.py --data ../shared/data [--model FOLDER] [--noise NOISE_CSV] [--asvspoof LA] [--output FILE]

Every dev clip is treated, written as WAV and judged as a user's file is. EER is that of text-to-speech, voice conversion and
vocoders against bona fide (neural codecs are left out); beside it is what users meet: how many of the answers "fake" and of
the answers "real" are wrong, and how many clips are answered "can't tell". Treatments are fixed and seeded, and no bound is
moved. The small room wants one more package: pip install pyroomacoustics. The listing's rooms are of every size, and training
has them too.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, sosfilt
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from deepfake_detector import Detector
from deepfake_detector.audio import load_audio
from deepfake_detector.data.augment import (
    Noises,
    add_noise,
    delayed,
    reverberate,
    through_browser,
    through_ffmpeg,
    through_filter,
    through_rate,
)
from deepfake_detector.data.manifest import Clip, of_split, read_clips
from deepfake_detector.detector import BUNDLED
from deepfake_detector.evaluation import Scores, report

RATE_HZ = 16_000


def main() -> None:
    args = parse_arguments()
    if importlib.util.find_spec("pyroomacoustics") is None:  # told before the hour that the rows take
        sys.exit("The small room needs one more package: pip install pyroomacoustics")
    detector = Detector.from_pretrained(args.model)
    noises = Noises(args.noise, RATE_HZ) if args.noise else None
    clips = [clip for clip in of_split(read_clips([args.data]), "dev") if clip.family != "codec"]
    print(f"{'in % of dev':<28}   EER  (loss)   wrong when fake / real   can't tell")
    rows = {}
    for name, treat in {"clean": None, **treatments(noises)}.items():
        rows[name] = figures_of(detector, clips, treat)
        print(line(name, rows[name], rows["clean"]), flush=True)
    if args.asvspoof:
        name = "ASVspoof 2019 LA dev"
        rows[name] = figures_of(detector, of_split(read_clips([args.asvspoof]), "dev"), None)
        print(line(name, rows[name], rows["clean"]))
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set with a dev split")
    parser.add_argument("--model", default=str(BUNDLED), help="checkpoint folder or Hub id")
    parser.add_argument("--noise", type=Path, help="CSV of path,kind; without it noise is white and the room synthetic")
    parser.add_argument("--asvspoof", type=Path, help="ASVspoof 2019 LA archive, judged untreated on its dev partition")
    parser.add_argument("--output", type=Path, help="JSON file for the EERs")
    return parser.parse_args()


def treatments(noises: Noises | None) -> dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]:
    return {
        "MP3 48 kbit/s": lambda x, _: coded(x, "libmp3lame", RATE_HZ, 48_000),
        "Opus 16 kbit/s": lambda x, _: coded(x, "libopus", RATE_HZ, 16_000),
        "AAC 64 kbit/s": lambda x, _: coded(x, "aac", 44_100, 64_000),
        "G.711 8 kHz": lambda x, _: coded(x, "pcm_mulaw", 8_000, 64_000),
        "noise 20 dB": lambda x, rng: add_noise(x, some_noise(len(x), noises, rng), 20.0),
        "white noise 20 dB": lambda x, rng: add_noise(x, rng.standard_normal(len(x)), 20.0),
        "50 Hz hum 20 dB": lambda x, _: add_noise(x, np.sin(2 * np.pi * 50 / RATE_HZ * np.arange(len(x))), 20.0),
        "nothing below 150 Hz": lambda x, _: sosfilt(butter(4, 150, "highpass", fs=RATE_HZ, output="sos"), x),
        "echo of a desk": lambda x, rng: x + 0.7 * delayed(x, round(rng.uniform(3e-4, 2.5e-3) * RATE_HZ)),
        "echo after 120 ms": lambda x, _: x + 0.4 * delayed(x, round(0.12 * RATE_HZ)),
        "noise reduction": lambda x, _: through_filter(x, RATE_HZ, "afftdn", nr=20, nf=-40),
        "noise gate": lambda x, _: through_filter(
            x, RATE_HZ, "agate", threshold=0.03, range=0, ratio=9_000, release=50
        ),
        "1.25 times as fast": lambda x, _: through_filter(x, RATE_HZ, "atempo", tempo=1.25),
        "small room": lambda x, rng: fftconvolve(x, small_room(rng))[: len(x)],
        "listed room": lambda x, rng: reverberate(x, some_room(noises, rng), rng),
        "-20 dB gain": lambda x, _: x * np.float32(0.1),
        "44.1 kHz and back": lambda x, _: through_rate(x, RATE_HZ, 44_100),
        "edges cut": lambda x, _: without_edges(x),
        "browser microphone, Opus 128": lambda x, rng: coded(
            through_browser(x, RATE_HZ, rng), "libopus", 48_000, 128_000
        ),
        "1 second": lambda x, _: middle(x, RATE_HZ),
    }


def figures_of(detector: Detector, clips: list[Clip], treat: Callable | None) -> dict[str, float | None]:
    """Shares (0..1) over the clips that hold a voice after the treatment; None for an answer that nobody got."""
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        treated = Path(folder) / "clip.wav"
        for number, clip in enumerate(tqdm(clips, leave=False)):
            path = clip.path
            if treat:
                samples = treat(load_audio(clip.path, RATE_HZ), np.random.default_rng(number))
                soundfile.write(treated, samples / max(1.0, float(np.abs(samples).max())), RATE_HZ)
                path = treated
            trials.append((clip, detector.predict(path)))
    figures = report(detector.model, Scores(trials))
    return {name: figures[name] for name in ("eer", "wrong_when_fake", "wrong_when_real", "cannot_tell")}


def line(name: str, row: dict[str, float | None], clean: dict[str, float | None]) -> str:
    eer, fake, real, unsure = (100 * (share or 0.0) for share in row.values())
    return f"{name:<28}{eer:6.1f} ({eer - 100 * clean['eer']:+5.1f}){fake:14.1f} / {real:4.1f}{unsure:17.1f}"


def coded(samples: np.ndarray, codec: str, rate: int, bits_per_second: int) -> np.ndarray:
    options = {"compression_level": "3"} if codec == "libopus" else None  # not the default, so that old figures compare
    sent = soxr.resample(samples, RATE_HZ, rate)
    decoded, decoded_rate = through_ffmpeg(sent, rate, codec, bits_per_second, options)
    return soxr.resample(decoded, decoded_rate, RATE_HZ)


def some_noise(n_samples: int, noises: Noises | None, rng: np.random.Generator) -> np.ndarray:
    if noises is None:
        return rng.standard_normal(n_samples)
    return np.resize(noises.noises[rng.integers(len(noises.noises))], n_samples)


def some_room(noises: Noises | None, rng: np.random.Generator) -> np.ndarray:
    if noises and noises.rooms:
        return noises.rooms[rng.integers(len(noises.rooms))]
    return rng.standard_normal(8_000) * np.exp(-np.arange(8_000) / 800)


def small_room(rng: np.random.Generator) -> np.ndarray:
    """Response of a furnished room of 18 to 60 m3 that fades by 60 dB in 0.2 to 0.5 s, the microphone 0.5 to 2 m away.

    By the image method (Allen and Berkley 1979); no training makes rooms that way.
    """
    import pyroomacoustics

    size_m = rng.uniform((3.0, 2.5, 2.4), (5.0, 4.0, 3.0))
    absorption, max_order = pyroomacoustics.inverse_sabine(rng.uniform(0.2, 0.5), size_m)
    room = pyroomacoustics.ShoeBox(
        size_m, fs=RATE_HZ, materials=pyroomacoustics.Material(absorption), max_order=max_order
    )
    distance_m, angle = rng.uniform(0.5, 2.0), rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(angle), np.sin(angle), 0.0])
    mouth_m = np.append(size_m[:2] / 2, 1.4) - distance_m / 2 * away
    away[2] = rng.uniform(-0.2, 0.2)
    room.add_source(mouth_m)
    room.add_microphone(mouth_m + distance_m * away)
    room.compute_rir()
    return room.rir[0][0]


def without_edges(samples: np.ndarray) -> np.ndarray:
    """From the first to the last sample above 5 % of the peak."""
    loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
    return samples[loud[0] : max(loud[-1] + 1, loud[0] + RATE_HZ // 2)]


def middle(samples: np.ndarray, n_samples: int) -> np.ndarray:
    start = max(0, (len(samples) - n_samples) // 2)
    return samples[start : start + n_samples]


if __name__ == "__main__":
    main()
