"""A Hub id loads over HTTP: the command line against a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake_detector import Detector

from .conftest import ROOT, VOICE


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Serves `server.folder` as the model me/voice; everything else is unknown, as the Hub says it."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        match = re.fullmatch(r"/me/voice/resolve/[^/]+/([\w.]+)", self.path.split("?")[0])
        file = self.server.folder / match[1] if match else None
        if file and file.is_file():
            body = file.read_bytes()
            self.reply(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit="1" * 40)
        else:
            self.reply(404, b"{}", X_Error_Code="EntryNotFound" if match else "RepoNotFound")

    do_HEAD = do_GET

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
    server.folder, server.asked = checkpoint, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def judge_with(model: str, hub: http.server.ThreadingHTTPServer, home: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "deepfake_detector", str(VOICE), "--json", "--model", model]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


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
