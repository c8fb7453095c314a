"""Waveform augmentation: what phones, rooms and the internet do to a voice, whoever or whatever spoke."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import soundfile
import soxr
from scipy.fft import next_fast_len
from scipy.signal import fftconvolve

from ..audio import MIN_SECONDS, AudioError, load_audio
from .manifest import DataError, read_table, refuse

MIN_ROOM_SECONDS = 0.001
SPEEDS = (0.85, 1.18)  # some three semitones down and up
LOW_CUT_HZ, LOW_CUT_ORDERS = (40.0, 300.0), 4  # a room's steps to a telephone's band
ECHO_SECONDS, ECHO_GAINS, MAX_ECHOES = (2e-4, 0.3), (0.1, 0.8), 3  # from a desk's to a loudspeaker call's
MAINS_HZ, HUM_SNR_DB, MAX_OVERTONES = (50.0, 60.0), (10.0, 50.0), 16


@dataclass(frozen=True)
class Codec:
    """An encoder with what it is fed: `name` is soundfile's "FORMAT SUBTYPE" where there is no bit rate, else FFmpeg's name."""

    name: str
    sample_rates: tuple[int, ...]
    kbits_per_second: tuple[int, int] | None = None
    options: dict[str, str] = field(default_factory=dict)


# Opus holds an encoder for music (CELT) and one for speech (SILK). At its fast setting it takes the first above some 17 kbit/s;
# calls and voice messages have the second, which "voip" asks for.
CODECS = (
    Codec("MP3 MPEG_LAYER_III", (16000, 22050, 44100)),
    Codec("OGG VORBIS", (16000, 22050, 44100)),
    Codec("WAV ULAW", (8000,)),
    Codec("WAV ALAW", (8000,)),
    Codec("aac", (16000, 22050, 44100), (24, 128), {"aac_coder": "fast"}),
    Codec("libopus", (8000, 16000, 48000), (8, 64), {"compression_level": "3"}),
    Codec("libopus", (8000, 16000, 48000), (6, 32), {"application": "voip"}),
    Codec("g722", (16000,), (64, 64)),
    Codec("libopencore_amrnb", (8000,), (7, 12)),
)

# What programs for sound, film and meetings do to a voice; FFmpeg's filters, for a peak near full scale.
EDITS: dict[str, Callable[[np.random.Generator], dict[str, float]]] = {
    "afftdn": lambda rng: {"nr": rng.uniform(6, 30), "nf": rng.uniform(-65, -30)},  # noise reduction, floor in dB
    "agate": lambda rng: {
        "threshold": 10 ** rng.uniform(-2.3, -1.3),
        "range": rng.uniform(0, 0.2),
        "ratio": 2 ** rng.uniform(1, 8),
        "release": rng.uniform(20, 300),
    },
    "acompressor": lambda rng: {"threshold": rng.uniform(0.03, 0.3), "ratio": rng.uniform(2, 12), "attack": 5},
    "atempo": lambda rng: {"tempo": rng.uniform(0.8, 1.35)},  # the pitch stays, unlike in change_speed
}


@dataclass(frozen=True)
class AugmentConfig:
    """Chance of each step (0..1) and its range."""

    speed: float
    equaliser: float
    echo: float
    room: float
    noise: float
    noise_snr_db: tuple[float, float]
    low_cut: float
    hum: float
    clip: float
    low_pass: float
    edit: float
    raw_boost: float
    microphone: float
    silence: float
    time_cut: float
    codec: float
    gain_db: tuple[float, float]


class Noises:
    """Noise, music and room responses listed in a CSV of `path,kind`; held in memory."""

    def __init__(self, listing: Path, sample_rate: int) -> None:
        self.noises: list[np.ndarray] = []
        self.rooms: list[np.ndarray] = []
        if not listing.is_file():
            raise DataError(f"There is no noise listing at {listing}.")
        faults = []
        for row in read_table(listing, ("path", "kind")):
            try:
                is_room = row["kind"] == "rir"
                is_click = not is_room and bool(row.get("seconds")) and float(row["seconds"]) < MIN_SECONDS
            except ValueError:
                faults.append(f"{listing} has a length that is no number: {row['seconds']}")
                continue
            try:
                if is_room:  # a small one has long faded after half a second
                    self.rooms.append(load_audio(listing.parent / row["path"], sample_rate, MIN_ROOM_SECONDS))
                elif not is_click:  # else it would count as a damaged file
                    self.noises.append(load_audio(listing.parent / row["path"], sample_rate))
            except AudioError as error:
                faults.append(f"{(listing.parent / row['path']).parent}: {error}")
        refuse(faults)


def augment(
    samples: np.ndarray, sample_rate: int, config: AugmentConfig, noises: Noises | None, rng: np.random.Generator
) -> np.ndarray:
    """A new array (samples,), the chain in the order in which the world applies it: source, room, device, codec."""
    if rng.random() < config.speed:
        samples = change_speed(samples, sample_rate, rng.uniform(*SPEEDS))
    if rng.random() < config.silence:
        samples = vary_edges(samples, sample_rate, rng)
    if rng.random() < config.time_cut:
        samples = cut_time(samples, sample_rate, rng)
    if rng.random() < config.equaliser:
        samples = equalise(samples, rng)
    if rng.random() < config.echo:
        samples = echo(samples, sample_rate, rng)
    if rng.random() < config.room:
        samples = reverberate(samples, _draw_room(sample_rate, noises, rng), rng)
    if rng.random() < config.noise:
        samples = add_noise(samples, _draw_noise(len(samples), noises, rng), rng.uniform(*config.noise_snr_db))
    if rng.random() < config.low_cut:
        samples = cut_lows(samples, sample_rate, rng)
    if rng.random() < config.hum:
        samples = add_noise(samples, mains_hum(len(samples), sample_rate, rng), rng.uniform(*HUM_SNR_DB))
    if rng.random() < config.raw_boost:
        samples = raw_boost(samples, rng)
    if rng.random() < config.microphone:
        samples = through_browser(samples, sample_rate, rng)
    if rng.random() < config.clip:
        samples = overdrive(samples, rng.uniform(1.0, 4.0))
    if rng.random() < config.low_pass:
        samples = through_rate(samples, sample_rate, int(rng.integers(7000, 15500)))
    if rng.random() < config.edit:
        samples = edit(samples, sample_rate, rng)
    samples = at_level(samples, rng.uniform(*config.gain_db))
    if rng.random() < config.codec:
        samples = through_codec(samples, sample_rate, rng)
    return samples


def change_speed(samples: np.ndarray, sample_rate: int, speed: float) -> np.ndarray:
    """Play at another speed, which moves pitch and formants, as if somebody else spoke (Ko et al. 2015); length kept.

    So that training has several voices where its data have one, and who speaks says less.
    """
    return np.resize(soxr.resample(samples, sample_rate * speed, sample_rate), len(samples))


def equalise(samples: np.ndarray, rng: np.random.Generator, n_points: int = 8, range_db: float = 9.0) -> np.ndarray:
    """A smooth random frequency response, as of another microphone."""
    spectrum = _spectrum(samples)
    points_db = rng.uniform(-range_db, range_db, n_points)
    curve_db = np.interp(np.linspace(0, n_points - 1, len(spectrum)), np.arange(n_points), points_db)
    return _waveform(spectrum * 10 ** (curve_db / 20), len(samples)).astype(np.float32)


def echo(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Add up to three echoes; a desk's comes so soon that some frequencies vanish, a loudspeaker call's is heard."""
    wet = samples.copy()
    for _ in range(rng.integers(1, MAX_ECHOES + 1)):
        delay = round(np.exp(rng.uniform(*np.log(ECHO_SECONDS))) * sample_rate)
        wet += delayed(samples, delay) * np.float32(rng.choice([-1, 1]) * rng.uniform(*ECHO_GAINS))
    return wet


