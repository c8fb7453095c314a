"""Training on a tiny set: it learns, it survives a kill, and its checkpoint is what the page loads."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from deepfake_detector import Detector
from deepfake_detector.data.augment import Noises
from deepfake_detector.data.manifest import of_split, read_clips
from deepfake_detector.evaluation import calibrated, score_clips
from deepfake_detector.files import StorageError
from deepfake_detector.interrupt import WorkerKilled
from deepfake_detector.metrics import equal_error_rate, fit_bounds, fit_calibration
from deepfake_detector.model import BONAFIDE, SPOOF, SpoofClassifier
from deepfake_detector.training import (
    STATE_FILE,
    RandomFloor,
    Run,
    SpecAugment,
    TrainingError,
    loaded,
    new_board,
    with_own_statistics,
)
from train import RECIPES, main

from .conftest import ROOT, TINY_FEATURES

SETTINGS = ("--network", "basic-cnn", "--device", "cpu", "--workers", "0", "--no-imagenet", "--epochs", "2")


def train(data: Path, output: Path, *more: str, **options) -> subprocess.Popen:
    command = [sys.executable, "train.py", "--data", str(data), "--output", str(output), *SETTINGS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options)


def refused(data: Path, output: Path, *more: str) -> str:
    """The sentence that a wrong call ends with."""
    return main(["--data", str(data), "--output", str(output), *SETTINGS, *more])


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


def new_run(data: Path, output: Path, noises: Noises | None = None, **settings) -> Run:
    config = replace(RECIPES["default"], network="basic-cnn", features=TINY_FEATURES, crop_seconds=1.0, **settings)
    return Run(config, read_clips([data]), noises, output, "cpu")


def test_train_is_trained_on_and_dev_chooses(data: Path, tmp_path: Path) -> None:
    header, *rows = (data / "manifest.csv").read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([header, *(f"{data}/{row}" for row in reversed(rows))]))  # dev first
    run = new_run(tmp_path / "turned.csv", tmp_path, copies_per_batch=3)
    assert {clip.split for clip in run.dev_clips} == {"dev"} and len(run.dev_clips) == 32
    half = run.config.batch_size // 2
    for batch in run.sampler:
        assert {run.dataset.clips[index].split for index, _, _ in batch} == {"train"}
        assert [batch[half + i][0] for i in range(3)] == [batch[i][0] for i in range(3)]  # copies of the first three
        assert [copy for _, _, copy in batch] == [half <= i < half + 3 for i in range(2 * half)]
    waveform, label = next(run.batches(0))
    assert waveform.shape == (2 * half, 16_000) and label.tolist() == [BONAFIDE] * half + [SPOOF] * half


def test_real_and_fake_of_one_place_are_paired_as_often_as_the_recipe_says(data: Path, tmp_path: Path) -> None:
    rows = [f"{data}/{i}.wav,{('real', 'fake')[i % 2]},train,c{i // 2 % 8}" for i in range(64)]
    rows += [f"{data}/{i}.wav,{('real', 'fake')[i % 2]},dev,c" for i in range(64, 96)]
    (tmp_path / "places.csv").write_text("\n".join(["path,label,split,corpus", *rows]))
    run = new_run(tmp_path / "places.csv", tmp_path, copies_per_batch=4, place_share=1.0)
    half = run.config.batch_size // 2
    for batch in run.sampler:
        corpora = [run.dataset.clips[index].corpus for index, _, _ in batch]
        assert corpora[:half] == corpora[half:]


def test_the_average_s_memory_grows_to_its_decay(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, ema_decay=0.5)
    bias, expected = run.model.network.head.bias, 0.0
    for n, value in enumerate([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0, 8.0]):
        with torch.no_grad():
            bias.fill_(value)
        run.ema.update_parameters(run.model)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0  # the first weights are taken as they are
        expected = decay * expected + (1 - decay) * value
        assert run.ema.module.network.head.bias.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, learning_rate=1e-4, warmup_share=0.25, epochs=20)
    batch, n_steps = next(run.batches(0)), 20 * len(run.sampler)
    rates = []
    for share in (0.0, 0.125, 0.25, 0.625, 1.0):
        run.epoch, run.step = divmod(round(share * n_steps), len(run.sampler))
        run.train_step(*batch)
        rates += {group["lr"] / 1e-4 for group in run.optimizer.param_groups}
    assert rates == pytest.approx([0.004, 0.502, 1.0, 0.505, 0.01], abs=0.001)


def test_a_step_smooths_labels_clips_gradients_and_decays_kernels_alone(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, label_smoothing=0.2)
    waveform, label = next(run.batches(0))
    run.model.eval()  # without dropout
    with torch.no_grad():
        picture = run.model.features(waveform)
        log_probability = run.model.network(picture).log_softmax(1)
    wanted = 0.8 * torch.nn.functional.one_hot(label, 2) + 0.1
    assert run.gradients(picture, label).item() == pytest.approx(-(wanted * log_probability).sum(1).mean().item())

    def norm() -> float:
        return torch.cat([p.grad.flatten() for p in run.parameters if p.grad is not None]).norm().item()

    run.gradients(1e4 * picture, label)
    assert norm() > 10
    run.learn(1e4 * picture, label)
    assert norm() == pytest.approx(5.0, rel=1e-3)
    for group in run.optimizer.param_groups:
        decay = {run.config.weight_decay if parameter.dim() > 1 else 0.0 for parameter in group["params"]}
        assert decay == {group["weight_decay"]}


def test_a_resumed_run_knows_its_best_epoch_and_its_start(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, epochs=1)
    run.start = "somebody's checkpoint"
    run.fit(0)
    again = new_run(data, tmp_path, epochs=1)
    again.resume()
    assert (again.best_eer, again.start, again.log) == (run.best_eer, "somebody's checkpoint", run.log)
    assert run.best_eer == pytest.approx(run.log[0]["dev_eer"], abs=1e-5)
    other = (data / "manifest.csv").read_text().replace("5.wav,fake", "5.wav,real", 1).replace("\n", f"\n{data}/")
    (tmp_path / "other.csv").write_text(other)
    with pytest.raises(TrainingError, match="other clips"):
        new_run(tmp_path / "other.csv", tmp_path, epochs=1).resume()


def test_the_epoch_with_the_best_dev_eer_is_kept_and_calibrated(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, learning_rate=0.1, ema_decay=0.5, epochs=6, evaluate_every=1)
    run.fit(0)
    eers = [row["dev_eer"] for row in run.log]
    assert len(set(eers)) > 1  # so rash a learning rate makes some epochs worse than others
    kept = Detector.from_pretrained(tmp_path / "best")
    scores = score_clips(kept, run.dev_clips)
    assert equal_error_rate(scores.labels, scores.values)[0] == pytest.approx(min(eers), abs=1e-5)
    fitted = fit_calibration(scores.labels, scores.values, run.config.bonafide_share)
    assert kept.model.calibration.tolist() == pytest.approx(fitted, rel=1e-3)
    probabilities = calibrated(kept.model, scores.values)
    bounds = fit_bounds(scores.labels, probabilities, run.config.max_wrong_share, run.config.bonafide_share)
    assert kept.model.bounds.tolist() == pytest.approx(bounds, abs=1e-3)


def test_finetuning_starts_from_a_checkpoint(finished: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    wait(train(data, output, "--init", str(finished / "best"), "--epochs", "1"))
    assert f"Started from {finished / 'best'}" in (output / "best" / "README.md").read_text()
    other = ("--init", str(finished / "best"), "--network", "res-efficientcnn")
    assert "another network" in refused(data, tmp_path / "other", *other)


def test_a_run_starts_with_the_checkpoint_s_own_weights(data: Path, tmp_path: Path) -> None:
    other, run = new_run(data, tmp_path, seed=1), new_run(data, tmp_path, seed=2)
    other.model.save_pretrained(tmp_path / "other")
    run.start_from(tmp_path / "other")
    expected = SpoofClassifier.load(tmp_path / "other").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())


def test_steps_on_one_batch_bring_its_loss_down(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path)
    batch = next(run.batches(0))
    losses = []
    for run.step in range(30):
        losses.append(run.train_step(*batch))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_what_is_kept_are_the_averaged_weights(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, epochs=1)
    run.fit(0)
    kept, averaged = SpoofClassifier.load(tmp_path / "best").network, run.ema.module.rounded().network
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in averaged.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(kept.parameters(), run.model.network.parameters(), strict=True))


def test_statistics_of_a_mean_are_those_of_unmasked_items(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path)
    renewed = with_own_statistics(run.model, run.train_clips, run.config, None, 0, "cpu")
    run.sampler.epoch = run.config.epochs
    waveforms = [run.dataset[draw][0] for batch in run.sampler for draw in batch]
    first = run.model.network.blocks[0]
    with torch.no_grad():  # of equal batches, so the mean of two means is the mean over all
        seen = first[0](run.model.features(torch.stack(waveforms)))
    assert len(waveforms) == 64
    assert renewed.network.blocks[0][1].running_mean == pytest.approx(seen.mean((0, 2, 3)), rel=2e-3, abs=1e-3)
    assert not torch.equal(renewed.network.blocks[0][1].running_var, first[1].running_var)
    weights = zip(renewed.parameters(), run.model.rounded().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights) and not renewed.training


def test_pictures_are_masked_and_noises_are_used_in_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noise.csv").write_text(f"path,kind\n{data / '0.wav'},noise\n")
    noises = Noises(tmp_path / "noise.csv", 16_000)
    run = new_run(data, tmp_path, noises, mask_rows=20, floor_share=1.0, floor_db=(5.0, 5.0))
    assert run.dataset.noises is noises
    learnt: list[torch.Tensor] = []
    monkeypatch.setattr(run, "learn", lambda picture, label: learnt.append(picture) or 0.0)
    waveform, label = next(run.batches(0))
    run.train_step(waveform, label)
    untouched = run.model.features(waveform)
    is_hidden = (learnt[0] == 0).all(-1).any(-1)  # a whole row of the picture
    assert learnt[0].shape == untouched.shape and is_hidden.float().mean() > 0.5
    assert (learnt[0].amin((2, 3)) > untouched.amin((2, 3))).float().mean() > 0.8  # a floor of 5 dB leaves no depth


def same_weights(one: Path, other: Path) -> bool:
    weights, others = (load_file(folder / "best" / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def without_timings(run: Path) -> list[dict]:
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row.keys() - {"seconds", "clips_per_second"}} for row in rows]


def assert_same_weights(one: Path, other: Path) -> None:
    assert same_weights(one, other)
    assert without_timings(one) == without_timings(other)


KILLED = """
import os, signal, sys
from deepfake_detector import training
import train

