"""The choice of workers: threads, a local cluster, or an existing scheduler."""

from __future__ import annotations

import os

from gpucube.devices.base import DeviceKind
from gpucube.execution.dask_workers import DaskWorkers, GpuWorkers
from gpucube.execution.threads import ThreadWorkers
from gpucube.execution.workers import Workers


def make_workers(in_process: bool, workers: int, kind: DeviceKind, scheduler: str, memory: int) -> Workers:
    """Threads here, a local cluster whose workers may hold `memory` bytes each, or the cluster of an existing scheduler."""
    if in_process:
        return ThreadWorkers(max(workers, kind.lanes), kind)
    if not (kind.workers_share_process or scheduler):
        return GpuWorkers(len(os.sched_getaffinity(0)), workers, kind, memory)
    return DaskWorkers(workers, kind, scheduler, memory)
