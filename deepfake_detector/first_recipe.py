"""The training loop of the published experiment: a network on pictures, and a state from which it goes on where it stopped."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import nn
from tqdm import tqdm

from .data.augment import AugmentConfig
from .data.images import Pictures, SetSize, Split, labels_csv, leaks, share_of_known_speakers
from .features import FeatureConfig
from .interrupt import Stop, stop_on_signal
from .metrics import balanced_accuracy, eer_interval, equal_error_rate, expected_calibration_error
from .model import BONAFIDE, SPOOF, SpoofClassifier, log_odds
from .training import (
    SAVE_EVERY_SECONDS,
    STATE_FILE,
    TrainingError,
    half_type,
    loaded,
    new_classifier,
    read_state,
    refuse_to_overwrite,
    save_checkpoint,
    show,
    write_csv,
    write_state,
)

Step = tuple[float, torch.Tensor, torch.Tensor]  # mean loss, labels (batch,) and log-odds of spoof (batch,)


@dataclass(frozen=True)
class FirstConfig:
    """Everything a run of the first recipe was told."""

    size: SetSize
    features: FeatureConfig
    augment: AugmentConfig
    network: str
    backbone: str
    width: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a network says of pictures: mean cross-entropy, labels (n,) and log-odds of spoof (n,)."""

    loss: float
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, steps: list[Step]) -> "Outcome":
        """The steps of one pass taken together."""
        losses, labels, scores = zip(*steps, strict=True)
        n_pictures = sum(map(len, labels))
        loss = sum(loss * len(some) for loss, some in zip(losses, labels, strict=True)) / n_pictures
        return cls(loss, torch.cat(labels).numpy(), torch.cat(scores).numpy())

    @property
    def accuracy(self) -> float:
        return float(((self.scores > 0) == (self.labels == SPOOF)).mean())

    @property
    def probabilities(self) -> np.ndarray:
        """The network's own, (n,): this recipe calibrates nothing."""
        return expit(self.scores)

    def figures(self) -> dict:
        """Accuracies, EER, calibration error (None where a class is missing); confusion[truth][answer], real before fake."""
        called_fake = self.scores > 0
        rows = [called_fake[self.labels == label] for label in (BONAFIDE, SPOOF)]
        of_both = dict.fromkeys(("balanced_accuracy", "eer", "eer_interval", "expected_calibration_error"))
        if all(len(row) for row in rows):
            of_both = {
                "balanced_accuracy": balanced_accuracy(self.labels, called_fake),
                "eer": equal_error_rate(self.labels, self.scores)[0],
                "eer_interval": eer_interval(self.labels, self.scores),
                "expected_calibration_error": expected_calibration_error(self.labels, self.probabilities),
            }
        confusion = [[int((~row).sum()), int(row.sum())] for row in rows]
        return {"pictures": len(self.labels), "accuracy": self.accuracy, **of_both, "confusion": confusion}


