"""Any recording a person has -> mono float32 at one sample rate, and the windows cut from it.

The only decoder of what is trained on or judged: training, evaluation, command line and page all read through
`stream_audio`. FFmpeg (inside the `av` package) decodes, channels are averaged, soxr resamples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr

MIN_SECONDS = 0.5
MAX_SECONDS = 4 * 3600.0
BLOCK_SECONDS = 10.0
SAMPLE_RATES_HZ = (4_000, 768_000)
MAX_CHANNELS = 64
MAX_SAMPLE = 1e6  # full scale is 1; beyond this a file is broken, and its power would overflow
MAX_OVERSHOOT = 2.0  # cut off, more than this would make noise of a voice
CANCELLED = 0.01  # of the channels' power left in their mean; unrelated ones leave 1 / MAX_CHANNELS or more
OPUS_BITS_PER_SECOND = 40_000  # below it real voices are called fake too often (the checkpoint's card)
FORMATS = "WAV, AIFF, FLAC, MP3, OGG, Opus, M4A, AAC, WebM, MP4 or MOV"

# Only formats that carry their own sound: a playlist could make FFmpeg open other files or hosts.
_DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,ogg,mov,matroska,webm,aac,amr,asf,avi,ac3,mpeg,mpegts,flv,ape,wv,tta,nistsphere"  # by FFmpeg's names
# FFmpeg would search megabytes of every WAV for DTS, which no recorder of voices writes: ten times the time to open it.
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file", "max_probe_packets": "1"}
# In these a shorter sound track than the header promises means a cut file (an MP3 only estimates its length).
_EXACT_HEADERS = {"wav", "w64", "aiff", "au", "caf", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_SAMPLE_FORMATS = {name + planar for name in ("u8", "s16", "s32", "flt", "dbl") for planar in ("", "p")}


class AudioError(ValueError):
    """A recording that cannot be judged; the message is one sentence written for the user."""


@dataclass
class SourceInfo:
    """What `stream_audio` learnt about a file; complete once the stream is exhausted."""

    duration_seconds: float = 0.0
    promised_seconds: float = 0.0  # by the header; 0 if it does not say
    end_seconds: float = 0.0  # by the time stamps, in which a recorder may leave out pauses
    expected_seconds: float = 0.0  # the same, or an estimate from the size of the file
    n_tracks: int = 1
    codec: str = ""  # by FFmpeg's names
    n_bytes: int = 0  # of the coded sound
    n_packets: int = 0
    n_damaged: int = 0
    breaks_off: bool = False
    channel_energy: float = 0.0  # sum of squares over time, mean over the channels
    mono_energy: float = 0.0  # the same of the channels' mean

    @property
    def is_cut_short(self) -> bool:
        """True if clearly less sound could be decoded than the file promises. A stray damaged packet is no reason."""
        missing_seconds = self.promised_seconds - max(self.duration_seconds, self.end_seconds)
        is_damaged = self.n_damaged > 1 + 0.01 * self.n_packets
        return self.breaks_off or is_damaged or missing_seconds > max(0.5, 0.05 * self.duration_seconds)

    @property
    def bits_per_second(self) -> float:
        """What the coded sound takes; 0 if there is none."""
        return 8 * self.n_bytes / self.duration_seconds if self.duration_seconds else 0.0

    @property
    def is_squeezed_opus(self) -> bool:
        """True for Opus at a bit rate at which it no longer codes sound but the model of a voice, as in voice messages."""
        return self.codec == "opus" and self.bits_per_second < OPUS_BITS_PER_SECOND

    @property
    def channels_cancel(self) -> bool:
        """True if one channel is about the other upside down (a balanced or wrongly wired cable), so the mean is none."""
        return self.mono_energy < CANCELLED * self.channel_energy


def stream_audio(
    path: str | Path, sample_rate: int, info: SourceInfo | None = None, min_seconds: float = MIN_SECONDS
) -> Iterator[np.ndarray]:
    """Decode a file block by block, so that an hour of audio never lies in memory at once.

    Yields mono float32 blocks of about `BLOCK_SECONDS` at `sample_rate` (Hz). Values may lie beyond +-1 when
    the file's do. `info`, if given, is filled while reading.

    Raises AudioError if the file is missing, empty, not a recording, without sound, damaged beyond use,
    shorter than `min_seconds`, longer than `MAX_SECONDS`, or holds NaN or infinite samples.
    """
    path, info = Path(path), info if info is not None else SourceInfo()
    n_samples = 0
    for block in _resample(_decode(path, info), sample_rate):
        if not (np.abs(block) < MAX_SAMPLE).all():  # NaN fails the comparison too
            raise AudioError(f"{path.name} holds samples that are no numbers or far too large; export it again.")
        n_samples += len(block)
        info.duration_seconds = n_samples / sample_rate
        _check_length(path, info.duration_seconds)
        yield block
    if info.duration_seconds < min_seconds:
        rounded_down = int(100 * info.duration_seconds) / 100  # up, it could read as enough
        raise AudioError(
            f"{path.name} holds {rounded_down:.2f} seconds of sound; record at least {min_seconds} seconds."
        )


def load_audio(path: str | Path, sample_rate: int, min_seconds: float = MIN_SECONDS) -> np.ndarray:
    """The whole file as float32 of shape (samples,), at `sample_rate`; raises AudioError as `stream_audio` does."""
    return np.concatenate(list(stream_audio(path, sample_rate, min_seconds=min_seconds)))


def within_full_scale(samples: np.ndarray) -> np.ndarray:
    """Samples (n,) within +-1: an encoder's overshoot is cut off, and what is on another scale made quieter as a whole."""
    peak = np.abs(samples).max(initial=0.0)
    return samples / peak if peak > MAX_OVERSHOOT else samples.clip(-1.0, 1.0)


