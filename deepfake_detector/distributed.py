"""Several processes train one network: which one am I, what is my share, and how do all agree (torch.distributed).

Without `torchrun` every function does what one process alone needs. Gradients are averaged by hand rather than by
DistributedDataParallel, so that the model keeps its own type, attributes and names in one process and in many.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Answer = TypeVar("Answer")
# The others wait for the first process while it evaluates, which may take hours.
PATIENCE = timedelta(days=2)


class ProcessError(ValueError):
    """Another process of the run is gone; the message is written for the user."""


def join() -> None:
    """Meet the processes that `torchrun` started: over gloo between CPUs, over NCCL between CUDA devices."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, timeout=PATIENCE)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0; the first one evaluates, writes and prints for all."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> list[str]:
    """The words that start so many processes on so many machines."""
    if not dist.is_torchelastic_launched():
        return ["python"]
    machines = f"--nnodes={os.environ['GROUP_WORLD_SIZE']}"
    return ["torchrun", machines, f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"]


def spare_cores() -> int:
    """How many processes may load audio beside this one: its share of the cores, where they are many without two of them.

    One for this process, which keeps a GPU busy, and one for the thread that hands it the batches.
    """
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n_cores = may_use // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(n_cores, max(4, n_cores - 2)))


def local_device(name: str) -> str:
    """`cuda` -> the CUDA device of this process on its machine; any other name stays as it is."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and dist.is_initialized() else name


def share(batch: Sequence) -> Sequence:
    """This process's items of a batch that all processes draw alike."""
    return batch[rank() :: size()]


def average(tensors: list[torch.Tensor], n_items: int) -> None:
    """Replace floating tensors of one device, in place, by their mean over all processes, weighted by `n_items` each.

    For gradients of mean losses over `n_items` this is the gradient of the mean loss over the whole batch, whether or
    not the shares are of equal size.
    """
    if size() == 1:
        return
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors] + [tensors[0].new_ones(1).float()])
    flat *= n_items
    with _others_may_be_gone():
        dist.all_reduce(flat)
    parts = (flat[:-1] / flat[-1]).split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def any_process(flag: bool) -> bool:
    """True in every process if the flag is set in one of them."""
    if size() == 1:
        return flag
    flags = torch.tensor(float(flag))
    with _others_may_be_gone():
        dist.all_reduce(flags)
    return flags.item() > 0


def by_first(function: Callable[..., Answer], *arguments) -> Answer:
    """Let the first process call `function` and hand its answer to all. If it fails there, the others end quietly."""
    if size() == 1:
        return function(*arguments)
    answer = [None, False]  # what it returned, and whether it returned at all
    if rank() == 0:
        try:
            answer = [function(*arguments), True]
        finally:
            with _others_may_be_gone():
                dist.broadcast_object_list(answer)
        return answer[0]
    with _others_may_be_gone():
        dist.broadcast_object_list(answer)
    if not answer[1]:
        time.sleep(5)  # torchrun ends all processes when one fails; the first one's message comes before that
        sys.exit(1)
    return answer[0]


@contextmanager
def _others_may_be_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # gloo's and NCCL's way to say that the other side has hung up
        raise ProcessError("Another process of this run has ended, so that this one cannot go on alone.") from None
