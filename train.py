"""Train a detector.

    python train.py --data ../shared/data --output runs/default --recipe default
    python train.py --data LA --output runs/first --recipe first [--network basic-cnn] [--prepare-only]

The recipes below are the whole of what a person chose; what data taught ends in OUTPUT/best, a folder that
`Detector.from_pretrained` and `DETECTOR_MODEL` load. Killed? The same command with --resume goes on. On several GPUs:

    torchrun --nproc_per_node=2 train.py --data ../shared/data --output runs/default

Any checkpoint, a folder or a Hub id, is measured on any labelled set:

    python train.py --evaluate runs/default/best --data ../shared/data --split dev --output runs/default/dev

The mean of the weights of checkpoints of which one was trained on from the other is often better than either:

    python train.py --average runs/default/best runs/further/best --data ../shared/data --output runs/mean
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from deepfake_detector import distributed
from deepfake_detector.audio import AudioError
from deepfake_detector.card import first_card, first_report, model_card, summarise
from deepfake_detector.curves import draw_curves, png, read_log
from deepfake_detector.data.augment import AugmentConfig, Noises
from deepfake_detector.data.images import (
    LABELS_FILE,
    Picture,
    SetSize,
    Split,
    disjoint_split,
    make_pictures,
    plan_pictures,
    random_split,
)
from deepfake_detector.data.manifest import (
    SPLITS,
    Clip,
    DataError,
    check_clips,
    of_split,
    read_clips,
    read_sound_clips,
    torn_groups,
    torn_systems,
    without_corpora,
)
from deepfake_detector.detector import Detector
from deepfake_detector.evaluation import (
    Scores,
    asvspoof_scores,
    calibrate,
    calibrated,
    is_asvspoof,
    report,
    score_clips,
    scores_csv,
    tandem_cost,
)
from deepfake_detector.features import FeatureConfig
from deepfake_detector.files import StorageError, write_whole
from deepfake_detector.first_recipe import FirstConfig, PictureRun
from deepfake_detector.hub import HubError, check_repo_id, checked_token, push
from deepfake_detector.interrupt import WorkerKilled
from deepfake_detector.model import CONFIG_FILE, CheckpointError, SpoofClassifier, load_imagenet_weights
from deepfake_detector.training import (
    STATE_FILE,
    Run,
    TrainConfig,
    TrainingError,
    mean_of,
    new_board,
    refuse_to_overwrite,
    save_checkpoint,
    with_own_statistics,
)

FEATURES = FeatureConfig(
    sample_rate=16_000,
    n_fft=1024,
    hop_length=256,  # 16 ms: vocoder artefacts are fine in frequency, not in time
    n_mels=256,  # 95 Hz apart at 8 kHz, so that a high voice's harmonics show there; 189 Hz with 128
    f_min_hz=20.0,
    f_max_hz=8_000.0,
    top_db=80.0,
    normalise="picture+contrast",
    contrast_mels=25,
    contrast_frames=5,
    bands_per_row=2,  # the network's work is about that of 128 bands
    picture_width=0,
    picture_height=0,
    window_seconds=3.0,
    window_hop_seconds=1.5,
)

AUGMENT = AugmentConfig(
    speed=0.5,
    equaliser=0.4,
    echo=0.25,
    room=0.4,
    noise=0.35,
    noise_snr_db=(8.0, 40.0),
    low_cut=0.25,
    hum=0.25,
    clip=0.05,
    low_pass=0.25,
    edit=0.35,
    raw_boost=0.15,
    microphone=0.2,
    silence=0.3,
    time_cut=0.1,
    codec=0.5,
    gain_db=(-26.0, -1.0),
)

FIRST_AUGMENT = AugmentConfig(
    speed=0.0,
    equaliser=0.5,
    echo=0.0,
    room=0.0,
    noise=1.0,  # every copy must look different, and the picture hides a change of level
    noise_snr_db=(8.0, 40.0),
    low_cut=0.0,
    hum=0.0,
    clip=0.0,
    low_pass=0.0,
    edit=0.0,
    raw_boost=0.0,
    microphone=0.0,
    silence=0.0,
    time_cut=0.0,
    codec=0.0,
    gain_db=(-26.0, -1.0),
)

RECIPES = {
    # The published experiment. It takes 70 / 15 / 15 % of the pictures by chance (data/images.py: SHARES).
    "first": FirstConfig(
        size=SetSize(bonafide_clips=2_580, bonafide_pictures=7_422, spoof_pictures=7_500),
        features=replace(
            FEATURES,
            n_mels=128,
            normalise="colour",
            contrast_mels=0,
            contrast_frames=0,
            bands_per_row=1,
            picture_width=904,
            picture_height=370,
            window_seconds=4.0,
            window_hop_seconds=2.0,
        ),
        augment=FIRST_AUGMENT,
        network="res-efficientcnn",
        backbone="efficientnet_b0",
        width=128,
        dropout=0.3,
        epochs=10,
        batch_size=16,
        learning_rate=1e-3,
        seed=0,
    ),
    "default": TrainConfig(
        features=FEATURES,
        augment=AUGMENT,
        network="res-efficientcnn",
        backbone="efficientnet_b0",
        width=128,
        dropout=0.3,
        epochs=24,
        crop_seconds=2.0,
        batch_size=32,
        copies_per_batch=5,
        place_share=2 / 3,
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_share=0.03,
        sam_rho=0.0,
        ema_decay=0.998,
        evaluate_every=4,
        label_smoothing=0.05,
        bonafide_share=0.6,  # people try their own voice first, and to call it fake is the worse error
        max_wrong_share=0.05,
        mask_rows=16,
        mask_frames=24,
        floor_share=0.5,
        floor_db=(40.0, 80.0),
        seed=0,
    ),
}

TRAINS_NOTHING = {  # options, and all that goes with them
    "evaluate": ("data", "output", "device", "workers", "skip_bad_files", "split", "asvspoof_scores"),
    "average": ("data", "noise", "output", "device", "workers", "leave_out", "license", "push_to_hub", "private"),
}
SKIPPED_FILE = "skipped.txt"  # of an output folder: unreadable files and what is wrong with them
NO_DOUBT = {"real_below": 0.5, "fake_above": 0.5}  # the first recipe has no "can't tell"


def main(arguments: list[str] | None = None) -> str | None:
    """Run the command; returns the sentence for the user if it failed."""
    try:
        run(parse_arguments(arguments))
    except (
        DataError, TrainingError, AudioError, CheckpointError, StorageError, HubError, WorkerKilled,
        distributed.ProcessError,
    ) as error:  # fmt: skip
        return f"process {distributed.rank()}: {error}" if distributed.rank() else str(error)
    except PermissionError as error:
        return f"{error.filename} may not be read or written; check its permissions."
    except torch.OutOfMemoryError:
        return "The device has too little memory for this network and batch; choose another, as --device cpu."
    except KeyboardInterrupt:
        return "Stopped. Go on with the same command, and with --resume if it had begun to train."


def run(args: argparse.Namespace) -> None:
    alone = {"--evaluate": args.evaluate, "--average": args.average, "--recipe first": args.recipe == "first"}
    for job, is_wanted in alone.items():
        # As torchrun sets it; each process would write the same files.
        if is_wanted and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainingError(f"{job} works in one process; start it without torchrun.")
    if args.evaluate:
        evaluate(args)
        return
    if args.push_to_hub:  # a long run should not end with a sentence that could have come first
        check_repo_id(args.push_to_hub)
        checked_token()
    if args.average:
        average(args)
        return
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("--tensorboard needs one more package: pip install tensorboard")
    distributed.join()
    config = chosen_config(args)
    if isinstance(config, FirstConfig):
        train_first(config, args)
    else:
        train_default(config, args)


def train_default(config: TrainConfig, args: argparse.Namespace) -> None:
    """What we stand behind: trained on the train split, selected and measured on the dev split."""
    if args.prepare_only:
        raise TrainingError("--prepare-only belongs to --recipe first; the other recipe draws no pictures.")
    device = chosen_device(args.device)
    if args.compile:  # before the data are read, which may take long
        check_compiler(device)
    noises = Noises(args.noise, config.features.sample_rate) if args.noise else None  # few files, so before the many
    clips = distributed.by_first(chosen_clips, args, config)

    run = Run(config, clips, noises, args.output, device, args.compile, args.tensorboard)
    if distributed.rank() == 0:
        print(f"{len(run.train_clips)} clips to train on, {len(run.dev_clips)} to select on, on {device}")
        announce_shared(clips)
    if args.resume:
        run.resume()
    else:
        run.start = start_of(args, config)
        if args.init:
            run.start_from(args.init)
        elif args.imagenet and config.network == "res-efficientcnn":
            load_imagenet_weights(run.model, config.backbone, args.backbone_weights)
    run.fit(args.workers)
    is_first = distributed.rank() == 0
    distributed.leave()
    if not is_first:
        return

    detector = Detector.from_pretrained(args.output / "best", device)
    made = {
        "recipe": args.recipe,
        "epochs": config.epochs,
        "seed": config.seed,
        "start": run.start,
        "noise": "noise and music" if args.noise else "invented noise",
        "bonafide_share": config.bonafide_share,
        "data": summarise(clips),
    }
    scores = score_clips(detector, of_split(clips, "dev"))
    write_results(detector.model, scores, made, args, read_log(args.output / "metrics.csv"))


def average(args: argparse.Namespace) -> None:
    """The mean of the weights of several checkpoints, its statistics from the train split, calibrated and measured on dev."""
    refuse_to_overwrite(args.output)
    model, device = mean_of(args.average), chosen_device(args.device)
    config = replace(RECIPES["default"], features=model.config)
    noises = Noises(args.noise, config.features.sample_rate) if args.noise else None
    clips = without_corpora(read_clips(args.data), args.leave_out or ())
    train_clips, dev_clips = of_split(clips, "train"), of_split(clips, "dev")
    check_clips(dev_clips, model.config.sample_rate, args.workers)
    model = with_own_statistics(model.to(device), train_clips, config, noises, args.workers, device)
    scores = score_clips(Detector(model, "mean", device), dev_clips)
    calibrate(model, scores, config.bonafide_share, config.max_wrong_share)
    save_checkpoint(model, args.output / "best")
    made = {"average": args.average, "bonafide_share": config.bonafide_share, "data": summarise(clips)}
    write_results(model, scores, made, args, log=None)


def write_results(
    model: SpoofClassifier, scores: Scores, made: dict, args: argparse.Namespace, log: list[dict] | None
) -> None:
    """Write figures on dev, picture and card beside the checkpoint OUTPUT/best, and publish it if told to.

    made: from what and how it was made; log: rows of metrics.csv, if it was trained here.
    """
    best = args.output / "best"
    network = json.loads((best / CONFIG_FILE).read_text(encoding="utf-8"))["network"]
    figures = report(model, scores)
    figures["settings"] = {
        **made,
        "network": network,
        "license": args.license,
        "window_seconds": model.config.window_seconds,
    }
    write_json(best / "metrics.json", figures)
    probabilities = calibrated(model, scores.values)
    title = f"{network} on dev: {len(scores.clips)} clips"
    figure = draw_curves(scores.labels, scores.values, probabilities, figures, title, log)
    write_whole(best / "figure.png", png(figure))
    write_whole(best / "README.md", model_card(figures, own_command()))
    print(f"dev EER {100 * figures['eer']:.2f} %; the checkpoint is in {best}")
    if args.push_to_hub:
        publish(best, args.push_to_hub, args.private)


def evaluate(args: argparse.Namespace) -> None:
    """Score a labelled set with a checkpoint and write scores.csv, metrics.json and figure.png into --output."""
    if (args.output / CONFIG_FILE).is_file():
        raise TrainingError(
            f"{args.output} is a checkpoint, whose figures this would overwrite; choose another folder."
        )
    if (args.output / STATE_FILE).is_file():
        raise TrainingError(
            f"{args.output} is the folder of a run, whose list of skipped files is its own; choose another folder."
        )
    detector = Detector.from_pretrained(args.evaluate, chosen_device(args.device))
    clips = of_split(sound_clips(args, detector.model.config.sample_rate, split=args.split), args.split)
    scores = score_clips(detector, clips)
    write_whole(args.output / "scores.csv", scores_csv(scores))
    figures = {"checkpoint": args.evaluate, "split": args.split, **report(detector.model, scores)}
    if is_asvspoof(scores):
        figures["min_tdcf"], reason = tandem_cost(scores)
        print(reason or f"min t-DCF {figures['min_tdcf']:.4f} (legacy cost model of 2019)")
    figures["data"] = summarise(clips)
    (args.output / "scores.txt").unlink(missing_ok=True)  # of an evaluation before
    if args.asvspoof_scores:
        write_whole(args.output / "scores.txt", asvspoof_scores(scores))
    probabilities = calibrated(detector.model, scores.values)
    title = f"{args.evaluate} on {args.split}: {len(scores.clips)} clips"
    figure = draw_curves(scores.labels, scores.values, probabilities, figures, title)
    write_whole(args.output / "figure.png", png(figure))
    write_json(args.output / "metrics.json", figures)
    if scores.unjudged:
        print(f"{len(scores.unjudged)} of {len(clips)} clips have no voice: they are listed, and in no figure")
    low, high = figures["eer_interval"]
    print(f"EER {100 * figures['eer']:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}); all in {args.output}")


def write_json(path: Path, figures: dict) -> None:
    write_whole(path, json.dumps(figures, indent=2) + "\n")


def publish(folder: Path, repo_id: str, private: bool) -> None:
    """Push the finished checkpoint; raises HubError that tells how to repeat it."""
    try:
        print(f"Published: {push(folder, repo_id, private)}")
    except HubError as error:
        again = shlex.join(["python", "-m", "deepfake_detector.hub", "push", str(folder), repo_id])
        raise HubError(f"{error} The run is safe in {folder}; push it with: {again}{' --private' * private}") from None


def train_first(config: FirstConfig, args: argparse.Namespace) -> None:
    """The published experiment, then the same network where the parts of the split share nothing."""
    if args.resume and not (args.output / LABELS_FILE).is_file():  # a run killed while drawing has that list
        raise TrainingError(f"There is no run to resume in {args.output}.")
    device = chosen_device(args.device)
    given = read_clips(args.data)
    clips = of_split(given, "train")
    pictures = plan_pictures(clips, config.size, config.seed)
    announce(config.size, config.size.scaled(clips))
    if len(given) > len(clips):
        print(f"{len(given) - len(clips)} clips of the dev and eval splits are not used", flush=True)
    make_pictures(pictures, args.output, config.features, config.augment, args.workers)
    if args.prepare_only:
        print(f"The pictures and their updated_labels.csv are in {args.output}.")
        return

    splits, not_measured = splits_of(pictures, config.seed)
    starts_from_imagenet = args.imagenet and config.network == "res-efficientcnn"
    figures: dict = {}
    for name, split in splits.items():
        print(f"{name} split: {' / '.join(str(len(part)) for part in split.values())} pictures, on {device}")
        folder = args.output if name == "random" else args.output / name
        run = PictureRun(config, split, args.output, folder, device, start_of(args, config))
        if args.tensorboard:
            run.board = new_board(folder)
        if args.resume and run.is_started:
            run.resume()
        elif starts_from_imagenet:
            load_imagenet_weights(run.model, config.backbone, args.backbone_weights)
        run.fit(args.workers)
        outcome = run.test(args.workers)
        figures[name] = run.figures(outcome)
        if figures[name]["eer"] is not None:  # the picture needs both classes
            title = f"{config.network}, {name} split: {len(outcome.labels)} test pictures"
            drawn, log = figures[name] | NO_DOUBT, read_log(folder / "metrics.csv")
            figure = draw_curves(outcome.labels, outcome.scores, outcome.probabilities, drawn, title, log)
            write_whole(folder / "best" / "figure.png", png(figure))
        print(f"{name} split: test accuracy {100 * figures[name]['accuracy']:.2f} %, confusion matrix", end=" ")
        print(f"{figures[name]['confusion']} (rows: real, fake; columns: called real, called fake)", flush=True)

    figures["settings"] = {
        "recipe": args.recipe,
        "network": config.network,
        "epochs": config.epochs,
        "seed": config.seed,
        "start": start_of(args, config),
        "data": summarise(clips),
        "license": args.license,
        "window_seconds": config.features.window_seconds,
        "picture_width": config.features.picture_width,
        "picture_height": config.features.picture_height,
        "not_measured": not_measured,
    }
    write_first_results(figures, args.output)
    if args.push_to_hub:
        publish(args.output / "best", args.push_to_hub, args.private)


def write_first_results(figures: dict, output: Path) -> None:
    """Figures, card and report into their files; the report and how to use the checkpoint on the terminal too."""
    best, report_text = output / "best", first_report(figures)
    write_json(best / "metrics.json", figures)
    write_whole(best / "README.md", first_card(figures, own_command()))
    write_whole(output / "report.md", report_text)
    print(f"\n{report_text}\npython -m deepfake_detector FILE --model {shlex.quote(str(best))}")


def announce_shared(clips: list[Clip]) -> None:
    """Say what train and dev share, because the dev figures flatter by it."""
    clips = [clip for clip in clips if clip.split in ("train", "dev")]
    for what, shared in (("speakers or recordings", torn_groups(clips)), ("systems", torn_systems(clips))):
        if shared:
            some = ", ".join(shared[:5]) + ", ..." * (len(shared) > 5)
            print(f"{len(shared)} {what} are in train and dev, so dev figures flatter: {some}")


def announce(published: SetSize, size: SetSize) -> None:
    """Say how many pictures there will be, and why not the published number."""
    message = f"{size.bonafide_pictures} real and {size.spoof_pictures} fake pictures"
    if size != published:
        message += (
            f", in proportion to {size.bonafide_clips} of the published {published.bonafide_clips} bona fide recordings"
            f" (published: {published.bonafide_pictures} and {published.spoof_pictures})"
        )
    print(message, flush=True)


def splits_of(pictures: list[Picture], seed: int) -> tuple[dict[str, Split], str]:
    """The two splits by name, and a sentence that says why the second is missing, or ""."""
    splits = {"random": random_split(pictures, seed)}
    try:
        splits["disjoint"] = disjoint_split(pictures, seed)
    except DataError as error:
        print(f"{error} Only the random split is measured.")
        return splits, str(error)
    return splits, ""


def own_command() -> str:
    """For the card: the command that makes this checkpoint, whether or not it was resumed."""
    return shlex.join([*distributed.launcher(), *(word for word in sys.argv if word != "--resume")])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a detector of synthetic voices.")
    data_help = "CSV, folder with real/ and fake/, or the ASVspoof 2019 LA archive"
    parser.add_argument("--data", type=path, nargs="+", required=True, help=data_help)
    parser.add_argument("--output", type=path, required=True, help="folder of the run")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--noise", type=path, help="CSV of path,kind with noises and room responses (kind rir)")
    parser.add_argument("--network", choices=("res-efficientcnn", "basic-cnn"))
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--seed", type=seed, help="of every draw; equal seeds give equal weights, on the same device")
    parser.add_argument(
        "--learning-rate", type=not_negative, help="its peak, after the warm-up; smaller to go on from --init"
    )
    parser.add_argument(
        "--sam-rho", type=not_negative, help="sharpness-aware minimisation, e.g. 0.05; doubles the time"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: the best there is")
    parser.add_argument(
        "--workers", type=natural, default=distributed.spare_cores(), help="processes that load audio, 0: none"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--prepare-only", action="store_true", help="first recipe: draw the pictures and stop")
    parser.add_argument("--skip-bad-files", action="store_true", help="leave unreadable files out and list them")
    leave_out_help = "corpora not to train on, as one whose voices only machines speak: the voice would tell"
    parser.add_argument("--leave-out", metavar="CORPUS", nargs="+", help=leave_out_help)
    parser.add_argument("--compile", action="store_true", help="compile the network first: minutes, then faster steps")
    parser.add_argument("--tensorboard", action="store_true", help="write OUTPUT/tensorboard as well")
    parser.add_argument(
        "--license", type=licence_id, default="other", help="licence of the weights, for the card, e.g. cc-by-nc-4.0"
    )
    parser.add_argument("--init", type=path, help="checkpoint folder whose weights to start from")
    weights_help = "file of ImageNet weights to start the backbone from, instead of timm's from the Hub"
    parser.add_argument("--backbone-weights", type=path, help=weights_help)
    parser.add_argument("--no-imagenet", dest="imagenet", action="store_false", help="start from random weights")
    parser.add_argument(
        "--push-to-hub",
        type=not_empty,
        metavar="USER/NAME",
        help="publish OUTPUT/best on the Hub at the end of the run",
    )
    parser.add_argument("--private", action="store_true", help="with --push-to-hub: make a model that only you see")
    average_help = "train nothing: the mean of the weights of these checkpoints, calibrated and measured on dev"
    parser.add_argument("--average", type=not_empty, metavar="CHECKPOINT", nargs="+", help=average_help)
    parser.add_argument(
        "--evaluate",
        type=not_empty,
        metavar="CHECKPOINT",
        help="train nothing: measure this folder or Hub id on --data",
    )
    parser.add_argument(
        "--split", choices=(*SPLITS, "all"), help="with --evaluate; clips of its own training flatter it (default: all)"
    )
    parser.add_argument(
        "--asvspoof-scores", action="store_true", help="with --evaluate: also scores.txt as the 2019 challenge has it"
    )
    args = parser.parse_args(arguments)
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    for option, fitting in TRAINS_NOTHING.items():
        others = [name for name in given if name not in (option, *fitting)]
        if option in given and others:
            parser.error(f"--{option} trains nothing, so {spelled(others)} would do nothing")
    if not args.evaluate and (args.split or args.asvspoof_scores):
        parser.error("--split and --asvspoof-scores belong to --evaluate")
    if args.private and not args.push_to_hub:
        parser.error("--private belongs to --push-to-hub")
    if args.prepare_only and args.push_to_hub:
        parser.error("--prepare-only makes no checkpoint, so there is none to push")
    if args.backbone_weights and (args.init or not args.imagenet or args.network == "basic-cnn"):
        parser.error("--backbone-weights would do nothing with --init, --no-imagenet or --network basic-cnn")
    args.split = args.split or "all"
    return args


def spelled(names: list[str]) -> str:
    """Names of arguments as options are written: "--seed and --no-imagenet"."""
    return " and ".join(f"--{name.replace('_', '-')}".replace("--imagenet", "--no-imagenet") for name in names)


def start_of(args: argparse.Namespace, config: FirstConfig | TrainConfig) -> str:
    """For the card: what the weights were before the first step."""
    if args.init:
        return str(args.init)
    if not args.imagenet or config.network == "basic-cnn":
        return "random weights"
    return (
        f"the ImageNet weights in {args.backbone_weights.name}" if args.backbone_weights else "timm's ImageNet weights"
    )


def chosen_device(name: str | None) -> str:
    """The named device, or the best there is; raises TrainingError if it cannot be used here."""
    name = name or str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    name = distributed.local_device(name)
    try:
        torch.zeros(1, device=name)
        if name.startswith("cuda:"):
            torch.cuda.set_device(name)  # where NCCL talks
        torch.backends.cudnn.deterministic = True  # as --seed promises; by default cuDNN may add up in any order
    except (RuntimeError, AssertionError):  # torch's two ways to refuse a device
        raise TrainingError(f"The device {name} cannot be used on this machine.") from None
    return name


def check_compiler(device: str) -> None:
    """Raises TrainingError if nothing can be compiled here, as without a C++ compiler."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except RuntimeError:
        raise TrainingError("--compile needs a C++ compiler, as in Debian's package g++; or leave it out.") from None


