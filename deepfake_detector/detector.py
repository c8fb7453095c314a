"""A recording -> a Verdict. Training's dev set, evaluation, command line and page all come through here."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .audio import SourceInfo, iter_windows, stream_audio
from .explain import grad_cam, without_bands
from .features import FeatureConfig, MelOverview, hz_to_mel, mel_to_hz
from .model import SpoofClassifier, log_odds
from .speech import FRAME_SECONDS, SpeechDetector, SpeechTrack

BUNDLED = Path(__file__).parent / "weights"
LABELS = ("real", "fake", "can't tell", "no voice")
MIN_SPEECH_SECONDS = 0.5  # in the whole recording, below which there is no voice to judge
MIN_WINDOW_SPEECH_SECONDS = 0.25  # in one window, below which its score is left out
STRETCH_WINDOWS = 4
SEARCH_PENALTY = 0.5
BATCH_WINDOWS = 8
MAX_HEAT_WINDOWS = 40
N_BANDS = 8  # of tones, each as wide as the widest that training blanks


@dataclass(frozen=True)
class Window:
    """One stretch of the recording; `spoof_probability` is None where nobody speaks."""

    start_seconds: float
    end_seconds: float
    spoof_probability: float | None


@dataclass(frozen=True)
class Verdict:
    """What a person is told about one recording.

    `label` is one of `LABELS`; `spoof_probability` is calibrated, 0.5 is the decision boundary, and None means that
    there was no voice. Between `real_below` and `fake_above` the label is "can't tell". `notes` are sentences for
    the user. `score` is the uncalibrated log-odds that evaluation ranks by (larger = more spoof).
    """

    file: str
    label: str
    spoof_probability: float | None
    score: float | None
    real_below: float
    fake_above: float
    duration_seconds: float
    speech_seconds: float
    windows: tuple[Window, ...]
    notes: tuple[str, ...]
    model: str

    def label_at(self, probability: float | None) -> str:
        """What a part of the recording is called, by the same bounds."""
        return label_of(probability, self.real_below, self.fake_above)

    def to_dict(self) -> dict:
        """Plain dict, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reason:
    """The band of tones that speaks loudest for the verdict's side, and the probability of spoof with and without it.

    Both are those of the `STRETCH_WINDOWS` most telling windows, which of a short recording are all.
    """

    low_hz: float
    high_hz: float
    with_band: float
    without_band: float


@dataclass(frozen=True)
class Inspection:
    """A verdict with the pictures behind it: mel power in dB (n_mels, columns) over the whole recording and, if asked
    for, where the network looked (same shape, 0..1, evidence for the verdict's side) and which tones decided."""

    verdict: Verdict
    mel_db: np.ndarray
    heat: np.ndarray | None = None
    reason: Reason | None = None