def iter_windows(
    blocks: Iterable[np.ndarray], window_samples: int, hop_samples: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """The one window rule: (start, end, window) of equal-length windows that cover the whole recording.

    Windows start every `hop_samples`; if they leave a tail uncovered, one more window ends with the recording.
    A recording shorter than a window is repeated to fill one, and `end` tells where it really stopped.
    """
    assert 0 < hop_samples <= window_samples
    buffer, start, covered = np.zeros(0, np.float32), 0, 0  # buffer[0] is sample `start` of the recording
    tail = np.zeros(0, np.float32)  # the last `window_samples` samples seen
    for block in blocks:
        buffer = np.concatenate((buffer, block))
        tail = np.concatenate((tail, block[-window_samples:]))[-window_samples:]
        offset = 0
        while len(buffer) - offset >= window_samples:
            covered = start + offset + window_samples
            yield start + offset, covered, buffer[offset : offset + window_samples]
            offset += hop_samples
        buffer, start = buffer[offset:], start + offset
    n_samples = start + len(buffer)
    if covered == 0 and n_samples:
        yield 0, n_samples, fill_window(buffer, window_samples)
    elif covered < n_samples:
        yield n_samples - window_samples, n_samples, tail


def fill_window(samples: np.ndarray, window_samples: int) -> np.ndarray:
    """Repeat a short recording until it fills a window (zeros would teach the network clip length)."""
    assert len(samples) > 0
    return np.resize(samples, window_samples)


def _decode(path: Path, info: SourceInfo) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample rate in Hz, mono float32 samples) frame by frame."""
    _check_file(path)
    unreadable = AudioError(f"{path.name} is not a recording that can be read; use {FORMATS}.")
    try:  # an absolute path, because FFmpeg takes the start of "12:30.wav" for a protocol
        container = av.open(str(path.absolute()), metadata_errors="ignore", options=_OPTIONS)
    except av.FFmpegError:
        raise unreadable from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path.name} has no sound track; choose a file with sound.")
        stream, info.n_tracks = container.streams.audio[0], len(container.streams.audio)
        if stream.codec_context is None:  # FFmpeg knows no decoder for it
            raise unreadable
        info.codec = stream.codec_context.codec.canonical_name
        info.promised_seconds = _promised_seconds(container, stream)
        _check_length(path, info.promised_seconds)
        info.expected_seconds = info.promised_seconds or (container.duration or 0) / av.time_base
        info.breaks_off = _is_cut_wav(path)
        # A track may begin late, which its own length leaves out and the container's does not.
        start = end = (stream.start_time or 0) if stream.duration else 0
        n_frames = 0
        try:
            for packet in container.demux(stream):
                info.n_packets += packet.size > 0  # the last one only ends the stream
                info.n_bytes += packet.size
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                for frame in _decode_packet(packet, info):
                    n_frames += 1
                    _check_frame(path, frame)
                    yield frame.sample_rate, _to_mono(_to_channels(frame), info)
        except (av.FFmpegError, IndexError):  # the container breaks off, or av meets a track that begins midway
            info.breaks_off = True
        if stream.time_base:
            info.end_seconds = float((end - start) * stream.time_base)
        if n_frames == 0 and info.n_packets:  # no packet at all is a recorder that was stopped at once
            raise unreadable


def _check_file(path: Path) -> None:
    try:
        is_file, n_bytes = path.is_file(), path.stat().st_size
        if not is_file and not path.is_dir():  # before it is opened, for which a pipe waits
            raise AudioError(f"{path.name} is a pipe or a device; save the recording as a file first.")
        path.open("rb").close()
    except FileNotFoundError:
        raise AudioError(f"There is no file called {path.name}.") from None
    except IsADirectoryError:
        raise AudioError(f"{path.absolute().name or path} is a folder; name the recordings in it.") from None
    except OSError:
        raise AudioError(f"{path.name} may not be read; check its name and permissions.") from None
    if n_bytes == 0:
        raise AudioError(f"{path.name} is empty (0 bytes); record or save it again.")


def _check_length(path: Path, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise AudioError(f"{path.name} is longer than {MAX_SECONDS / 3600:.0f} hours; cut it into shorter parts.")


def _promised_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float:
    """Length by the header of a format that states it exactly; otherwise 0."""
    if container.format.name not in _EXACT_HEADERS:
        return 0.0
    if container.format.name == "matroska,webm" and container.streams.video:
        return 0.0  # it states the length of the film, whose sound may end before
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _is_cut_wav(path: Path) -> bool:
    """True if a WAV file is shorter than its header says (FFmpeg quietly believes the file instead)."""
    with open(path, "rb") as file:
        head = file.read(8)
    declared = int.from_bytes(head[4:8], "little")
    # A missing pad byte is no cut, nor are the 8 bytes before the size, which some programs count too; and programs that
    # write to a pipe cannot know the size and put a huge number there.
    return head[:4] == b"RIFF" and path.stat().st_size + 1 < declared < 0x7FFF_0000


def _decode_packet(packet: av.Packet, info: SourceInfo) -> list[av.AudioFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:  # one damaged packet, as in a truncated file: go on with the next
        info.n_damaged += 1
        return []


def _check_frame(path: Path, frame: av.AudioFrame) -> None:
    low, high = SAMPLE_RATES_HZ
    if not low <= frame.sample_rate <= high or not 1 <= frame.layout.nb_channels <= MAX_CHANNELS:
        raise AudioError(
            f"{path.name} claims {frame.layout.nb_channels} channels at {frame.sample_rate} Hz; "
            f"1 to {MAX_CHANNELS} channels at {low} to {high} Hz can be read."
        )
    if frame.format.name not in _SAMPLE_FORMATS:
        raise AudioError(f"{path.name} has samples of an unusual kind ({frame.format.name}); save it as 16-bit WAV.")


def _to_channels(frame: av.AudioFrame) -> np.ndarray:
    """Samples (channels, n); integer formats become float with full scale at 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples - 128.0) / 128.0
    if samples.dtype.kind == "i":
        return samples / float(1 << (8 * samples.dtype.itemsize - 1))
    return samples