def chosen_clips(args: argparse.Namespace, config: TrainConfig) -> list[Clip]:
    """The clips of all data sets, without those that --skip-bad-files left out when the run began, and --leave-out.

    Raises DataError naming every fault, and TrainingError if --output holds a run that is not to go on.
    """
    list_of_skipped = args.output / SKIPPED_FILE
    if args.resume:
        is_there = list_of_skipped.is_file()
        text = list_of_skipped.read_text(encoding="utf-8", errors="surrogateescape") if is_there else ""
        skipped = {line.split("\t")[0] for line in text.splitlines()}
        return [
            clip
            for clip in without_corpora(read_clips(args.data), args.leave_out or ())
            if str(clip.path) not in skipped
        ]
    refuse_to_overwrite(args.output)
    return sound_clips(args, config.features.sample_rate)


def sound_clips(args: argparse.Namespace, sample_rate: int, split: str = "all") -> list[Clip]:
    """The clips of a split that can be read; with --skip-bad-files the others are listed, without it refused."""
    list_of_skipped, leave_out = args.output / SKIPPED_FILE, args.leave_out or ()
    clips, faults = read_sound_clips(args.data, sample_rate, args.workers, args.skip_bad_files, leave_out, split)
    if faults or list_of_skipped.is_file():
        write_whole(list_of_skipped, "".join(f"{path}\t{fault}\n" for path, fault in faults.items()))
    if faults:
        print("\n  ".join([f"{len(faults)} files are skipped:", *faults.values()]), file=sys.stderr)
    return clips


