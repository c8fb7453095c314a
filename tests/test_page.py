"""The page in a real browser, with the bundled checkpoint: upload, record, read, and ask no other host."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import soxr
from gradio_client import Client, handle_file
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app import EXAMPLES, HEADLINES, MARK, UPLOADS, build_page, copy_shown, is_outdated, remove_abandoned, sweep
from deepfake_detector import Detector

from .conftest import ROOT, VOICE, add_video, encode

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWER_MS = 60_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py` as a stranger runs it: no home folder to write to."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    ours = ("DETECTOR_MODEL", "HF_HUB_OFFLINE", "GRADIO_TEMP_DIR")  # the last is set by importing `app`
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    environment |= {"HOME": "/dev/null/nobody"}  # cannot be made, even by root
    environment |= {"TMPDIR": str(folder)}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield address
        assert "Traceback" not in (folder / "log").read_text()
        assert list(folder.glob("voice-check-*/*"))  # somebody's voice, which goes with the server
        server.terminate()
        assert server.wait(30) == 0
        assert not list(folder.glob("voice-check-*"))
    finally:
        server.kill()
        server.wait(30)


@pytest.fixture(scope="module")
def page_of_the_bundled() -> gr.Blocks:
    return build_page(Detector.from_pretrained())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, voice: np.ndarray) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    fine = soxr.resample(voice, 16_000, 48_000)
    soundfile.write(folder / "voice.wav", fine, 48_000)
    soundfile.write(folder / "silence.wav", np.zeros(48_000 * 3), 48_000)
    (folder / "letter.wav").write_text("this is a letter, not a recording")
    return {
        "wav": folder / "voice.wav",
        "m4a": encode(folder / "memo.m4a", fine, 48_000, "aac"),
        "webm": encode(folder / "browser.webm", fine, 48_000, "libopus"),
        "mp4": add_video(folder / "film.mp4", fine),
        "text": folder / "letter.wav",
        "silence": folder / "silence.wav",
    }


@pytest.fixture(scope="module")
def browser(clips: dict[str, Path]) -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium to test the page with")
        pytest.skip("needs Chromium (Debian package chromium)")
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={clips['wav']}"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh visitor; fails if the page asked any other host for anything."""
    width, height = getattr(request, "param", (1280, 900))
    viewport = {"width": width, "height": height}
    context = browser.new_context(permissions=["microphone"], locale="en-US", viewport=viewport)
    visitor, hosts = context.new_page(), set()
    visitor.on("request", lambda asked: hosts.add(asked.url.split("/")[2]) if asked.url.startswith("http") else None)
    visitor.on("websocket", lambda asked: hosts.add(asked.url.split("/")[2]))
    visitor.goto(url)
    expect(visitor.locator("#verdict")).to_contain_text("No clip yet")
    visitor.wait_for_timeout(1_000)
    yield visitor
    context.close()
    assert hosts == {url.removeprefix("http://")}


def upload(page: Page, path: Path, button: str = "#clip") -> None:
    page.locator(f"{button} input[type=file], input{button}[type=file]").first.set_input_files(path)


@pytest.mark.parametrize("page", [(1280, 900), (390, 660)], indirect=True)
def test_upload_a_wav(page: Page, clips: dict[str, Path]) -> None:
    upload(page, clips["wav"])
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator("#verdict .gauge")).to_be_in_viewport()  # on a phone the page goes there by itself
    expect(page.locator("#verdict")).to_contain_text("%")
    picture = page.locator("#picture img")
    expect(picture).to_be_visible()
    expect(picture).to_have_attribute("alt", re.compile(r"^Mel-spectrogram of the clip.* 0 to [\d.]+ seconds: "))
    plain = picture.get_attribute("src")
    page.locator("#heat input").check()
    expect(picture).not_to_have_attribute("src", plain, timeout=ANSWER_MS)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    stored = page.evaluate("Object.keys(localStorage)")
    assert not [key for key in stored if "history" in key], stored


def test_upload_a_phone_memo(page: Page, clips: dict[str, Path]) -> None:
    upload(page, clips["m4a"])
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_upload_a_video(page: Page, clips: dict[str, Path], kind: str) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#video").click()
    chooser.value.set_files(clips[kind])
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)


