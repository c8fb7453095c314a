"""Real voices from the package archive of Debian, as extra bona fide speech to train on.

    python -m deepfake_detector.data.people FOLDER

writes 16-bit WAV files at 16 kHz and a manifest.csv that `train.py --data` reads: announcements of telephone exchanges,
acted dialogue of games and words of children's programs, some 90 people at more than 50 microphones in 26 languages. Wants Debian
or Ubuntu (`apt-get update` first) and downloads some 700 MB into FOLDER/packages; nothing is installed. Words are shorter than
a training item, so several of one voice are joined.
"""

import argparse
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr
from tqdm import tqdm

from ..files import StorageError, csv_text, write_wav, write_whole
from ..speech import FRAME_SECONDS, SpeechDetector

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 2.5, 6.0  # of a clip: shorter recordings are joined, longer ones cut
MARGIN_SECONDS = 0.2  # kept before the first and after the last sound of a voice
FILES_PER_CLIP = 4  # as many words make a clip; more recordings than that need not be decoded
COLUMNS = ("path", "label", "split", "corpus", "group", "speaker", "language")


@dataclass(frozen=True)
class Voice:
    """Recordings of one person or one cast: the files in `package` that match `pattern`."""

    package: str
    pattern: str
    language: str
    n_clips: int = 60
    name: str = ""  # where a package has several of one language

    @property
    def corpus(self) -> str:
        return f"{self.package} {self.language}"

    @property
    def speaker(self) -> str:
        return f"{self.corpus} {self.name}".rstrip()


VOICES = (
    *(
        Voice(f"asterisk-core-sounds-{language}-g722", "**/*.g722", language)
        for language in ("en", "es", "fr", "it", "ru")
    ),
    Voice("asterisk-prompt-it-menardi-wav", "**/*.wav", "it"),
    Voice("asterisk-prompt-es-co", "**/*.gsm", "es"),
    Voice("asterisk-prompt-fr-armelle", "**/*.gsm", "fr"),
    *(Voice(f"fillets-ng-data-{language}", "**/*.ogg", language, 240) for language in ("cs", "nl")),
    *(
        Voice("tuxpaint-stamps-default", f"**/*_desc_{language}.ogg", language)
        for language in ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
    ),
    *(
        Voice("ktuberling-data", f"**/sounds/{language}/*.ogg", language, 40)
        for language in ("ca", "da", "de", "el", "en", "gl", "lt", "ru", "sl", "uk", "wa")
    ),
    Voice("ktuberling-data", "**/sounds/fr/*.wav", "fr", 40),
    *(
        Voice("klettres-data", f"**/klettres/{language}/**/*.ogg", language, 40)
        for language in ("ar", "da", "de", "en", "en_GB", "he", "hu", "it", "lt", "ml", "nds", "nl", "pt_BR", "uk")
    ),
    Voice("flight-of-the-amazon-queen", "**/*.mp3", "en", 240),
    *(
        Voice("hedgewars-data", f"**/voices/{name}/*.ogg", language, name=name)
        for name, language in (
            ("British", "en"),
            ("HillBilly", "en"),
            ("Mobster", "en"),
            ("Pirate", "en"),
            ("Surfer", "en"),
            ("Default_pl", "pl"),
            ("Russian_pl", "pl"),
            ("Default_ru", "ru"),
            ("Russian", "ru"),
            ("Default_uk", "uk"),
        )
    ),
)


def unpack(package: str, folder: Path) -> Path:
    """The folder of a package's files, downloaded if it is not there."""
    target = folder / package
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True, text=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        aside = folder / f"{package}.partial"
        subprocess.run(["dpkg-deb", "-x", archive, aside], check=True, capture_output=True, text=True)
        for archive_of_game in aside.rglob("queen.1c"):
            split_speech(archive_of_game)
        aside.rename(target)
        archive.unlink()
    return target


def split_speech(archive: Path) -> None:
    """Write the spoken lines of "Flight of the Amazon Queen", as ScummVM packs them, beside their archive as MP3 files.

    A table of name, bundle, offset and size follows 15 bytes, of which the last two count its rows.
    """
    content = archive.read_bytes()
    (n_entries,) = struct.unpack_from(">H", content, 13)
    for name, _, offset, size in struct.iter_unpack(">12sBII", content[15 : 15 + 21 * n_entries]):
        name = name.rstrip(b"\0").decode("ascii")
        if name.endswith(".SB"):
            (archive.parent / f"{name}.mp3").write_bytes(content[offset : offset + size])


def clips_of(files: list[Path], detector: SpeechDetector) -> Iterator[np.ndarray]:
    """Waveforms (n,) at `SAMPLE_RATE` of `MIN_SECONDS` to `MAX_SECONDS`; short recordings are joined in order."""
    joined = np.zeros(0, np.float32)
    for file in files:
        joined = np.concatenate((joined, spoken_part(decode(file), detector)))
        if len(joined) >= MIN_SECONDS * SAMPLE_RATE:
            yield joined[: int(MAX_SECONDS * SAMPLE_RATE)]
            joined = joined[:0]


def spoken_part(samples: np.ndarray, detector: SpeechDetector) -> np.ndarray:
    """The samples from the first to the last sound of a voice with a margin; none where nobody speaks."""
    frames = np.flatnonzero(detector.frames(samples, SAMPLE_RATE))
    if not len(frames):
        return samples[:0]
    start = int((frames[0] * FRAME_SECONDS - MARGIN_SECONDS) * SAMPLE_RATE)
    return samples[max(start, 0) : int(((frames[-1] + 1) * FRAME_SECONDS + MARGIN_SECONDS) * SAMPLE_RATE)]


def decode(file: Path) -> np.ndarray:
    """Mono float32 (n,) at `SAMPLE_RATE`: unlike `load_audio` of any length, and of bare telephone codecs too.

    A file that cannot be read, of which the packages hold a few, is empty.
    """
    try:
        with av.open(str(file), metadata_errors="ignore") as container:
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    except av.error.FFmpegError:
        return np.zeros(0, np.float32)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames]) if frames else np.zeros(0, np.float32)
    return soxr.resample(samples, rate, SAMPLE_RATE)


def make_clips(folder: Path) -> None:
    """Write the clips, evenly from all over each voice's recordings, and when all are there the manifest."""
    rows, detector = [], SpeechDetector()
    for voice in tqdm(VOICES, "voices"):
        files = sorted(unpack(voice.package, folder / "packages").glob(voice.pattern))
        step = max(1, len(files) // (FILES_PER_CLIP * voice.n_clips))
        clips = list(clips_of(files[::step], detector))
        for number in np.unique(np.linspace(0, len(clips) - 1, min(voice.n_clips, len(clips))).round().astype(int)):
            name = f"{voice.speaker.replace(' ', '_')}_{number:04d}.wav"
            write_wav(folder / name, clips[number], SAMPLE_RATE)
            rows.append((name, "bonafide", "train", voice.corpus, voice.speaker, voice.speaker, voice.language))
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Real voices from Debian packages, to train on.")
    parser.add_argument("folder", type=Path)
    make_clips(parser.parse_args().folder)


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not there; this needs Debian or Ubuntu.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"A package could not be had (apt-get update first): {error.stderr.strip()}")
    except StorageError as error:
        sys.exit(f"{error}")
