"""Command line: python -m deepfake_detector FILE... [--json | --csv] [--model FOLDER_OR_ID]"""

import argparse
import csv
import json
import os
import sys

from tqdm import tqdm

from .audio import AudioError
from .detector import BUNDLED, Detector
from .model import CheckpointError

EXIT_OK, EXIT_UNREADABLE = 0, 2
COLUMNS = ("file", "label", "spoof_probability", "duration_seconds", "speech_seconds")


def main(arguments: list[str] | None = None) -> int:
    """Judge files; returns the exit status: 0, or 2 if some file could not be read."""
    args = parse_arguments(arguments)
    try:
        detector = Detector.from_pretrained(args.model)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return EXIT_UNREADABLE
    verdicts, n_unreadable = [], 0
    for path in tqdm(args.files, unit="file", file=sys.stderr, disable=None, leave=False):
        try:
            verdict = detector.predict(path)
        except AudioError as error:
            tqdm.write(str(error), file=sys.stderr)
            n_unreadable += 1
        else:
            verdicts.append({**verdict.to_dict(), "file": path})
            for note in verdict.notes:
                tqdm.write(f"{path}: {note}", file=sys.stderr)
    WRITERS[args.format](verdicts)
    return EXIT_UNREADABLE if n_unreadable else EXIT_OK


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


def write_json(verdicts: list[dict]) -> None:
    json.dump(verdicts, sys.stdout, indent=2, ensure_ascii=False)
    print()


def write_csv(verdicts: list[dict]) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(verdicts)


def write_table(verdicts: list[dict]) -> None:
    for verdict in verdicts:
        probability = verdict["spoof_probability"]
        chance = "" if probability is None else f"{100 * probability:.0f} % fake"
        print(f"{verdict['label']:<11}{chance:>10}{verdict['duration_seconds']:>9.1f} s   {verdict['file']}")


WRITERS = {"json": write_json, "csv": write_csv, "table": write_table}

if __name__ == "__main__":
    sys.exit(main())