class Detector:
    """A loaded checkpoint, ready to judge recordings. Safe to share between threads: it keeps no state of a call."""

    def __init__(self, model: SpoofClassifier, name: str, device: str | torch.device = "cpu") -> None:
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self.name = name
        self.device = torch.device(device)
        self.speech_detector = SpeechDetector()

    @classmethod
    def from_pretrained(cls, folder_or_id: str | Path = BUNDLED, device: str | torch.device = "cpu") -> "Detector":
        """Load a checkpoint folder (default: the bundled one) or a Hub id; raises CheckpointError."""
        name = "bundled" if Path(folder_or_id) == BUNDLED else str(folder_or_id)
        return cls(SpoofClassifier.load(folder_or_id), name, device)

    def predict(self, path: str | Path) -> Verdict:
        """Judge one file; raises AudioError if it cannot be judged."""
        return self._judge(path, pictures=False, heat_map=False).verdict

    def inspect(
        self, path: str | Path, heat_map: bool = False, on_progress: Callable[[float, float], None] | None = None
    ) -> Inspection:
        """As `predict`, with the spectrogram and, on request, the heat map; raises AudioError.

        `on_progress` is told after every block how many seconds were heard, and how many are expected (0: unknown).
        """
        return self._judge(path, pictures=True, heat_map=heat_map, on_progress=on_progress)

    def _judge(
        self,
        path: str | Path,
        pictures: bool,
        heat_map: bool,
        on_progress: Callable[[float, float], None] | None = None,
    ) -> Inspection:
        config, info = self.model.config, SourceInfo()
        speech = SpeechTrack(self.speech_detector, config.sample_rate)
        overview = MelOverview(self.model.features) if pictures else None

        def listen() -> Iterator[np.ndarray]:
            for block in stream_audio(path, config.sample_rate, info):
                speech.feed(block)
                if overview:
                    overview.feed(block)
                if on_progress:
                    on_progress(info.duration_seconds, info.expected_seconds)
                yield block

        spans, scores = self._score_windows(iter_windows(listen(), config.window_samples, config.window_hop_samples))
        voiced = _speech_seconds(speech.finish(), spans)
        verdict = self._verdict(Path(path).name, info, spans, scores, voiced)
        mel_db = overview.decibels() if overview else np.zeros((0, 0), np.float32)
        if heat_map and verdict.spoof_probability is not None:
            return Inspection(verdict, mel_db, *self._explain(path, verdict, mel_db.shape[1]))
        return Inspection(verdict, mel_db)

    def _score_windows(self, windows: Iterator[tuple[int, int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Windows -> their spans in seconds (n, 2) and uncalibrated log-odds (n,)."""
        spans, scores, batch = [], [], []

        def run() -> None:
            if batch:
                with torch.inference_mode():
                    scores.append(self.model.score(torch.from_numpy(np.stack(batch)).to(self.device)).cpu().numpy())
                batch.clear()

        for start, end, window in windows:
            spans.append((start, end))
            batch.append(window)
            if len(batch) == BATCH_WINDOWS:
                run()
        run()
        return np.array(spans) / self.model.config.sample_rate, np.concatenate(scores)

    def _verdict(
        self, file: str, info: SourceInfo, spans: np.ndarray, scores: np.ndarray, voiced: tuple[float, np.ndarray]
    ) -> Verdict:
        speech_seconds, window_speech_seconds = voiced
        heard = window_speech_seconds >= MIN_WINDOW_SPEECH_SECONDS
        score = probability = None
        if speech_seconds >= MIN_SPEECH_SECONDS and heard.any():
            score = pool_windows(scores[heard])
            probability = self._probability(score)
        real_below, fake_above = (float(bound) for bound in self.model.bounds)
        if info.is_squeezed_opus:
            fake_above = 1.0
        windows = tuple(
            Window(
                float(start), float(end), self._probability(window_score) if is_heard and score is not None else None
            )
            for (start, end), window_score, is_heard in zip(spans, scores, heard, strict=True)
        )
        notes = []
        if info.is_cut_short:
            notes.append(f"The file is damaged or cut short; only {info.duration_seconds:.1f} seconds could be read.")
        if info.n_tracks > 1:
            notes.append(f"The file has {info.n_tracks} sound tracks; only the first one was judged.")
        if info.channels_cancel:
            notes.append("Its channels cancel each other out when mixed: save one of them alone and check that.")
        elif score is None:
            notes.append("No voice to judge: record at least a short spoken sentence.")
        elif speech_seconds < 2.0:
            notes.append(f"Only {speech_seconds:.1f} seconds of speech: a longer recording gives a surer answer.")
        if info.is_squeezed_opus and probability is not None and probability >= real_below:
            kilobits = info.bits_per_second / 1000
            notes.append(
                f"This clip is compressed as voice messages are (Opus, {kilobits:.0f} kbit/s), which makes real voices sound "
                "artificial too, so it is never called a machine. Ask for the original recording."
            )
        if score is not None and not self.model.is_calibrated:
            notes.append("Nobody has checked how often this checkpoint is right when it is so sure.")
        return Verdict(
            file=file,
            label=label_of(probability, real_below, fake_above),
            spoof_probability=probability,
            score=score,
            real_below=real_below,
            fake_above=fake_above,
            duration_seconds=info.duration_seconds,
            speech_seconds=speech_seconds,
            windows=windows,
            notes=tuple(notes),
            model=self.name,
        )

    def _probability(self, score: float) -> float:
        return float(self.model.calibrate(torch.tensor(float(score), device=self.device)))

    def _explain(self, path: str | Path, verdict: Verdict, n_columns: int) -> tuple[np.ndarray, Reason]:
        """Grad-CAM of the windows that speak loudest for the verdict, laid over the whole recording; and the reason."""
        config, towards_spoof = self.model.config, verdict.spoof_probability >= 0.5
        judged = [i for i, window in enumerate(verdict.windows) if window.spoof_probability is not None]
        judged.sort(key=lambda i: verdict.windows[i].spoof_probability, reverse=towards_spoof)
        chosen, loudest, pictures = set(judged[:MAX_HEAT_WINDOWS]), set(judged[:STRETCH_WINDOWS]), []
        heat = np.zeros((config.n_mels, n_columns), np.float32)
        blocks = stream_audio(path, config.sample_rate)
        for i, (start, end, window) in enumerate(
            iter_windows(blocks, config.window_samples, config.window_hop_samples)
        ):
            if i not in chosen:
                continue
            picture = self.model.features(torch.from_numpy(window.copy())[None].to(self.device))
            seen = grad_cam(self.model.network, picture, towards_spoof)
            cam = self.model.features.on_mels(seen)[0].cpu().numpy()
            lay_over(heat, cam, start, end, config.window_samples, verdict.duration_seconds * config.sample_rate)
            if i in loudest:
                pictures.append(picture)
        return heat / max(float(heat.max()), 1e-8), self._reason(torch.cat(pictures), towards_spoof)

    def _reason(self, pictures: torch.Tensor, towards_spoof: bool) -> Reason:
        """What the network makes of pictures (batch, in_chans, rows, columns) without the band that counts most."""
        config = self.model.config
        with torch.inference_mode():
            whole = float(log_odds(self.model.network(pictures)).mean())
        scores = without_bands(self.model.network, pictures, N_BANDS).mean(1)
        row_band = int(scores.argmin() if towards_spoof else scores.argmax())
        band = N_BANDS - 1 - row_band if config.is_drawn else row_band
        low_hz, high_hz = band_hz(config, band)
        return Reason(low_hz, high_hz, self._probability(whole), self._probability(float(scores[row_band])))


def pool_windows(scores: np.ndarray) -> float:
    """The one rule that turns the scores (n,), log-odds, of the windows with a voice into the recording's score.

    Up to `STRETCH_WINDOWS` windows: their mean. Longer recordings: the larger of the mean over everything and the
    best stretch of `STRETCH_WINDOWS` successive windows, so that a short fake passage inside a long real recording
    does not drown in the mean. Searching many stretches finds a suspicious one by chance, so the stretch pays
    `SEARCH_PENALTY` * log(number of separate stretches). A union bound over independent stretches would charge a factor
    of 1, but neighbours in one recording share voice and channel. By benchmarks/long_recordings.py, on dev, half of it
    calls 0 to 1 % of real recordings of 15 seconds to an hour fake (the plain mean hardly any) and finds a passage of 7.5
    seconds in 68 % of those of a minute and 50 % of those of ten (the plain mean: hardly ever).
    """
    scores = np.asarray(scores, dtype=np.float64)
    assert scores.ndim == 1 and len(scores) > 0
    mean = float(scores.mean())
    if len(scores) <= STRETCH_WINDOWS:
        return mean
    stretch = np.convolve(scores, np.full(STRETCH_WINDOWS, 1 / STRETCH_WINDOWS), mode="valid").max()
    return max(mean, float(stretch) - SEARCH_PENALTY * float(np.log(len(scores) / STRETCH_WINDOWS)))


def percent(probability: float) -> str:
    """In whole per cent, but never quite sure."""
    rounded = round(100 * probability)
    return "over 99 %" if rounded >= 100 else "under 1 %" if rounded <= 0 else f"{rounded} %"


def label_of(probability: float | None, real_below: float, fake_above: float) -> str:
    """Probability of spoof -> one of `LABELS`."""
    if probability is None:
        return "no voice"
    if probability >= fake_above:
        return "fake"
    return "real" if probability < real_below else "can't tell"


def band_hz(config: FeatureConfig, band: int) -> tuple[float, float]:
    """Lowest and highest frequency of one of the `N_BANDS` bands, equally wide in mel, that counts from the deep tones."""
    low, high = hz_to_mel(config.f_min_hz), hz_to_mel(config.f_max_hz)
    return tuple(float(mel_to_hz(low + (high - low) * edge / N_BANDS)) for edge in (band, band + 1))


def lay_over(canvas: np.ndarray, cam: np.ndarray, start: int, end: int, window_samples: int, n_samples: float) -> None:
    """Paint one window's map (n_mels, columns) onto the recording's canvas (n_mels, columns), keeping the maximum."""
    first, last = (round(sample / n_samples * canvas.shape[1]) for sample in (start, end))
    if last <= first:
        return
    used_frames = max(1, round(cam.shape[1] * (end - start) / window_samples))  # a repeated clip: its first copy
    source = np.minimum((np.arange(last - first) * used_frames) // (last - first), used_frames - 1)
    canvas[:, first:last] = np.maximum(canvas[:, first:last], cam[:, source])


def _speech_seconds(speech: np.ndarray, spans: np.ndarray) -> tuple[float, np.ndarray]:
    """Speech frames -> seconds of speech in all, and in each span (n,)."""
    spoken = np.concatenate(([0.0], np.cumsum(speech))) * FRAME_SECONDS
    edges = np.clip(np.round(spans / FRAME_SECONDS).astype(int), 0, len(speech))
    return float(spoken[-1]), spoken[edges[:, 1]] - spoken[edges[:, 0]]