where, training.SAVE_EVERY_SECONDS = tuple(map(int, sys.argv.pop(1).split(","))), 0.0
step = training.Run.train_step
def train_step(run, *batch):
    if (run.epoch, run.step) == where:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(run, *batch)
training.Run.train_step = train_step
sys.exit(train.main())
"""


def kill(data: Path, output: Path, epoch: int, step: int) -> Path:
    """A run that saves after every step, killed before this one."""
    command = [sys.executable, "-c", KILLED, f"{epoch},{step}", "--data", str(data), "--output", str(output), *SETTINGS]
    process = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    assert process.returncode == -signal.SIGKILL
    state = torch.load(output / STATE_FILE, weights_only=True)
    assert (state["epoch"], state["step"]) == (epoch, step)
    return output


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed in the middle of its second epoch."""
    return kill(data, tmp_path_factory.mktemp("runs") / "killed", 1, 1)


def test_killed_run_ends_with_the_same_weights(finished: Path, killed: Path, data: Path, tmp_path: Path) -> None:
    output = shutil.copytree(killed, tmp_path / "resumed")
    wait(train(data, output, "--resume"))
    assert_same_weights(finished, output)


def test_run_killed_in_its_first_step_can_be_resumed(finished: Path, data: Path, tmp_path: Path) -> None:
    output = kill(data, tmp_path / "killed", 0, 0)
    wait(train(data, output, "--resume"))
    assert_same_weights(finished, output)


