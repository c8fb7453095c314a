"""The page: record or upload a voice, see whether it is human or machine, where and why.

python app.py serves on GRADIO_SERVER_PORT or 7860; DETECTOR_MODEL picks another checkpoint (folder or Hub id).
"""

import os
import signal
import sys
import tempfile
from html import escape

# Before gradio and huggingface_hub are imported, because they read these only then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# A folder of this process alone: Gradio's own is shared by all users of a machine, and is never emptied.
UPLOADS = tempfile.TemporaryDirectory(prefix="voice-check-", ignore_cleanup_errors=True)
os.environ.setdefault("GRADIO_TEMP_DIR", UPLOADS.name)

try:  # on ZeroGPU hardware, and only there, this package must come before torch
    import spaces
except ImportError:
    spaces = None

from pathlib import Path

import gradio as gr
from PIL import Image

from deepfake_detector import AudioError, CheckpointError, Detector, Verdict
from deepfake_detector.detector import BUNDLED
from deepfake_detector.plots import COLOURS, clock, draw_inspection, timeline_cells

ASSETS = Path(__file__).parent / "assets"
EXAMPLES = (  # the human voices come with the gradio package; the others were made with the tools of this project
    (gr.media.get_audio("heath_ledger.mp3"), "A person"),
    (str(ASSETS / "espeak_woman.flac"), "A simple robot voice"),
    (str(ASSETS / "espeak_man_vocoded.flac"), "A robot voice, vocoded"),
    (str(ASSETS / "espeak_german.flac"), "A robot voice in German"),
)
# Gradio knows a file by its name's ending and takes these for neither sound nor film.
UPLOAD_TYPES = ["audio", "video", ".caf", ".mka", ".m4b", ".w64", ".mts", ".ts", ".amr", ".wma"]
HEADLINES = {
    "real": "Sounds like a real person",
    "fake": "Sounds like a machine",
    "can't tell": "We can't tell",
    "no voice": "No voice to judge",
}
INTRO = """# Is this voice real?
Record a voice or choose a file. You see in a moment whether it sounds like a person or like a machine, and which part
gave it away. The clip is judged by the machine that runs this page, goes nowhere else, and is deleted within the hour."""
LIMITS = """### What this cannot prove
The detector has learnt from many voices and many voice machines, but it can be wrong, and a voice machine made after it
may fool it. **"Real" does not mean true**: a real voice can be cut, rearranged or speak under pressure. **"Fake" does not
mean guilty**: phones, noise and sound effects can make a real voice look artificial. The percentages suppose that real and
fake clips are equally common. Never accuse anybody because of this page alone; ask the person, look for the source, and
let somebody else check."""
CSS = """
footer {display: none !important}
.verdict {border-left: .6rem solid var(--tone); padding: .8rem 1rem; background: var(--block-background-fill)}
.verdict h2 {margin: 0 0 .3rem; font-size: 1.6rem}
.verdict p {margin: .3rem 0; font-size: 1.05rem}
.gauge {position: relative; height: 1.3rem; margin: .6rem 0 .1rem; border-radius: .3rem}
.gauge i {position: absolute; top: -.25rem; width: .5rem; height: 1.8rem; margin-left: -.25rem;
  background: #000; border: 2px solid #fff; border-radius: .2rem}
.ends {display: flex; justify-content: space-between; font-size: .95rem}
"""
LAUNCH = dict(
    theme=gr.themes.Monochrome(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    css=CSS,
    max_file_size="700mb",
    footer_links=[],
    run_history=False,
    enable_monitoring=False,
    show_error=False,
)


def load_detector() -> Detector:
    return Detector.from_pretrained(os.environ.get("DETECTOR_MODEL") or BUNDLED)


def on_gpu(function):
    """Ask a ZeroGPU Space for its card; anywhere else the function itself."""
    return spaces.GPU(duration=30)(function) if spaces else function


def build_page(detector: Detector) -> gr.Blocks:
    @on_gpu
    def judge(path: str | None, heat_map: bool) -> tuple[str, dict, dict | None]:
        """Judge a recording: verdict (HTML), picture, and every figure as JSON."""
        if path is None:
            return waiting_card(), gr.update(visible=False, value=None), None
        try:
            inspection = detector.inspect(path, heat_map)
        except AudioError as error:
            return message_card(str(error)), gr.update(visible=False, value=None), None
        picture: Image.Image = draw_inspection(inspection, detector.model.config)
        return verdict_card(inspection.verdict), gr.update(visible=True, value=picture), inspection.verdict.to_dict()

    with gr.Blocks(title="Is this voice real?", analytics_enabled=False, delete_cache=(600, 3000)) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                clip = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Your voice clip",
                    buttons=[],
                    elem_id="clip",
                )
                video = gr.UploadButton("Choose a video or phone memo", file_types=UPLOAD_TYPES, elem_id="video")
                check = gr.Button("Check this voice", variant="primary", elem_id="check")
                gr.Examples(
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
                    alt_text="Mel-spectrogram of the clip, and below it how machine-like each part sounds",
                    buttons=["download", "fullscreen"], elem_id="picture",
                )  # fmt: skip
        with gr.Accordion("All figures", open=False):
            figures = gr.JSON(label="Verdict", elem_id="figures")
        gr.Markdown(LIMITS)
        gr.on(
            [clip.change, check.click, heat_map.change], judge, [clip, heat_map], [card, picture, figures],
            api_name="judge", trigger_mode="always_last",
        )  # fmt: skip
        video.upload(lambda path: path, video, clip, api_visibility="private")
    return page.queue(default_concurrency_limit=1, max_size=32)


