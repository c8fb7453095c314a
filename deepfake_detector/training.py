"""The training loop: fit, and checkpoints that survive a kill."""

import hashlib
import io
import json
import math
import pickle
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from . import distributed
from .audio import AudioError
from .data.augment import AugmentConfig, Noises
from .data.dataset import BalancedBatches, TrainingWindows
from .data.manifest import Clip, DataError, of_split
from .detector import Detector
from .evaluation import calibrate, score_clips
from .features import FeatureConfig
from .files import csv_text, storage_faults_told, write_whole, written_aside
from .interrupt import Stop, ignore_signals, killed_workers_told, stop_on_signal
from .metrics import equal_error_rate
from .model import WEIGHTS_FILE, SpoofClassifier
from .sharpness import still_statistics, uphill

STATE_FILE = "training_state.pt"
STATISTICS_BATCHES = 96  # of training, from which the mean of checkpoints gets the statistics of its batch norms
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
    place_share: float  # of the other pairs of a batch: real and fake from one corpus or page
    learning_rate: float
    weight_decay: float
    warmup_share: float
    sam_rho: float  # how far sharpness-aware minimisation climbs (Euclidean); 0: not at all, in half the time
    ema_decay: float
    evaluate_every: int  # epochs; the last one is always evaluated
    label_smoothing: float
    bonafide_share: float  # of the recordings that the probability is meant for; more spares real voices at 0.5
    max_wrong_share: float  # of each of the answers "fake" and "real" on dev; between them is "can't tell"
    mask_rows: int
    mask_frames: int
    floor_share: float  # of the items: how many lose what lies below a floor
    floor_db: tuple[float, float]  # that floor, below the loudest cell
    seed: int


def refuse_to_overwrite(output: Path) -> None:
    """Raises TrainingError if the folder holds a run or a finished checkpoint."""
    if (output / STATE_FILE).is_file():
        raise TrainingError(f"{output} holds a run already; go on with --resume, or choose another folder.")
    if (output / "best" / WEIGHTS_FILE).is_file():
        raise TrainingError(f"{output} holds a checkpoint already; choose another folder.")


class NetworkConfig(Protocol):
    """What the settings of either recipe say of the network."""

    features: FeatureConfig
    network: str
    backbone: str
    width: int
    dropout: float


def new_classifier(config: NetworkConfig) -> SpoofClassifier:
    """The network of a recipe with random weights."""
    return SpoofClassifier(
        features=config.features,
        network=config.network,
        backbone=config.backbone,
        width=config.width,
        dropout=config.dropout,
    )


def mean_of(checkpoints: list[str | Path]) -> SpoofClassifier:
    """A network with the mean of the weights of checkpoints (Wortsman et al. 2022, "Model soups", arXiv:2203.05482).

    Raises CheckpointError, and TrainingError if they are of different networks or front ends.
    """
    first = SpoofClassifier.load(checkpoints[0])
    mean = AveragedModel(first, use_buffers=True)
    for checkpoint in checkpoints:
        other = SpoofClassifier.load(checkpoint)
        _check_alike(other, first, checkpoint)
        mean.update_parameters(other)
    return mean.module


def with_own_statistics(
    mean: SpoofClassifier,
    clips: list[Clip],
    config: TrainConfig,
    noises: Noises | None,
    n_workers: int,
    device: str | torch.device,
) -> SpoofClassifier:
    """The mean of networks, as a saved checkpoint has it, with batch norms' statistics from windows of these clips, treated.

    For its activations do not have the mean of the networks' statistics (Izmailov et al. 2018, "Averaging weights leads to
    wider optima and better generalization", arXiv:1803.05407, section 3.2).
    """
    sampler = balanced_batches(clips, config)
    sampler.epoch = config.epochs  # draws that no epoch has had
    batches, device = islice(sampler, STATISTICS_BATCHES), torch.device(device)
    windows = training_windows(clips, config, noises, config.features.window_seconds)
    items = loaded(windows, batches, n_workers, device)
    model = deepcopy(mean).eval()
    update_bn(tqdm(items, "statistics", min(STATISTICS_BATCHES, len(sampler)), leave=False), model, device)
    return model.rounded()


def balanced_batches(clips: list[Clip], config: TrainConfig) -> BalancedBatches:
    """The batches that these clips are drawn in."""
    return BalancedBatches(clips, config.batch_size, config.copies_per_batch, config.place_share, config.seed)


