"""The two networks and the classifier that owns front end, network and calibration.

No `from __future__ import annotations` here: PyTorchModelHubMixin rebuilds `FeatureConfig` from config.json
only when the annotation is a real type.
"""

import itertools
import json
import pickle
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import httpx2
import safetensors
import safetensors.torch
import timm
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from torch import nn

from .features import FeatureConfig, MelSpectrogram

BONAFIDE, SPOOF = 0, 1
MAX_LOG_ODDS = 15.0  # beyond it a probability in float32 would be 1, and a bound of 1 means that none is high enough
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # the names that the Hub's library gives them


class ResidualBlock(nn.Module):
    """ResNet basic block with an identity shortcut (He et al. 2015, arXiv:1512.03385): x + conv(conv(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)  # each block starts as the identity, which steadies early training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class AttentiveStatistics(nn.Module):
    """Pooling (batch, channels, rows, columns) -> (batch, 2 * channels * rows); Okabe et al. 2018, arXiv:1803.10963.

    Frequency rows are kept apart, because an artefact at 7 kHz means something else than one at 300 Hz. Time is
    pooled by a learnt weight, because a verdict should not depend on when in the window a tell-tale moment comes
    and pauses say little; the weighted deviation lets brief artefacts survive beside the mean.
    """

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Conv1d(features, hidden, 1), nn.Tanh(), nn.Conv1d(hidden, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1, 2)
        weight = self.attention(x).softmax(dim=2)
        mean = (weight * x).sum(2)
        variance = (weight * (x - mean.unsqueeze(2)).square()).sum(2)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


class ResEfficientCNN(nn.Module):
    """EfficientNet-B0 feature maps -> residual stage -> attentive statistics -> embedding -> dropout -> 2 logits.

    Input (batch, in_chans, rows, columns). EfficientNet's maps at stride 16 and 32 are brought to one width and added at
    stride 16, where a cell of the map is still fine enough to show *where* the network looked; two ResNet basic
    blocks with identity shortcuts refine the sum. `dropout` acts on the embedding, before the linear head.
    """

    embedding_size = 64

    def __init__(self, n_rows: int, backbone: str, width: int, dropout: float, in_chans: int = 1) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, in_chans=in_chans, features_only=True, out_indices=(3, 4))
        stride16, stride32 = self.backbone.feature_info.channels()
        self.lateral16 = nn.Sequential(nn.Conv2d(stride16, width, 1, bias=False), nn.BatchNorm2d(width))
        self.lateral32 = nn.Sequential(nn.Conv2d(stride32, width, 1, bias=False), nn.BatchNorm2d(width))
        self.residual = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        rows = -(-n_rows // 16)
        self.pool = AttentiveStatistics(width * rows)
        # A linear head straight on some 2,000 pooled features swings by a whole logit per optimiser step.
        self.embedding = nn.Sequential(
            nn.Linear(2 * width * rows, self.embedding_size, bias=False), nn.BatchNorm1d(self.embedding_size)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.embedding_size, 2)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_chans, rows, columns) -> (batch, width, rows / 16, columns / 16)."""
        fine, coarse = self.backbone(x)
        coarse = nn.functional.interpolate(self.lateral32(coarse), fine.shape[-2:], mode="nearest")
        return self.residual(torch.relu(self.lateral16(fine) + coarse))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map -> embedding (batch, embedding_size)."""
        return self.embedding(self.pool(x))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map -> logits (batch, 2), in the order bona fide, spoof."""
        return self.head(self.dropout(self.embed(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class BasicCNN(nn.Module):
    """The plain first approach: four convolution-and-pool blocks, a global average and a linear head."""

    embedding_size = 128

    def __init__(self, dropout: float, in_chans: int = 1) -> None:
        super().__init__()
        widths = (in_chans, 16, 32, 64, self.embedding_size)
        self.blocks = nn.Sequential(*(self._block(a, b) for a, b in itertools.pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.embedding_size, 2)

    @staticmethod
    def _block(in_channels: int, out_channels: int) -> nn.Sequential:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.MaxPool2d(2))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_chans, rows, columns) -> (batch, 128, rows / 16, columns / 16)."""
        return self.blocks(x)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map -> embedding (batch, embedding_size)."""
        return x.mean((2, 3))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map -> logits (batch, 2), in the order bona fide, spoof."""
        return self.head(self.dropout(self.embed(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class SpoofClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="deepfake-detector",
    pipeline_tag="audio-classification",
    tags=["audio-deepfake-detection", "anti-spoofing", "voice"],
):
    """Front end + network + calibration: waveform windows (batch, samples) -> logits (batch, 2).

    Chosen settings are the constructor's arguments and land in config.json. What data taught beside the weights is
    in buffers: `calibration` (scale, offset: calibrated log-odds = scale * score + offset) and `bounds` (the
    probabilities between which the verdict is "can't tell").
    """

    def __init__(self, features: FeatureConfig, network: str, backbone: str, width: int, dropout: float) -> None:
        super().__init__()
        self.features = MelSpectrogram(features)
        if network == "res-efficientcnn":
            self.network = ResEfficientCNN(features.rows, backbone, width, dropout, features.in_chans)
        elif network == "basic-cnn":
            self.network = BasicCNN(dropout, features.in_chans)
        else:
            raise CheckpointError(f"the network {network!r} is unknown; choose res-efficientcnn or basic-cnn")
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.register_buffer("bounds", torch.tensor([0.5, 0.5]))

    @property
    def config(self) -> FeatureConfig:
        return self.features.config

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.network(self.features(waveform))

    def score(self, waveform: torch.Tensor) -> torch.Tensor:
        """Uncalibrated log-odds of spoof (batch,): larger = more spoof."""
        return log_odds(self(waveform))

    def calibrate(self, score: torch.Tensor) -> torch.Tensor:
        """Score -> probability of spoof between 0 and 1, where 0.5 is the decision boundary; never quite 0 or 1."""
        calibrated = self.calibration[0] * score + self.calibration[1]
        return torch.sigmoid(calibrated.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS))

    @property
    def is_calibrated(self) -> bool:
        """Whether probabilities were fitted to recordings, or are what the network says of itself."""
        return self.calibration.tolist() != [1.0, 0.0]

    def rounded(self) -> "SpoofClassifier":
        """A copy with the weights that a saved checkpoint has."""
        copy = deepcopy(self)
        copy.load_state_dict(_halved(self.state_dict()))
        return copy

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in _halved(self.state_dict()).items()}
        # Not save_file, which makes the file readable for its owner alone: a server may run as somebody else.
        (save_directory / WEIGHTS_FILE).write_bytes(safetensors.torch.save(tensors))

    @classmethod
    def load(cls, folder_or_id: str | Path) -> "SpoofClassifier":
        """Load a checkpoint folder or Hub id, strictly: every field and tensor must be there, and no other.

        Raises CheckpointError with one sentence for the user. Only a Hub id goes to the network.
        """
        name = str(folder_or_id)
        try:
            folder = Path(name) if Path(name).is_dir() else _download(name)
            missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
            if missing:
                raise CheckpointError(f"{' and '.join(missing)} is missing")
            model = cls(**_read_config(folder / CONFIG_FILE)).eval()
            # Not load_file, which takes no path that is not UTF-8.
            model.load_state_dict(safetensors.torch.load((folder / WEIGHTS_FILE).read_bytes()), strict=True)
            _try_out(model)
        except CheckpointError as error:
            reason = str(error)
        except safetensors.SafetensorError:
            reason = f"{WEIGHTS_FILE} is damaged"
        except (json.JSONDecodeError, UnicodeDecodeError):
            reason = f"{CONFIG_FILE} is damaged"
        except OSError:
            reason = "its files may not be read"
        # Whatever torch, timm and the constructors say of values that do not fit.
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, ArithmeticError, MemoryError):
            reason = "its settings and weights do not fit together"
        else:
            return model
        raise CheckpointError(f"The checkpoint {name} cannot be used: {reason}.")


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half precision for kernels; vectors (norm statistics, calibration) stay float32, they weigh nothing."""
    return {
        name: tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        for name, tensor in state.items()
    }


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message is one sentence written for the user."""


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Two logits (batch, 2) -> log-odds of spoof (batch,), float32."""
    return logits[:, SPOOF].float() - logits[:, BONAFIDE].float()


def load_imagenet_weights(model: SpoofClassifier, backbone: str, file: str | Path | None = None) -> None:
    """Start the backbone from timm's ImageNet weights (downloads them once; timm spreads the RGB stem over the channels).

    With `file`, from a saved state of it or of a sibling without squeeze-and-excitation (EfficientNet-Lite0 for B0), which
    has the same convolutions and norms in the same order; the gates of squeeze-and-excitation then start almost open.

    Raises CheckpointError if the weights cannot be fetched or do not fit.
    """
    if file is not None:
        _load_sibling_weights(model.network.backbone, Path(file))
        return
    try:
        pretrained = timm.create_model(
            backbone, pretrained=True, in_chans=model.config.in_chans, features_only=True, out_indices=(3, 4)
        )
    except (OSError, httpx2.HTTPError):
        raise CheckpointError(
            f"The ImageNet weights of {backbone} cannot be fetched; go online once, start from a file with "
            "--backbone-weights, or from random weights with --no-imagenet."
        ) from None
    model.network.backbone.load_state_dict(pretrained.state_dict())


GATE_BIAS = 2.0  # sigmoid(2) = 0.88: a gate that hardly changes what a sibling without gates has learnt


def _load_sibling_weights(backbone: nn.Module, file: Path) -> None:
    """Fill a backbone from a saved state, tensor by tensor in the order of the layers."""
    try:
        given = list(torch.load(file, map_location="cpu", weights_only=True).values())
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, AttributeError):
        given = []
    if not given or not all(isinstance(tensor, torch.Tensor) for tensor in given):
        raise CheckpointError(f"{file} holds no weights that can be read.")
    state = backbone.state_dict()
    is_gate = {name: ".se." in name for name in state}
    if len(given) >= len(state):  # a state of the backbone itself, with its gates
        is_gate = dict.fromkeys(state, False)
    wanted = [name for name in state if not is_gate[name]]
    if len(given) < len(wanted):
        raise CheckpointError(f"{file} holds weights of another network: it ends too early.")
    for name, tensor in zip(wanted, given, strict=False):  # what is left over is the classifier's
        if tensor.shape != state[name].shape and name.startswith("conv_stem"):
            n = state[name].shape[1]
            tensor = tensor.sum(1, keepdim=True).expand(-1, n, -1, -1) / n  # every channel alike, the sum unchanged
        if tensor.shape != state[name].shape:
            raise CheckpointError(f"{file} holds weights of another network: {name} does not fit.")
        state[name].copy_(tensor)
    for name, gate in is_gate.items():
        if gate and name.endswith("conv_expand.bias"):
            state[name].fill_(GATE_BIAS)


def _try_out(model: SpoofClassifier) -> None:
    """One window of faint noise must give a finite answer; raises CheckpointError."""
    noise = 1e-3 * torch.randn(1, model.config.window_samples, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.isfinite(model.calibrate(model.score(noise))).all():
            raise CheckpointError("its weights are not finite numbers")


def _download(hub_id: str) -> Path:
    """Fetch config.json and model.safetensors of a Hub model into the cache; returns their folder."""
    if hub_id.count("/") != 1 or hub_id[0] in "./\\~":
        raise CheckpointError("there is no such folder, and a Hub id has the form user/name")
    try:
        files = [hf_hub_download(hub_id, file) for file in (CONFIG_FILE, WEIGHTS_FILE)]
    except HFValidationError:
        raise CheckpointError("a Hub id has the form user/name") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            "there is no such folder here, and no such model on the Hub that your login may read"
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError("there is no such folder here, and the Hub cannot be reached") from None
    except EntryNotFoundError:
        raise CheckpointError(f"that Hub model has no {CONFIG_FILE} or {WEIGHTS_FILE}") from None
    except (OSError, httpx2.HTTPError):  # refused, broken off midway, or no place to keep it
        raise CheckpointError("the Hub refused it, or it could not be stored here") from None
    return Path(files[0]).parent


def _read_config(path: Path) -> dict:
    """config.json -> constructor arguments; names every field that is missing or unknown."""
    config = json.loads(path.read_text(encoding="utf-8"))
    _check_fields(config, {"features", "network", "backbone", "width", "dropout"}, CONFIG_FILE)
    _check_fields(config["features"], {field.name for field in fields(FeatureConfig)}, f"features in {CONFIG_FILE}")
    if ":" in str(config["backbone"]):  # timm would fetch "hf-hub:..." from the network
        raise CheckpointError("config.json names a backbone that is not timm's own")
    return {**config, "features": FeatureConfig(**config["features"])}


def _check_fields(given: dict, needed: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise CheckpointError(f"{where} is no table of settings")
    for wrong, fault in ((needed - given.keys(), "lacks"), (given.keys() - needed, "has unknown fields")):
        if wrong:
            raise CheckpointError(f"{where} {fault}: {', '.join(sorted(wrong))}")
