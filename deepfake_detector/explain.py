"""What decided: a map of the evidence over the spectrogram, and how the answer changes without a band of tones.

The map is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), element by element. The classic form averages each channel's
gradient over the map, which is right for a head behind a global average. Ours keeps frequency rows apart, so one channel
may speak for "fake" at 7 kHz and for "real" at 300 Hz; multiplying gradient and map element by element (HiResCAM, Draelos &
Carin 2020, arXiv:2011.08891) keeps that.
"""

import itertools

import torch
from torch import nn

from .model import log_odds


def grad_cam(network: nn.Module, picture: torch.Tensor, towards_spoof: bool) -> torch.Tensor:
    """Evidence map (batch, rows, columns), >= 0, of a network's input (batch, in_chans, rows, columns).

    The last feature map times how much each of its cells moves the log-odds of spoof (or of bona fide), summed over
    channels. Values of different windows are comparable; scale them for display only.
    """
    with torch.enable_grad():
        picture = picture.clone().requires_grad_(True)  # also works for tensors made in inference mode
        maps = network.forward_features(picture)
        evidence = log_odds(network.forward_head(maps)).sum()
        (gradient,) = torch.autograd.grad(evidence if towards_spoof else -evidence, maps)
    cam = torch.relu((gradient * maps).sum(1, keepdim=True))
    return nn.functional.interpolate(cam, picture.shape[-2:], mode="bilinear", align_corners=False)[:, 0].detach()


def without_bands(network: nn.Module, picture: torch.Tensor, n_bands: int) -> torch.Tensor:
    """Log-odds of spoof (n_bands, batch) of a network's input (batch, in_chans, rows, columns) without one band each.

    The rows are cut into bands from the first to the last row, and one at a time gets the picture's mean (occlusion,
    Zeiler & Fergus 2014, arXiv:1311.2901). Training blanks bands alike, so the network has seen such pictures.
    """
    mean = picture.mean((2, 3), keepdim=True)
    edges = [round(band * picture.shape[2] / n_bands) for band in range(n_bands + 1)]
    scores = []
    for first, last in itertools.pairwise(edges):
        blanked = picture.clone()
        blanked[:, :, first:last] = mean
        with torch.inference_mode():
            scores.append(log_odds(network(blanked)))
    return torch.stack(scores)
