"""Does the rule for windows find a short fake passage in a long real recording, without crying wolf?

    python benchmarks/long_recordings.py --data ../shared/data

Long recordings are put together from the windows of dev clips: bona fide ones of one corpus for the recording, one spoofed
clip's windows repeated for a passage of 7.5 seconds. Prints, for several penalties, how often a real recording is called
fake and how often the passage is found, both at probability 0.5.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from deepfake_detector import Detector, detector
from deepfake_detector.data.manifest import of_split, read_clips
from deepfake_detector.detector import BUNDLED, STRETCH_WINDOWS, pool_windows
from deepfake_detector.evaluation import calibrated
from deepfake_detector.model import BONAFIDE

N_RECORDINGS = 400
PENALTIES = (0.0, 0.25, 0.5, 1.0, np.inf)  # infinity: the plain mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default=str(BUNDLED))
    args = parser.parse_args()
    judge = Detector.from_pretrained(args.model)
    bonafide, spoofed = window_scores(judge, of_split(read_clips(args.data), "dev"))
    print("length      penalty   real called fake   passage found")
    for n_windows in (10, 40, 400, 2400):
        for penalty in PENALTIES:
            detector.SEARCH_PENALTY = penalty
            rng = np.random.default_rng(0)
            recordings = [draw_recording(bonafide, n_windows, rng) for _ in range(N_RECORDINGS)]
            spliced = [with_passage(recording, spoofed, rng) for recording in recordings]
            real, found = (
                (calibrated(judge.model, np.array([pool_windows(r) for r in group])) >= 0.5).mean()
                for group in (recordings, spliced)
            )
            print(f"{1.5 * n_windows:6.0f} s {penalty:11} {100 * real:16.1f} % {100 * found:13.1f} %")


def window_scores(judge: Detector, clips: list) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores of all judged windows: bona fide per corpus, spoofed per clip."""
    scale, offset = (float(value) for value in judge.model.calibration)
    bonafide, spoofed = defaultdict(list), []
    for clip in tqdm(clips, leave=False):
        windows = judge.predict(clip.path).windows
        p = np.array([w.spoof_probability for w in windows if w.spoof_probability is not None])
        scores = (np.log(p) - np.log1p(-p) - offset) / scale
        if len(scores) == 0:
            continue
        if clip.label == BONAFIDE:
            bonafide[clip.corpus].extend(scores)
        else:
            spoofed.append(scores)
    return [np.array(scores) for scores in bonafide.values() if len(scores) >= 10], spoofed


def draw_recording(bonafide: list[np.ndarray], n_windows: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(bonafide[rng.integers(len(bonafide))], n_windows)


def with_passage(recording: np.ndarray, spoofed: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    start = rng.integers(len(recording) - STRETCH_WINDOWS + 1)
    spliced = recording.copy()
    spliced[start : start + STRETCH_WINDOWS] = rng.choice(spoofed[rng.integers(len(spoofed))], STRETCH_WINDOWS)
    return spliced


if __name__ == "__main__":
    main()