def test_record_from_the_microphone(page: Page) -> None:
    page.get_by_label("Record audio").click()
    page.locator("#clip").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(4_000)
    page.locator("#clip").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator("#picture img")).to_be_visible()


@pytest.mark.parametrize(
    ("browser_gives", "sentence"),
    [
        ("undefined", "lends this page no microphone: it needs https"),  # over http, from another device
        ("{enumerateDevices: async () => [], getUserMedia: async () => {throw new Error('refused')}}", "Allow it for this page"),
    ],
)  # fmt: skip
def test_missing_microphone_is_a_sentence(page: Page, browser_gives: str, sentence: str) -> None:
    page.add_init_script(f"Object.defineProperty(navigator, 'mediaDevices', {{value: {browser_gives}}})")
    page.reload()
    page.get_by_label("Record audio").click()
    page.locator("#clip").get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#microphone")).to_contain_text(sentence)


def test_error_is_a_sentence_and_the_next_clip_works(page: Page, clips: dict[str, Path]) -> None:
    upload(page, clips["text"])
    expect(page.locator("#verdict")).to_contain_text(
        "letter.wav is not a recording that can be read", timeout=ANSWER_MS
    )
    expect(page.locator("#picture img")).to_have_count(0)
    page.get_by_role("button", name="A simple robot voice").click()
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)


def test_a_machine_copies_the_voice(page: Page, clips: dict[str, Path]) -> None:
    page.locator("#copy").click()
    expect(page.get_by_text("Record a voice or choose a file first.")).to_be_visible(timeout=ANSWER_MS)
    upload(page, clips["wav"])
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)
    before = page.locator("#picture img").get_attribute("src")
    said, back = page.locator("#verdict").inner_text(), page.locator("#back")
    expect(back).to_be_hidden()
    page.locator("#copy").click()
    expect(page.locator("#picture img")).not_to_have_attribute("src", before, timeout=ANSWER_MS)
    expect(page.locator("#verdict .gauge")).to_be_visible(timeout=ANSWER_MS)
    back.click()  # what was recorded is not lost
    expect(page.locator("#verdict")).to_have_text(said, use_inner_text=True, timeout=ANSWER_MS)
    expect(back).to_be_hidden()
    page.locator("#copy").click()
    expect(back).to_be_visible(timeout=ANSWER_MS)
    page.locator("#clip").get_by_role("button", name="Clear").click()
    expect(page.locator("#verdict")).to_contain_text("No clip yet", timeout=ANSWER_MS)
    back.click()
    expect(page.locator("#verdict")).to_have_text(said, use_inner_text=True, timeout=ANSWER_MS)
    page.locator("#copy").click()
    expect(back).to_be_visible(timeout=ANSWER_MS)
    page.get_by_role("button", name="A simple robot voice").click()
    expect(back).to_be_hidden(timeout=ANSWER_MS)