class PictureRun:
    """One network on one split of the pictures of `folder`; log, state and checkpoint go to `output`."""

    def __init__(
        self, config: FirstConfig, split: Split, folder: Path, output: Path, device: str, start: str = "random weights"
    ) -> None:
        self.config, self.split, self.output, self.device = config, split, output, torch.device(device)
        self.start = start  # what the weights are before the first step; for the card, and two splits start alike
        self.data = {name: Pictures(pictures, folder) for name, pictures in split.items()}
        torch.manual_seed(config.seed)
        self.model = new_classifier(config).to(self.device, memory_format=torch.channels_last)
        self.is_bfloat16 = half_type(self.device) is torch.bfloat16
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.board = None  # of TensorBoard, if the caller wants one
        self.is_resumed = False
        self.log: list[dict] = []  # a row an epoch; metrics.csv
        self.steps: list[Step] = []  # of the epoch that is under way
        labels = "".join(f"{name}\n{labels_csv(pictures)}" for name, pictures in split.items())
        self.data_digest = hashlib.sha256(labels.encode()).hexdigest()

    @property
    def is_started(self) -> bool:
        return (self.output / STATE_FILE).is_file()

    def resume(self) -> None:
        """Take up the run after the last step that was saved; raises TrainingError if it is another run or there is none."""
        state = read_state(self.output, json.dumps(asdict(self.config)), self.data_digest)
        if state["start"] != self.start:
            raise TrainingError(f"The run in {self.output} started from {state['start']}, not from {self.start}.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log, self.steps, self.is_resumed = state["log"], state["steps"], True

    def fit(self, n_workers: int) -> None:
        """Train to the last epoch, print and log each, save the checkpoint; raises TrainingError if it diverges.

        Ctrl-C or SIGTERM stops after the step and saves, which raises TrainingError too.
        """
        if not self.is_resumed:
            refuse_to_overwrite(self.output)
        with stop_on_signal() as stop:
            if not self.is_resumed:  # so that it can be, from its first moment on
                self.save_state()
            while len(self.log) < self.config.epochs and not stop.is_set:
                if self._train_epoch(n_workers, stop):
                    train, self.steps = Outcome.of(self.steps), []
                    self._finish_epoch(train, self.evaluate("validation", n_workers))
            if stop.is_set:
                self.save_state()
                raise TrainingError(f"Stopped and saved. Go on with the same command and --resume ({self.output}).")
        save_checkpoint(self.model, self.output / "best")

    def _train_epoch(self, n_workers: int, stop: Stop) -> bool:
        """Train to the end of the epoch; False if it was stopped before."""
        self.model.train()
        # Epoch and step seed their own draws, so that a resumed run repeats exactly what an unbroken one does.
        seed = (self.config.seed * 1_000_003 + len(self.log)) % 2**48
        batches = self._batches(torch.Generator().manual_seed(seed))
        title, saved_at = f"epoch {len(self.log) + 1}/{self.config.epochs}", time.monotonic()
        left, size = batches[len(self.steps) :], self.config.batch_size
        n_pictures, n_done = sum(map(len, batches)), len(self.steps) * size
        with tqdm(desc=title, total=n_pictures, initial=n_done, unit="picture", leave=False) as bar:
            for pictures, label in loaded(self.data["train"], left, n_workers, self.device):
                torch.manual_seed(seed * 10_007 + len(self.steps))
                self.steps.append(self._step(pictures, label, is_training=True))
                bar.set_postfix(loss=f"{self.steps[-1][0]:.4f}", refresh=False)
                bar.update(len(label))
                if stop.is_set:
                    return False
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    self.save_state()
                    saved_at = time.monotonic()
        return True

    def _batches(self, generator: torch.Generator) -> list[list[int]]:
        """The train pictures in a random order; a last batch of one is left out, for a batch norm cannot learn from it."""
        order, size = torch.randperm(len(self.data["train"]), generator=generator).tolist(), self.config.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return batches[:-1] if len(batches[-1]) == 1 else batches

    def evaluate(self, part: str, n_workers: int) -> Outcome:
        """The network as it stands on the pictures of a part."""
        self.model.eval()
        size, n_pictures = self.config.batch_size, len(self.data[part])
        batches = [list(range(start, min(start + size, n_pictures))) for start in range(0, n_pictures, size)]
        read = loaded(self.data[part], batches, n_workers, self.device)
        items = tqdm(read, part, total=len(batches), leave=False)
        with torch.inference_mode():
            return Outcome.of([self._step(pictures, label, is_training=False) for pictures, label in items])

    def test(self, n_workers: int) -> Outcome:
        """What the saved checkpoint says of the test pictures."""
        self.model.load_state_dict(SpoofClassifier.load(self.output / "best").state_dict())
        return self.evaluate("test", n_workers)

    def figures(self, outcome: Outcome) -> dict:
        """Figures of the test pictures, and of those of them that are no augmented copies."""
        as_recorded = np.array([picture.copy == 0 for picture in self.split["test"]])
        without_copies = Outcome(outcome.loss, outcome.labels[as_recorded], outcome.scores[as_recorded])
        sizes = {name: len(pictures) for name, pictures in self.split.items()}
        figures = {"sizes": sizes, "leaks": leaks(self.split), **outcome.figures()}
        figures["speakers_known"] = share_of_known_speakers(self.split)
        return {**figures, "without_copies": without_copies.figures()}

    def _step(self, pictures: torch.Tensor, label: torch.Tensor, is_training: bool) -> Step:
        """What the network says of a batch; one step of the optimiser if it is for training."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        # Figures are those of float32, in which the checkpoint will be used.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16 and is_training):
            logits = self.model.network(pictures).float()
        loss = nn.functional.cross_entropy(logits, label.to(self.device))
        if not torch.isfinite(loss):
            raise TrainingError("The loss is not a number; lower the learning rate.")
        if is_training:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        # A copy of the labels: a worker's own would hold a file open until the end of the epoch.
        return loss.item(), label.clone(), log_odds(logits.detach()).cpu()

    def _finish_epoch(self, train: Outcome, validation: Outcome) -> None:
        row = {"epoch": len(self.log) + 1}
        for name, outcome in (("train", train), ("validation", validation)):
            row |= {f"{name}_loss": round(outcome.loss, 5), f"{name}_accuracy": round(outcome.accuracy, 5)}
        self.log.append(row)
        print(
            f"epoch {row['epoch']}: train loss {train.loss:.4f}, accuracy {100 * train.accuracy:.2f} %; "
            f"validation loss {validation.loss:.4f}, accuracy {100 * validation.accuracy:.2f} %",
            flush=True,
        )
        write_csv(self.output / "metrics.csv", self.log)  # first: a run killed between the two repeats the last steps
        self.save_state()
        if self.board:
            show(self.board, row)

    def save_state(self) -> None:
        """Everything needed to go on; raises StorageError, and then the state saved before is still there."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"log": self.log, "steps": self.steps, "start": self.start}
        state |= {"config": json.dumps(asdict(self.config)), "data_digest": self.data_digest}
        write_state(self.output, state)
