"""Signals that end a run: what batch systems and closing terminals send does what Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)
"""The last three warn of a limit of time. A process that does nothing about them would die of them without a word."""


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
