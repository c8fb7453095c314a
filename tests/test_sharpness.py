"""Sharpness-aware minimisation: as far uphill as told, exactly back, and nothing learnt on the way."""

import pytest
import torch

from deepfake_detector.sharpness import still_statistics, uphill

from .conftest import tiny_classifier


def test_climbs_along_the_gradient_and_returns() -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    unused = torch.nn.Parameter(torch.randn(2))
    sum(parameter.square().sum() for parameter in parameters).backward()
    before = [parameter.detach().clone() for parameter in parameters]
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
    with uphill([*parameters, unused], rho=0.05):
        moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)])
        assert moved.norm().item() == pytest.approx(0.05, rel=1e-4)
        assert torch.nn.functional.cosine_similarity(moved, gradient, dim=0).item() == pytest.approx(1.0, abs=1e-4)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_a_gradient_that_overflowed_moves_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, float("inf")])
    with uphill([parameter], rho=0.05):
        assert torch.equal(parameter.detach(), torch.ones(2))


@pytest.mark.parametrize("network", ["basic-cnn", "res-efficientcnn"])
def test_statistics_stand_still(network: str) -> None:
    model = tiny_classifier(network).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    waveform = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    with still_statistics(model):
        model(waveform)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model(waveform)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
