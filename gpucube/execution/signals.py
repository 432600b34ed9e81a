"""Signals that end a run: those of batch systems and closing terminals have the same effect as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)
"""The last three warn of a limit of time. A process that does nothing about them would die of them without a word."""


def start_resource_tracker() -> None:
    """Start Python's process that tracks semaphores, if it does not run.

    It must not receive signals that are meant for this process. The first process or semaphore to be made would start
    it otherwise.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        resource_tracker.ensure_running()  # ignores SIGINT and SIGTERM by itself
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let each of `ENDING` raise KeyboardInterrupt, unless the program handles or ignores it (as ``nohup`` does SIGHUP)."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other can set a handler
        yield
        return
    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
