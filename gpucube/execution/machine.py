"""The cores, memory and open files that this process may use under the limits of machine, job and shell.

In: the control groups (versions 1 and 2) with all enclosing ones, SLURM's variables, resource limits and affinity. Out:
every limit by the name of its source, so that a plan can name the one that applies.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from gpucube.execution.signals import start_resource_tracker

Limits = dict[str, int]
"""Amounts by the name of whoever sets them."""

ROOT = Path("/")

MOST_FILES = 65536

COMPILER_BYTES = 150_000_000
"""What numba maps to compile on a first run, and keeps. Measured. Where it gets no more, the process dies."""


def core_limits(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Limits:
    """CPU cores that this process may use."""
    try:
        limits = {"the affinity of the process": len(os.sched_getaffinity(0))}
    except AttributeError:  # macOS
        limits = {"the machine": os.cpu_count() or 1}
    for folder in _control_groups("cpu", root):
        quota, period = (
            _numbers(folder / "cpu.max")
            or [number for name in ("quota", "period") for number in _numbers(folder / f"cpu.cfs_{name}_us")]
            or (0, 0)
        )
        if quota > 0 and period > 0:
            _note(limits, "the control group's CPU quota", max(1, quota // period))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if number := _variable(name, environment):
            _note(limits, name, number)
    return limits


def memory_limits(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Limits:
    """Bytes that all processes of a run together may still take."""
    limits = {"the memory that is free on this machine": int(psutil.virtual_memory().available)}
    for folder in _control_groups("memory", root):
        used = _numbers(folder / "memory.current") or _numbers(folder / "memory.usage_in_bytes") or [0]
        statistics: dict[str, int] = {}
        with suppress(OSError, ValueError):
            for line in (folder / "memory.stat").read_text().splitlines():
                name, value = line.split()
                statistics[name] = int(value)
        # files in the page cache count as used, but the system gives their memory back when it is needed
        cached = sum(
            statistics.get(f"total_{name}", statistics.get(name, 0)) for name in ("inactive_file", "active_file")
        )
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            for most in _numbers(folder / name)[:1]:
                _note(limits, "the control group's memory limit", max(0, most - max(0, used[0] - cached)))
    if per_node := _variable("SLURM_MEM_PER_NODE", environment):  # MiB
        _note(limits, "SLURM_MEM_PER_NODE", per_node << 20)
    if per_core := _variable("SLURM_MEM_PER_CPU", environment):
        _note(limits, "SLURM_MEM_PER_CPU", per_core * (_variable("SLURM_CPUS_ON_NODE", environment) or 1) << 20)
    return limits


def process_memory_limits() -> Limits:
    """Bytes that a single process like this one may hold."""
    held = psutil.Process().memory_info()
    limits: Limits = {}
    for name, kind, taken in (
        ("the limit of address space (ulimit -v)", resource.RLIMIT_AS, held.vms),
        ("the limit of data (ulimit -d)", resource.RLIMIT_DATA, getattr(held, "data", held.vms)),
    ):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            limits[name] = min(most, max(0, most - taken + held.rss - COMPILER_BYTES))
    return limits


def least(limits: Limits) -> tuple[int, str]:
    """The smallest limit and its source."""
    return min((amount, name) for name, amount in limits.items())


def cores() -> int:
    """CPU cores that this process may use."""
    return least(core_limits())[0]


def available_memory() -> int:
    """Bytes of memory that new processes may take."""
    return least(memory_limits())[0]


def why_no_processes() -> str:
    """Say why this process cannot start others and communicate with them; empty if it can."""
    if multiprocessing.current_process().daemon:  # as those of a Pool, and Dask's workers
        return "daemonic processes of multiprocessing are not allowed to have children"
    try:
        start_resource_tracker()
        multiprocessing.get_context("spawn").Lock()  # lies in /dev/shm, where a container may have none
        tempfile.TemporaryFile().close()
    except OSError as error:
        return f"semaphores or temporary files: {error.strerror or error}"
    return ""


@contextmanager
def open_files_raised() -> Iterator[None]:
    """Let this process, and those that it starts, open as many files as the hard limit allows, and as a run can need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    with suppress(OSError, ValueError):
        if soft != resource.RLIM_INFINITY and soft < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from its own up to the outermost.

    In a container the path of the group may be that of the host, which does not exist there. Then only the outermost
    group is returned.
    """
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controllers or ".")
            if not top.is_dir():
                top = root / "sys/fs/cgroup" / controller
            own = top / (path.strip("/") if ".." not in path else "")
            for folder in (own, *own.parents):
                yield folder
                if folder == top:
                    break


def _numbers(file: Path) -> list[int]:
    """Read the numbers of a file; none if it does not exist or contains ``max``."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def _variable(name: str, environment: Mapping[str, str]) -> int:
    """Read the number in a variable; 0 if there is none."""
    try:
        return max(0, int(environment.get(name, "0")))
    except ValueError:
        return 0


def _note(limits: Limits, name: str, amount: int) -> None:
    """Keep the smallest limit of a name."""
    limits[name] = min(amount, limits.get(name, amount))


def resident() -> int:
    """Resident size of this process, bytes."""
    return int(psutil.Process().memory_info().rss)


def resident_peak() -> int:
    """Largest resident size of this process so far, bytes."""
    try:
        # getrusage would count what the parent held when it started this process
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
