"""Is there a voice to judge? Silero VAD (a small recurrent network that ships inside its package)."""

import numpy as np
import soxr
import torch

from .audio import within_full_scale

VAD_RATE_HZ = 16_000
FRAME_SAMPLES = 512
FRAME_SECONDS = FRAME_SAMPLES / VAD_RATE_HZ
CHUNK_FRAMES = 256  # 8.2 s a call; the network's memory restarts with each chunk
SPEECH_PROBABILITY = 0.5
QUIET_PEAK = 0.05  # below it Silero starts to miss voices: a far microphone, or a recorder turned down


class SpeechDetector:
    """Marks the 32 ms frames of a recording that hold speech. One instance serves many recordings."""

    def __init__(self) -> None:
        n_threads = torch.get_num_threads()
        from silero_vad import load_silero_vad  # its import sets torch to one thread

        torch.set_num_threads(n_threads)
        self._model = load_silero_vad(sequence=True)  # the batched export: one call a chunk

    def frames(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Samples (any number) -> bool per frame, True where a voice is heard."""
        if sample_rate != VAD_RATE_HZ:
            samples = soxr.resample(samples, sample_rate, VAD_RATE_HZ)
        return self._model.audio_forward(within_full_scale(samples)) >= SPEECH_PROBABILITY


class SpeechTrack:
    """Speech frames of one recording, collected from its blocks as they stream by."""

    def __init__(self, detector: SpeechDetector, sample_rate: int) -> None:
        self._detector, self._sample_rate = detector, sample_rate
        self._chunk_samples = round(CHUNK_FRAMES * FRAME_SECONDS * sample_rate)
        self._pending = np.zeros(0, np.float32)
        self._frames: list[np.ndarray] = []
        self._peak = 0.0  # so far, so that the faint pauses of a loud recording stay faint

    def feed(self, block: np.ndarray) -> None:
        self._pending = np.concatenate((self._pending, block))
        while len(self._pending) >= self._chunk_samples:
            self._judge(self._pending[: self._chunk_samples])
            self._pending = self._pending[self._chunk_samples :]

    def finish(self) -> np.ndarray:
        """bool (frames,) of the whole recording; frame i covers `FRAME_SECONDS` from i * `FRAME_SECONDS`."""
        if len(self._pending):
            self._judge(self._pending)
            self._pending = self._pending[:0]
        return np.concatenate(self._frames) if self._frames else np.zeros(0, bool)

    def _judge(self, samples: np.ndarray) -> None:
        samples = samples - samples.mean()  # an offset is no voice, however large
        self._peak = max(self._peak, float(np.abs(samples).max()))
        gain = 1 / self._peak if 0 < self._peak < QUIET_PEAK else 1.0
        self._frames.append(self._detector.frames(samples * np.float32(gain), self._sample_rate))
