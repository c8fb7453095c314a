"""The picture of a verdict: spectrogram, where the network looked, and the window scores on one time axis."""

import io
import itertools
import threading

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator
from PIL import Image

from .detector import MAX_HEAT_WINDOWS, Inspection, Verdict
from .features import FeatureConfig, hz_to_mel

# Blue and orange keep apart for every kind of colour vision (Okabe & Ito); grey is "can't tell".
COLOURS = {"real": "#0072B2", "fake": "#D55E00", "can't tell": "#7F7F7F", "no voice": "#BFBFBF"}
TICK_STEPS_SECONDS = (10, 15, 30, 60, 120, 300, 600, 1_800, 3_600)  # for recordings of a minute or more
TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000)
MAX_TICKS = 7
HEAT_COLOURS = {"fake": "autumn", "real": "winter"}  # warm is evidence for a machine, cool for a person
SIZE_INCHES, DPI = (6.4, 4.8), 160
LEAST_BAR = 0.03  # so that a part that is surely a person's shows too
DRAWING = threading.Lock()  # matplotlib's settings are the whole process's
FONT_POINTS = 13  # large letters: on a phone the picture is 350 points wide


def draw_inspection(inspection: Inspection, features: FeatureConfig) -> Image.Image:
    """An RGB picture, 1024 x 768 pixels; the heat map is laid over the spectrogram if the inspection has one."""
    with (
        DRAWING,
        matplotlib.rc_context(
            {"font.size": FONT_POINTS, "axes.titlesize": FONT_POINTS, "hatch.color": COLOURS["no voice"]}
        ),
    ):
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
        spectrogram = figure.add_axes((0.13, 0.47, 0.81, 0.45))
        timeline = figure.add_axes((0.13, 0.13, 0.81, 0.24), sharex=spectrogram)
        _draw_spectrogram(spectrogram, inspection, features)
        _draw_timeline(timeline, inspection.verdict)
        return _rasterise(figure)


def timeline_cells(verdict: Verdict) -> list[tuple[float, float, float | None]]:
    """Overlapping windows -> cells side by side (start, end, mean probability of the windows over it, or None)."""
    edges = sorted({edge for window in verdict.windows for edge in (window.start_seconds, window.end_seconds)})
    coming = sorted(verdict.windows, key=lambda window: window.start_seconds, reverse=True)
    over, cells = [], []
    for start, end in itertools.pairwise(edges):
        while coming and coming[-1].start_seconds <= start:
            over.append(coming.pop())
        over = [window for window in over if window.end_seconds >= end]
        judged = [w.spoof_probability for w in over if w.spoof_probability is not None]
        cells.append((start, end, sum(judged) / len(judged) if judged else None))
    return cells


def _draw_spectrogram(axes: Axes, inspection: Inspection, features: FeatureConfig) -> None:
    extent = (0.0, inspection.verdict.duration_seconds, 0.0, 1.0)
    has_heat = inspection.heat is not None
    axes.imshow(inspection.mel_db, origin="lower", aspect="auto", extent=extent, cmap="gray" if has_heat else "magma")
    if has_heat:
        overlay = matplotlib.colormaps[HEAT_COLOURS[_side(inspection.verdict)]](inspection.heat)
        overlay[..., 3] = 0.8 * inspection.heat**1.5  # weak evidence fades, so that the strong stands out
        axes.imshow(overlay, origin="lower", aspect="auto", extent=extent, interpolation="bilinear")
    title = _heat_title(inspection.verdict) if has_heat else "Picture of the sound: high tones at the top"
    axes.set_title(title, loc="left")
    low, high = (float(hz_to_mel(hz)) for hz in (features.f_min_hz, features.f_max_hz))
    ticks_hz = [hz for hz in TICKS_HZ if features.f_min_hz <= hz <= features.f_max_hz]
    axes.set_yticks(
        [(float(hz_to_mel(hz)) - low) / (high - low) for hz in ticks_hz], [f"{hz / 1000:g}" for hz in ticks_hz]
    )
    axes.set_ylabel("kHz")
    axes.tick_params(labelbottom=False)


def _side(verdict: Verdict) -> str:
    """The side that the heat map shows evidence for, also where that is not enough for an answer."""
    return "fake" if verdict.spoof_probability >= 0.5 else "real"


def _heat_title(verdict: Verdict) -> str:
    title = f"Coloured: what spoke for a {'machine' if _side(verdict) == 'fake' else 'person'}"
    n_judged = sum(window.spoof_probability is not None for window in verdict.windows)
    return f"{title}, in {MAX_HEAT_WINDOWS} passages" if n_judged > MAX_HEAT_WINDOWS else title


def _draw_timeline(axes: Axes, verdict: Verdict) -> None:
    axes.axhspan(verdict.real_below, verdict.fake_above, color="#EEEEEE", zorder=0)
    axes.axhline(0.5, color="#999999", linewidth=0.8, zorder=1)
    cells = timeline_cells(verdict)
    judged = [cell for cell in cells if cell[2] is not None]
    bars = [_rectangle(start, end, max(probability, LEAST_BAR)) for start, end, probability in judged]
    colours = [COLOURS[verdict.label_at(probability)] for *_, probability in judged]
    silences = [_rectangle(start, end, 1.0) for start, end, probability in cells if probability is None]
    # Two collections, not a patch a cell, of which four hours have ten thousand; without seams between neighbours.
    alike = {"linewidths": 0, "antialiaseds": False, "zorder": 2}
    axes.add_collection(PolyCollection(bars, facecolors=colours, **alike))
    axes.add_collection(
        PolyCollection(silences, facecolors="white", edgecolors=COLOURS["no voice"], hatch="//", **alike)
    )
    axes.set_xlim(0.0, verdict.duration_seconds)
    axes.set_ylim(0.0, 1.0)
    has_band = verdict.real_below < verdict.fake_above
    axes.set_yticks([0, 0.5, 1], ["real", "can't\ntell" if has_band else "50 %", "fake"])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds, verdict.duration_seconds)))
    if verdict.duration_seconds >= 60:
        step = next(step for step in TICK_STEPS_SECONDS if verdict.duration_seconds <= MAX_TICKS * step)
        axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.set_xlabel("seconds" if verdict.duration_seconds < 60 else "minutes:seconds")
    axes.set_title(f"How machine-like each part sounds{' (hatched: no voice)' * bool(silences)}", loc="left")


def _rectangle(start: float, end: float, height: float) -> list[tuple[float, float]]:
    return [(start, 0.0), (start, height), (end, height), (end, 0.0)]


def clock(seconds: float, duration_seconds: float) -> str:
    """A time on the axis: plain seconds in a short recording, m:ss in one of a minute or more."""
    if duration_seconds < 60:
        return f"{seconds:g}"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _rasterise(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    size = tuple(round(inches * DPI) for inches in SIZE_INCHES)
    return Image.frombytes("RGBA", size, buffer.getvalue()).convert("RGB")
