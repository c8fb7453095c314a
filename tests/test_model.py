"""The networks, and a checkpoint that comes back exactly as it was saved."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from deepfake_detector.features import FeatureConfig
from deepfake_detector.model import (
    GATE_BIAS,
    CheckpointError,
    ResEfficientCNN,
    ResidualBlock,
    SpoofClassifier,
    load_imagenet_weights,
)

from .conftest import TINY_FEATURES, tiny_classifier

COLOUR_FEATURES = replace(TINY_FEATURES, normalise="colour", picture_width=113, picture_height=46)


@pytest.mark.parametrize("features", [TINY_FEATURES, COLOUR_FEATURES], ids=["mel", "colour"])
@pytest.mark.parametrize("network", ["res-efficientcnn", "basic-cnn"])
def test_saved_and_loaded_gives_the_same_logits(tmp_path: Path, network: str, features: FeatureConfig) -> None:
    model = tiny_classifier(network, features)
    model.load_state_dict({name: t.half().to(t.dtype) for name, t in model.state_dict().items()})  # as it is stored
    model.save_pretrained(tmp_path)
    loaded = SpoofClassifier.load(tmp_path)
    wave = torch.randn(2, TINY_FEATURES.window_samples)
    assert torch.equal(model(wave), loaded(wave))
    assert loaded.config == features
    assert torch.equal(loaded.bounds, model.bounds)


def test_a_folder_s_name_need_not_be_text(tmp_path: Path, checkpoint: Path) -> None:
    odd = Path(shutil.copytree(checkpoint, tmp_path / os.fsdecode(b"caf\xe9")))
    assert SpoofClassifier.load(odd).config == SpoofClassifier.load(checkpoint).config


def test_kernels_are_half_precision_and_statistics_are_not(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    assert all((t.dtype == torch.float16) == (t.dim() > 1) for t in tensors.values() if t.is_floating_point())


def test_hub_mixin_reads_the_same_checkpoint(checkpoint: Path) -> None:
    wave = torch.randn(1, TINY_FEATURES.window_samples)
    by_mixin = SpoofClassifier.from_pretrained(str(checkpoint), strict=True)
    assert torch.equal(by_mixin(wave), SpoofClassifier.load(checkpoint)(wave))


def test_config_names_every_choice(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["features"] == TINY_FEATURES.__dict__
    assert set(config) == {"features", "network", "backbone", "width", "dropout"}


@pytest.mark.parametrize(("n_mels", "n_frames"), [(32, 63), (80, 100), (128, 188)])
def test_feature_map_keeps_time_and_frequency(n_mels: int, n_frames: int) -> None:
    network = ResEfficientCNN(n_mels, "efficientnet_b0", width=16, dropout=0.0).eval()
    maps = network.forward_features(torch.randn(1, 1, n_mels, n_frames))
    assert maps.shape == (1, 16, -(-n_mels // 16), -(-n_frames // 16))
    assert network.forward_head(maps).shape == (1, 2)


def test_residual_block_has_an_identity_shortcut() -> None:
    block = ResidualBlock(8).eval()
    x = torch.rand(1, 8, 5, 7)
    assert torch.allclose(block(x), x)  # its last norm starts at zero, so only the shortcut speaks
    torch.nn.init.ones_(block.bn2.weight)
    assert not torch.allclose(block(x), x)


def test_every_parameter_learns() -> None:
    model = tiny_classifier("res-efficientcnn").train()
    torch.nn.functional.cross_entropy(model(torch.randn(4, 16_000)), torch.tensor([0, 1, 0, 1])).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12}
    # At the first step nothing passes a block that starts as the identity; a softmax ignores a common bias.
    excused = {
        f"residual.{i}.{part}.{kind}"
        for i in (0, 1)
        for part in ("conv1", "bn1", "conv2")
        for kind in ("weight", "bias")
    }
    assert {name.removeprefix("network.") for name in still} <= excused | {"pool.attention.2.bias"}


def test_calibration_puts_half_at_the_boundary() -> None:
    model = tiny_classifier()
    model.calibration.copy_(torch.tensor([2.0, -1.0]))
    assert model.calibrate(torch.tensor([0.5])).item() == pytest.approx(0.5)
    probabilities = model.calibrate(torch.linspace(-5, 5, 11))
    assert (probabilities.diff() > 0).all()


def test_feature_config_has_no_defaults() -> None:
    with pytest.raises(TypeError):
        FeatureConfig(sample_rate=16_000)


def test_backbone_starts_from_a_file_of_its_own_kind(tmp_path: Path) -> None:
    given = timm.create_model("efficientnet_b0").state_dict()
    torch.save(given, tmp_path / "b0.pth")
    model = tiny_classifier("res-efficientcnn")
    load_imagenet_weights(model, "efficientnet_b0", tmp_path / "b0.pth")
    state = model.network.backbone.state_dict()
    assert torch.equal(state["conv_stem.weight"], given["conv_stem.weight"].sum(1, keepdim=True))
    assert all(torch.equal(state[name], given[name]) for name in state if name != "conv_stem.weight")


def test_backbone_starts_from_its_sibling_without_gates(tmp_path: Path) -> None:
    given = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(given, tmp_path / "lite0.pth")
    model = tiny_classifier("res-efficientcnn")
    load_imagenet_weights(model, "efficientnet_b0", tmp_path / "lite0.pth")
    state = model.network.backbone.state_dict()
    shared = [name for name in state if ".se." not in name and name != "conv_stem.weight"]
    assert len(shared) > 250 and all(torch.equal(state[name], given[name]) for name in shared)
    assert all((state[name] == GATE_BIAS).all() for name in state if name.endswith("se.conv_expand.bias"))


def test_other_backbone_weights_are_refused(tmp_path: Path) -> None:
    for given in (timm.create_model("resnet18").state_dict(), [1], {}, {"state_dict": {}}):
        torch.save(given, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="holds"):
            load_imagenet_weights(tiny_classifier("res-efficientcnn"), "efficientnet_b0", tmp_path / "w.pth")
