"""Clips of espeak-ng, the robot voice that everybody has at hand, as extra spoofs to train on.

    python -m deepfake_detector.data.espeak FOLDER

writes WAV files and a manifest.csv that `train.py --data` reads. Needs the program espeak-ng (Debian: apt-get install espeak-ng).
"""

import csv
import itertools
import subprocess
import sys
from pathlib import Path

VOICES = ("en-us", "en-gb", "en-gb-scotland", "de", "fr-fr", "es", "it", "pt-br")
VARIANTS = ("", "+m1", "+m3", "+m5", "+m7", "+f1", "+f2", "+f4", "+f5", "+croak")
SENTENCES = (  # of the Harvard sentences (IEEE 1969)
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls. The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us. A large size in stockings is hard to sell.",
    "The boy was there when the sun rose. A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring. Kick the ball straight and follow through.",
    "Help the woman get back to her feet. A pot of tea helps to pass the evening.",
)


def make_clips(folder: Path) -> None:
    """A clip of every voice with every variant, each combination a system of its own, so that none is rare in training."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (voice, variant) in enumerate(itertools.product(VOICES, VARIANTS)):
        for take in range(3):
            name = f"{voice}{variant.replace('+', '_')}_{take}.wav"
            sentence = SENTENCES[(number + 3 * take) % len(SENTENCES)]
            speed, pitch = 130 + 25 * ((number + take) % 4), 30 + 20 * take
            command = ["espeak-ng", "-v", voice + variant, "-s", str(speed), "-p", str(pitch), "-w", name, sentence]
            subprocess.run(command, cwd=folder, check=True)
            rows.append((name, "spoof", "train", f"espeak-ng {voice}{variant}", "tts", "espeak-ng"))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split", "system", "family", "corpus"))
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the folder to write to: python -m deepfake_detector.data.espeak FOLDER")
    try:
        make_clips(Path(sys.argv[1]))
    except FileNotFoundError:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"The clips could not be made: {error}.")
