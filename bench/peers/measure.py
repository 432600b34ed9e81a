"""Measure one command: wall time, CPU seconds, peak memory, and what it puts on disk.

In: a command, and the folder it writes to. Out: a `Measurement`. CPU seconds and bytes written are the kernel's own
account (wait4 and /proc/PID/io) of the command and of every child it waited for. Memory is sampled with psutil five
times a second: the kernel's ru_maxrss is of no use here, because a program inherits the high-water mark of the process
that started it. The sum over the tree counts shared pages once per process, so it is an upper bound. Files, temporary
ones included, are counted at the same moments; a file that lives for less than a fifth of a second may be missed.
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
    """What one command cost."""

    wall_seconds: float
    cpu_seconds: float  # user + system time of the command and its children
    peak_process_mib: float  # largest resident set of one process
    peak_tree_mib: float  # and of all processes at one moment
    busy_before_percent: float  # share of the machine that other programs used in the second before the start
    exit_status: int
    files_left: int  # in the folder at the end
    files_most: int  # at any moment
    left_mib: float  # their lengths, likewise
    most_mib: float
    written_mib: float | None
    """What the command and its children wrote to file systems, mapped and deleted files included, by the kernel's account
    (write_bytes). It counts whole pages, and pages that are overwritten before they reach the disk only once. File systems in
    memory do not count. None where the kernel keeps no such account."""


def measure(command: list[str], log: Path, folder: Path) -> Measurement:
    """Run `command` and measure it. Every file below `folder` counts. The output goes to the file `log`, which lies elsewhere."""
    busy = psutil.cpu_percent(interval=1.0)
    peak_process = peak_tree = files_most = bytes_most = 0
    ended = threading.Event()

    def sample(root: psutil.Process) -> None:
        nonlocal peak_process, peak_tree, files_most, bytes_most
        while not ended.is_set():
            files, size = disk_use(folder)
            files_most, bytes_most = max(files_most, files), max(bytes_most, size)
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
        usage, written = _wait(process)
        wall = time.perf_counter() - start
    ended.set()
    sampler.join()
    files_left, bytes_left = disk_use(folder)
    return Measurement(
        wall_seconds=round(wall, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_process_mib=round(peak_process / MIB, 1),
        peak_tree_mib=round(peak_tree / MIB, 1),
        busy_before_percent=busy,
        exit_status=process.returncode,
        files_left=files_left,
        files_most=max(files_most, files_left),
        left_mib=round(bytes_left / MIB, 1),
        most_mib=round(max(bytes_most, bytes_left) / MIB, 1),
        written_mib=None if written is None else round(written / MIB, 1),
    )


def disk_use(folder: Path) -> tuple[int, int]:
    """Number of files below a folder and the sum of their lengths in bytes; links are not followed."""
    files = size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
            files += 1
    return files, size


def _wait(process: subprocess.Popen[bytes]) -> tuple[resource.struct_rusage, int | None]:
    """Wait for a process; return the resources that it and its children used, and the bytes that they wrote."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    written = _bytes_written(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage, written


def _bytes_written(pid: int) -> int | None:
    """Bytes written by a process that has ended but was not waited for: the kernel has then added its children's."""
    try:
        account = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in account.splitlines() if line.startswith("write_bytes"))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
