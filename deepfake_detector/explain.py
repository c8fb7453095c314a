"""Which part of the spectrogram decided: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), element by element.

The classic form averages each channel's gradient over the map, which is right for a head behind a global average.
Ours keeps frequency rows apart, so one channel may speak for "fake" at 7 kHz and for "real" at 300 Hz; multiplying
gradient and map element by element (HiResCAM, Draelos & Carin 2020, arXiv:2011.08891) keeps that.
"""

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
