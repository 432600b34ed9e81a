"""The choice of workers: threads, a local cluster, or an existing scheduler."""

from __future__ import annotations

import os

from gpucube.devices.choice import LANES
from gpucube.execution.dask_workers import DaskWorkers, GpuWorkers
from gpucube.execution.threads import ThreadWorkers
from gpucube.execution.workers import Workers


def make_workers(in_process: bool, workers: int, device: str, scheduler: str, memory: int) -> Workers:
    """Threads here, a local cluster whose workers may hold `memory` bytes each, or the cluster of an existing scheduler."""
    if in_process:
        return ThreadWorkers(max(workers, LANES[device]), device)
    if device == "cuda" and not scheduler:
        return GpuWorkers(len(os.sched_getaffinity(0)), workers, memory)
    return DaskWorkers(workers, device, scheduler, memory)
