"""Progress of a run: a live display on a terminal, otherwise a plain line from time to time.

In: the name of each stage, the rows read, and the events of channels (`gpucube.imaging.job.Events`). Out: text on a
stream, by default standard error, so that standard output stays clean for results.

Every method may be called from any thread. `rich` is imported only for a terminal.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TextIO

from gpucube import streams
from gpucube.output.records import ChannelRecord, StopCode

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BEFORE_COMPILING = 1.0
SECONDS_BEFORE_ESTIMATE = 5.0
"""The first channels may be easier than those that follow."""

STEPS = 10
"""A plain line is written when another tenth of the work is done, and at least every `SECONDS_BETWEEN_LINES`."""


class Progress:
    """The progress of one run. Use as a context manager: the last line is written at its end.

    Parameters
    ----------
    nchan : int
        Channels of the cube.
    enabled : bool
        If False, nothing is written.
    stream : file, optional
        By default `sys.stderr` as it is when the object is made.
    clock : callable
        Returns seconds that never decrease.
    """

    def __init__(
        self,
        nchan: int,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nchan = nchan
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled and self._stream is not None  # Python has no stream where the system has none
        self._clock = clock
        self._lock = threading.RLock()
        self._live: Any = None
        self._begun = clock()
        self._imaging_begun: float | None = None
        self._stage = ""
        self._rows = (0, 0)  # read, to be read
        self._active: set[int] = set()
        self._done = 0
        self._failed = 0
        self._slowest: ChannelRecord | None = None
        self._last_line = self._begun
        self._last_step = 0

    def __enter__(self) -> Progress:
        self._begun = self._last_line = self._clock()
        if self._enabled and streams.is_terminal(self._stream):
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
            with suppress(OSError, ValueError):
                self._live.stop()
        if self._enabled:
            with self._lock:
                self._write(self._outcome(stopped=kind is not None))

    def stage(self, text: str) -> None:
        """A stage begins, e.g. ``"reading"``."""
        with self._lock:
            if text == self._stage:
                return
            self._stage = text
            self._rows = 0, 0
            self._last_step = 0
            self._line()

    @contextmanager
    def compiling(self, following: str) -> Iterator[None]:
        """Show that code is being compiled which is not in a cache, if this takes longer than a moment."""
        timer = threading.Timer(SECONDS_BEFORE_COMPILING, self.stage, ["compiling, on the first run on a machine"])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self.stage(following)

    def rows_read(self, done_rows: int, total_rows: int) -> None:
        """Some rows have been read."""
        with self._lock:
            self._rows = done_rows, total_rows
            self._line_if_due(done_rows, total_rows)

    def started(self, channel: int) -> None:
        """A worker has begun a channel."""
        with self._lock:
            if self._imaging_begun is None:
                self._imaging_begun = self._clock()
                self._last_step = 0
            self._active.add(channel)

    def finished(self, record: ChannelRecord) -> None:
        """A channel has been imaged, or has failed."""
        with self._lock:
            self._active.discard(record.channel)
            self._done += 1
            self._failed += record.stop_code == StopCode.FAILED
            if self._slowest is None or _seconds(record) > _seconds(self._slowest):
                self._slowest = record
            self._line_if_due(self._done, self._nchan)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        """The planes of these channels are on disk. Nothing is shown."""

    def _line_if_due(self, done: int, total: int) -> None:
        step = done * STEPS // total if total else 0
        if step > self._last_step or self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_step = step
            self._line()

    def _line(self) -> None:
        if self._enabled and self._live is None:
            self._last_line = self._clock()
            self._write(", ".join(self._phrases()))

    def _write(self, text: str) -> None:
        streams.tell(f"gpucube: {text}", self._stream)

    def _phrases(self) -> list[str]:
        """The state of the run in a few phrases, the stage first."""
        phrases = [self._stage] if self._stage else []
        if self._imaging:
            phrases.append(f"{self._done} of {self._nchan} channels done, {len(self._active)} active")
        elif self._rows[1]:
            phrases.append(f"{self._rows[0]:,} of {self._rows[1]:,} rows")
        phrases.append(f"{duration(self._clock() - self._begun)} elapsed")
        if (left := self._seconds_left()) is not None:
            phrases.append(f"about {duration(left)} left")
        return phrases + self._remarks()

    @property
    def _imaging(self) -> bool:
        """True while channels are counted, rather than rows."""
        return self._imaging_begun is not None or self._done > 0

    def _remarks(self) -> list[str]:
        """The slowest channel, and the number of failures."""
        remarks = []
        if (slowest := self._slowest) is not None:
            remarks.append(
                f"slowest channel {slowest.channel} ({duration(_seconds(slowest))}, {slowest.major_cycles} major cycles, "
                f"{slowest.iterations} iterations)"
            )
        if self._failed:
            remarks.append(f"{self._failed} failed")
        return remarks

    def _seconds_left(self) -> float | None:
        """Extrapolated from the channels done; None at first, while most workers are at their first channel, and at the end."""
        if self._imaging_begun is None or not len(self._active) < self._done < self._nchan:
            return None
        imaging = self._clock() - self._imaging_begun
        return None if imaging < SECONDS_BEFORE_ESTIMATE else imaging / self._done * (self._nchan - self._done)

    def _outcome(self, stopped: bool) -> str:
        """The last line."""
        elapsed, done = duration(self._clock() - self._begun), f"{self._done} of {self._nchan} channels done"
        head = f"stopped after {elapsed} with {done}" if stopped else f"{done} in {elapsed}"
        return ", ".join([head, *self._remarks()])

    def _display(self) -> Any:
        """What a terminal shows: the stage with a bar, and the other phrases below."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            done, total = (self._done, self._nchan) if self._imaging else self._rows
            head = Table.grid(padding=(0, 1))
            head.add_row(Text(self._stage), ProgressBar(total=max(total, 1), completed=done, width=50))
            phrases = self._phrases()[1 if self._stage else 0 :]
            return Group(head, *(Text(phrase) for phrase in phrases))


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
