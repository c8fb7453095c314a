"""Command line: python -m deepfake_detector FILE... [--json | --csv] [--model FOLDER_OR_ID]"""

import argparse
import csv
import glob
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

from tqdm import tqdm

from .audio import AudioError
from .detector import BUNDLED, Detector, percent
from .model import CheckpointError

EXIT_OK, EXIT_UNREADABLE = 0, 2
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # Unicode's signs that turn what follows round
COLUMNS = ("file", "label", "spoof_probability", "duration_seconds", "speech_seconds")


def main(arguments: list[str] | None = None) -> int:
    """Judge files; returns the exit status: 0, or 2 if some file could not be read."""
    args = parse_arguments(arguments)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # closed by who wants the exit status alone  # noqa: SIM115
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    else:  # whoever reads it wants to open these files
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        detector = Detector.from_pretrained(args.model)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return EXIT_UNREADABLE
    unreadable = []
    files = [file for given in args.files for file in expanded(given)]
    WRITERS[args.format](_judge_all(detector, files, unreadable))
    return EXIT_UNREADABLE if unreadable else EXIT_OK


def expanded(given: str) -> list[str]:
    """The files that `*` and `?` stand for, which the shells of Windows pass on as they are; else the name itself."""
    if os.path.lexists(given):  # a name may have such letters
        return [given]
    return sorted(glob.glob(given)) or [given]


def _judge_all(detector: Detector, files: list[str], unreadable: list[str]) -> Iterator[dict]:
    """Verdicts as they come; what cannot be read is told on stderr and collected in `unreadable`."""
    for path in tqdm(files, unit="file", file=sys.stderr, disable=None, leave=False):
        try:
            verdict = detector.predict(path)
        except AudioError as error:
            tqdm.write(shown(f"{path}: {error}"), file=sys.stderr)
            unreadable.append(path)
            continue
        for note in verdict.notes:
            tqdm.write(shown(f"{path}: {note}"), file=sys.stderr)
        yield {**verdict.to_dict(), "file": path}


def shown(text: str) -> str:
    """Text with a file's name in it, without the signs by which a name could steer the terminal, say to forge a line."""

    def steers(sign: str) -> bool:
        return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(sign) in TURNS

    return "".join(ascii(sign)[1:-1] if steers(sign) else sign for sign in text)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("deepfake_detector", description="Tell human voices from machine-made ones.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings (also videos with sound)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="format", action="store_const", const="json", help="every figure, as a JSON list")
    form.add_argument("--csv", dest="format", action="store_const", const="csv", help="one line a file")
    default = os.environ.get("DETECTOR_MODEL") or str(BUNDLED)
    parser.add_argument("--model", default=default, help="checkpoint folder or Hub id (default: the bundled one)")
    parser.set_defaults(format="table")
    return parser.parse_args(arguments)


def write_json(verdicts: Iterable[dict]) -> None:
    json.dump(list(verdicts), sys.stdout, indent=2)  # in ASCII, which is JSON on every terminal
    print()


def write_csv(verdicts: Iterable[dict]) -> None:
    clear_of_the_bar = SimpleNamespace(write=lambda text: tqdm.write(text, file=sys.stdout, end=""))
    writer = csv.DictWriter(clear_of_the_bar, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for verdict in verdicts:
        writer.writerow(verdict)
        sys.stdout.flush()


def write_table(verdicts: Iterable[dict]) -> None:
    for verdict in verdicts:
        probability = verdict["spoof_probability"]
        chance = "" if probability is None else f"p(fake) {percent(probability)}"
        line = f"{verdict['label']:<11}{chance:>18}{verdict['duration_seconds']:>9.1f} s   {shown(verdict['file'])}"
        tqdm.write(line, file=sys.stdout)  # keeps clear of the progress bar
        sys.stdout.flush()


WRITERS = {"json": write_json, "csv": write_csv, "table": write_table}

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_OK)
    except OSError as error:  # a full disk
        sys.exit(f"The answers cannot be written: {error.strerror or error}.")
