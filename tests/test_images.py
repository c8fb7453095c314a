"""The first recipe: its plan, its pictures on disk, its two splits, and a whole run from the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from torchvision.transforms.functional import to_tensor

from deepfake_detector import Detector
from deepfake_detector.audio import iter_windows, stream_audio
from deepfake_detector.card import first_report
from deepfake_detector.data.images import (
    LABELS_FILE,
    Painter,
    Pictures,
    SetSize,
    Split,
    disjoint_split,
    leaks,
    make_pictures,
    plan_pictures,
    random_split,
    share_of_known_speakers,
)
from deepfake_detector.data.manifest import Clip, DataError
from deepfake_detector.features import FeatureConfig
from deepfake_detector.files import StorageError
from deepfake_detector.first_recipe import Outcome, PictureRun
from deepfake_detector.model import WEIGHTS_FILE
from deepfake_detector.training import STATE_FILE, TrainingError
from train import RECIPES, main

from .conftest import ROOT, TINY_FEATURES, tiny_classifier

PUBLISHED = RECIPES["first"]
SMALL = replace(TINY_FEATURES, normalise="colour", picture_width=113, picture_height=46)
SMALL_CONFIG = replace(
    PUBLISHED, size=SetSize(16, 40, 40), features=SMALL, network="basic-cnn", epochs=2, learning_rate=3e-3
)


def clip(path: Path, label: int, speaker: str, system: str) -> Clip:
    return Clip(path, label, "train", speaker, system if label else "human", "", "", speaker=speaker)


def archive(n_bonafide: int, n_spoof: int, n_speakers: int = 20, n_attacks: int = 6) -> list[Clip]:
    """Clips as ASVspoof 2019 LA has them (files that are not there): every speaker with every attack."""
    speakers = [f"LA_{79 + i:04d}" for i in range(n_speakers)]
    clips = [clip(Path(f"B{i}.flac"), 0, speakers[i % n_speakers], "") for i in range(n_bonafide)]
    return clips + [
        clip(Path(f"S{i}.flac"), 1, speakers[i % n_speakers], f"A{1 + i // n_speakers % n_attacks:02d}")
        for i in range(n_spoof)
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, voice: np.ndarray) -> list[Clip]:
    """16 pieces of speech of 4 speakers, and 24 with one of 3 whistles; some shorter, some longer than a window."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    found = []
    for i in range(40):
        start, length = int(rng.integers(4_000, 30_000)), (9_000, 16_000, 24_000)[i % 3]
        samples, label = voice[start : start + length].copy(), int(i >= 16)
        if label:
            samples += 0.05 * np.sin(2 * np.pi * (5_000 + 1_000 * (i % 3)) * np.arange(length) / 16_000)
        soundfile.write(folder / f"{i}.flac", samples, 16_000)
        found.append(clip(folder / f"{i}.flac", label, f"speaker {i // 3 % 4}", f"whistle {i % 3}"))
    return found


def test_whole_archive_gives_the_published_numbers() -> None:
    pictures = plan_pictures(archive(2_580, 22_800), PUBLISHED.size, seed=0)
    assert len(pictures) == len({picture.file for picture in pictures}) == 14_922
    real, fake = ([p for p in pictures if p.label == label] for label in (0, 1))
    assert len(real) == 7_422 and len(fake) == 7_500
    assert Counter(p.copy for p in real) == {0: 2_580, 1: 2_580, 2: 2_262}
    assert len({p.clip.path for p in fake}) == 7_500 and {p.copy for p in fake} == {0}
    assert [len(part) for part in random_split(pictures, seed=0).values()] == [10_446, 2_238, 2_238]
    features = PUBLISHED.features
    assert (features.picture_width, features.picture_height) == (904, 370)
    assert (PUBLISHED.batch_size, PUBLISHED.epochs) == (16, 10)


