"""How fast the first recipe draws its pictures here: recording -> augmented copy -> 904 x 370 PNG on disk.

    python benchmarks/pictures.py --data LA [--workers 1] [--pictures 400]

With --workers 0 everything is drawn in this process on one thread. Pictures of augmented copies only, the slower kind.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from deepfake_detector.data.images import make_pictures, plan_pictures
from deepfake_detector.data.manifest import of_split, read_clips
from train import RECIPES

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, nargs="+", required=True)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--pictures", type=int, default=400)
args = parser.parse_args()

torch.set_num_threads(1)
recipe = RECIPES["first"]
plan = plan_pictures(of_split(read_clips(args.data), "train"), recipe.size, recipe.seed)
copies = [picture for picture in plan if picture.copy][: args.pictures]
with tempfile.TemporaryDirectory() as folder:
    wall_started, cpu_started = time.perf_counter(), time.process_time()
    make_pictures(copies, Path(folder), recipe.features, recipe.augment, args.workers)
    wall_seconds, cpu_seconds = time.perf_counter() - wall_started, time.process_time() - cpu_started
    n_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.png"))
print(f"{len(copies)} pictures of {n_bytes / len(copies) / 1000:.0f} kB in {wall_seconds:.1f} s: ", end="")
print(f"{len(copies) / wall_seconds:.0f} a second with {args.workers} workers; ", end="")
print(f"{1000 * cpu_seconds / len(copies):.1f} ms of this process's time each")
