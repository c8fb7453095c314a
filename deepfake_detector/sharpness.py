"""Sharpness-aware minimisation (Foret et al. 2020, arXiv:2010.01412): descend by the gradient of a worse place nearby."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def uphill(parameters: list[nn.Parameter], rho: float) -> Iterator[None]:
    """Move the parameters by `rho` (Euclidean length over all of them) along their gradients; on leaving, exactly back.

    A gradient's length does not matter, so it may carry a loss scale. Where it is not finite nothing moves.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    origins = [parameter.detach().clone() for parameter in moved]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in moved]))
    with torch.no_grad():
        if torch.isfinite(norm) and norm > 0:
            for parameter in moved:
                parameter += parameter.grad * (rho / norm)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, origin in zip(moved, origins, strict=True):
                parameter.copy_(origin)


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms go on using the batch's statistics but learn nothing from them for evaluation."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
