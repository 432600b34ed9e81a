"""What a measurement was made on: processor, cores, memory, accelerator, system, date.

In: nothing. Out: a dictionary for the head of a result file. No large library is imported, so that a program that measures
memory may import this module.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from gpucube.execution.machine import cores


def machine() -> dict[str, Any]:
    """Name of the processor, cores, memory, accelerators, operating system and today's date."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": accelerators(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


class Others:
    """How busy other programs keep the machine: `share` of all its cores since this was made."""

    def __init__(self) -> None:
        self._begin = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        # a guest's time is in that of its user too
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return busy, time.process_time(), time.monotonic()

    def share(self) -> float:
        """0 to 1."""
        busy, own, elapsed = (b - a for a, b in zip(self._begin, self._now(), strict=True))
        return min(1.0, max(0.0, (busy - own) / (elapsed * (os.cpu_count() or 1))))


def busy_percent(seconds: float = 1.0) -> int:
    """Share of the machine that other programs use during the next `seconds`."""
    others = Others()
    time.sleep(seconds)
    return round(100 * others.share())


def accelerators() -> list[str]:
    """Names of the NVIDIA GPUs, as nvidia-smi tells them; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.split("\n")[:-1] if found.returncode == 0 else []
