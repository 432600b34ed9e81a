"""Signals that end a run: those of batch systems and closing terminals have the same effect as Ctrl-C."""

from __future__ import annotations

import atexit
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)
"""The last three announce that a time limit is near. They end a process that does not handle them, without a message."""

PATIENCE = 15.0
"""Seconds after the first signal during which further signals are ignored, so that the run can end properly."""


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
def signals_interrupt(lasting: bool = False) -> Iterator[None]:
    """Let Ctrl-C and each of `ENDING` raise KeyboardInterrupt, unless the program handles or ignores it (``nohup``: SIGHUP).

    What follows within `PATIENCE` does nothing: people press Ctrl-C twice, and batch systems send signals again. In a program
    that ends with this context, this is `lasting` after an interruption.
    """
    acted, last, unraisable = -math.inf, int(signal.SIGINT), sys.unraisablehook

    def interrupt(number: int, frame: object) -> None:
        nonlocal acted, last
        if time.monotonic() - acted >= PATIENCE:
            acted, last = time.monotonic(), number
            raise KeyboardInterrupt

    def send_again(lost: Any) -> None:
        """Python drops what is raised in a callback of its garbage collector, such as Dask's."""
        nonlocal acted
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            unraisable(lost)
            return
        acted = -math.inf
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, last)).start()

    def ignore_at_exit() -> None:
        """Python gives its handlers up in the last steps of a program. What had no effect then must not end it."""
        for number in ours if acted > 0 else ():
            signal.signal(number, signal.SIG_IGN)

    if threading.current_thread() is not threading.main_thread():  # no other can set a handler
        yield
        return
    usual = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(ENDING, signal.SIG_DFL)
    ours = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in ours:
        signal.signal(number, interrupt)
    if ours:
        sys.unraisablehook = send_again
    if lasting:
        atexit.register(ignore_at_exit)  # before libraries add theirs, so it runs after them
    try:
        yield
    finally:
        if ours:
            sys.unraisablehook = unraisable
        if not (lasting and acted > 0):
            for number, handler in ours.items():
                signal.signal(number, handler)
