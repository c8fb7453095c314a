"""How much of the device's speed the training loop reaches.

    python benchmarks/loop.py --steps 20 [--data DATA] [--device cuda] [--workers 4] [--compile]

Prints images (clips) per second of the whole loop - decoding, augmenting, spectrograms, optimiser step - and of the
optimiser step alone, on random pictures that lie on the device already. Their ratio is what the data cost: 1 means that
nothing waits for them. The recipe is train.py's default; the data, unless given, are copies of two bundled recordings.
Every worker has two batches ready when the clock starts, so take many more steps than that.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from deepfake_detector.data.manifest import read_clips
from deepfake_detector.distributed import spare_cores
from deepfake_detector.training import Run
from train import RECIPES, chosen_device

ASSETS = Path(__file__).parent.parent / "assets"
VOICES = {"real": ASSETS / "espeak_woman.flac", "fake": ASSETS / "espeak_man_vocoded.flac"}
WARM_UP_STEPS = 3


def main() -> None:
    args = parse_arguments()
    device = chosen_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_copies(Path(folder), (args.steps + WARM_UP_STEPS) * args.batch_size)
        config = replace(RECIPES["default"], network=args.network, batch_size=args.batch_size)
        run = Run(config, read_clips([data]), None, Path(folder) / "run", device, args.compile)
        run.model.train()
        n_steps = min(args.steps + WARM_UP_STEPS, len(run.sampler))
        if n_steps <= WARM_UP_STEPS:
            sys.exit(f"An epoch of these data has only {n_steps} batches; more than {WARM_UP_STEPS} are needed.")
        loop = images_per_second(run.train_step, itertools.islice(run.batches(args.workers), n_steps), run)
        alone = images_per_second(run.learn, itertools.repeat(random_pictures(run), n_steps), run)
    print(f"training loop: {loop:.1f} images/s; random pictures on {device}: {alone:.1f} images/s")
    n_timed = n_steps - WARM_UP_STEPS
    print(f"ratio: {loop / alone:.2f} ({n_timed} steps of {args.batch_size}, {args.workers} workers)")


def images_per_second(step: Callable, batches: Iterable[tuple], run: Run) -> float:
    """Run a step on every batch; the first `WARM_UP_STEPS` do not count."""
    n_timed, began = -WARM_UP_STEPS, 0.0
    for batch in batches:
        step(*batch)
        n_timed += 1
        if n_timed == 0:
            synchronise(run.device)
            began = time.perf_counter()
    synchronise(run.device)
    return n_timed * run.config.batch_size / (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_pictures(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as the front end makes it - pictures and labels - of noise, on the device."""
    batch_size, n_samples = run.config.batch_size, round(run.config.crop_seconds * run.config.features.sample_rate)
    with torch.no_grad():
        shape = run.model.features(torch.randn(1, n_samples, device=run.device)).shape
    pictures = torch.randn(batch_size, *shape[1:], device=run.device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=run.device) % 2
    return pictures, labels


def write_copies(folder: Path, n_clips: int) -> Path:
    """A CSV with `n_clips` rows to train on, each its own file, and one of each label to select on."""
    rows = ["path,label,split"]
    for i in range(n_clips + 2):
        label = ("real", "fake")[i % 2]
        shutil.copy(VOICES[label], folder / f"{i}.flac")
        rows.append(f"{i}.flac,{label},{'train' if i < n_clips else 'dev'}")
    (folder / "set.csv").write_text("\n".join(rows))
    return folder / "set.csv"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="timed ones; at most an epoch")
    parser.add_argument("--data", type=Path, help="a data set as for train.py")
    parser.add_argument("--network", choices=("res-efficientcnn", "basic-cnn"), default="res-efficientcnn")
    parser.add_argument("--batch-size", type=int, default=RECIPES["default"].batch_size)
    parser.add_argument("--device", help="cpu, cuda ...; default: the best there is")
    parser.add_argument("--workers", type=int, default=spare_cores())
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
