"""Progress: plain lines now and then without a terminal, a display that stays in place on a terminal."""

from __future__ import annotations

import io
import threading
import time
from typing import TextIO, cast

import pytest
from records import channel_record

from gpucube.execution.progress import Progress, duration
from gpucube.output.records import ChannelRecord, StopCode


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(channel: int, seconds: float = 1.0, code: StopCode = StopCode.NSIGMA) -> ChannelRecord:
    return channel_record(
        channel, stop_code=code, iterations=100 * channel, major_cycles=channel, seconds={"minor": seconds}
    )


def test_nothing_is_written_if_it_is_not_enabled() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress(3, enabled=False, stream=stream) as progress:
            progress.stage("reading")
            progress.rows_read(10, 10)
            progress.started(0)
            progress.finished(record(0))
        assert stream.getvalue() == ""


def test_a_line_for_every_tenth_of_the_channels_and_a_last_one() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, clock=clock) as progress:
        for channel in range(1000):
            progress.started(channel)
            clock.now += 0.001
            progress.finished(record(channel))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert all(line.startswith("gpucube: ") for line in lines)
    assert "100 of 1000 channels done" in lines[0]
    assert lines[-1].startswith("gpucube: 1000 of 1000 channels done in 1.0 s")


def test_a_line_every_five_seconds_when_little_happens() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, stream=stream, clock=clock) as progress:
        for channel in range(20):
            progress.started(channel)
            clock.now += 1.0
            progress.finished(record(channel))
        assert len(stream.getvalue().splitlines()) == 4


def test_rows_are_counted_while_reading() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(4, stream=stream, clock=clock) as progress:
        progress.stage("reading")
        for rows in range(0, 200_001, 100):
            progress.rows_read(rows, 200_000)
        lines = stream.getvalue().splitlines()
    assert lines[0] == "gpucube: reading, 0.0 s elapsed"
    assert len(lines) == 11
    assert "20,000 of 200,000 rows" in lines[1]


def test_a_new_stage_is_written_once_and_without_the_rows_of_the_last() -> None:
    stream = io.StringIO()
    with Progress(4, stream=stream, clock=Clock()) as progress:
        progress.stage("reading")
        progress.rows_read(10, 10)
        progress.stage("imaging")
        progress.stage("imaging")
        assert stream.getvalue().splitlines()[2:] == ["gpucube: imaging, 0.0 s elapsed"]


def test_time_left_follows_from_the_channels_done() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(10, stream=stream, clock=clock) as progress:
        clock.now = 100.0  # reading does not count
        progress.started(0)
        clock.now = 103.0
        progress.finished(record(0))
        assert "left" not in stream.getvalue(), "too early: the first channels may be the easy ones"
        clock.now = 108.0
        progress.finished(record(1))
    # 8 s for two channels, eight to go
    assert "about 32.0 s left" in stream.getvalue()


def test_there_is_no_estimate_while_most_workers_are_at_their_first_channel() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(10, stream=stream, clock=clock) as progress:
        for channel in range(4):
            progress.started(channel)
        clock.now = 8.0
        progress.finished(record(0))
        assert "left" not in stream.getvalue(), "the other three have nothing to show yet"
        for channel in range(1, 4):
            progress.finished(record(channel))
    assert "about 12.0 s left" in stream.getvalue()


def test_compiling_is_a_stage_only_where_it_takes_a_while() -> None:
    stream = io.StringIO()
    with Progress(1, stream=stream) as progress:
        progress.stage("reading")
        with progress.compiling("reading"):
            pass
        assert "compiling" not in stream.getvalue()
        with progress.compiling("reading"):
            time.sleep(1.2)
        assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
            "gpucube: reading",
            "gpucube: compiling",
            "gpucube: reading",
        ]


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), ValueError("closed")]
)
def test_a_stream_that_cannot_be_written_ends_no_run(error: Exception) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    with Progress(1, stream=Gone()) as progress:
        progress.stage("reading")
        progress.finished(record(0))


def test_a_stream_without_the_methods_of_a_file_gets_what_it_can_take() -> None:
    class Logger:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

    logger, closed = Logger(), io.StringIO()
    closed.close()
    for stream in (logger, closed):
        with Progress(1, stream=cast(TextIO, stream)) as progress:
            progress.stage("reading")
            progress.finished(record(0))
    assert "reading" in logger.text
    assert "1 of 1 channels done" in logger.text


def test_the_slowest_channel_and_the_failures_are_named() -> None:
    stream = io.StringIO()
    with Progress(3, stream=stream) as progress:
        progress.finished(record(0, 1.0))
        progress.finished(record(1, 125.0))
        progress.finished(record(2, 2.0, StopCode.FAILED))
    last = stream.getvalue().splitlines()[-1]
    assert "slowest channel 1 (2 min 05 s, 1 major cycles, 100 iterations)" in last
    assert last.endswith("1 failed")


def test_an_exception_is_not_reported_as_success() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress(3, stream=stream) as progress:
        progress.finished(record(0))
        raise RuntimeError
    assert stream.getvalue().splitlines()[-1].startswith("gpucube: stopped after")


def test_no_rows_and_no_channels_do_no_harm() -> None:
    stream = io.StringIO()
    with Progress(0, stream=stream) as progress:
        progress.rows_read(0, 0)
    assert stream.getvalue().splitlines()[-1].startswith("gpucube: 0 of 0 channels done")


def test_threads_lose_no_channel() -> None:
    stream = io.StringIO()
    with Progress(800, stream=stream) as progress:

        def work(first: int) -> None:
            for channel in range(first, first + 100):
                progress.started(channel)
                progress.finished(record(channel))

        threads = [threading.Thread(target=work, args=(100 * k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stream.getvalue().splitlines()[-1].startswith("gpucube: 800 of 800 channels done")


def test_a_terminal_gets_a_display_that_goes_away_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(2, stream=stream) as progress:
        progress.stage("imaging")
        progress.started(0)
        progress.finished(record(0))
    text = stream.getvalue()
    assert "\x1b[" in text  # drawn in place
    assert "1 of 2 channels done, 0 active" in text
    assert "slowest channel 0" in text
    assert text.splitlines()[-1].endswith("(1.0 s, 0 major cycles, 0 iterations)")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(1, stream=stream) as progress:
        progress.finished(record(0))
    assert "\x1b[" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.26, "9.3 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
