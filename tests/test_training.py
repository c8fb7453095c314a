"""Training on a tiny set: it learns, it survives a kill, and its checkpoint is what the page loads."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepfake_detector import Detector
from deepfake_detector.training import STATE_FILE, SpecAugment

from .conftest import ROOT

SETTINGS = ("--network", "basic-cnn", "--device", "cpu", "--workers", "0", "--no-imagenet", "--epochs", "2")


def train(data: Path, output: Path, *more: str, **options) -> subprocess.Popen:
    command = [sys.executable, "train.py", "--data", str(data), "--output", str(output), *SETTINGS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options)


def wait(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "whole"
    wait(train(data, output))
    return output


def test_run_leaves_a_checkpoint_the_page_loads(finished: Path, data: Path) -> None:
    assert not list(finished.glob("*.partial"))
    assert sorted(file.name for file in (finished / "best").iterdir()) == [
        "README.md", "config.json", "figure.png", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    verdict = Detector.from_pretrained(finished / "best").predict(data / "0.wav")
    assert verdict.spoof_probability is not None
    figures = json.loads((finished / "best" / "metrics.json").read_text())
    assert figures["clips"] == 32 and 0 <= figures["eer"] <= 1 and figures["settings"]["epochs"] == 2
    card = (finished / "best" / "README.md").read_text()
    assert f"{100 * figures['eer']:.1f} %" in card and "train.py --data" in card and "{" not in card
    with open(finished / "metrics.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_finetuning_starts_from_a_checkpoint(finished: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    wait(train(data, output, "--init", str(finished / "best"), "--epochs", "1"))
    assert f"Started from {finished / 'best'}" in (output / "best" / "README.md").read_text()
    process = train(data, tmp_path / "other", "--init", str(finished / "best"), "--network", "res-efficientcnn")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "another network" in errors


def assert_same_weights(one: Path, other: Path) -> None:
    expected, resumed = (load_file(folder / "best" / "model.safetensors") for folder in (one, other))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def test_killed_run_ends_with_the_same_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    process = train(data, output)
    deadline = time.monotonic() + 240
    while not (output / STATE_FILE).is_file():  # written at the end of the first epoch
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = torch.load(output / STATE_FILE, weights_only=True)["epoch"]
    assert done < 2
    wait(train(data, output, "--resume"))
    assert_same_weights(finished, output)


def test_ctrl_c_saves_and_the_rest_of_the_epoch_is_the_same(finished: Path, data: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, with worker processes; then taken up without them."""
    output = tmp_path / "stopped"
    process = train(data, output, "--workers", "1", start_new_session=True)
    for line in iter(process.stderr.readline, ""):
        if "epoch 1/2" in line:  # the progress bar of the first epoch is there, so its loop is running
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "--resume" in errors and "Traceback" not in errors
    state = torch.load(output / STATE_FILE, weights_only=True)
    assert (state["epoch"], state["step"]) < (2, 0)
    wait(train(data, output, "--resume"))
    assert_same_weights(finished, output)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--resume",), "no run to resume"),
        (("--data", "nowhere"), "no data set at nowhere"),
        (("--noise", "nowhere.csv"), "no noise listing"),
        (("--device", "abacus"), "device abacus cannot be used"),
    ],
)
def test_wrong_call_is_one_sentence(data: Path, tmp_path: Path, more: tuple[str, ...], sentence: str) -> None:
    process = train(data, tmp_path / "none", *more)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and sentence in errors and "Traceback" not in errors


def test_other_settings_are_not_resumed(finished: Path, data: Path) -> None:
    process = train(data, finished, "--resume", "--seed", "9")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "other settings: seed" in errors


def test_a_run_is_not_overwritten(finished: Path, data: Path) -> None:
    process = train(data, finished)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "holds a run already" in errors


def test_other_data_are_not_resumed(finished: Path, data: Path, tmp_path: Path) -> None:
    rows = (data / "manifest.csv").read_text().splitlines()
    (data / "fewer.csv").write_text("\n".join(rows[:1] + rows[3:]))
    process = train(data / "fewer.csv", finished, "--resume")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "other clips" in errors


def test_spec_augment_blanks_one_band_and_one_stretch() -> None:
    torch.manual_seed(0)
    masked = SpecAugment(mask_mels=8, mask_frames=20)(torch.ones(64, 1, 32, 100)) == 0
    rows, columns = masked.all(dim=3).sum(2), masked.all(dim=2).sum(2)
    assert 0 < rows.max() <= 9 and 0 < columns.max() <= 21
    assert rows.float().std() > 0
