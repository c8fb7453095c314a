"""Ctrl-C and SIGTERM: training stops between two steps, and its loader's workers leave that to the main process.

And SIGKILL, which a system without memory sends to a worker: one sentence.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed


def ignore_signals(worker: int) -> None:
    """Ctrl-C in a terminal and a cluster's SIGTERM reach every process; only the first decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class WorkerKilled(RuntimeError):
    """A process that works for this one has been killed; the message is one sentence written for the user."""

    def __init__(self) -> None:
        super().__init__(
            "A process that reads or makes recordings was killed, mostly for want of memory; go on with the same command and "
            "fewer --workers, and with --resume if it had begun to train."
        )


@contextmanager
def killed_workers_told() -> Iterator[None]:
    """Around the use of a DataLoader: raises WorkerKilled if one of its workers is killed."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerKilled from None


class Stop:
    """A flag that is looked at between steps."""

    is_set = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Ctrl-C or SIGTERM sets a flag that is looked at between steps; a second one breaks off at once.

    But not under torchrun, which passes on what a cluster has sent to every process anyway, and kills those that linger.
    """
    stop, previous = Stop(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number, frame) -> None:
        stop.is_set = True
        if not torch.distributed.is_torchelastic_launched():
            signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _end_workers()


def _end_workers() -> None:
    """Workers that an error has left would not heed the end of this process, which would wait for them."""
    is_told = hasattr(signal, "SIGCHLD")  # not on Windows
    if is_told:
        on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's handler would call their end a fault
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    if is_told:
        signal.signal(signal.SIGCHLD, on_child)