def test_plan_follows_the_seed() -> None:
    clips = archive(50, 200)
    assert plan_pictures(clips, PUBLISHED.size, 3) == plan_pictures(clips, PUBLISHED.size, 3)
    assert plan_pictures(clips, PUBLISHED.size, 3) != plan_pictures(clips, PUBLISHED.size, 4)


@pytest.mark.parametrize(
    ("n_bonafide", "n_spoof", "expected"),
    [(258, 22_800, (742, 750)), (226, 51, (650, 51)), (1, 10, (3, 3))],
)
def test_smaller_archives_scale(n_bonafide: int, n_spoof: int, expected: tuple[int, int]) -> None:
    pictures = plan_pictures(archive(n_bonafide, n_spoof), PUBLISHED.size, seed=0)
    count = Counter(picture.label for picture in pictures)
    assert (count[0], count[1]) == expected


def test_disjoint_split_shares_nothing_and_the_random_one_does() -> None:
    pictures = plan_pictures(archive(258, 2_280), PUBLISHED.size, seed=0)
    chance, disjoint = random_split(pictures, seed=0), disjoint_split(pictures, seed=0)
    assert set(chance) == set(disjoint) == {"train", "validation", "test"}
    assert sum(len(part) for part in chance.values()) == len({p.file for part in chance.values() for p in part})
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for key in (lambda p: p.clip.path, lambda p: p.clip.group, lambda p: p.clip.system if p.label else p.file):
            assert not {key(p) for p in disjoint[one]} & {key(p) for p in disjoint[other]}
    assert all({p.label for p in part} == {0, 1} for part in disjoint.values())
    assert set(leaks(disjoint).values()) == {0.0}
    assert leaks(chance)["speakers"] == leaks(chance)["attacks"] == 1.0 and leaks(chance)["recordings"] > 0.3


@pytest.mark.parametrize(("n_speakers", "n_attacks"), [(2, 6), (20, 1)])
def test_too_little_to_keep_apart_is_said(n_speakers: int, n_attacks: int) -> None:
    pictures = plan_pictures(archive(60, 600, n_speakers, n_attacks), PUBLISHED.size, seed=0)
    with pytest.raises(DataError, match="too few for a split in which nothing is shared"):
        disjoint_split(pictures, seed=0)


@pytest.mark.parametrize("features", [SMALL, PUBLISHED.features], ids=["small", "published"])
def test_picture_on_disk_is_what_the_model_draws(clips: list[Clip], tmp_path: Path, features: FeatureConfig) -> None:
    """For recordings shorter and longer than a window, pixel by pixel, from the windows a Detector judges."""
    pictures = [p for p in plan_pictures(clips[:3] + clips[16:19], SMALL_CONFIG.size, seed=0) if p.copy == 0]
    make_pictures(pictures, tmp_path, features, PUBLISHED.augment, n_workers=0)
    model = tiny_classifier(features=features)
    for picture, (from_disk, label) in zip(pictures, Pictures(pictures, tmp_path), strict=True):
        blocks = stream_audio(picture.clip.path, features.sample_rate)
        _, _, window = next(iter_windows(blocks, features.window_samples, features.window_hop_samples))
        drawn = model.features(torch.from_numpy(window.copy())[None])[0]
        with Image.open(tmp_path / picture.file) as image:
            assert image.mode == "RGB" and image.size == (features.picture_width, features.picture_height)
            assert torch.equal(to_tensor(image), drawn) and torch.equal(from_disk, drawn)
        assert label == picture.label


