"""Train a detector.

    python train.py --data ../shared/data --output runs/default --recipe default

The recipe below is the whole of what a person chose; what data taught ends in OUTPUT/best, a folder that
`Detector.from_pretrained` and `DETECTOR_MODEL` load. Killed? The same command with --resume goes on.
"""

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from deepfake_detector.audio import AudioError
from deepfake_detector.card import model_card, summarise
from deepfake_detector.data.augment import AugmentConfig, Noises
from deepfake_detector.data.manifest import DataError, check_clips, of_split, read_clips
from deepfake_detector.detector import Detector
from deepfake_detector.evaluation import report
from deepfake_detector.features import FeatureConfig
from deepfake_detector.model import CheckpointError, load_imagenet_weights
from deepfake_detector.training import Run, TrainConfig, TrainingError

FEATURES = FeatureConfig(
    sample_rate=16_000,
    n_fft=1024,
    hop_length=256,  # 16 ms: vocoder artefacts are fine in frequency, not in time
    n_mels=128,
    f_min_hz=20.0,
    f_max_hz=8_000.0,
    top_db=80.0,
    normalise="picture",
    window_seconds=3.0,
    window_hop_seconds=1.5,
)

AUGMENT = AugmentConfig(
    equaliser=0.3,
    room=0.15,
    noise=0.3,
    noise_snr_db=(8.0, 40.0),
    clip=0.05,
    low_pass=0.2,
    codec=0.35,
    gain_db=(-26.0, -1.0),
)

RECIPES = {
    "default": TrainConfig(
        features=FEATURES,
        augment=AUGMENT,
        network="res-efficientcnn",
        backbone="efficientnet_b0",
        width=128,
        dropout=0.3,
        epochs=36,
        crop_seconds=2.0,
        batch_size=32,
        copies_per_batch=2,
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_share=0.03,
        ema_decay=0.998,
        evaluate_every=4,
        label_smoothing=0.05,
        source_weight=0.5,
        max_wrong_share=0.1,
        mask_mels=16,
        mask_frames=24,
        seed=0,
    ),
}


def main() -> None:
    args = parse_arguments()
    config = chosen_config(args)
    clips = read_clips(args.data)
    noises = Noises(args.noise, config.features.sample_rate) if args.noise else None
    device = chosen_device(args.device)
    print(f"{len(of_split(clips, 'train'))} clips to train on, {len(of_split(clips, 'dev'))} to select on, on {device}")

    run = Run(config, clips, noises, args.output, device)
    starts_from_imagenet = args.imagenet and config.network == "res-efficientcnn" and not args.init
    if args.resume:
        run.resume()
    else:
        check_clips(clips, config.features.sample_rate)
        if args.init:
            run.start_from(args.init)
        elif starts_from_imagenet:
            load_imagenet_weights(run.model, config.backbone)
    run.fit(args.workers)

    best = args.output / "best"
    figures = report(Detector.from_pretrained(best, device), of_split(clips, "dev"))
    figures["settings"] = {
        "recipe": args.recipe,
        "network": config.network,
        "epochs": config.epochs,
        "seed": config.seed,
        "start": "timm's ImageNet weights"
        if starts_from_imagenet
        else f"{args.init}"
        if args.init
        else "random weights",
        "license": args.license,
        "data": summarise(clips),
        "window_seconds": config.features.window_seconds,
    }
    (best / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    command = shlex.join(["python", *(word for word in sys.argv if word != "--resume")])
    (best / "README.md").write_text(model_card(figures, command), encoding="utf-8")
    print(f"dev EER {100 * figures['eer']:.2f} %; the checkpoint is in {best}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a detector of synthetic voices.")
    data_help = "CSV, folder with real/ and fake/, or the ASVspoof 2019 LA archive"
    parser.add_argument("--data", type=Path, nargs="+", required=True, help=data_help)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--noise", type=Path, help="CSV of path,kind with noises and room responses (kind rir)")
    parser.add_argument("--network", choices=("res-efficientcnn", "basic-cnn"))
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--seed", type=natural)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: the best there is")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes that load audio")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--license", default="other", help="licence of the weights, for the card, e.g. cc-by-nc-4.0")
    parser.add_argument("--init", type=Path, help="checkpoint folder whose weights to start from")
    parser.add_argument("--no-imagenet", dest="imagenet", action="store_false", help="start from random weights")
    return parser.parse_args()


def chosen_device(name: str | None) -> str:
    """The named device, or the best there is; raises TrainingError if it cannot be used here."""
    if name is None:
        return str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):  # torch's two ways to refuse a device
        raise TrainingError(f"The device {name} cannot be used on this machine.") from None
    return name


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def natural(text: str) -> int:
    return positive(text) if text != "0" else 0


def chosen_config(args: argparse.Namespace) -> TrainConfig:
    given = {name: getattr(args, name) for name in ("network", "epochs", "seed") if getattr(args, name) is not None}
    return replace(RECIPES[args.recipe], **given)


if __name__ == "__main__":
    try:
        main()
    except (DataError, TrainingError, AudioError, CheckpointError) as error:
        sys.exit(str(error))