def training_windows(clips: list[Clip], config: TrainConfig, noises: Noises | None, seconds: float) -> TrainingWindows:
    """Pieces of these clips, treated as they are for training."""
    rate = config.features.sample_rate
    return TrainingWindows(clips, rate, round(seconds * rate), config.augment, noises)


def _check_alike(other: SpoofClassifier, ours: SpoofClassifier, checkpoint: str | Path) -> None:
    """Raises TrainingError if a checkpoint's network or front end is not ours."""
    shapes, our_shapes = ({name: t.shape for name, t in model.state_dict().items()} for model in (other, ours))
    if shapes != our_shapes or other.config != ours.config:
        raise TrainingError(f"{checkpoint} is a checkpoint of another network or front end.")


class SpecAugment(nn.Module):
    """Blank one band of rows and one stretch of frames per picture (Park et al. 2019, arXiv:1904.08779)."""

    def __init__(self, mask_rows: int, mask_frames: int) -> None:
        super().__init__()
        self.mask_sizes = {2: mask_rows, 3: mask_frames}

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


class RandomFloor(nn.Module):
    """Cut some items of a batch, dB (batch, n_mels, frames), off at a random depth below their loudest cell.

    A background may be noisy, faint or cut away by a noise gate or a codec, in recordings as in machine speech; so that
    its depth says nothing, it is drawn.
    """

    def __init__(self, share: float, depth_db: tuple[float, float]) -> None:
        super().__init__()
        self.share, self.depth_db = share, depth_db

    def forward(self, level_db: torch.Tensor) -> torch.Tensor:
        chance, place = torch.rand(2, len(level_db), 1, 1, device=level_db.device)
        low, high = self.depth_db
        depth = torch.where(chance < self.share, low + (high - low) * place, torch.inf)
        return torch.maximum(level_db, level_db.amax((1, 2), keepdim=True) - depth)


