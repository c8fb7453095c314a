"""A Hub id loads, and a checkpoint is pushed, over HTTP: against a server on this machine that answers as the Hub does."""

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deepfake_detector import Detector
from deepfake_detector.hub import FIGURE, FILES, main

from .conftest import ROOT, VOICE
from .test_training import SETTINGS

TOKEN = "hf_aTokenThatNobodyShouldSee"


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` as the model me/voice and takes commits to it; `server.refusals`: call -> status."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        match = re.fullmatch(r"/me/voice/resolve/[^/]+/([\w.]+)", self.path.split("?")[0])
        body = self.server.files.get(match[1]) if match else None
        if self.path.split("?")[0] == "/api/models/me/voice":
            self.reply(200, json.dumps({"id": "me/voice", "private": self.server.is_private}).encode())
            return
        if body is not None:
            self.reply(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit="1" * 40)
        else:
            self.reply(404, b"{}", X_Error_Code="EntryNotFound" if match else "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = json.loads if self.path.endswith("create") or "/preupload/" in self.path else bytes
        body = asked(self.rfile.read(int(self.headers["Content-Length"])))
        call = re.sub(r"^/api/|models/me/voice/|/main.*", "", self.path)
        self.server.posted.append((call, self.headers["Authorization"], body))
        status = self.server.refusals.get(call, 200)
        if status != 200:
            self.reply(status, json.dumps({"error": f"no, {self.headers['Authorization']}"}).encode())
        elif call == "commit":
            self.take_commit([json.loads(line) for line in body.splitlines()])
        else:
            answers = {"repos/create": {"url": f"{self.server.url}/me/voice"}, "validate-yaml": {"warnings": []}}
            if call == "preupload":
                modes = [
                    {"path": file["path"], "uploadMode": self.server.upload_mode, "shouldIgnore": False}
                    for file in body["files"]
                ]
                answers["preupload"] = {"files": modes}
            if call.endswith("/lfs/objects/batch"):
                store = {"upload": {"href": f"{self.server.url}/store"}}
                answers[call] = {"objects": [{**thing, "actions": store} for thing in json.loads(body)["objects"]]}
            self.reply(200, json.dumps(answers[call]).encode())

    def do_PUT(self) -> None:  # the store for large files
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.stored[hashlib.sha256(body).hexdigest()] = body
        self.reply(self.server.refusals.get("store", 200), b"")

    def take_commit(self, lines: list[dict]) -> None:
        kind = {"regular": "file", "lfs": "lfsFile"}[self.server.upload_mode]
        assert {line["key"] for line in lines} == {"header", kind}  # nothing is deleted
        values = [line["value"] for line in lines if line["key"] == kind]
        stored = self.server.stored
        files = {v["path"]: stored[v["oid"]] if "oid" in v else base64.b64decode(v["content"]) for v in values}
        self.server.files |= files
        self.server.commits.append(sorted(files))
        answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.server.url}/me/voice/commit/{'1' * 40}"}
        self.reply(200, json.dumps(answer).encode())

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    server.asked, server.posted, server.commits, server.refusals = [], [], [], {}
    server.is_private, server.upload_mode, server.stored = True, "regular", {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def judge_with(model: str, hub: http.server.ThreadingHTTPServer, home: Path) -> subprocess.CompletedProcess:
    return run(["-m", "deepfake_detector", str(VOICE), "--json", "--model", model], hub.url, home)


def run(arguments: list[str], endpoint: str, home: Path, token: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_hub_model_gives_the_folder_s_verdict(
    hub: http.server.ThreadingHTTPServer, detector: Detector, tmp_path: Path
) -> None:
    done = judge_with("me/voice", hub, tmp_path)
    assert done.returncode == 0, done.stderr
    (verdict,) = json.loads(done.stdout)
    assert verdict["model"] == "me/voice"
    assert verdict["score"] == detector.predict(VOICE).score
    files = {path.split("?")[0].rsplit("/", 1)[1] for path in hub.asked if "/resolve/" in path}
    assert files == {"config.json", "model.safetensors"}  # and no pickled file


def test_unknown_hub_model_is_one_sentence(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    done = judge_with("me/nothing", hub, tmp_path)
    assert done.returncode == 2 and "no such model on the Hub" in done.stderr and "Traceback" not in done.stderr


EXAMPLE = 'from_pretrained("FOLDER_OR_HUB_ID"), see [its sister](../README.md) and [why](https://example.org/why.md)\n'


@pytest.fixture
def best(checkpoint: Path, tmp_path: Path) -> Path:
    """What a run leaves in OUTPUT/best, and a file of the user's beside it."""
    folder = shutil.copytree(checkpoint, tmp_path / "best")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\npipeline_tag: audio-classification\n---\n\n# Card\n" + EXAMPLE
    )
    (folder / "metrics.json").write_text(json.dumps({"eer": 0.25, "settings": {"network": "basic-cnn"}}))
    (folder / "figure.png").write_bytes(b"a picture")
    (folder / "diary.txt").write_text("not for the Hub")
    return folder


def push_to(endpoint: str, folder: Path, token: str = TOKEN) -> subprocess.CompletedProcess:
    arguments = ["-m", "deepfake_detector.hub", "push", str(folder), "me/voice", "--private"]
    return run(arguments, endpoint, folder.parent / "home", token)


def assert_one_sentence(done: subprocess.CompletedProcess, sentence: str) -> None:
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and TOKEN not in done.stdout + done.stderr


def test_pushed_checkpoint_loads_from_the_hub(
    hub: http.server.ThreadingHTTPServer, best: Path, detector: Detector, tmp_path: Path
) -> None:
    hub.files.clear()
    done = push_to(hub.url, best)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/me/voice" and TOKEN not in done.stdout + done.stderr
    assert hub.commits == [sorted([*FILES, FIGURE])] and hub.files.keys() == {*FILES, FIGURE}
    created = next(body for call, _, body in hub.posted if call == "repos/create")
    assert created["name"] == "voice" and created["visibility"] == "private"
    assert {token for _, token, _ in hub.posted} == {f"Bearer {TOKEN}"}

    front = yaml.safe_load(hub.files["README.md"].decode().split("---")[1])
    assert front["license"] == "cc-by-nc-4.0" and front["pipeline_tag"] == "audio-classification"
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert (metric["type"], metric["value"]) == ("eer", 0.25)
    said = 'from_pretrained("me/voice"), see its sister and [why](https://example.org/why.md)\n'
    assert hub.files["README.md"].decode().endswith(said)

    (verdict,) = json.loads(judge_with("me/voice", hub, tmp_path / "reader").stdout)
    assert verdict["score"] == detector.predict(VOICE).score
    assert push_to(hub.url, best).returncode == 0
    assert hub.commits == [sorted([*FILES, FIGURE])] * 2


def test_large_files_go_to_their_store(hub: http.server.ThreadingHTTPServer, best: Path) -> None:
    hub.files.clear()
    hub.upload_mode = "lfs"  # as the Hub has it for files that are large or no text
    done = push_to(hub.url, best)
    assert done.returncode == 0, done.stderr
    assert len(hub.stored) == len(hub.files) == len([*FILES, FIGURE]) and TOKEN not in done.stdout + done.stderr
    assert hub.files["model.safetensors"] == (best / "model.safetensors").read_bytes()


def test_refused_push_is_one_sentence_and_can_be_repeated(hub: http.server.ThreadingHTTPServer, best: Path) -> None:
    hub.refusals = dict.fromkeys(("repos/create", "preupload", "commit"), 401)
    assert_one_sentence(push_to(hub.url, best), "refused the token")
    hub.refusals = {"commit": 500}
    assert_one_sentence(push_to(hub.url, best), "HTTP 500")
    hub.upload_mode, hub.refusals = "lfs", {"store": 403}
    broken = push_to(hub.url, best)  # the library draws its progress bars
    assert broken.returncode == 2 and "broke off; push again" in broken.stderr and "Traceback" not in broken.stderr
    hub.upload_mode = "regular"
    hub.refusals = {"validate-yaml": 400}
    assert_one_sentence(push_to(hub.url, best), "did not accept the front matter")
    assert not hub.commits
    hub.refusals, hub.is_private = {}, False
    assert_one_sentence(push_to(hub.url, best), "is public already")
    assert not hub.commits
    hub.is_private = True
    assert push_to(hub.url, best).returncode == 0 and len(hub.commits) == 1


def test_push_without_token_or_hub_is_one_sentence(best: Path) -> None:
    assert_one_sentence(push_to("http://127.0.0.1:9", best, token=""), "no token")
    assert_one_sentence(push_to("http://127.0.0.1:9", best), "cannot be reached")


def test_push_refuses_what_is_no_checkpoint(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def sentence(*arguments: str) -> str:
        assert main(["push", *arguments]) == 2
        return capsys.readouterr().err

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("voice", "me/my voice", "me/voice/two", ".me/voice"):
        assert "no name of a Hub model" in sentence(str(best), name)
    assert "no folder" in sentence(str(best / "nowhere"), "me/voice")
    (best / "metrics.json").write_text("{")
    assert "damaged" in sentence(str(best), "me/voice")
    (best / "metrics.json").unlink()
    assert "lacks metrics.json" in sentence(str(best), "me/voice")
    (best / "metrics.json").write_text("{}")
    (best / "model.safetensors").write_bytes(b"no weights")
    assert "model.safetensors is damaged" in sentence(str(best), "me/voice")
    monkeypatch.setenv("HF_TOKEN", "hf_tok\u20acn")
    assert "character that no token has" in sentence(str(best), "me/voice")


def test_run_outlives_a_failed_push(hub: http.server.ThreadingHTTPServer, data: Path, tmp_path: Path) -> None:
    output, home = tmp_path / "run", tmp_path / "home"
    train = ["train.py", "--data", str(data), "--output", str(output), *SETTINGS, "--epochs", "1"]
    wrong = run([*train, "--push-to-hub", "voice"], hub.url, home, TOKEN)
    assert wrong.returncode == 1 and "no name of a Hub model" in wrong.stderr and not output.exists()
    hub.refusals = {"commit": 503}
    done = run([*train, "--push-to-hub", "me/voice"], hub.url, home, TOKEN)
    again = f"python -m deepfake_detector.hub push {output / 'best'} me/voice"
    assert done.returncode == 1 and again in done.stderr and "Traceback" not in done.stderr
    hub.refusals = {}
    assert push_to(hub.url, output / "best").returncode == 0
    assert hub.files["figure.png"][:4] == b"\x89PNG"
    assert "model-index" in yaml.safe_load(hub.files["README.md"].decode().split("---")[1])


def test_run_of_the_first_recipe_is_published_and_loads(
    hub: http.server.ThreadingHTTPServer, data: Path, tmp_path: Path
) -> None:
    hub.files.clear()
    few = tmp_path / "few.csv"
    header, *rows = (data / "manifest.csv").read_text().splitlines()
    few.write_text("\n".join([header, *(f"{data}/{row}" for row in rows[:16])]))
    train = ["train.py", "--recipe", "first", "--data", str(few), "--output", str(tmp_path / "run"), *SETTINGS]
    done = run([*train, "--epochs", "1", "--push-to-hub", "me/voice"], hub.url, tmp_path / "home", TOKEN)
    assert done.returncode == 0, done.stderr
    assert hub.commits == [sorted([*FILES, FIGURE])] and TOKEN not in done.stdout + done.stderr
    _, front, card = hub.files["README.md"].decode().split("---", 2)
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["name"] == "random split, pictures"
    assert 'from_pretrained("me/voice")' in card
    (verdict,) = json.loads(judge_with("me/voice", hub, tmp_path / "reader").stdout)
    assert verdict["score"] == Detector.from_pretrained(tmp_path / "run" / "best").predict(VOICE).score