def delayed(samples: np.ndarray, delay: int) -> np.ndarray:
    """The same waveform (samples,) `delay` samples later, its length kept."""
    return np.pad(samples, (delay, 0))[: len(samples)]


def reverberate(samples: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a room response, its decay shortened at random; the length and the onset are kept."""
    onset = int(np.argmax(np.abs(room)))
    response = room[onset : onset + 16000] * np.exp(-np.arange(min(16000, len(room) - onset)) / rng.uniform(800, 8000))
    wet = fftconvolve(samples, response.astype(np.float32))[: len(samples)]
    return (wet / max(float(np.abs(response).max()), 1e-9)).astype(np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Mix noise (samples,) at a signal-to-noise ratio in dB."""
    signal_power, noise_power = np.mean(samples**2), np.mean(noise**2)
    scale = np.sqrt(signal_power / max(float(noise_power), 1e-12) / 10 ** (snr_db / 10))
    return (samples + scale * noise).astype(np.float32)


def cut_lows(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Damp the deep tones, as microphones do against wind and steps: a Butterworth response at a random corner."""
    spectrum = _spectrum(samples)
    ratio = np.linspace(0, sample_rate / 2, len(spectrum)) / rng.uniform(*LOW_CUT_HZ)
    steep = ratio ** rng.integers(1, LOW_CUT_ORDERS + 1)
    return _waveform(spectrum * steep / np.sqrt(1 + steep**2), len(samples)).astype(np.float32)


def mains_hum(n_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """What the mains adds to a badly shielded recording (n_samples,): 50 or 60 Hz alone, or with overtones of any strength.

    Real recordings have it more often than synthetic ones, so a network that was not trained with it on both took it for a
    sign of a person (benchmarks/results/ablation.md).
    """
    numbers = np.arange(1, int(MAX_OVERTONES ** rng.random()) + 1)
    strengths = rng.random(len(numbers)) / numbers ** rng.uniform(0, 2)
    base_hz = rng.choice(MAINS_HZ) * rng.uniform(0.998, 1.002)
    turns = base_hz * numbers[:, None] * np.arange(n_samples) / sample_rate + rng.random((len(numbers), 1))
    return strengths @ np.sin(2 * np.pi * turns)


def overdrive(samples: np.ndarray, drive: float) -> np.ndarray:
    """Cut the peaks off as an overloaded microphone does."""
    peak = max(float(np.abs(samples).max()), 1e-9)
    return np.clip(samples * drive, -peak, peak)


def through_rate(samples: np.ndarray, sample_rate: int, other_rate: int) -> np.ndarray:
    """Resample to another rate and back, which cuts the band at half the lower rate."""
    back = soxr.resample(soxr.resample(samples, sample_rate, other_rate), other_rate, sample_rate)
    return np.resize(back, len(samples))


def at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """Bring the peak to a level in dB relative to full scale."""
    return samples * np.float32(10 ** (level_db / 20) / max(float(np.abs(samples).max()), 1e-9))


def edit(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One of EDITS at random; where it makes a clip longer or shorter, the length is kept by cutting or repeating."""
    name = str(rng.choice(list(EDITS)))
    loud = at_level(samples, rng.uniform(-6.0, 0.0))
    return np.resize(through_filter(loud, sample_rate, name, **EDITS[name](rng)), len(samples))


def through_filter(samples: np.ndarray, sample_rate: int, name: str, **options: float) -> np.ndarray:
    """One of FFmpeg's sound filters over a mono waveform (samples,)."""
    graph = av.filter.Graph()
    nodes = [
        graph.add_abuffer(sample_rate=sample_rate, format="fltp", layout="mono", time_base=Fraction(1, sample_rate)),
        graph.add(name, **{key: f"{value:.6f}" for key, value in options.items()}),
        graph.add("aformat", "sample_fmts=fltp:channel_layouts=mono"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    parts = []
    for given in (_frame(samples, sample_rate), None):
        graph.push(given)
        with suppress(BlockingIOError, EOFError):  # it wants more, or has given all
            while True:
                parts.append(graph.pull().to_ndarray()[0])
    return np.concatenate(parts)


def through_codec(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Encode and decode with a random codec, rate and quality; length kept, codec delay left in."""
    codec = CODECS[rng.integers(len(CODECS))]
    rate = int(rng.choice(codec.sample_rates))
    sent = soxr.resample(samples, sample_rate, rate)
    if codec.kbits_per_second is None:
        decoded, decoded_rate = _through_soundfile(sent, rate, *codec.name.split(), quality=rng.uniform(0.01, 0.8))
    else:
        bits_per_second = int(1000 * rng.uniform(*codec.kbits_per_second))
        decoded, decoded_rate = through_ffmpeg(sent, rate, codec.name, bits_per_second, codec.options)
    return np.resize(soxr.resample(decoded, decoded_rate, sample_rate), len(samples))


def _through_soundfile(
    samples: np.ndarray, rate: int, container: str, subtype: str, quality: float
) -> tuple[np.ndarray, int]:
    file = io.BytesIO()
    level = {"compression_level": 1.0 - quality} if container != "WAV" else {}
    soundfile.write(file, samples, rate, format=container, subtype=subtype, **level)
    file.seek(0)
    return soundfile.read(file, dtype="float32")


def through_ffmpeg(
    samples: np.ndarray, rate: int, codec: str, bits_per_second: int, options: dict[str, str] | None = None
) -> tuple[np.ndarray, int]:
    """One encoder straight into its decoder, without a container between them: (samples,), its sample rate in Hz."""
    packets, encoder = encode(samples, rate, codec, bits_per_second, options)
    decoder = av.CodecContext.create(encoder.codec.canonical_name, "r")
    decoder.sample_rate, decoder.layout, decoder.extradata = rate, "mono", encoder.extradata
    to_float = av.AudioResampler("fltp", "mono")
    decoded = [
        part.to_ndarray()[0]
        for packet in [*packets, None]
        for frame in decoder.decode(packet)
        for part in to_float.resample(frame)
    ]
    return np.concatenate(decoded), decoder.sample_rate


def encode(
    samples: np.ndarray, rate: int, codec: str, bits_per_second: int, options: dict[str, str] | None = None
) -> tuple[list[av.Packet], av.AudioCodecContext]:
    """All packets of a mono waveform (samples,) at `rate` in Hz, and the encoder that made them."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.bit_rate = rate, "mono", bits_per_second
    encoder.format = encoder.codec.audio_formats[0]
    encoder.options = options or {}
    encoder.open()
    resampler = av.AudioResampler(encoder.format, "mono", rate, encoder.frame_size or 1024)
    parts = [*resampler.resample(_frame(np.clip(samples, -1, 1), rate)), *resampler.resample(None), None]
    return [packet for part in parts for packet in encoder.encode(part)], encoder


def _frame(samples: np.ndarray, rate: int) -> av.AudioFrame:
    """A mono waveform (samples,) as FFmpeg takes it."""
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate
    return frame


def raw_boost(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or two of RawBoost's distortions (Tak et al. 2022, arXiv:2111.04433): LnL convolutive, ISD, SSI."""
    steps = (_convolutive_noise, _impulsive_noise, _stationary_noise)
    for number in rng.permutation(3)[: rng.integers(1, 3)]:
        samples = steps[number](samples, rng)
    return samples.astype(np.float32)


def _convolutive_noise(samples: np.ndarray, rng: np.random.Generator, n_powers: int = 5) -> np.ndarray:
    """Linear and non-linear: random notch filters on the signal and, ever weaker, on its powers."""
    normal = samples / max(float(np.abs(samples).max()), 1e-9)
    power, spectrum = normal, _notched(_spectrum(normal), rng)
    for _ in range(2, n_powers + 1):
        power = power * normal
        spectrum = spectrum + 10 ** (rng.uniform(-40, -20) / 20) * _notched(_spectrum(power), rng)
    out = _waveform(spectrum, len(samples))
    return (out - out.mean()) * (np.std(samples) / max(float(np.std(out)), 1e-9))


def _impulsive_noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signal-dependent: up to a tenth of the samples get a random share of themselves added or taken away."""
    hit = rng.random(len(samples)) < rng.uniform(0, 0.1)
    return samples + hit * samples * rng.uniform(-1, 1, len(samples)) * rng.uniform(0, 2)


def _stationary_noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signal-independent: white noise through random notch filters, 10 to 40 dB below the signal."""
    noise = _waveform(_notched(_spectrum(rng.standard_normal(len(samples))), rng), len(samples))
    return add_noise(samples, noise, rng.uniform(10, 40))


def _spectrum(samples: np.ndarray) -> np.ndarray:
    """Spectrum of (samples,), zeros added up to a length without large prime factors, which would take 20 times longer."""
    return np.fft.rfft(samples, next_fast_len(len(samples), real=True))


def _waveform(spectrum: np.ndarray, n_samples: int) -> np.ndarray:
    """What `_spectrum` was made of."""
    return np.fft.irfft(spectrum, next_fast_len(n_samples, real=True))[:n_samples]


def _notched(spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to five bands of random place and width damped by up to 30 dB."""
    place = np.linspace(0, 1, len(spectrum))
    for _ in range(rng.integers(1, 6)):
        centre, width = rng.uniform(0, 1), rng.uniform(0.012, 0.12)
        low, high = np.searchsorted(place, (centre - width / 2, centre + width / 2))
        spectrum[low:high] *= 10 ** (rng.uniform(-30, 0) / 20)
    return spectrum


def through_browser(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """What a page's microphone does before Opus: noise suppression and automatic gain, as browsers have them on.

    Suppression goes further than a browser's, as far as the gates of studios do: a black background is no sign of a machine.
    """
    clean = suppress_noise(samples, rng.uniform(0.05, 0.3), rng.uniform(1.0, 8.0), rng.uniform(6.0, 50.0))
    return even_out(clean, int(rng.uniform(0.1, 0.5) * sample_rate), rng.uniform(0.2, 0.7))


def suppress_noise(samples: np.ndarray, floor_quantile: float, overestimate: float, depth_db: float) -> np.ndarray:
    """Wiener-like gain per cell against a noise floor, which is a quantile of each band's power over time."""
    n_fft, hop_length = 512, 256
    padded = np.pad(samples, (n_fft, 2 * n_fft))
    window = np.hanning(n_fft + 1)[:-1] ** 0.5
    spectrum = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length] * window, axis=1)
    power = np.abs(spectrum) ** 2 + 1e-12
    gain = np.maximum(1 - overestimate * np.quantile(power, floor_quantile, axis=0) / power, 10 ** (-depth_db / 20))
    frames = np.fft.irfft(spectrum * gain, n_fft, axis=1) * window
    clean = np.zeros(len(padded))
    for number, frame in enumerate(frames):
        clean[number * hop_length : number * hop_length + n_fft] += frame
    return clean[n_fft : n_fft + len(samples)].astype(np.float32)


def even_out(samples: np.ndarray, n_smooth: int, strength: float) -> np.ndarray:
    """Automatic gain: divide by the smoothed envelope to a power (`strength` 0: unchanged, 1: flat)."""
    peak = float(np.abs(samples).max()) + 1e-9
    energy = np.cumsum(np.pad(samples.astype(np.float64) ** 2, (n_smooth // 2 + 1, n_smooth - n_smooth // 2 - 1)))
    envelope = np.sqrt((energy[n_smooth:] - energy[:-n_smooth]).clip(0) / n_smooth) + 1e-2 * peak
    return (samples * envelope**-strength).astype(np.float32)


def vary_edges(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Move the speech within its window: cut quiet edges to a random rest, so that their length says nothing.

    The length is kept by repeating what is left, as a short recording is.
    """
    n_frame = sample_rate // 50
    n_frames = len(samples) // n_frame
    if n_frames < 10:
        return samples
    level = np.abs(samples[: n_frames * n_frame]).reshape(n_frames, n_frame).max(axis=1)
    if not level.any():  # a stretch of digital silence has no edges
        return samples
    loud = np.flatnonzero(level > 0.05 * level.max())
    start = int(loud[0] * n_frame * rng.random())
    end = len(samples) - int((len(samples) - (loud[-1] + 1) * n_frame) * rng.random())
    return np.resize(samples[start:end], len(samples))


def cut_time(samples: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Take out a piece of up to 0.3 s; the length is kept by repeating the start at the end."""
    n_cut = int(min(rng.uniform(0.02, 0.3) * sample_rate, len(samples) / 4))
    start = int(rng.integers(0, len(samples) - n_cut))
    return np.resize(np.delete(samples, slice(start, start + n_cut)), len(samples))


def _draw_room(sample_rate: int, noises: Noises | None, rng: np.random.Generator) -> np.ndarray:
    """A measured room response, where there are any, or as often an invented one."""
    if noises and noises.rooms and rng.random() < 0.5:
        return noises.rooms[rng.integers(len(noises.rooms))]
    return invented_room(sample_rate, rng)


def invented_room(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Half a second of a room of no particular shape: direct sound, echoes of single walls, then noise that fades.

    It fades by 60 dB in 0.1 to 0.6 s, more slowly below 500 Hz and sooner above 2 kHz, as walls and air take high sounds first.
    """
    n_samples = sample_rate // 2
    seconds = np.arange(n_samples) / sample_rate
    spectrum, frequency = np.fft.rfft(rng.standard_normal(n_samples)), np.fft.rfftfreq(n_samples, 1 / sample_rate)
    fade_seconds, tail = rng.uniform(0.1, 0.6), np.zeros(n_samples)
    bands = ((0, 500, rng.uniform(1.0, 1.4)), (500, 2_000, 1.0), (2_000, np.inf, rng.uniform(0.4, 1.0)))
    for low_hz, high_hz, slowness in bands:
        band = np.fft.irfft(spectrum * ((frequency >= low_hz) & (frequency < high_hz)), n_samples)
        tail += band * np.exp(-np.log(1000) * seconds / (fade_seconds * slowness))
    echoes = rng.integers(0, sample_rate // 25, rng.integers(0, 12))  # within 40 ms
    tail[echoes] += rng.choice([-4.0, 4.0], len(echoes)) * np.exp(-np.log(1000) * seconds[echoes] / fade_seconds)
    tail[seconds < rng.uniform(0.001, 0.008)] = 0.0  # nothing comes back before the nearest wall
    direct_to_tail_db = rng.uniform(-5.0, 15.0)
    response = tail / np.sqrt(np.sum(tail**2)) * 10 ** (-direct_to_tail_db / 20)
    response[0] = 1.0
    return response


def _draw_noise(n_samples: int, noises: Noises | None, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a listed noise, or coloured noise if there is none or by a coin's chance."""
    if noises and noises.noises and rng.random() < 0.75:
        noise = noises.noises[rng.integers(len(noises.noises))]
        return noise.take(np.arange(n_samples) + rng.integers(len(noise)), mode="wrap")
    spectrum = _spectrum(rng.standard_normal(n_samples))
    return _waveform(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0.0, 0.5), n_samples)
