"""The page: record or upload a voice, see whether it is human or machine, where and why.

python app.py serves on GRADIO_SERVER_PORT or 7860; DETECTOR_MODEL picks another checkpoint (folder or Hub id).
"""

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from html import escape
from pathlib import Path

# Before gradio and huggingface_hub are imported, because they read these only then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# A folder of this process alone: Gradio's own is shared by all users of a machine, and is never emptied.
UPLOADS = tempfile.TemporaryDirectory(prefix="voice-check-", ignore_cleanup_errors=True)
os.environ["GRADIO_TEMP_DIR"] = UPLOADS.name

try:  # on ZeroGPU hardware, and only there, this package must come before torch
    import spaces
except ImportError:
    spaces = None

import gradio as gr
import numpy as np
import torch
from gradio.data_classes import FileData

from deepfake_detector import AudioError, CheckpointError, Detector, Verdict
from deepfake_detector.audio import BLOCK_SECONDS, stream_audio, within_full_scale
from deepfake_detector.detector import BUNDLED, STRETCH_WINDOWS, Reason, percent
from deepfake_detector.plots import COLOURS, clock, draw_inspection, timeline_cells
from deepfake_detector.resynthesis import griffin_lim_copy

ASSETS = Path(__file__).parent / "assets"
EXAMPLES = (  # the human voices come with the gradio package; the others were made with the tools of this project
    (gr.media.get_audio("heath_ledger.mp3"), "A person"),
    (str(ASSETS / "espeak_woman.flac"), "A simple robot voice"),
    (str(ASSETS / "espeak_man_vocoded.flac"), "A robot voice, vocoded"),
    (str(ASSETS / "espeak_german.flac"), "A robot voice in German"),
)
# Gradio knows a file by its name's ending and takes these for neither sound nor film.
UPLOAD_TYPES = ["audio", "video", ".caf", ".mka", ".m4b", ".w64", ".mts", ".m2ts", ".ts", ".amr", ".wma"]
HEADLINES = {
    "real": "Sounds like a real person",
    "fake": "Sounds like a machine",
    "can't tell": "We can't tell",
    "no voice": "No voice to judge",
}
DELETED = "This clip has been deleted by now, as every clip is within the hour; record or choose it again."
BROKEN_OFF = 'The page had too much to do, or something went wrong. Press "Check this voice" to try again.'
KEEP_SECONDS, SWEEP_SECONDS = 3_000, 300  # how long a visitor's clip stays, and how often it is looked at
ABANDONED_SECONDS = 3_600
MARK = "made-by-voice-check"  # a file in every page's folder, so that no other folder of such a name is deleted
COPY_SECONDS = 30.0
LONG_SECONDS = 60.0  # of a recording whose checking is watched
MIN_PARTS = 1.5  # windows in a recording, below which a window is no part of it but nearly all
PARTS_SPOKEN, MIN_PART_SECONDS = 12, 0.1  # of the picture's description, which somebody has to listen to
INTRO = """# Is this voice real?
Record a voice or choose a file. You see in a moment whether it sounds like a person or like a machine, and which part
gave it away. The clip is judged by the machine that runs this page, goes nowhere else, and is deleted within the hour."""
LIMITS = """### What this cannot prove
The detector has learnt from many voices and many voice machines, but it can be wrong, and a voice machine made after it
may fool it.{record} **"Real" does not mean true**: a real voice can be cut, rearranged or speak under pressure. **"Fake" does not
mean guilty**: phones, noise and sound effects can make a real voice look artificial. Never accuse anybody because of this page
alone; ask the person, look for the source, and let somebody else check."""
CSS = """
footer {display: none !important}
.verdict {border-left: .6rem solid var(--tone); padding: .8rem 1rem; background: var(--block-background-fill)}
.verdict h2 {margin: 0 0 .3rem; font-size: 1.6rem}
.verdict p {margin: .3rem 0; font-size: 1.05rem}
.gauge {position: relative; height: 1.3rem; margin: .6rem 0 .1rem; border-radius: .3rem}
.gauge i {position: absolute; top: -.25rem; width: .5rem; height: 1.8rem; margin-left: -.25rem;
  background: #000; border: 2px solid #fff; border-radius: .2rem}
#verdict .pending {opacity: 0}
#microphone:has(p:empty) {display: none}
.ends {display: flex; justify-content: space-between; font-size: .95rem}
"""
# Gradio says nothing where a browser gives the page no microphone, as over http from another device, or when it is refused.
TELL_OF_MICROPHONE = """() => {
  const usual = navigator.mediaDevices ? '' : 'Your browser lends this page no microphone: it needs https, or the computer \
that runs the page. Record with your own recorder and choose the file.';
  const tell = (text) => { document.querySelector('#microphone p').textContent = text; };
  tell(usual);
  document.addEventListener('click', (event) => { if (event.target.closest('#clip')) tell(usual); });
  addEventListener('unhandledrejection', (event) => {
    if (usual || !String(event.reason).includes('accessing the microphone')) return;
    tell('The microphone could not be used. Allow it for this page and see that it is plugged in, or choose a file.');
  });
}"""
LAUNCH = dict(
    theme=gr.themes.Monochrome(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    css=CSS,
    max_file_size="700mb",
    footer_links=[],
    run_history=False,
    state_session_capacity=500,
    js=TELL_OF_MICROPHONE,
    enable_monitoring=False,
    show_error=False,
)


# On a phone the answer, and how far it is, lies below the fold; where it is in sight already, nothing moves.
SHOW_ANSWER = """(clip) => {
  const behavior = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
  if (clip) document.querySelector('#verdict').scrollIntoView({block: 'nearest', behavior});
}"""


class Dropped(Exception):
    """The visitor has another clip by now, or has left."""


def unconverted(player: gr.Audio) -> gr.Audio:
    """The player, but it hands on a file as it is.

    Gradio itself, where FFmpeg is installed, re-encodes what a browser may not play, and the copy would be judged. (A
    subclass would do, but Gradio writes a stub file beside the module of every one.)
    """
    convert = player.postprocess
    player.postprocess = lambda value: (
        FileData(path=value, orig_name=Path(value).name) if isinstance(value, str) else convert(value)
    )
    return player


def load_detector() -> Detector:
    """On the CPU, which answers in a moment; where the card has to be asked for, on the card."""
    device = "cuda" if spaces and torch.cuda.is_available() else "cpu"
    model = os.environ.get("DETECTOR_MODEL") or BUNDLED
    detector = Detector.from_pretrained(model, device)
    if model != BUNDLED and Path(model).is_dir():
        # Visitors see it, and need not see whose folder it is.
        detector.name = "/".join(Path(model).resolve().parts[-2:])
    return detector


def on_gpu(function):
    """Ask a ZeroGPU Space for its card, a minute of it for the longest recordings; anywhere else the function itself."""
    return spaces.GPU(duration=60)(function) if spaces else function


def build_page(detector: Detector) -> gr.Blocks:
    clips_of: dict[str, list[str | None]] = {}  # visitor -> what was in the player; the last one is there now

    def clip_changed(path: str | None, visitor: str | None) -> tuple[dict, None]:
        if visitor:
            clips_of.setdefault(visitor, []).append(path)
        return nothing_shown()

    def visitor_left(request: gr.Request) -> None:
        clips_of.pop(request.session_hash, None)

    @on_gpu
    def judge(
        path: str | None,
        heat_map: bool,
        visitor: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio looks for it here
    ) -> tuple[str, dict, dict | None]:
        """Judge a recording: verdict (HTML), picture, and every figure as JSON."""
        has_player = visitor in clips_of  # who asks by a program has none

        def tell(heard_seconds: float, expected_seconds: float) -> None:
            if has_player and is_outdated(path, clips_of.get(visitor)):
                raise Dropped
            if expected_seconds > LONG_SECONDS:
                done = min(heard_seconds / expected_seconds, 1)
                progress(done, desc=f"Listened to {clock(heard_seconds, expected_seconds)}")

        if path is None:
            return waiting_card(), *nothing_shown()
        if not Path(path).exists():
            return message_card(DELETED), *nothing_shown()
        try:
            inspection = detector.inspect(path, heat_map, tell)
        except AudioError as error:
            return message_card(str(error)), *nothing_shown()
        except Dropped:
            return gr.skip(), gr.skip(), gr.skip()
        verdict, picture = inspection.verdict, draw_inspection(inspection, detector.model.config)
        shown = gr.update(visible=True, value=picture, alt_text=description(verdict))
        return verdict_card(verdict, inspection.reason), shown, verdict.to_dict()

    def fake(path: str | None) -> tuple[str, tuple[int, np.ndarray]]:
        """The clip, and its first seconds made anew by a machine as (Hz, 16-bit samples)."""
        if path is None:
            gr.Info("Record a voice or choose a file first.")
            raise not_copied()
        if not Path(path).exists():
            gr.Warning(DELETED)
            raise not_copied()
        rate = detector.model.config.sample_rate
        try:
            blocks = itertools.islice(stream_audio(path, rate), int(COPY_SECONDS / BLOCK_SECONDS) + 1)
            samples = np.concatenate(list(blocks))
            if len(samples) > COPY_SECONDS * rate:
                gr.Info(f"Of a long clip only the first {COPY_SECONDS:.0f} seconds are copied.")
            samples = within_full_scale(samples[: int(COPY_SECONDS * rate)])
        except AudioError as error:
            gr.Warning(str(error))
            raise not_copied() from None
        return path, (rate, np.round(griffin_lim_copy(samples, rate).clip(-1, 1) * 32767).astype(np.int16))

    with gr.Blocks(title="Is this voice real?", analytics_enabled=False) as page:
        visitor = gr.State()
        page.load(session_of, None, visitor, queue=False, api_visibility="private")
        page.unload(visitor_left)
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                clip = unconverted(
                    gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="Voice clip",
                        buttons=[],
                        elem_id="clip",
                    )
                )
                gr.HTML("<p role='status'></p>", elem_id="microphone")
                video = gr.UploadButton("Choose a video or phone memo", file_types=UPLOAD_TYPES, elem_id="video")
                check = gr.Button("Check this voice", variant="primary", elem_id="check")
                copy = gr.Button("Make a machine's copy of it", elem_id="copy")
                made = gr.State()  # a clip and its copy, until that is in the player
                own = gr.State()  # while a copy is in the player: the visitor's clip
                back = gr.Button("Back to your own clip", visible=False, elem_id="back")
                examples = gr.Examples(
                    [[path] for path, _ in EXAMPLES],
                    clip,
                    example_labels=[name for _, name in EXAMPLES],
                    label="Try one",
                )
            with gr.Column(scale=3, min_width=320):
                card = gr.HTML(waiting_card(), elem_id="verdict")
                heat_map = gr.Checkbox(label="Show where the detector looked", elem_id="heat")
                picture = gr.Image(
                    label="Spectrogram", format="png", visible=False, interactive=False, show_label=False,
                    buttons=["download", "fullscreen"], elem_id="picture",
                )  # fmt: skip
        with gr.Accordion("All figures", open=False):
            figures = gr.JSON(label="Verdict", elem_id="figures")
        gr.Markdown(LIMITS.format(record=track_record(detector)))
        clip.change(  # a new clip: no picture of the one before beside it
            clip_changed, [clip, visitor], [picture, figures], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        asked = [clip.change, check.click, heat_map.change]
        gr.on(asked, None, clip, js=SHOW_ANSWER)
        judging = gr.on(  # two at a time, so that a long recording leaves room for others
            asked, judge, [clip, heat_map, visitor], [card, picture, figures],
            api_name="judge", trigger_mode="always_last", show_progress_on=card, concurrency_limit=2,
        )  # fmt: skip
        judging.then(None, clip, js=SHOW_ANSWER)
        judging.failure(  # no answer for another clip beside this one
            lambda: (message_card(BROKEN_OFF), *nothing_shown()), None, [card, picture, figures], queue=False,
            api_visibility="private",
        )  # fmt: skip
        copy.click(fake, clip, made, api_visibility="private").success(
            copy_shown, [made, clip, own], [made, clip, own, back], api_visibility="private"
        )
        back.click(own_again, own, [clip, own, back], api_visibility="private")
        video.upload(own_again, video, [clip, own, back], api_visibility="private")
        # Not clip.input, which the player's x sends too.
        for chosen in (clip.upload, clip.stop_recording, examples.load_input_event.then):
            chosen(lambda: own_again(None)[1:], None, [own, back], api_visibility="private")
    return page.queue(default_concurrency_limit=1, max_size=32)


def session_of(request: gr.Request) -> str:
    return request.session_hash


def is_outdated(path: str, clips: list[str | None] | None) -> bool:
    """Whether nobody waits for what is said of a clip: another followed it in the player, or the visitor has left (None).

    One that the player has not told of yet is not outdated: of the two requests that a new clip sends, either may come first.
    (If it has been there before, it is taken for outdated then: by its path alone nobody can tell.)
    """
    return clips is None or (path in clips and path != clips[-1])


def nothing_shown() -> tuple[dict, None]:
    """For picture and figures, where there is no verdict."""
    return gr.update(visible=False, value=None), None


def not_copied() -> gr.Error:
    """Ends the chain of events; why, has been told."""
    return gr.Error(visible=False, print_exception=False)


def copy_shown(
    made: tuple[str, tuple[int, np.ndarray]], path: str | None, own: str | None
) -> tuple[None, tuple[int, np.ndarray] | str | None, str | None, dict]:
    """The copy for the player, and the clip and the button to go back; the clip that was chosen meanwhile, if one was.

    The player never gets `gr.skip`, for which Gradio would put a plain one in its place (see `unconverted`).
    """
    if made[0] != path:
        return None, path, own, gr.skip()
    return None, made[1], own or path, gr.update(visible=True)


def own_again(path: str | None) -> tuple[str | None, None, dict]:
    """No copy in the player any more: what is there instead, nothing to go back to, and no button for it."""
    return path, None, gr.update(visible=False)


def verdict_card(verdict: Verdict, reason: Reason | None = None) -> str:
    """The verdict in words, with its probability on a scale and, if it was asked for, which tones decided."""
    body = f"<h2>{HEADLINES[verdict.label]}</h2>"
    if verdict.spoof_probability is not None:
        likely = f"{percent(verdict.spoof_probability)} likely to be a machine"
        middle = "<span>can't tell</span>" if verdict.real_below < verdict.fake_above else ""
        body += f"<p>{explanation(verdict)}</p>"
        body += f"<p>{grounds(verdict, reason)}</p>" if reason else ""
        body += f"<div class='gauge' role='img' aria-label='{likely}' style='background:{zones(verdict)}'>"
        body += f"<i style='left:{100 * verdict.spoof_probability:.0f}%'></i></div>"
        body += f"<div class='ends'><span>person</span>{middle}<span>machine</span></div>"
    body += "".join(f"<p>{escape(note)}</p>" for note in verdict.notes)
    return _card(body, COLOURS[verdict.label])


def zones(verdict: Verdict) -> str:
    """The scale's three zones as a CSS background: real, can't tell, fake."""
    low, high = 100 * verdict.real_below, 100 * verdict.fake_above
    real, unsure, fake = COLOURS["real"], COLOURS["no voice"], COLOURS["fake"]
    return f"linear-gradient(90deg,{real} {low:.1f}%,{unsure} {low:.1f}% {high:.1f}%,{fake} {high:.1f}%)"


def explanation(verdict: Verdict) -> str:
    """One or two plain sentences for somebody who has never heard of a spectrogram."""
    if verdict.label == "can't tell":
        likely = f"It is <b>{percent(verdict.spoof_probability)}</b> likely to be a machine."
        sure = f"{likely} That is not sure enough for an answer."
    elif verdict.label == "fake":
        sure = f"We are <b>{percent(verdict.spoof_probability)}</b> sure that a machine made this voice."
    else:
        sure = f"We are <b>{percent(1 - verdict.spoof_probability)}</b> sure that a person spoke this."
    judged = [window for window in verdict.windows if window.spoof_probability is not None]
    if verdict.label == "real" or verdict.duration_seconds < MIN_PARTS * verdict.windows[0].end_seconds:
        return sure
    if len({verdict.label_at(window.spoof_probability) for window in judged}) == 1:
        return f"{sure} No part stands out."
    worst = max(judged, key=lambda window: window.spoof_probability)
    return f"{sure} The most machine-like part is from {span(worst.start_seconds, worst.end_seconds, verdict)}."


def grounds(verdict: Verdict, reason: Reason) -> str:
    """Which tones decided, or that none did alone; of a longer recording, in the parts that tell most."""
    low_khz, high_khz = (f"{hz / 1000:.1f}" for hz in (reason.low_hz, reason.high_hz))
    tones = f"below {high_khz} kHz" if low_khz == "0.0" else f"from {low_khz} to {high_khz} kHz"
    start, it, with_them = "", "it", ""
    if sum(window.spoof_probability is not None for window in verdict.windows) > STRETCH_WINDOWS:
        start, it, with_them = "In the most telling parts ", "those parts", f", with them {percent(reason.with_band)}"
    without = f"{it} would be {percent(reason.without_band)} likely to be a machine{with_them}."
    changes_side = (reason.without_band < 0.5) != (reason.with_band < 0.5)
    if changes_side or verdict.label_at(reason.without_band) != verdict.label_at(reason.with_band):
        said = f"{start}the tones {tones} tip the scales: without them {without}"
    else:
        said = f"{start}no tones decide alone: even without those {tones}, which count most, {without}"
    return said[0].upper() + said[1:]


def span(start_seconds: float, end_seconds: float, verdict: Verdict) -> str:
    """ "1.5 to 4.5 seconds", or "1:05 to 1:08" in a long recording."""
    first, last = (clock(round(seconds, 1), verdict.duration_seconds) for seconds in (start_seconds, end_seconds))
    return f"{first} to {last}{' seconds' * (verdict.duration_seconds < 60)}"


def description(verdict: Verdict) -> str:
    """What the picture shows, for those who cannot see it; neighbouring parts that are judged alike are one."""
    cells = [(start, end, verdict.label_at(probability)) for start, end, probability in timeline_cells(verdict)]
    parts = []
    for label, alike in itertools.groupby(cells, key=lambda cell: cell[2]):
        alike = list(alike)
        if alike[-1][1] - alike[0][0] >= MIN_PART_SECONDS:
            parts.append(f"{span(alike[0][0], alike[-1][1], verdict)}: {label}")
    more = len(parts) - PARTS_SPOKEN
    listed = "; ".join(parts[:PARTS_SPOKEN]) + f"; and {more} more parts" * (more > 0)
    return f"Mel-spectrogram of the clip, and below it how machine-like each part sounds. {listed}."


def track_record(detector: Detector) -> str:
    """How often the bundled checkpoint is right, out of its own figures; nothing of any other."""
    if detector.name != "bundled":
        return ""
    figures = json.loads((BUNDLED / "metrics.json").read_text(encoding="utf-8"))
    unsure, wrong_fake, wrong_real = (
        f"{100 * figures[name]:.0f}" for name in ("cannot_tell", "wrong_when_fake", "wrong_when_real")
    )
    return (
        f" On {figures['clips'] - figures['without_voice']} clips that it did not learn from, but by which its limits were set, "
        f"it could not tell in {unsure} of 100; of those that it called a machine {wrong_fake} in 100 were people, and of those "
        f"that it called a person {wrong_real} in 100 were machines. Elsewhere expect more errors. Its percentages suppose that "
        f"{100 * figures['settings']['bonafide_share']:.0f} of 100 clips are real."
    )


def message_card(message: str) -> str:
    return _card(f"<h2>This clip could not be checked</h2><p>{escape(message)}</p>", COLOURS["can't tell"])


def waiting_card() -> str:
    return _card(
        "<h2>No clip yet</h2><p>Record, upload or try an example; the answer appears here.</p>", COLOURS["no voice"]
    )


def _card(body: str, colour: str) -> str:
    return f"<div class='verdict' role='status' style='--tone:{colour}'>{body}</div>"


def sweep(folder: Path, keep: set[Path], keep_seconds: float) -> None:
    """Delete a folder's files that are older, but for those to keep; mark these and the folder as in use.

    Gradio's own `delete_cache` forgets broken-off uploads, deletes examples, and stops for good if a visitor comes meanwhile.
    """
    for file in [file for file in folder.rglob("*") if file.is_file() and file not in keep]:
        with suppress(OSError):  # gone meanwhile, or in use on Windows: another time
            if file.stat().st_ctime < time.time() - keep_seconds:
                file.unlink()
                file.parent.rmdir()  # Gradio makes one a clip; another file in it is a reason to stay
    for used in (folder, *keep):  # what cleans a machine's temporary files goes by their age
        os.utime(used)


def keep_sweeping(folder: Path, keep: set[Path]) -> None:
    while True:
        time.sleep(SWEEP_SECONDS)
        with suppress(OSError):
            sweep(folder, keep, KEEP_SECONDS)


def remove_abandoned(parent: Path) -> None:
    """Delete what pages that were killed have left: folders that nobody has marked as in use for an hour."""
    for folder in parent.glob("voice-check-*"):
        with suppress(OSError):
            if (folder / MARK).is_file() and folder.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)  # another user's stays


if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):  # a polite kill and a closed terminal also delete the uploads
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:  # as by nohup
            signal.signal(getattr(signal, name), lambda *_: sys.exit(0))
    uploads = Path(UPLOADS.name)
    (uploads / MARK).touch()
    remove_abandoned(uploads.parent)
    try:
        page = build_page(load_detector())
    except CheckpointError as error:
        sys.exit(str(error))
    examples = set(uploads.rglob("*"))
    threading.Thread(target=keep_sweeping, args=(uploads, examples), daemon=True).start()
    page.launch(**LAUNCH)
