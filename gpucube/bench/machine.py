"""The machine of a measurement (processor, cores, memory, accelerator, system, date), and its load from other programs.

In: nothing. Out: a dictionary for the head of a result file, and shares of the machine's time. This module imports no large
library, so that a program that measures memory may import it.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gpucube.execution.machine import cores

DISTURBED = 0.05
"""Share of the machine that other programs may use during a run."""


def machine() -> dict[str, Any]:
    """Name the processor, cores, memory, NVIDIA GPUs, operating system and today's date."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        gpus = found.stdout.split("\n")[:-1] if found.returncode == 0 else []
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": gpus,
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def watch_others() -> Callable[[], float]:
    """Return a function that gives the share of the machine, 0 to 1, which other programs have used since this call."""

    def now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        # the time of a guest is included in that of its user
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return busy, time.process_time(), time.monotonic()

    begin = now()

    def share() -> float:
        busy, own, elapsed = (b - a for a, b in zip(begin, now(), strict=True))
        return min(1.0, max(0.0, (busy - own) / (elapsed * (os.cpu_count() or 1))))

    return share


def busy_percent(seconds: float = 1.0) -> int:
    """Wait some seconds, and return the share of the machine that other programs used meanwhile."""
    others = watch_others()
    time.sleep(seconds)
    return round(100 * others())
