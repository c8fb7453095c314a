"""Train a detector.

    python train.py --data ../shared/data --output runs/default --recipe default

The recipe below is the whole of what a person chose; what data taught ends in OUTPUT/best, a folder that
`Detector.from_pretrained` and `DETECTOR_MODEL` load. Killed? The same command with --resume goes on.

    python train.py --evaluate runs/default/best --data ../shared/data --split dev --output runs/default/dev

measures any checkpoint, a folder or a Hub id, on any labelled set.
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
from deepfake_detector.curves import draw_curves, png, read_log
from deepfake_detector.data.augment import AugmentConfig, Noises
from deepfake_detector.data.manifest import SPLITS, DataError, check_clips, of_split, read_clips
from deepfake_detector.detector import Detector
from deepfake_detector.evaluation import (
    Scores,
    asvspoof_scores,
    calibrated,
    is_asvspoof,
    report,
    score_clips,
    scores_csv,
    tandem_cost,
)
from deepfake_detector.features import FeatureConfig
from deepfake_detector.files import StorageError, write_whole
from deepfake_detector.hub import HubError, check_repo_id, checked_token, push
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
    if args.evaluate:
        evaluate(args)
        return
    if args.push_to_hub:  # a long run should not end with a sentence that could have come first
        check_repo_id(args.push_to_hub)
        checked_token()
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
    detector = Detector.from_pretrained(best, device)
    scores = score_clips(detector, of_split(clips, "dev"))
    figures = report(detector.model, scores)
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
    write_json(best / "metrics.json", figures)
    write_figure(best / "figure.png", detector, scores, figures, f"{config.network} on dev", args.output)
    command = shlex.join(["python", *(word for word in sys.argv if word != "--resume")])
    write_whole(best / "README.md", model_card(figures, command))
    print(f"dev EER {100 * figures['eer']:.2f} %; the checkpoint is in {best}")
    if args.push_to_hub:
        publish(best, args.push_to_hub, args.private)


def evaluate(args: argparse.Namespace) -> None:
    """Score a labelled set with a checkpoint and write scores.csv, metrics.json and figure.png into --output."""
    detector = Detector.from_pretrained(args.evaluate, chosen_device(args.device))
    clips = read_clips(args.data)
    if args.split != "all":
        clips = of_split(clips, args.split)
    check_clips(clips, detector.model.config.sample_rate)
    scores = score_clips(detector, clips)
    figures = {"checkpoint": args.evaluate, "split": args.split, **report(detector.model, scores)}
    if is_asvspoof(scores):
        figures["min_tdcf"], reason = tandem_cost(scores)
        print(reason or f"min t-DCF {figures['min_tdcf']:.4f} (legacy cost model of 2019)")
    figures["data"] = summarise(clips)
    write_whole(args.output / "scores.csv", scores_csv(scores))
    if args.asvspoof_scores:
        write_whole(args.output / "scores.txt", asvspoof_scores(scores))
    write_figure(args.output / "figure.png", detector, scores, figures, f"{args.evaluate} on {args.split}")
    write_json(args.output / "metrics.json", figures)
    if scores.unjudged:
        print(f"{len(scores.unjudged)} of {len(clips)} clips have no voice: they are listed, and in no figure")
    low, high = figures["eer_interval"]
    print(f"EER {100 * figures['eer']:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}); all in {args.output}")


def write_json(path: Path, figures: dict) -> None:
    write_whole(path, json.dumps(figures, indent=2) + "\n")


def write_figure(
    path: Path, detector: Detector, scores: Scores, figures: dict, title: str, run: Path | None = None
) -> None:
    """The closing figure; with a run's folder also its training curves."""
    probabilities = calibrated(detector.model, scores.values)
    log = read_log(run / "metrics.csv") if run else None
    title = f"{title}: {len(scores.clips)} clips"
    write_whole(path, png(draw_curves(scores.labels, scores.values, probabilities, figures, title, log)))


def publish(folder: Path, repo_id: str, private: bool) -> None:
    """Push the finished checkpoint; raises HubError that tells how to repeat it."""
    try:
        print(f"Published: {push(folder, repo_id, private)}")
    except HubError as error:
        again = shlex.join(["python", "-m", "deepfake_detector.hub", "push", str(folder), repo_id])
        raise HubError(f"{error} The run is safe in {folder}; push it with: {again}{' --private' * private}") from None


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
    parser.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="publish OUTPUT/best on the Hub at the end of the run"
    )
    parser.add_argument("--private", action="store_true", help="with --push-to-hub: make a model that only you see")
    parser.add_argument(
        "--evaluate", metavar="CHECKPOINT", help="train nothing: measure this folder or Hub id on --data"
    )
    parser.add_argument(
        "--split", choices=(*SPLITS, "all"), default="all", help="with --evaluate; clips of its own training flatter it"
    )
    parser.add_argument(
        "--asvspoof-scores", action="store_true", help="with --evaluate: also scores.txt as the 2019 challenge has it"
    )
    args = parser.parse_args()
    if args.evaluate and (args.push_to_hub or args.resume or args.init):
        parser.error("--evaluate trains nothing, so --push-to-hub, --resume and --init do not go with it")
    return args


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
    except (DataError, TrainingError, AudioError, CheckpointError, StorageError, HubError) as error:
        sys.exit(str(error))