class Run:
    """One training run in one folder; `save_state` keeps everything that changes while it goes on.

    Several processes (`distributed`) draw the same batches and take a share of each. Gradients and batch norm's running
    statistics are averaged at every step, so that all hold the same weights and averages. On CUDA batch norms see the
    whole batch (SyncBatchNorm). On the CPU each process normalises its own share: with batch norms in evaluation mode
    loss and gradient of a step are those of one process on the whole batch, in training they drift away from them.
    """

    def __init__(
        self,
        config: TrainConfig,
        clips: list[Clip],
        noises: Noises | None,
        output: Path,
        device: str,
        compiled: bool = False,
        tensorboard: bool = False,
    ) -> None:
        if config.batch_size < 2 * distributed.size():  # batch norm needs two items
            raise TrainingError(f"A batch of {config.batch_size} is too small for {distributed.size()} processes.")
        self.config, self.output, self.device = config, output, torch.device(device)
        self.train_clips, self.dev_clips = of_split(clips, "train"), of_split(clips, "dev")
        torch.manual_seed(config.seed)
        self.model = new_classifier(config).to(self.device, memory_format=torch.channels_last)
        self.ema = AveragedModel(self.model, multi_avg_fn=_warm_ema(config.ema_decay), use_buffers=True)
        if distributed.size() > 1 and self.device.type == "cuda":
            self.model.network = timm.layers.convert_sync_batchnorm(self.model.network)
        self.random_floor = RandomFloor(config.floor_share, config.floor_db)
        self.spec_augment = SpecAugment(config.mask_rows, config.mask_frames)
        self.sampler = balanced_batches(self.train_clips, config)
        self.dataset = training_windows(self.train_clips, config, noises, config.crop_seconds)
        self.parameters = list(self.model.parameters())
        groups = _weight_groups(self.model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)  # one kernel, not one a tensor
        self.half_type = half_type(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half_type is torch.float16)
        # The function is compiled, not the module, so that saved weights keep their names.
        self.logits = torch.compile(self.model.network.forward) if compiled else self.model.network
        self.tensorboard, self.board = tensorboard, None
        self.epoch = self.step = 0  # `step` counts the batches done in `epoch`
        self.best_eer = float("inf")
        self.loss_sum = self.seconds = 0.0  # of the epoch's steps so far
        self.log: list[dict] = []  # a row an epoch; metrics.csv
        self.data_digest = _digest(clips, noises)
        self.start = "random weights"  # what a run begins with, for its card

    def start_from(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint; raises TrainingError if it is of another network or front end."""
        other = SpoofClassifier.load(checkpoint)
        _check_alike(other, self.model, checkpoint)
        self.model.load_state_dict(other.state_dict())

    def fit(self, n_workers: int) -> None:
        """Train from wherever the run stands to its last epoch; Ctrl-C or SIGTERM stops after the step and saves."""
        if self.tensorboard and distributed.rank() == 0:
            self.board = new_board(self.output)
        with stop_on_signal() as stop:
            if self.epoch == self.step == 0:  # so that it can be resumed from its first moment on
                distributed.by_first(self.save_state)
            while self.epoch < self.config.epochs:
                if self._train_epoch(n_workers, stop):
                    self._finish_epoch()
                if distributed.any_process(stop.is_set):  # in the epoch, or while dev was measured
                    distributed.by_first(self._end_early)

    def _end_early(self) -> None:
        self.save_state()
        raise TrainingError(f"Stopped and saved. Go on with the same command and --resume ({self.output}).")

    def batches(self, n_workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This process's share of every batch that is left of the epoch: waveforms (items, samples) and labels (items,)."""
        self.sampler.epoch, self.sampler.skip = self.epoch, self.step
        return loaded(self.dataset, map(distributed.share, self.sampler), n_workers, self.device)

    def _train_epoch(self, n_workers: int, stop: Stop) -> bool:
        """Train to the end of the epoch; False if it was stopped before."""
        self.model.train()
        size = self.config.batch_size
        bar = tqdm(
            desc=f"epoch {self.epoch + 1}/{self.config.epochs}",
            total=len(self.sampler) * size,
            initial=self.step * size,
            unit="clip",
            disable=distributed.rank() > 0,
        )
        saved_at = step_began = time.monotonic()
        with bar:
            for waveform, label in self.batches(n_workers):
                self.loss_sum += self.train_step(waveform, label)
                self.step += 1
                now = time.monotonic()
                self.seconds, step_began = self.seconds + now - step_began, now
                bar.set_postfix(loss=f"{self.loss_sum / self.step:.4f}", refresh=False)
                bar.update(size)
                if distributed.any_process(stop.is_set):
                    return False
                if distributed.rank() == 0 and now - saved_at > SAVE_EVERY_SECONDS:
                    self.save_state()
                    saved_at = now
        return True

    def train_step(self, waveform: torch.Tensor, label: torch.Tensor) -> float:
        """One optimiser step on this process's share of a batch; returns the whole batch's loss."""
        # Every step seeds its own draws, so that a resumed run repeats exactly what an unbroken one does.
        n_done = self.epoch * len(self.sampler) + self.step
        torch.manual_seed(((self.config.seed + 9_973 * distributed.rank()) * 1_000_003 + n_done) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule(n_done)
        waveform, label = (batch.to(self.device, non_blocking=True) for batch in (waveform, label))
        with torch.no_grad():
            features = self.model.features
            picture = self.spec_augment(features.normalise(self.random_floor(features.decibels(waveform))))
            picture = picture.contiguous(memory_format=torch.channels_last)
        return self.learn(picture, label)

    def learn(self, picture: torch.Tensor, label: torch.Tensor) -> float:
        """One optimiser step on pictures (items, in_chans, rows, frames); returns the loss."""
        loss = self.gradients(picture, label).item()
        if not math.isfinite(loss):
            n_done = self.epoch * len(self.sampler) + self.step
            raise TrainingError(f"The loss is not a number at step {n_done}; lower the learning rate.")
        if self.config.sam_rho:
            with uphill(self.parameters, self.config.sam_rho), still_statistics(self.model):
                self.gradients(picture, label)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_parameters(self.model)
        return loss

    def gradients(self, picture: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Set every parameter's gradient, averaged over all processes; returns the loss (), averaged too."""
        with torch.autocast(self.device.type, dtype=self.half_type, enabled=self.half_type is not None):
            logits = self.logits(picture)
        loss = nn.functional.cross_entropy(logits.float(), label, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        loss = loss.detach()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        statistics = [buffer for buffer in self.model.network.buffers() if buffer.is_floating_point()]
        distributed.average([*gradients, *statistics, loss], len(label))
        return loss

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
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 2),
            "clips_per_second": round(self.step * self.config.batch_size / self.seconds, 2),
        }
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        distributed.by_first(self._record, row)

    def _record(self, row: dict) -> None:
        message = f"epoch {row['epoch']}: loss {row['train_loss']:.4f}"
        if self.epoch % self.config.evaluate_every == 0 or self.epoch == self.config.epochs:
            classifier = self.ema.module.rounded()  # what is measured and calibrated is what is saved
            scores = score_clips(Detector(classifier, "dev", self.device), self.dev_clips)
            eer, _ = equal_error_rate(scores.labels, scores.values)
            row |= {"dev_eer": round(eer, 5), "unjudged": len(scores.unjudged)}
            message += f", dev EER {100 * eer:.2f} %"
            if eer < self.best_eer:
                self.best_eer = eer
                calibrate(classifier, scores, self.config.bonafide_share, self.config.max_wrong_share)
                save_checkpoint(classifier, self.output / "best")
        print(message, flush=True)
        self.log.append(row)
        write_csv(self.output / "metrics.csv", self.log)
        self.save_state()
        if self.board:
            show(self.board, row)

    def save_state(self) -> None:
        """Everything needed to go on; raises StorageError, and then the state saved before is still there."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "best_eer": self.best_eer,
            "log": self.log,
            "start": self.start,
            "data_digest": self.data_digest,
            "config": json.dumps(asdict(self.config)),
        }
        write_state(self.output, state)

    def resume(self) -> None:
        """Take up the run saved in the output folder; raises TrainingError if it is another run."""
        told = json.dumps(asdict(self.config))
        state = distributed.by_first(read_state, self.output, told, self.data_digest)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.best_eer, self.log, self.start = state["best_eer"], state["log"], state["start"]
        self.seconds = state["seconds"]
        if self.scaler.is_enabled() and state["scaler"]:  # empty from a device that needed none
            self.scaler.load_state_dict(state["scaler"])


def loaded(
    dataset: Dataset, batches: Iterable[list[int]], n_workers: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The items of these batches in their order, read by workers that leave Ctrl-C to this process.

    Raises TrainingError if a file has gone or changed since the data were checked, and WorkerKilled.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=n_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
    )
    try:
        with killed_workers_told():
            yield from loader
    except (AudioError, DataError) as error:
        # From a worker it brings the traceback along; the last line is the sentence.
        raise TrainingError(str(error).splitlines()[-1].split("Error: ")[-1]) from None


def write_state(output: Path, state: dict) -> None:
    """Keep the state of a run; raises StorageError, and then the state saved before is still there."""
    file = io.BytesIO()  # torch.save to a path calls a full disk "unexpected pos"
    torch.save(state, file)
    write_whole(output / STATE_FILE, file.getvalue())


def read_state(output: Path, config: str, data_digest: str) -> dict:
    """The state of a run, on the CPU; raises TrainingError if there is none or its settings (JSON) or data were others."""
    path = output / STATE_FILE
    if not path.is_file():
        raise TrainingError(f"There is no run to resume in {output}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        told, had = json.loads(config), json.loads(state["config"])
    except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError):
        raise TrainingError(f"{path} is damaged; start again in another folder.") from None
    differing = [key for key in told | had if told.get(key) != had.get(key)]
    if differing:
        raise TrainingError(f"The run in {output} had other settings: {', '.join(differing)}.")
    if state["data_digest"] != data_digest:
        raise TrainingError(f"The run in {output} had other clips or noises.")
    return state


def save_checkpoint(classifier: SpoofClassifier, folder: Path) -> None:
    """config.json and model.safetensors, written aside and renamed file by file; raises StorageError."""
    with written_aside(folder) as aside:
        classifier.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # the library's own; ours is written with the figures


def _digest(clips: list[Clip], noises: Noises | None) -> str:
    """Tells two data sets apart: names, labels, splits and originals in order, and how much noise there is."""
    parts = [
        f"{clip.path.name} {clip.label} {clip.split} {clip.system} {clip.corpus} {clip.page}"
        f" {clip.original.name if clip.original else ''}"
        for clip in clips
    ]
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


def half_type(device: torch.device) -> torch.dtype | None:
    """What to compute in under autocast: nothing shorter on a CPU, bfloat16 on CUDA, float16 where that is lacking."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def new_board(output: Path):
    """TensorBoard's writer into OUTPUT/tensorboard, for which its package must be there; raises StorageError."""
    from torch.utils.tensorboard import SummaryWriter

    with storage_faults_told(output / "tensorboard"):
        return SummaryWriter(output / "tensorboard")


def show(board, row: dict) -> None:
    """A row of metrics.csv on TensorBoard; raises StorageError."""
    with storage_faults_told(Path(board.log_dir)):
        for name, value in row.items():
            if name != "epoch" and value is not None:
                board.add_scalar(name, value, row["epoch"])
        board.flush()


def write_csv(path: Path, rows: list[dict]) -> None:
    """A table with the last row's keys as its header; raises StorageError."""
    write_whole(path, csv_text(rows[-1], (row.values() for row in rows)))