def test_a_file_is_judged_as_it_is_where_ffmpeg_is_installed(
    page_of_the_bundled: gr.Blocks, tmp_path: Path, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ffmpeg", "ffprobe"):  # both would be asked before a browser gets a film
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/was_asked\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (player,) = (block for block in page_of_the_bundled.blocks.values() if isinstance(block, gr.Audio))
    assert player.postprocess(str(clips["mp4"])).path == str(clips["mp4"])
    assert not (tmp_path / "was_asked").exists()


def test_visitors_clips_are_swept_and_examples_stay(page_of_the_bundled: gr.Blocks, tmp_path: Path) -> None:
    (player,) = (block for block in page_of_the_bundled.blocks.values() if isinstance(block, gr.Audio))
    examples = {Path(path) for path in player.temp_files}
    assert len(examples) == len(EXAMPLES) and examples <= set(Path(UPLOADS.name).rglob("*"))
    (tmp_path / "visit").mkdir()
    kept, theirs = (Path(shutil.copy(VOICE, tmp_path / name)) for name in ("example.flac", "visit/theirs.flac"))
    os.utime(kept, (0, 0))
    sweep(tmp_path, {kept}, keep_seconds=60)
    assert theirs.exists() and kept.stat().st_mtime > time.time() - 60  # by which a machine's cleaner goes
    sweep(tmp_path, {kept}, keep_seconds=0)
    assert kept.exists() and not theirs.parent.exists()


def test_a_long_clip_gives_way_to_the_next(page: Page, tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "long.flac", np.tile(voice, 20 * 60 * 16_000 // len(voice)), 16_000)
    page.get_by_role("button", name="All figures").click()
    upload(page, tmp_path / "long.flac")
    expect(page.locator("#verdict")).to_contain_text("Listened to", timeout=ANSWER_MS)
    page.get_by_role("button", name="A simple robot voice").click()
    figures = page.locator("#figures")
    expect(figures).to_contain_text("duration_seconds", timeout=2 * ANSWER_MS)
    assert "espeak_woman.flac" in figures.inner_text()  # the first answer that comes is not that of the long clip


@pytest.mark.parametrize("page", [(390, 660)], indirect=True)
def test_a_cleared_player_stays_in_sight(page: Page) -> None:
    page.get_by_role("button", name="A simple robot voice").click()
    expect(page.locator("#verdict .gauge")).to_be_in_viewport(timeout=ANSWER_MS)
    clear = page.locator("#clip").get_by_role("button", name="Clear")
    clear.scroll_into_view_if_needed()
    clear.click()
    expect(page.locator("#verdict")).to_contain_text("No clip yet", timeout=ANSWER_MS)
    page.wait_for_timeout(1_500)
    expect(page.locator("#clip")).to_be_in_viewport(ratio=0.5)


def test_folders_of_pages_that_were_killed_are_removed(tmp_path: Path) -> None:
    in_use, abandoned, another, theirs = folders = [
        tmp_path / name for name in ("voice-check-a", "voice-check-b", "notes", "voice-check-recordings")
    ]
    for folder in folders:
        folder.mkdir()
        (folder / "clip.wav").write_bytes(b"")
        if folder != theirs:
            (folder / MARK).touch()
        if folder != in_use:
            os.utime(folder, (0, 0))
    remove_abandoned(tmp_path)
    assert in_use.is_dir() and another.is_dir() and theirs.is_dir() and not abandoned.exists()


def test_an_answer_is_dropped_if_another_clip_followed() -> None:
    assert not is_outdated("b.wav", ["a.wav", "b.wav"]) and is_outdated("a.wav", ["a.wav", "b.wav"])
    assert not is_outdated("a.wav", ["a.wav", None, "a.wav"])  # chosen again
    assert not is_outdated("c.wav", ["a.wav", "b.wav"])  # its own request has come before the player's
    assert is_outdated("a.wav", ["a.wav", None]) and is_outdated("a.wav", None)  # the visitor has left


def test_a_copy_that_comes_too_late_is_dropped() -> None:
    made = ("first.wav", (16_000, np.zeros(8, np.int16)))
    state, shown, own, back = copy_shown(made, "first.wav", None)
    assert (state, shown, own, back["visible"]) == (None, made[1], "first.wav", True)
    assert copy_shown(made, "second.wav", None) == (None, "second.wav", None, gr.skip())


def test_how_the_page_is_used_is_not_monitored(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/monitoring", timeout=30)
    assert refused.value.code in (403, 404)


def test_silence_has_no_number(page: Page, clips: dict[str, Path]) -> None:
    upload(page, clips["silence"])
    expect(page.locator("#verdict")).to_contain_text("No voice to judge", timeout=ANSWER_MS)
    assert "%" not in page.locator("#verdict").inner_text()


def test_page_equals_detector(url: str, clips: dict[str, Path]) -> None:
    detector = Detector.from_pretrained()
    client = Client(url, verbose=False)
    for path in (VOICE, clips["m4a"], clips["silence"]):
        card, _, answer = client.predict(handle_file(str(path)), False, api_name="/judge")
        expected = json.loads(json.dumps(detector.predict(path).to_dict()))
        assert answer == approximately(expected) and HEADLINES[expected["label"]] in card


def approximately(value):
    """Figures of a verdict, those that are numbers only nearly: two processes may share the work between threads otherwise."""
    if isinstance(value, dict):
        return {key: approximately(part) for key, part in value.items()}
    if isinstance(value, list):
        return [approximately(part) for part in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_examples_are_there(page: Page) -> None:
    for name in ("A person", "A simple robot voice", "A robot voice, vocoded", "A robot voice in German"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
