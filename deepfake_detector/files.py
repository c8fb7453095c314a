"""Files that are either whole or not there: written aside, then renamed."""

import csv
import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import soundfile

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, no quota, over the size limit of a file


class StorageError(ValueError):
    """A file cannot be written; the message is one sentence written for the user."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file (text as UTF-8) so that at any moment the old or the new one is there; raises StorageError."""
    with written_aside(path) as aside, open(aside, "wb") as file:
        # A path in it need not be text.
        file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # some file systems report a full disk only now


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write a waveform (n,) as 16-bit WAV, whole or not at all; raises StorageError."""
    wav = io.BytesIO()
    soundfile.write(wav, samples.clip(-1, 1), sample_rate, format="WAV", subtype="PCM_16")
    write_whole(path, wav.getvalue())


def csv_text(columns: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A table as the text of a CSV file, lines ending as everywhere else in the project."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name for a file or a folder of files; on leaving, they take their places under `path`.

    If something goes wrong, nothing of it is left and what `path` held stays. Raises StorageError.
    """
    aside = path.with_name(path.name + ".partial")
    try:
        with storage_faults_told(path):
            _remove(aside)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            if aside.is_dir():
                path.mkdir(exist_ok=True)
                for file in aside.iterdir():
                    os.replace(file, path / file.name)
            else:
                os.replace(aside, path)
    finally:
        with suppress(OSError):  # what went wrong before has been said
            _remove(aside)


@contextmanager
def storage_faults_told(path: Path) -> Iterator[None]:
    """Around the writing of `path`: raises StorageError where Python raises OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(_sentence(path, error)) from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sentence(path: Path, error: OSError) -> str:
    if error.errno in FULL:
        return f"There is no space left to write {path}; free some and go on: what was saved before is still there."
    return f"{path} cannot be written: {os.strerror(error.errno or errno.EIO)}."