def test_a_full_disk_is_one_sentence_and_keeps_the_last_state(
    finished: Path, killed: Path, data: Path, tmp_path: Path
) -> None:
    """No file may grow beyond half the state's size, which the system reports as it does a full disk."""
    output = shutil.copytree(killed, tmp_path / "full")
    state = (output / STATE_FILE).read_bytes()
    limit = len(state) // 2

    def set_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = train(data, output, "--resume", preexec_fn=set_limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    sentence = errors.strip().splitlines()[-1]
    assert sentence.startswith("There is no space left to write") and STATE_FILE in sentence
    assert (output / STATE_FILE).read_bytes() == state and not list(output.rglob("*.partial"))
    wait(train(data, output, "--resume"))
    assert_same_weights(finished, output)


def test_a_file_that_vanished_is_one_sentence(killed: Path, data: Path, tmp_path: Path) -> None:
    """On --resume files are not decoded beforehand, and a worker process meets the gap."""
    rest, output = shutil.copytree(data, tmp_path / "data"), shutil.copytree(killed, tmp_path / "run")
    for i in range(64):
        (rest / f"{i}.wav").unlink()
    process = train(rest, output, "--resume", "--workers", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("There is no file called")


@pytest.mark.parametrize("half_type", [torch.bfloat16, torch.float16])
def test_steps_in_half_precision_are_about_the_same(data: Path, tmp_path: Path, half_type: torch.dtype) -> None:
    """As on CUDA, where whole steps run so; the scaler that float16 needs among them."""
    whole, half = (new_run(data, tmp_path / name, learning_rate=1e-3, warmup_share=0.01) for name in ("whole", "half"))
    half.half_type = half_type
    half.scaler = torch.amp.GradScaler("cpu", enabled=half_type is torch.float16)
    batches = list(whole.batches(0))[:2]
    losses = [[run.train_step(*batch) for batch in 3 * batches] for run in (whole, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]
    assert losses[1][-1] < losses[1][0]
    assert all(
        weight.dtype == torch.float32 for weight in half.model.state_dict().values() if weight.is_floating_point()
    )


class Deadly(Dataset):
    """Kills whoever reads it, as a system without memory does."""

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)

    def __len__(self) -> int:
        return 1


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    with pytest.raises(WorkerKilled, match="fewer --workers"):
        list(loaded(Deadly(), [[0]], 1, torch.device("cpu")))


def test_a_state_that_is_none_is_one_sentence(data: Path, tmp_path: Path) -> None:
    for content in ({}, {"config": "no JSON"}, ["list"]):
        torch.save(content, tmp_path / STATE_FILE)
        assert "is damaged; start again" in refused(data, tmp_path, "--resume")


def test_a_board_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="tensorboard cannot be written"):
        new_board(tmp_path)


def test_without_a_compiler_compile_is_one_sentence_before_the_data_are_read(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "train.py",
        "--data",
        "nowhere",
        "--output",
        str(tmp_path / "run"),
        *SETTINGS,
        "--compile",
    ]
    without = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    environment = {**without, "PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("--compile needs a C++ compiler")


def test_the_seed_decides_the_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    for name, seed in (("again", "0"), ("other", str(2**40))):
        wait(train(data, tmp_path / name, "--seed", seed))
    assert_same_weights(finished, tmp_path / "again")
    assert not same_weights(finished, tmp_path / "other")


def test_sharpness_aware_run_resumes_to_the_same_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    """Stopped by SIGTERM, as a cluster does."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    wait(train(data, whole, "--sam-rho", "0.05"))
    process = train(data, stopped, "--sam-rho", "0.05", "--workers", "1", start_new_session=True)
    stop_in_first_epoch(process, signal.SIGTERM)
    wait(train(data, stopped, "--sam-rho", "0.05", "--resume"))
    assert_same_weights(whole, stopped)
    assert not same_weights(whole, finished)


def stop_in_first_epoch(process: subprocess.Popen, number: int) -> None:
    for line in iter(process.stderr.readline, ""):
        if "epoch 1/2" in line:  # the progress bar of the first epoch is there, so its loop is running
            break
    os.killpg(process.pid, number)  # as a terminal and a cluster do: the workers get it too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "--resume" in errors and "Traceback" not in errors


def test_ctrl_c_saves_and_the_rest_of_the_epoch_is_the_same(finished: Path, data: Path, tmp_path: Path) -> None:
    """Stopped while it trains, with worker processes; then taken up without them."""
    output = tmp_path / "stopped"
    process = train(data, output, "--workers", "1", start_new_session=True)
    stop_in_first_epoch(process, signal.SIGINT)
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
    assert sentence in refused(data, tmp_path / "none", *more)


def test_a_refused_call_has_a_status_and_no_traceback(data: Path, tmp_path: Path) -> None:
    process = train(data, tmp_path / "none", "--resume")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and len(errors.strip().splitlines()) == 1
    with pytest.raises(SystemExit):  # a licence that would break the card's front matter
        main(["--data", str(data), "--output", str(tmp_path / "none"), "--license", "CC BY 4.0: see LICENSE"])


def test_bad_files_are_named_and_skipped_on_request(data: Path, tmp_path: Path) -> None:
    """A row with a wrong label is refused in any case; on --resume nothing is decoded again."""
    rows = (data / "manifest.csv").read_text().replace("\n", f"\n{data}/").splitlines()
    (tmp_path / "text.wav").write_text("not a recording")
    (tmp_path / "set.csv").write_text("\n".join([*rows, "text.wav,fake,,,train", "lost.wav,real,,,dev"]))
    (tmp_path / "wrong.csv").write_text("path,label\nthing.wav,thing\n")
    output = tmp_path / "run"

    _, errors = train(tmp_path / "set.csv", output, "--data", tmp_path / "set.csv", tmp_path / "wrong.csv").communicate(
        timeout=60
    )
    assert all(fault in errors for fault in ("3 faults", "text.wav", "lost.wav", "wrong.csv, line 2", "'thing'"))
    assert "Traceback" not in errors and not output.exists()

    errors = wait(train(tmp_path / "set.csv", output, "--skip-bad-files", "--workers", "2", "--epochs", "1"))
    assert "2 files are skipped" in errors and "text.wav" in errors and "lost.wav" in errors
    skipped = [line.split("\t")[0] for line in (output / "skipped.txt").read_text().splitlines()]
    assert skipped == [str(tmp_path / "text.wav"), str(tmp_path / "lost.wav")]
    assert json.loads((output / "best" / "metrics.json").read_text())["clips"] == 32
    wait(train(tmp_path / "set.csv", output, "--skip-bad-files", "--epochs", "1", "--resume"))


def test_compiling_leaves_names_and_loss_alone(data: Path, tmp_path: Path) -> None:
    """Without the C++ compiler's minutes: what is compiled runs as it is written."""
    config = replace(RECIPES["default"], features=TINY_FEATURES, network="basic-cnn")
    plain, compiled = (Run(config, read_clips([data]), None, tmp_path, "cpu", compiled=on) for on in (False, True))
    batch = next(plain.batches(0))
    with torch.compiler.set_stance("force_eager"):
        assert plain.train_step(*batch) == compiled.train_step(*batch)
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    assert plain.ema.state_dict().keys() == compiled.ema.state_dict().keys()


def test_tensorboard_has_the_columns_of_the_log(data: Path, tmp_path: Path) -> None:
    process = train(data, tmp_path / "run", "--tensorboard", "--epochs", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    with open(tmp_path / "run" / "metrics.csv") as file:
        (row,) = csv.DictReader(file)
    assert set(board.Tags()["scalars"]) == {name for name, value in row.items() if value and name != "epoch"}
    assert board.Scalars("train_loss")[0].value == pytest.approx(float(row["train_loss"]))


def test_a_missing_tensorboard_is_told_before_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    assert "pip install tensorboard" in refused(data, tmp_path / "run", "--tensorboard")
    assert not (tmp_path / "run").exists()


def test_metrics_tell_speed_and_learning_rate(finished: Path) -> None:
    with open(finished / "metrics.csv") as file:
        first, last = csv.DictReader(file)
    assert float(first["learning_rate"]) > float(last["learning_rate"]) > 0
    assert all(float(row["seconds"]) > 0 and float(row["clips_per_second"]) > 0 for row in (first, last))


def test_other_settings_are_not_resumed(finished: Path, data: Path) -> None:
    process = train(data, finished, "--resume", "--seed", "9")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "other settings: seed" in errors


def test_a_run_is_not_overwritten(finished: Path, data: Path) -> None:
    process = train(data, finished)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "holds a run already" in errors


def test_a_checkpoint_and_its_figures_are_not_overwritten(finished: Path, data: Path, tmp_path: Path) -> None:
    best = shutil.copytree(finished / "best", tmp_path / "run" / "best")
    before = {file.name: file.read_bytes() for file in best.iterdir()}
    assert "choose another folder" in refused(data, tmp_path / "run")
    for output, *more in (
        (tmp_path / "run", "--average", best),
        (best, "--evaluate", best),
        (finished, "--evaluate", best),
    ):
        assert "choose another folder" in main(["--data", str(data), "--output", str(output), *map(str, more)])
    assert before == {file.name: file.read_bytes() for file in best.iterdir()}


def test_seeds_that_torch_does_not_take_are_refused(data: Path, tmp_path: Path) -> None:
    for seed in (str(2**63), "-1"):
        with pytest.raises(SystemExit):
            refused(data, tmp_path / "none", "--seed", seed)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["--evaluate", "a", "--seed", "0", "--no-imagenet"],
            "--evaluate trains nothing, so --seed and --no-imagenet would do nothing",
        ),
        (["--evaluate", "a", "--average", "b"], "--evaluate trains nothing, so --average would do nothing"),
        (["--average", "a", "--recipe", "first"], "--average trains nothing, so --recipe would do nothing"),
        (["--backbone-weights", "w", "--init", "a"], "--backbone-weights would do nothing with --init"),
        (["--recipe", "first", "--prepare-only", "--push-to-hub", "a/b"], "there is none to push"),
        (["--evaluate", ""], "--evaluate: it is empty"),  # a variable of the shell that was never set
        (["--init", ""], "--init: it is empty"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--output", str(tmp_path / "out"), *given])
    assert told in capsys.readouterr().err


def test_options_reach_the_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    backbone = timm.create_model("efficientnet_b0").state_dict()
    torch.save(backbone, tmp_path / "b0.pth")
    rows = ["path,label,split,system,corpus,speaker"]
    for i in (*range(32), *range(64, 80)):
        label, system = (("real", ""), ("fake", f"tts{i % 4}"))[i % 2]
        rows.append(
            f"{data}/{i}.wav,{label},{'dev' if i >= 64 else 'train'},{system},c{i % 3},{'anna' if i % 64 == 0 else i}"
        )
    rows.append(f"{data}/33.wav,fake,train,studio voice,Studio,")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    options = {"--data": tmp_path / "set.csv", "--output": tmp_path / "run", "--backbone-weights": tmp_path / "b0.pth"}
    options |= {"--device": "cpu", "--workers": 0, "--epochs": 1, "--learning-rate": 1e-30, "--leave-out": "Studio"}
    assert main([str(word) for option in options.items() for word in option]) is None
    state = torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["model"]
    for name in ("blocks.0.0.conv_dw.weight", "blocks.3.1.conv_pw.weight"):
        assert torch.equal(state[f"network.backbone.{name}"], backbone[name])
    settings = json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["settings"]
    assert settings["data"]["train"]["sources"]["spoofed"].keys() == {"tts1", "tts3"}
    assert "flatter" in "".join(capsys.readouterr())
    assert "b0.pth" in (tmp_path / "run" / "best" / "README.md").read_text()


def test_other_data_are_not_resumed(finished: Path, data: Path, tmp_path: Path) -> None:
    rows = (data / "manifest.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join([rows[0], *(f"{data}/{row}" for row in rows[3:])]))
    process = train(tmp_path / "fewer.csv", finished, "--resume")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "other clips" in errors


def test_spec_augment_blanks_one_band_and_one_stretch() -> None:
    torch.manual_seed(0)
    masked = SpecAugment(mask_rows=8, mask_frames=20)(torch.ones(64, 1, 32, 100)) == 0
    rows, columns = masked.all(dim=3).sum(2), masked.all(dim=2).sum(2)
    assert 0 < rows.max() <= 9 and 0 < columns.max() <= 21
    assert rows.float().std() > 0


def test_random_floor_cuts_off_some_pictures_each_at_a_depth_of_its_own() -> None:
    torch.manual_seed(0)
    level_db = torch.rand(64, 32, 50) * 80 - 90  # loudest cells at about -10
    cut = RandomFloor(share=0.5, depth_db=(20.0, 60.0))(level_db)
    depths = (cut.amax((1, 2)) - cut.amin((1, 2)))[(cut != level_db).any(2).any(1)]
    assert 16 < len(depths) < 48 and 20 <= depths.min() < 30 and 50 < depths.max() <= 60
    assert torch.equal(cut.amax((1, 2)), level_db.amax((1, 2)))
    assert torch.equal(RandomFloor(share=0.0, depth_db=(20.0, 60.0))(level_db), level_db)


def test_the_mean_of_two_checkpoints_is_calibrated_and_measured(
    finished: Path, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    other, output = tmp_path / "other", tmp_path / "mean"
    classifier = SpoofClassifier.load(finished / "best")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    classifier.save_pretrained(other)
    command = ["--data", str(data), "--output", str(output), "--workers", "0", "--average", str(finished / "best")]
    assert main([*command, str(other)]) is None
    ours, *theirs = (load_file(folder / "model.safetensors") for folder in (output / "best", finished / "best", other))
    for name in dict(classifier.network.named_parameters(prefix="network")):
        mean = (theirs[0][name].float() + theirs[1][name].float()) / 2
        assert torch.allclose(ours[name].float(), mean, rtol=2e-3, atol=1e-5), name
    spread = "network.blocks.0.1.running_var"  # noise on the weights makes it another one than the mean of theirs
    assert not torch.allclose(
        ours[spread].float(), (theirs[0][spread].float() + theirs[1][spread].float()) / 2, rtol=1e-2
    )
    kept = Detector.from_pretrained(output / "best")
    scores = score_clips(kept, of_split(read_clips([data]), "dev"))
    fitted = fit_calibration(scores.labels, scores.values, RECIPES["default"].bonafide_share)
    assert kept.model.calibration.tolist() == pytest.approx(list(fitted))
    figures = json.loads((output / "best" / "metrics.json").read_text())
    assert figures["eer"] == equal_error_rate(scores.labels, scores.values)[0]
    card = (output / "best" / "README.md").read_text()
    assert f"mean of the weights of `{finished / 'best'}` and `{other}`" in card and "epochs, seed" not in card
    command[3] = str(tmp_path / "unlike")
    assert "another network or front end" in main([*command, str(checkpoint)])
    assert "No such Corpus" in main([*command, str(other), "--leave-out", "No such Corpus"])
