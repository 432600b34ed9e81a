"""Measure one command: wall time, CPU seconds, and peak memory of the largest process and of the whole process tree.

In: a command. Out: a `Measurement`. CPU seconds are the kernel's own account (wait4) of the command and of every child
it waited for. Memory is sampled with psutil five times a second: the kernel's ru_maxrss is of no use here, because a
program inherits the high-water mark of the process that started it. The sum over the tree counts shared pages once per
process, so it is an upper bound.
"""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLING_INTERVAL = 0.2
"""Seconds between two looks at the process tree."""

MIB = 2**20


@dataclass(frozen=True)
class Measurement:
    """What one command cost.

    Attributes
    ----------
    wall_seconds, cpu_seconds : float
        Elapsed time; user + system time of the command and its children.
    peak_process_mib, peak_tree_mib : float
        Largest resident set of one process, and of all processes at one moment.
    busy_before_percent : float
        Share of all cores that other programs used in the second before the start: near 0 on a quiet machine.
    exit_status : int
        Of the command.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_process_mib: float
    peak_tree_mib: float
    busy_before_percent: float
    exit_status: int


def measure(command: list[str], log: Path) -> Measurement:
    """Run `command` with its output in the file `log`, and measure it.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    log : pathlib.Path
        Receives standard output and standard error.
    """
    busy = psutil.cpu_percent(interval=1.0)
    peak_process = peak_tree = 0
    ended = threading.Event()

    def sample(root: psutil.Process) -> None:
        nonlocal peak_process, peak_tree
        while not ended.is_set():
            try:
                sizes = [_resident(p) for p in [root, *root.children(recursive=True)]]
            except psutil.NoSuchProcess:
                return
            peak_process, peak_tree = max(peak_process, *sizes), max(peak_tree, sum(sizes))
            ended.wait(SAMPLING_INTERVAL)

    with log.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        sampler = threading.Thread(target=sample, args=(psutil.Process(process.pid),))
        sampler.start()
        usage = _wait(process)
        wall = time.perf_counter() - start
    ended.set()
    sampler.join()
    return Measurement(
        wall_seconds=round(wall, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_process_mib=round(peak_process / MIB, 1),
        peak_tree_mib=round(peak_tree / MIB, 1),
        busy_before_percent=busy,
        exit_status=process.returncode,
    )


def _wait(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Wait for the process and return the resources that it and its children used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