def _to_mono(channels: np.ndarray, info: SourceInfo) -> np.ndarray:
    """The mean (n,) of channels (channels, n), as float32; `info` learns how much of them it keeps."""
    mono = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float64)
    if len(channels) > 1:
        info.channel_energy += float(np.square(channels, dtype=np.float64).mean(axis=0).sum())
        info.mono_energy += float(np.square(mono).sum())
    return mono.astype(np.float32)


def _resample(frames: Iterable[tuple[int, np.ndarray]], sample_rate: int) -> Iterator[np.ndarray]:
    """Gather frames into blocks of `BLOCK_SECONDS` and bring them to `sample_rate`."""
    pending, n_pending, source_rate, resampler = [], 0, 0, None

    def flush(last: bool) -> np.ndarray:
        block = np.concatenate(pending) if pending else np.zeros(0, np.float32)
        pending.clear()
        return resampler.resample_chunk(block, last=last) if resampler else block

    for rate, samples in frames:
        if rate != source_rate:  # the first frame, or a stream that changes its rate midway
            if source_rate:
                yield flush(last=True)
            resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
            source_rate, n_pending = rate, 0
        pending.append(samples)
        n_pending += len(samples)
        if n_pending >= BLOCK_SECONDS * rate:
            yield flush(last=False)
            n_pending = 0
    if source_rate:
        yield flush(last=True)