def not_empty(text: str) -> str:
    """As a variable of the shell that was never set would be."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def path(text: str) -> Path:
    return Path(not_empty(text))


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def natural(text: str) -> int:
    return positive(text) if text != "0" else 0


def seed(text: str) -> int:
    if natural(text) >= 2**63:  # the longest that torch takes
        raise ValueError(text)
    return natural(text)


def not_negative(text: str) -> float:
    if not float(text) >= 0:
        raise ValueError(text)
    return float(text)


def licence_id(text: str) -> str:
    """As the Hub has them, see its list; anything else would break the card's front matter."""
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", text):
        raise ValueError(text)
    return text


def chosen_config(args: argparse.Namespace) -> FirstConfig | TrainConfig:
    config = RECIPES[args.recipe]
    if isinstance(config, FirstConfig):
        of_default = ("noise", "init", "sam_rho", "skip_bad_files", "leave_out", "compile")
        values = {name: getattr(args, name) for name in of_default}
        # Not `in (None, False)`: a given 0 equals False.
        given = [name for name, value in values.items() if not (value is None or value is False)]
        if given:
            raise TrainingError(f"{spelled(given)} belong{'s' * (len(given) == 1)} to --recipe default.")
    given = {name: getattr(args, name) for name in ("network", "epochs", "seed", "learning_rate", "sam_rho")}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    sys.exit(main())
