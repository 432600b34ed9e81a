"""Live progress of a run: on a terminal a display that stays in place, elsewhere a plain line now and then.

In: what the controller reports: a stage's name, rows read, channels begun, and the `ChannelRecord` of each finished
channel. Out: text on a stream, by default standard error, so that standard output stays clean for results.

Every method may be called from any thread. `rich` is imported only for a terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from gpucube.output.records import ChannelRecord, StopCode

SECONDS_BETWEEN_LINES = 5.0
STEPS = 10
"""Plain lines come when another tenth is done, or after `SECONDS_BETWEEN_LINES`."""


class Progress:
    """Progress of one run, as a context manager.

    Parameters
    ----------
    nchan : int
        Channels of the cube.
    enabled : bool
        Show nothing at all if False.
    stream : file, optional
        Where to show it; by default `sys.stderr` as it is now.
    clock : callable
        Seconds, never falling.
    """

    def __init__(
        self,
        nchan: int,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nchan = nchan
        self._enabled = enabled
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._lock = threading.RLock()
        self._live: Any = None
        self._begun = clock()
        self._imaging_begun: float | None = None
        self._stage = ""
        self._rows = (0, 0)
        self._active: set[int] = set()
        self._done = 0
        self._failed = 0
        self._slowest: ChannelRecord | None = None
        self._last_line = self._begun
        self._last_step = 0

    def __enter__(self) -> Progress:
        self._begun = self._last_line = self._clock()
        if self._enabled and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._display,
                console=Console(file=self._stream),
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._enabled:
            with self._lock:
                self._write(self._last_words(stopped=kind is not None))

    def stage(self, text: str) -> None:
        """Say what is being done now, e.g. ``"reading"``."""
        with self._lock:
            if text == self._stage:
                return
            self._stage = text
            self._rows = 0, 0
            self._last_step = 0
            self._line()

    def ingest(self, done_rows: int, total_rows: int) -> None:
        """Rows read so far."""
        with self._lock:
            self._rows = done_rows, total_rows
            self._line_if_due(done_rows, total_rows)

    def started(self, channel: int) -> None:
        """A channel is being imaged."""
        with self._lock:
            if self._imaging_begun is None:
                self._imaging_begun = self._clock()
                self._last_step = 0
            self._active.add(channel)

    def finished(self, record: ChannelRecord) -> None:
        """A channel has come to its end."""
        with self._lock:
            self._active.discard(record.channel)
            self._done += 1
            self._failed += record.stop_code == StopCode.FAILED
            if self._slowest is None or _seconds(record) > _seconds(self._slowest):
                self._slowest = record
            self._line_if_due(self._done, self._nchan)

    def _line_if_due(self, done: int, total: int) -> None:
        step = done * STEPS // total if total else 0
        if step > self._last_step or self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_step = step
            self._line()

    def _line(self) -> None:
        if self._enabled and self._live is None:
            self._last_line = self._clock()
            self._write(", ".join(self._words()))

    def _write(self, text: str) -> None:
        print(f"gpucube: {text}", file=self._stream, flush=True)

    def _words(self) -> list[str]:
        """The state in a few phrases."""
        words = [self._stage] if self._stage else []
        if self._imaging_begun is None and not self._done:
            if self._rows[1]:
                words.append(f"{self._rows[0]:,} of {self._rows[1]:,} rows")
        else:
            words.append(f"{self._done} of {self._nchan} channels done, {len(self._active)} active")
        words.append(f"{duration(self._clock() - self._begun)} elapsed")
        left = self._seconds_left()
        if left is not None:
            words.append(f"about {duration(left)} left")
        return words + self._remarkable()

    def _remarkable(self) -> list[str]:
        words = []
        if self._slowest is not None:
            record = self._slowest
            words.append(
                f"slowest channel {record.channel} ({duration(_seconds(record))}, {record.major_cycles} major cycles, "
                f"{record.iterations} iterations)"
            )
        if self._failed:
            words.append(f"{self._failed} failed")
        return words

    def _seconds_left(self) -> float | None:
        """Extrapolated from the channels done; None as long as there are none, or none left."""
        if self._imaging_begun is None or not 0 < self._done < self._nchan:
            return None
        return (self._clock() - self._imaging_begun) / self._done * (self._nchan - self._done)

    def _last_words(self, stopped: bool) -> str:
        elapsed = duration(self._clock() - self._begun)
        head = (
            f"stopped after {elapsed} with {self._done} of {self._nchan} channels done"
            if stopped
            else f"{self._done} of {self._nchan} channels done in {elapsed}"
        )
        return ", ".join([head, *self._remarkable()])

    def _display(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            imaging = self._imaging_begun is not None or self._done
            done, total = (self._done, self._nchan) if imaging else self._rows
            head = Table.grid(padding=(0, 1))
            head.add_row(Text(self._stage), ProgressBar(total=max(total, 1), completed=done, width=50))
            words = self._words()[1 if self._stage else 0 :]
            return Group(head, *(Text(word) for word in words))


def _seconds(record: ChannelRecord) -> float:
    return sum(record.seconds.values())


def duration(seconds: float) -> str:
    """``"3.2 s"``, ``"2 min 05 s"`` or ``"1 h 02 min"``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
