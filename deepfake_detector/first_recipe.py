"""The training loop of the published experiment: a network on pictures, an epoch at a time, no more to it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data.augment import AugmentConfig
from .data.images import Pictures, SetSize, Split, labels_csv, leaks
from .features import FeatureConfig
from .metrics import balanced_accuracy, equal_error_rate
from .model import BONAFIDE, SPOOF, SpoofClassifier, log_odds
from .training import STATE_FILE, TrainingError, new_classifier, read_state, save_checkpoint, write_csv, write_state


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

    @property
    def accuracy(self) -> float:
        return float(((self.scores > 0) == (self.labels == SPOOF)).mean())

    def figures(self) -> dict:
        """Accuracies, EER (None where a class is missing) and confusion matrix ([truth][answer], real before fake)."""
        called_fake = self.scores > 0
        rows = [called_fake[self.labels == label] for label in (BONAFIDE, SPOOF)]
        has_both = all(len(row) for row in rows)
        return {
            "pictures": len(self.labels),
            "accuracy": self.accuracy,
            "balanced_accuracy": balanced_accuracy(self.labels, called_fake) if has_both else None,
            "eer": equal_error_rate(self.labels, self.scores)[0] if has_both else None,
            "confusion": [[int((~row).sum()), int(row.sum())] for row in rows],
        }


class PictureRun:
    """One network on one split of the pictures of `folder`; log, state and checkpoint go to `output`."""

    def __init__(self, config: FirstConfig, split: Split, folder: Path, output: Path, device: str) -> None:
        self.config, self.split, self.output, self.device = config, split, output, torch.device(device)
        self.data = {name: Pictures(pictures, folder) for name, pictures in split.items()}
        torch.manual_seed(config.seed)
        self.model = new_classifier(config).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.log: list[dict] = []  # a row an epoch; metrics.csv
        labels = "".join(f"{name}\n{labels_csv(pictures)}" for name, pictures in split.items())
        self.data_digest = hashlib.sha256(labels.encode()).hexdigest()

    @property
    def is_started(self) -> bool:
        return (self.output / STATE_FILE).is_file()

    def resume(self) -> None:
        """Take up the run after its last whole epoch; raises TrainingError if it is another run or there is none."""
        state = read_state(self.output, json.dumps(asdict(self.config)), self.data_digest)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log = state["log"]

    def fit(self, n_workers: int) -> None:
        """Train to the last epoch, print and log each, save the checkpoint; raises TrainingError if it diverges."""
        if self.is_started and not self.log:
            raise TrainingError(f"{self.output} holds a run already; go on with --resume, or choose another folder.")
        for epoch in range(len(self.log), self.config.epochs):
            # Every epoch seeds its own draws, so that a resumed run repeats exactly what an unbroken one does.
            torch.manual_seed(self.config.seed * 1_000_003 + epoch)
            train = self._pass("train", n_workers, f"epoch {epoch + 1}/{self.config.epochs}", is_training=True)
            self._finish_epoch(train, self.evaluate("validation", n_workers))
        save_checkpoint(self.model, self.output / "best")

    def evaluate(self, part: str, n_workers: int) -> Outcome:
        """The network as it stands on the pictures of a part."""
        with torch.inference_mode():
            return self._pass(part, n_workers, part, is_training=False)

    def test(self, n_workers: int) -> dict:
        """Figures of the saved checkpoint on the test pictures, and on those of them that are no augmented copies."""
        self.model.load_state_dict(SpoofClassifier.load(self.output / "best").state_dict())
        outcome = self.evaluate("test", n_workers)
        as_recorded = np.array([picture.copy == 0 for picture in self.split["test"]])
        without_copies = Outcome(outcome.loss, outcome.labels[as_recorded], outcome.scores[as_recorded])
        sizes = {name: len(pictures) for name, pictures in self.split.items()}
        figures = {"sizes": sizes, "leaks": leaks(self.split), **outcome.figures()}
        return {**figures, "without_copies": without_copies.figures()}

    def _pass(self, part: str, n_workers: int, title: str, is_training: bool) -> Outcome:
        """Once through a part of the split, learning from it or not."""
        self.model.train(is_training)
        size, data = self.config.batch_size, self.data[part]
        loader = DataLoader(
            data,
            size,
            shuffle=is_training,
            drop_last=is_training and len(data) % size == 1,  # a batch norm cannot learn from one picture
            num_workers=n_workers,
            pin_memory=self.device.type == "cuda",
        )
        losses, labels, scores = [], [], []
        for pictures, label in tqdm(loader, title, leave=False):
            logits, loss = self._step(pictures, label, is_training)
            losses.append(loss * len(label))
            labels.append(label.numpy())
            scores.append(log_odds(logits).cpu().numpy())
        labels, scores = np.concatenate(labels), np.concatenate(scores)
        return Outcome(sum(losses) / len(labels), labels, scores)

    def _step(self, pictures: torch.Tensor, label: torch.Tensor, is_training: bool) -> tuple[torch.Tensor, float]:
        """Logits (batch, 2) and mean loss of a batch; one step of the optimiser if it is for training."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model.network(pictures).float()
        loss = nn.functional.cross_entropy(logits, label.to(self.device))
        if not torch.isfinite(loss):
            raise TrainingError("The loss is not a number; lower the learning rate.")
        if is_training:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return logits.detach(), loss.item()

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
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "log": self.log}
        state |= {"config": json.dumps(asdict(self.config)), "data_digest": self.data_digest}
        write_csv(self.output / "metrics.csv", self.log)  # first: a run killed between the two repeats the epoch
        write_state(self.output, state)
