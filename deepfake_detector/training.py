"""The training loop: fit, and checkpoints that survive a kill."""

import csv
import hashlib
import json
import math
import os
import pickle
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data.augment import AugmentConfig, Noises
from .data.dataset import BalancedBatches, TrainingWindows
from .data.manifest import Clip, of_split
from .detector import Detector
from .evaluation import calibrate, score_clips
from .features import FeatureConfig
from .metrics import equal_error_rate
from .model import SpoofClassifier

STATE_FILE = "training_state.pt"
SAVE_EVERY_SECONDS = 120.0


class TrainingError(ValueError):
    """Training cannot start or go on; the message is written for the user."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run was told; a run is resumed only with the same settings."""

    features: FeatureConfig
    augment: AugmentConfig
    network: str
    backbone: str
    width: int
    dropout: float
    epochs: int
    crop_seconds: float  # a training item; shorter than a window, because pooling takes any length
    batch_size: int
    copies_per_batch: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    ema_decay: float
    evaluate_every: int  # epochs; the last one is always evaluated
    label_smoothing: float
    source_weight: float  # of the auxiliary task: which system or corpus is this?
    max_wrong_share: float  # of each of the answers "fake" and "real" on dev; between them is "can't tell"
    mask_mels: int
    mask_frames: int
    seed: int


class SpecAugment(nn.Module):
    """Blank one band of mels and one stretch of frames per picture (Park et al. 2019, arXiv:1904.08779)."""

    def __init__(self, mask_mels: int, mask_frames: int) -> None:
        super().__init__()
        self.mask_sizes = {2: mask_mels, 3: mask_frames}

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        for dim, largest in self.mask_sizes.items():
            n, batch = picture.shape[dim], picture.shape[0]
            size = torch.rand(batch, 1, device=picture.device) * largest
            start = torch.rand(batch, 1, device=picture.device) * (n - size)
            place = torch.arange(n, device=picture.device)[None]
            hidden = (place >= start) & (place < start + size)
            shape = [batch, 1, 1, 1]
            shape[dim] = n
            picture = picture.masked_fill(hidden.view(shape), 0.0)  # 0 is the picture's mean
        return picture