def verdict_card(verdict: Verdict) -> str:
    """The verdict in words, with its probability on a scale."""
    body = f"<h2>{HEADLINES[verdict.label]}</h2>"
    if verdict.spoof_probability is not None:
        percent = round(100 * verdict.spoof_probability)
        body += f"<p>{explanation(verdict, percent)}</p>"
        body += f"<div class='gauge' role='img' aria-label='{percent} % machine' style='background:{zones(verdict)}'>"
        body += f"<i style='left:{percent}%'></i></div><div class='ends'><span>person</span><span>machine</span></div>"
    body += "".join(f"<p>{escape(note)}</p>" for note in verdict.notes)
    return _card(body, COLOURS[verdict.label])


def zones(verdict: Verdict) -> str:
    """The scale's three zones as a CSS background: real, can't tell, fake."""
    low, high = 100 * verdict.real_below, 100 * verdict.fake_above
    real, unsure, fake = COLOURS["real"], COLOURS["no voice"], COLOURS["fake"]
    return f"linear-gradient(90deg,{real} {low:.1f}%,{unsure} {low:.1f}% {high:.1f}%,{fake} {high:.1f}%)"


def explanation(verdict: Verdict, percent: int) -> str:
    """One or two plain sentences for somebody who has never heard of a spectrogram."""
    if verdict.label == "can't tell":
        sure = f"Our best guess is <b>{percent} %</b> machine. That is not sure enough for an answer."
    else:
        share = percent if verdict.label == "fake" else 100 - percent
        who = "a machine made this voice" if verdict.label == "fake" else "a person spoke this"
        sure = f"We are <b>{share} %</b> sure that {who}."
    cells = [cell for cell in timeline_cells(verdict) if cell[2] is not None]
    if verdict.label == "real" or len(verdict.windows) < 2 or not cells:
        return sure
    start, end, _ = max(cells, key=lambda cell: cell[2])
    first, last = (clock(round(t, 1), verdict.duration_seconds) for t in (start, end))
    unit = " seconds" if verdict.duration_seconds < 60 else ""
    return f"{sure} The most machine-like part is from {first} to {last}{unit}."


def message_card(message: str) -> str:
    return _card(f"<h2>This clip could not be checked</h2><p>{escape(message)}</p>", COLOURS["can't tell"])


def waiting_card() -> str:
    return _card(
        "<h2>No clip yet</h2><p>Record, upload or try an example; the answer appears here.</p>", COLOURS["no voice"]
    )


def _card(body: str, colour: str) -> str:
    return f"<div class='verdict' role='status' style='--tone:{colour}'>{body}</div>"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a polite kill also deletes the uploads
    try:
        page = build_page(load_detector())
    except CheckpointError as error:
        sys.exit(str(error))
    page.launch(**LAUNCH)
