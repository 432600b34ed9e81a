"""Facts about the machine and the process that a plan and a summary need."""

from __future__ import annotations

import os
import resource

import psutil


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def available_memory() -> int:
    """Bytes of memory that new processes may take without swapping."""
    return int(psutil.virtual_memory().available)


def resident_peak() -> int:
    """Largest resident size of this process so far, bytes."""
    try:
        # getrusage would count what the parent held when it started this process
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