class Run:
    """One training run in one folder; everything that changes while it goes on is in `state`."""

    def __init__(
        self, config: TrainConfig, clips: list[Clip], noises: Noises | None, output: Path, device: str
    ) -> None:
        self.config, self.output, self.device = config, output, torch.device(device)
        self.train_clips, self.dev_clips = of_split(clips, "train"), of_split(clips, "dev")
        torch.manual_seed(config.seed)
        self.model = SpoofClassifier(
            features=config.features,
            network=config.network,
            backbone=config.backbone,
            width=config.width,
            dropout=config.dropout,
        ).to(self.device, memory_format=torch.channels_last)
        self.ema = AveragedModel(self.model, multi_avg_fn=_warm_ema(config.ema_decay), use_buffers=True)
        self.spec_augment = SpecAugment(config.mask_mels, config.mask_frames)
        self.sampler = BalancedBatches(self.train_clips, config.batch_size, config.copies_per_batch, config.seed)
        sample_rate = config.features.sample_rate
        crop_samples = round(config.crop_seconds * sample_rate)
        self.dataset = TrainingWindows(self.train_clips, sample_rate, crop_samples, config.augment, noises)
        # Naming the source gives eight bits an item instead of one, which a network without pretraining needs to get
        # going; this head is thrown away.
        self.source_head = nn.Linear(self.model.network.embedding_size, self.dataset.n_sources).to(self.device)
        trained = nn.ModuleList((self.model, self.source_head))
        self.optimizer = torch.optim.AdamW(_weight_groups(trained, config.weight_decay), lr=config.learning_rate)
        self.epoch = self.step = 0  # `step` counts the batches done in `epoch`
        self.best_eer = float("inf")
        self.loss_sum = 0.0
        self.log: list[dict] = []  # a row an epoch; metrics.csv
        self.data_digest = _digest(clips, noises)

    def start_from(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint; raises TrainingError if it is of another network or front end."""
        weights = SpoofClassifier.load(checkpoint).state_dict()
        try:
            self.model.load_state_dict(weights)
        except RuntimeError:
            raise TrainingError(f"{checkpoint} is a checkpoint of another network or front end.") from None

    def fit(self, n_workers: int) -> None:
        """Train from wherever the run stands to its last epoch; Ctrl-C stops after the step and saves."""
        if self.epoch == self.step == 0 and (self.output / STATE_FILE).is_file():
            raise TrainingError(f"{self.output} holds a run already; go on with --resume, or choose another folder.")
        self.output.mkdir(parents=True, exist_ok=True)
        with _stop_on_interrupt() as stop:
            while self.epoch < self.config.epochs:
                self._train_epoch(n_workers, stop)
                if stop.is_set:
                    self.save_state()
                    raise TrainingError(f"Stopped and saved. Go on with the same command and --resume ({self.output}).")
                self._finish_epoch()

    def _train_epoch(self, n_workers: int, stop: "_Stop") -> None:
        self.model.train()
        self.sampler.epoch, self.sampler.skip = self.epoch, self.step
        loader = DataLoader(
            self.dataset, batch_sampler=self.sampler, num_workers=n_workers, pin_memory=self.device.type == "cuda"
        )
        bar = tqdm(loader, f"epoch {self.epoch + 1}/{self.config.epochs}", len(self.sampler), initial=self.step)
        saved_at = time.monotonic()
        for waveform, label, source in bar:
            self.loss_sum += self._train_step(waveform, label, source)
            self.step += 1
            bar.set_postfix(loss=f"{self.loss_sum / self.step:.4f}", refresh=False)
            if stop.is_set:
                return
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                self.save_state()
                saved_at = time.monotonic()

    def _train_step(self, waveform: torch.Tensor, label: torch.Tensor, source: torch.Tensor) -> float:
        """One optimiser step; returns the loss of the main task."""
        # Every step seeds its own draws, so that a resumed run repeats exactly what an unbroken one does.
        n_done = self.epoch * len(self.sampler) + self.step
        torch.manual_seed(self.config.seed * 1_000_003 + n_done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule(n_done)
        waveform, label, source = waveform.to(self.device), label.to(self.device), source.to(self.device)
        with torch.no_grad():
            picture = self.spec_augment(self.model.features(waveform)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            network = self.model.network
            embedding = network.embed(network.forward_features(picture))
            logits = network.head(network.dropout(embedding))
            source_logits = self.source_head(embedding)
        smoothing = self.config.label_smoothing
        loss = nn.functional.cross_entropy(logits.float(), label, label_smoothing=smoothing)
        source_loss = nn.functional.cross_entropy(source_logits.float(), source, label_smoothing=smoothing)
        total = loss + self.config.source_weight * source_loss
        if not torch.isfinite(total):
            raise TrainingError(f"The loss is not a number at step {n_done}; lower the learning rate.")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        return loss.item()

    def _schedule(self, n_done: int) -> float:
        """Linear warm-up, then half a cosine down to 1 % of the learning rate."""
        progress = n_done / (self.config.epochs * len(self.sampler))
        if progress < self.config.warmup_share:
            return (progress + 1e-3) / (self.config.warmup_share + 1e-3)
        rest = (progress - self.config.warmup_share) / (1 - self.config.warmup_share)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * rest))  # plain floats: the saved state holds no numpy

    def _finish_epoch(self) -> None:
        """Write the log; on every `evaluate_every`-th epoch keep the averaged weights if they are the best on dev."""
        row = {
            "epoch": self.epoch + 1,
            "train_loss": round(self.loss_sum / self.step, 5),
            "dev_eer": None,
            "unjudged": None,
        }
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        message = f"epoch {row['epoch']}: loss {row['train_loss']:.4f}"
        if self.epoch % self.config.evaluate_every == 0 or self.epoch == self.config.epochs:
            classifier = self.ema.module
            scores = score_clips(Detector(classifier, "dev", self.device), self.dev_clips)
            eer, _ = equal_error_rate(scores.labels, scores.values)
            row |= {"dev_eer": round(eer, 5), "unjudged": len(scores.unjudged)}
            message += f", dev EER {100 * eer:.2f} %"
            if eer < self.best_eer:
                self.best_eer = eer
                calibrate(classifier, scores, self.config.max_wrong_share)
                save_checkpoint(classifier, self.output / "best")
        print(message, flush=True)
        self.log.append(row)
        _write_csv(self.output / "metrics.csv", self.log)
        self.save_state()

    def save_state(self) -> None:
        """Everything needed to go on, written aside and renamed."""
        state = {
            "model": self.model.state_dict(),
            "source_head": self.source_head.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "best_eer": self.best_eer,
            "log": self.log,
            "data_digest": self.data_digest,
            "config": json.dumps(asdict(self.config)),
        }
        self.output.mkdir(parents=True, exist_ok=True)
        aside = self.output / (STATE_FILE + ".partial")
        torch.save(state, aside)
        os.replace(aside, self.output / STATE_FILE)

    def resume(self) -> None:
        """Take up the run saved in the output folder; raises TrainingError if it is another run."""
        path = self.output / STATE_FILE
        if not path.is_file():
            raise TrainingError(f"There is no run to resume in {self.output}.")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            raise TrainingError(f"{path} is damaged; start again in another folder.") from None
        told = json.loads(json.dumps(asdict(self.config)))
        differing = [key for key, value in json.loads(state["config"]).items() if told.get(key) != value]
        if differing:
            raise TrainingError(f"The run in {self.output} had other settings: {', '.join(differing)}.")
        if state["data_digest"] != self.data_digest:
            raise TrainingError(f"The run in {self.output} had other clips or noises.")
        self.model.load_state_dict(state["model"])
        self.source_head.load_state_dict(state["source_head"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.loss_sum, self.best_eer, self.log = state["loss_sum"], state["best_eer"], state["log"]


def save_checkpoint(classifier: SpoofClassifier, folder: Path) -> None:
    """config.json and model.safetensors, written aside and renamed file by file."""
    aside = folder.with_name(folder.name + ".partial")
    classifier.save_pretrained(aside)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        os.replace(aside / name, folder / name)
    (aside / "README.md").unlink(missing_ok=True)
    aside.rmdir()


def _digest(clips: list[Clip], noises: Noises | None) -> str:
    """Tells two data sets apart: names, labels and splits in order, and how much noise there is."""
    parts = [f"{clip.path.name} {clip.label} {clip.split} {clip.system} {clip.corpus}" for clip in clips]
    parts += [str(len(noise)) for noise in (noises.noises + noises.rooms if noises else [])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _warm_ema(decay: float):
    """Exponential moving average whose memory grows with the run, so that random first weights fade at once."""

    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], n_averaged: torch.Tensor) -> None:
        n = float(n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, n_averaged)

    return update


def _weight_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay acts on kernels only, not on norms and biases."""
    kernels = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _write_csv(path: Path, rows: list[dict]) -> None:
    aside = path.with_name(path.name + ".partial")
    with open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, path)


class _Stop:
    is_set = False


@contextmanager
def _stop_on_interrupt():
    """Ctrl-C sets a flag that is looked at between steps; a second Ctrl-C breaks off at once."""
    stop, previous = _Stop(), signal.getsignal(signal.SIGINT)

    def on_interrupt(number, frame) -> None:
        stop.is_set = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