def test_labels_file_lists_every_picture(clips: list[Clip], tmp_path: Path) -> None:
    pictures = plan_pictures(clips, SMALL_CONFIG.size, seed=0)
    make_pictures(pictures, tmp_path, SMALL, PUBLISHED.augment, n_workers=2)
    with open(tmp_path / "updated_labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and Counter(row["label"] for row in rows) == {"0": 40, "1": 24}
    assert all((tmp_path / row["file"]).is_file() for row in rows)
    assert {row["system"] for row in rows if row["label"] == "0"} == {"human"}
    row, picture = rows[0], pictures[0]
    assert (row["utterance"], row["speaker"], row["copy"]) == (picture.clip.path.stem, picture.clip.group, "0")
    copies = {row["file"] for row in rows if row["utterance"] == rows[0]["utterance"]}
    assert len({(tmp_path / file).read_bytes() for file in copies}) == len(copies) > 1  # no copy looks like another


def test_whole_files_are_kept_and_the_rest_is_drawn(clips: list[Clip], tmp_path: Path) -> None:
    pictures = plan_pictures(clips[12:20], SMALL_CONFIG.size, seed=0)
    make_pictures(pictures, tmp_path, SMALL, PUBLISHED.augment, n_workers=0)
    before = {p.file: (tmp_path / p.file).read_bytes() for p in pictures}
    kept, lost = pictures[0].file, pictures[1].file
    (tmp_path / kept).write_bytes(b"kept")  # to tell whether it is touched
    (tmp_path / lost).rename(tmp_path / (lost + ".partial"))  # as a kill in the middle of writing leaves it
    make_pictures(pictures, tmp_path, SMALL, PUBLISHED.augment, n_workers=0)
    assert (tmp_path / kept).read_bytes() == b"kept" and (tmp_path / lost).read_bytes() == before[lost]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("change", ["seed", "size"])
def test_another_set_is_not_mixed_in(clips: list[Clip], tmp_path: Path, change: str) -> None:
    make_pictures(plan_pictures(clips[14:18], SMALL_CONFIG.size, 0), tmp_path, SMALL, PUBLISHED.augment, 0)
    features = replace(SMALL, picture_width=99) if change == "size" else SMALL
    pictures = plan_pictures(clips[14:18], SMALL_CONFIG.size, int(change == "seed"))
    with pytest.raises(DataError, match="holds pictures of other data"):
        make_pictures(pictures, tmp_path, features, PUBLISHED.augment, 0)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_every_unreadable_recording_is_named(clips: list[Clip], tmp_path: Path, n_workers: int) -> None:
    (tmp_path / "text.flac").write_text("no sound")
    bad = [replace(clips[20], path=tmp_path / "text.flac"), replace(clips[20], path=tmp_path / "gone.flac")]
    pictures = plan_pictures([*clips[:2], *bad], SMALL_CONFIG.size, seed=0)
    with pytest.raises(DataError, match=r"2 recordings cannot be drawn") as error:
        make_pictures(pictures, tmp_path, SMALL, PUBLISHED.augment, n_workers)
    assert "text.flac" in str(error.value) and "gone.flac" in str(error.value)


def test_a_full_disk_ends_the_drawing_at_once(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("where the folder should be")
    pictures = plan_pictures(clips, SMALL_CONFIG.size, seed=0)
    with pytest.raises(StorageError) as error:
        make_pictures(pictures, tmp_path, SMALL, SMALL_CONFIG.augment, 1)
    assert len(str(error.value).splitlines()) == 1


def test_a_copy_follows_its_seed(clips: list[Clip], tmp_path: Path) -> None:
    original, copy = plan_pictures([clips[2], clips[16]], SetSize(1, 2, 0), seed=0)
    painter = Painter([original, copy], tmp_path, SMALL, PUBLISHED.augment)
    assert painter.png(copy) == painter.png(copy) != painter.png(original)
    assert painter.png(replace(copy, seed=copy.seed + 1)) != painter.png(copy)


@pytest.fixture(scope="module")
def picture_split(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Path]:
    """Drawn pictures in a random split, and the folder they are in."""
    folder, pictures = tmp_path_factory.mktemp("pictures"), plan_pictures(clips, SMALL_CONFIG.size, seed=0)
    make_pictures(pictures, folder, SMALL, PUBLISHED.augment, n_workers=0)
    return random_split(pictures, seed=0), folder


@pytest.fixture(scope="module")
def whole_run(picture_split: tuple[Split, Path], tmp_path_factory: pytest.TempPathFactory) -> PictureRun:
    """A run that nothing has broken off."""
    run = PictureRun(SMALL_CONFIG, *picture_split, tmp_path_factory.mktemp("whole"), "cpu")
    run.fit(0)
    return run


def assert_same_end(run: PictureRun, other: PictureRun) -> None:
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert (run.output / "metrics.csv").read_text() == (other.output / "metrics.csv").read_text()


def test_resumed_run_ends_as_an_unbroken_one(
    whole_run: PictureRun, picture_split: tuple[Split, Path], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class KilledRun(PictureRun):
        def evaluate(self, part: str, n_workers: int):
            if len(self.log) == 1:  # in the second epoch
                raise Killed
            return super().evaluate(part, n_workers)

    with pytest.raises(Killed):
        KilledRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu").fit(0)
    again = PictureRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu")
    with pytest.raises(TrainingError, match="holds a run already"):
        again.fit(0)
    again.resume()
    again.fit(0)
    assert_same_end(whole_run, again)
    with pytest.raises(TrainingError, match="other settings: batch_size"):
        PictureRun(replace(SMALL_CONFIG, batch_size=8), *picture_split, tmp_path, "cpu").resume()


def test_ctrl_c_saves_and_the_rest_of_the_epoch_is_the_same(
    whole_run: PictureRun, picture_split: tuple[Split, Path], tmp_path: Path
) -> None:
    class StoppedRun(PictureRun):
        def _step(self, pictures: torch.Tensor, label: torch.Tensor, is_training: bool):
            if is_training and len(self.log) == len(self.steps) == 1:  # in the second step of the second epoch
                signal.raise_signal(signal.SIGINT)
            return super()._step(pictures, label, is_training)

    with pytest.raises(TrainingError, match="--resume"):
        StoppedRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu").fit(0)
    again = PictureRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu")
    again.resume()
    assert (len(again.log), len(again.steps)) == (1, 2)
    again.fit(1)
    assert_same_end(whole_run, again)


def test_ctrl_c_while_the_last_epoch_is_measured_is_heeded(
    whole_run: PictureRun, picture_split: tuple[Split, Path], tmp_path: Path
) -> None:
    class StoppedRun(PictureRun):
        def evaluate(self, part: str, n_workers: int):
            if len(self.log) == self.config.epochs - 1:
                signal.raise_signal(signal.SIGINT)
            return super().evaluate(part, n_workers)

    with pytest.raises(TrainingError, match="--resume"):
        StoppedRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu").fit(0)
    again = PictureRun(SMALL_CONFIG, *picture_split, tmp_path, "cpu")
    again.resume()
    again.fit(0)
    assert_same_end(whole_run, again)


def test_network_learns_from_pictures(picture_split: tuple[Split, Path], tmp_path: Path) -> None:
    run = PictureRun(replace(SMALL_CONFIG, epochs=10, batch_size=8), *picture_split, tmp_path, "cpu")
    run.fit(0)
    assert run.log[-1]["train_loss"] < 0.5 * run.log[0]["train_loss"]
    validation = run.evaluate("validation", 0)
    assert run.log[-1]["validation_loss"] == pytest.approx(validation.loss, abs=1e-5)
    assert len(validation.labels) == len(run.split["validation"])
    settings = {"network": "basic-cnn", "not_measured": "2 speakers are too few."}
    figures = run.figures(run.test(0))
    as_recorded = [picture.copy == 0 for picture in run.split["test"]]
    assert figures["without_copies"]["pictures"] == sum(as_recorded) < len(as_recorded) == figures["pictures"]
    report = first_report({"random": figures, "settings": settings})
    assert "It was not measured: 2 speakers are too few." in report and "| equal error rate |" in report


def test_pictures_are_counted_by_truth_and_answer() -> None:
    outcome = Outcome.of([
        (1.0, torch.tensor([0, 0]), torch.tensor([-1.0, -1.0])),
        (4.0, torch.tensor([0, 1, 1, 1, 1]), torch.tensor([2.0, 3.0, 1.0, 1.0, -1.0])),
    ])  # fmt: skip
    figures = outcome.figures()
    assert figures["confusion"] == [[2, 1], [1, 3]] and figures["pictures"] == 7
    assert figures["accuracy"] == pytest.approx(5 / 7) and outcome.loss == pytest.approx(22 / 7)
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    whole = {**figures, "sizes": {"train": 5, "validation": 6, "test": 7}, "without_copies": figures}
    whole |= {"leaks": dict.fromkeys(("recordings", "speakers", "attacks"), 1.0), "speakers_known": 1.0}
    report = first_report({"random": whole, "settings": {"network": "basic-cnn", "not_measured": "Too few."}})
    assert (
        "| real called real / called fake | 2 / 1 |" in report
        and "| fake called real / called fake | 1 / 3 |" in report
    )


def test_resumed_run_starts_from_the_same_weights(picture_split: tuple[Split, Path], tmp_path: Path) -> None:
    PictureRun(replace(SMALL_CONFIG, epochs=1), *picture_split, tmp_path, "cpu").fit(0)
    with pytest.raises(TrainingError, match="started from random weights, not from timm's"):
        PictureRun(replace(SMALL_CONFIG, epochs=1), *picture_split, tmp_path, "cpu", "timm's ImageNet weights").resume()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_picture_that_has_gone_is_named(picture_split: tuple[Split, Path], tmp_path: Path, n_workers: int) -> None:
    split, folder = picture_split
    name = Path(split["train"][0].file).name
    for part in split.values():
        for picture in part:
            (tmp_path / picture.file).parent.mkdir(exist_ok=True)
            (tmp_path / picture.file).write_bytes(
                (folder / picture.file).read_bytes()[: 99 if name in picture.file else None]
            )
    with pytest.raises(TrainingError, match=rf"^[^\n]*{name} is missing or damaged[^\n]*$"):
        PictureRun(SMALL_CONFIG, split, tmp_path, tmp_path, "cpu").fit(n_workers)


def test_unknown_speakers_are_not_counted_as_kept_apart(clips: list[Clip]) -> None:
    some = [replace(clip, speaker=clip.speaker if i % 4 == 0 else "") for i, clip in enumerate(clips)]
    split = random_split(plan_pictures(some, SMALL_CONFIG.size, seed=0), seed=0)
    assert 0 < share_of_known_speakers(split) < 0.5 and leaks(split)["speakers"] == 1.0
    nobody = {name: [replace(p, clip=replace(p.clip, speaker="")) for p in part] for name, part in split.items()}
    assert share_of_known_speakers(nobody) == 0.0 and leaks(nobody)["speakers"] is None


KILLED = """
import os, signal, sys
from deepfake_detector import first_recipe
import train

step = first_recipe.PictureRun._step
def killed_step(run, *batch, is_training):
    if is_training and run.output.name == "disjoint":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(run, *batch, is_training=is_training)
first_recipe.PictureRun._step = killed_step
sys.exit(train.main())
"""


def first_recipe(
    data: Path, output: Path, *more: str, program: tuple[str, ...] = ("train.py",)
) -> subprocess.CompletedProcess:
    settings = ("--recipe", "first", "--network", "basic-cnn", "--device", "cpu", "--workers", "0", "--epochs", "1")
    command = [sys.executable, *program, "--data", str(data), "--output", str(output), *settings, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def manifest(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 6 bona fide and 12 spoofed clips: 17 pictures each at most."""
    path = tmp_path_factory.mktemp("manifest") / "clips.csv"
    rows = [f"{c.path},{c.label},{c.group},{c.system},train" for c in clips[4:10] + clips[16:28]]
    path.write_text("\n".join(["path,label,group,system,split", *rows]))
    return path


def test_whole_run_from_the_command_line(manifest: Path, clips: list[Clip], tmp_path: Path) -> None:
    output = tmp_path / "run"
    prepared = first_recipe(manifest, output, "--prepare-only")
    assert prepared.returncode == 0, prepared.stderr
    assert "17 real and 12 fake pictures, in proportion to 6 of the published 2580" in prepared.stdout
    assert sorted(file.name for file in output.iterdir()) == ["picture_settings.json", "pictures", LABELS_FILE]
    with Image.open(output / "pictures" / "00000.png") as image:
        assert image.size == (904, 370)

    done = first_recipe(manifest, output, "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert "epoch 1: train loss" in done.stdout and "validation loss" in done.stdout
    assert "random split: test accuracy" in done.stdout and "confusion matrix" in done.stdout
    for folder in (output, output / "disjoint"):
        assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    best = output / "best"
    assert done.stdout.strip().endswith(f"python -m deepfake_detector FILE --model {best}")
    assert {"README.md", "config.json", "figure.png", "metrics.json", "model.safetensors"} == {
        f.name for f in best.iterdir()
    }
    figures = json.loads((best / "metrics.json").read_text())
    assert sum(figures["random"]["sizes"].values()) == 29
    assert np.sum(figures["random"]["confusion"]) == figures["random"]["sizes"]["test"]
    assert figures["disjoint"]["leaks"] == {"recordings": 0.0, "speakers": 0.0, "attacks": 0.0}
    report = (output / "report.md").read_text()
    assert report in done.stdout and "nothing shared" in report and "99.85 %" in report and "{" not in report
    assert f"**{100 * figures['disjoint']['accuracy']:.2f} %**" in report
    card = (best / "README.md").read_text()
    assert report in card and "train.py --data" in card and "904 x 370" in card and "](figure.png)" in card
    assert "| train | 6 | 1 | 12 | 3 | unknown 12 |" in card and "The data name the speaker of 100.0 %" in report
    results = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == ["random split, pictures", "disjoint split, pictures"]
    for result, name in zip(results, ("random", "disjoint"), strict=True):
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values["accuracy"] == round(figures[name]["accuracy"], 4)

    verdict = Detector.from_pretrained(best).predict(clips[0].path)
    assert 0 <= verdict.spoof_probability <= 1
    refused = first_recipe(manifest, output)
    assert refused.returncode == 1 and "holds a run already" in refused.stderr and "Traceback" not in refused.stderr
    again = first_recipe(manifest, output, "--resume")
    assert again.returncode == 0 and (output / "report.md").read_text() == report

    killed = tmp_path / "killed"
    shutil.copytree(output / "pictures", killed / "pictures")
    for name in (LABELS_FILE, "picture_settings.json"):
        shutil.copy(output / name, killed)
    assert first_recipe(manifest, killed, program=("-c", KILLED)).returncode == -signal.SIGKILL
    assert (killed / "disjoint" / STATE_FILE).is_file() and not (killed / "disjoint" / "best").exists()
    assert first_recipe(manifest, killed, "--resume").returncode == 0
    for part in ("best", "disjoint/best"):
        assert (killed / part / WEIGHTS_FILE).read_bytes() == (output / part / WEIGHTS_FILE).read_bytes()
    assert (killed / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--resume",), "no run to resume"),
        (("--init", "somewhere"), "--init belongs to --recipe default"),
        (("--sam-rho", "0"), "--sam-rho belongs to --recipe default"),
        (("--compile", "--skip-bad-files"), "--skip-bad-files and --compile belong"),
        (("--recipe", "default", "--prepare-only"), "belongs to --recipe first"),
    ],
)
def test_wrong_call_is_one_sentence(manifest: Path, tmp_path: Path, more: tuple[str, ...], sentence: str) -> None:
    command = ["--data", str(manifest), "--output", str(tmp_path), "--recipe", "first", "--network", "basic-cnn", *more]
    assert sentence in main(command)
