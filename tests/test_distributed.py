"""Several processes train what one process trains; two on the CPU stand for many."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from deepfake_detector import distributed
from deepfake_detector.data.manifest import read_clips
from deepfake_detector.interrupt import stop_on_signal
from deepfake_detector.training import Run
from train import RECIPES, main

from .conftest import ROOT, TINY_FEATURES
from .test_training import SETTINGS, assert_same_weights, wait

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def start(*command: str | Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, **pipes)


def train_on_two(data: Path, output: Path, *more: str) -> subprocess.Popen:
    return start(*TORCHRUN, "train.py", "--data", data, "--output", output, *SETTINGS, *more)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "whole"
    process = train_on_two(data, output)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    once = ("64 clips to train on", "epoch 1: loss", "epoch 2: loss", "the checkpoint is in")
    assert all(printed.count(text) == 1 for text in once), printed
    return output


def test_two_processes_write_one_run(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == ["best", "metrics.csv", "training_state.pt"]
    assert len((finished / "metrics.csv").read_text().splitlines()) == 3
    assert "torchrun --nnodes=1 --nproc_per_node=2 train.py --data" in (finished / "best" / "README.md").read_text()


def test_a_stopped_run_of_two_resumes_to_the_same_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped"
    process = train_on_two(data, output)
    for line in iter(process.stderr.readline, ""):
        if "epoch 1/2" in line:
            break
    process.send_signal(signal.SIGINT)  # to torchrun, which hands it on
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and errors.count("Stopped and saved") == 1
    wait(train_on_two(data, output, "--resume"))
    assert_same_weights(finished, output)


def test_what_cannot_start_is_said_once(data: Path, tmp_path: Path) -> None:
    process = train_on_two(data, tmp_path / "none", "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and errors.count("There is no run to resume") == 1


def test_torchrun_may_pass_on_a_signal_that_has_come_already(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(number, frame) -> None:
        raise InterruptedError

    previous = signal.signal(signal.SIGTERM, broken_off)
    try:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
        with stop_on_signal() as stop:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.is_set
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        with pytest.raises(InterruptedError), stop_on_signal():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("job", ["--evaluate one", "--average one two", "--recipe first"])
def test_what_one_process_does_is_refused_to_two(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = main([*job.split(), "--data", str(data), "--output", str(tmp_path / "out")])
    assert (
        said == f"{job.removesuffix(' one two').removesuffix(' one')} works in one process; start it without torchrun."
    )


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 1), (2, 1, 2), (16, 1, 14), (16, 4, 4), (2, 8, 1)])
def test_processes_share_the_cores_between_their_workers(
    cores: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)  # not on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert distributed.spare_cores() == workers


def test_loss_and_gradients_are_those_of_one_process(data: Path, tmp_path: Path) -> None:
    on_three = (*TORCHRUN[:-1], "--nproc_per_node=3")
    for folder, launcher in ((tmp_path / "one", TORCHRUN[:1]), (tmp_path / "three", on_three)):
        folder.mkdir()
        wait(start(*launcher, "-m", "tests.test_distributed", data, folder))
    one, *shares = (torch.load(tmp_path / name) for name in ("one/0.pt", "three/0.pt", "three/1.pt", "three/2.pt"))
    assert one["items"] == 32 and sorted(process["items"] for process in shares) == [10, 11, 11]
    for process in shares:
        assert process["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(process["gradients"], one["gradients"], strict=True))
    for process in shares[1:]:
        assert all(torch.equal(a, b) for a, b in zip(shares[0]["averaged"], process["averaged"], strict=True))


def take_one_step(data: Path, folder: Path) -> None:
    """What a process of the test above does: a gradient in a form that is exact, then a whole step as in training."""
    distributed.join()
    recipe = RECIPES["default"]
    config = replace(recipe, features=TINY_FEATURES, network="basic-cnn", dropout=0.0, mask_rows=0, mask_frames=0)
    config = replace(config, floor_share=0.0)
    run = Run(replace(config, batch_size=32), read_clips([data]), None, folder, "cpu")
    run.model.train()
    waveform, label = next(run.batches(0))
    norms = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    loss = run.gradients(run.model.features(waveform), label).item()
    gradients = [parameter.grad.clone() for parameter in run.parameters]
    run.model.train()
    run.train_step(waveform, label)
    averaged = list(run.ema.module.state_dict().values())
    result = {"items": len(label), "loss": loss, "gradients": gradients, "averaged": averaged}
    torch.save(result, folder / f"{distributed.rank()}.pt")
    distributed.leave()


if __name__ == "__main__":
    take_one_step(Path(sys.argv[1]), Path(sys.argv[2]))
