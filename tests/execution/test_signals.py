"""Signals that end a run, in commands and in scripts, while workers start and while they work."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpucube.devices.cpu.kind import CpuKind
from gpucube.errors import GpucubeError
from gpucube.execution.dask_cluster import start_cluster
from gpucube.execution.signals import ENDING, PATIENCE, signals_interrupt
from gpucube.execution.tuning import ClusterLimits


@pytest.fixture(autouse=True)
def usual_ctrl_c() -> Iterator[None]:
    """A shell lets programs ignore Ctrl-C that it starts in the background, the test suite too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_that_ends_a_job_interrupts_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), signals_interrupt():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_the_program_ignores_or_handles_is_left_to_it() -> None:
    """``nohup`` lets a program ignore SIGHUP, so that it outlives its terminal."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with signals_interrupt():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_that_follows_does_not_disturb_the_end(again: signal.Signals) -> None:
    """People press Ctrl-C twice; batch systems signal every process, and some of them again."""
    ended = False
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(again)
            ended = True
    assert ended
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_program_that_was_interrupted_is_not_disturbed_while_python_itself_ends() -> None:
    """Python then no longer calls handlers."""
    code = """
import os, signal
from gpucube.execution.signals import signals_interrupt
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), numbers=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        for number in numbers:
            kill(process, number)
last = Last()
try:
    with signals_interrupt(lasting=True):
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    pass
raise SystemExit(130)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (130, "")


def test_a_later_signal_acts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hangs while a run ends can be interrupted."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        clock[0] += PATIENCE
        signal.raise_signal(signal.SIGINT)


def test_a_program_that_was_interrupted_is_not_disturbed_at_its_exit(tmp_path: Path) -> None:
    code = """
import signal, time
from gpucube.execution.signals import signals_interrupt
try:
    with signals_interrupt(lasting=True):
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    pass
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.raise_signal(number)
print("ended")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "ended\n", "")


def test_a_signal_that_comes_in_a_callback_of_the_garbage_collector_is_not_lost() -> None:
    def callback(phase: str, info: object) -> None:
        if phase == "start" and not came:
            came.append(True)
            signal.raise_signal(signal.SIGINT)

    came: list[bool] = []
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        gc.callbacks.append(callback)
        try:
            gc.collect()
            assert came
            time.sleep(10)
        finally:
            gc.callbacks.remove(callback)


def test_only_the_main_thread_listens_to_signals() -> None:
    entered = []

    def enter() -> None:
        with signals_interrupt():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


SCRIPT = """
import sys
from gpucube.execution.tuning import Tuning
from gpucube.run import image
from gpucube.schema.parameters import make_parameters
print("begins", flush=True)
parameters = make_parameters(vis=sys.argv[1], imagename=sys.argv[2], cell="20arcsec", quiet=True, device="cpu", workers=2,
                             chunksize=1, **eval(sys.argv[3]))
image(parameters, tuning=Tuning(in_process_seconds=float(sys.argv[4]), seconds_between_syncs=0.0))
print("finished")
"""
"""A script as users write it: it has no guard against being run again by the processes that it starts."""


def script(folder: Path, ms: Path, seconds: float, **changes: Any) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    arguments = [str(ms), str(folder / "cube"), repr(changes), str(seconds)]
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_script_needs_no_guard_to_start_a_cluster(tiny_ms: Any, tmp_path: Path) -> None:
    assert script(tmp_path, tiny_ms.ms, seconds=0.0, imsize=64).communicate(timeout=120) == ("begins\nfinished\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGXCPU], ids=lambda number: number.name)
def test_a_script_that_is_ended_says_what_is_safe(number: signal.Signals, tiny_ms: Any, tmp_path: Path) -> None:
    slow = {"imsize": 512, "niter": 10**8, "gain": 0.05, "cycleniter": 5, "nmajor": 20, "threshold": "1nJy"}
    run = script(tmp_path, tiny_ms.ms, seconds=1e9, **slow)
    journal = tmp_path / "cube.journal"
    while run.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert "interrupted: " in last
    assert "of 12 channels are safe on disk, the same call with `resume=True` continues the run" in last


@dataclass(frozen=True)
class HangingKind(CpuKind):
    """Its workers never come to life."""

    seconds: float = 0.0
    error: str = ""

    def cluster_factory(self) -> Callable[..., Any]:
        def make(**_: object) -> Any:
            time.sleep(self.seconds)
            if self.error:
                raise OSError(28, self.error)
            raise AssertionError("nobody waits any more")

        return make


def test_a_cluster_that_does_not_start_ends_within_the_time_that_is_stated() -> None:
    begun = time.monotonic()
    with pytest.raises(GpucubeError, match=r"did not start within 1 s: `workers=1` needs none"):
        start_cluster(1, HangingKind(seconds=8.0), 10**9, ClusterLimits(start_seconds=1.0, abandon_seconds=0.5))
    assert time.monotonic() - begun < 4


def test_a_cluster_that_cannot_start_says_why() -> None:
    with pytest.raises(
        GpucubeError, match=r"cannot be started: .*No space left for semaphores: `workers=1` needs none"
    ):
        start_cluster(1, HangingKind(error="No space left for semaphores"), 10**9, ClusterLimits(start_attempts=2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_are_heard_while_a_cluster_does_not_start(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    begun = time.monotonic()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    try:
        with pytest.raises(KeyboardInterrupt), signals_interrupt():
            timer.start()
            start_cluster(1, HangingKind(seconds=8.0), 10**9, ClusterLimits(abandon_seconds=0.5))
    finally:
        timer.join()
        signal.signal(number, before)
    assert time.monotonic() - begun < 4
