"""What runs in the workers of a Dask cluster: reading rows, imaging chunks, restoring chunks.

In: jobs, pickled with each call, because data that Dask scatters are lost with the workers that hold them. Out: small reports
and the peak memory of the process. Planes are written directly to disk. While a chunk is imaged, its events reach the main
process as messages under `TOPIC`: `_EventSender` writes them, `replay` reads them.

Every task may be run again. An error for the user is returned as a `GpucubeError`: if it were raised, the worker would
log it with a traceback.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from gpucube.data.ingest import BlockReport, IngestJob, ingest_rows
from gpucube.data.store import PlaneKey
from gpucube.devices.base import Device, DeviceKind, ImagingSettings
from gpucube.devices.choice import Devices
from gpucube.errors import DeviceLost, GpucubeError
from gpucube.execution.machine import resident_peak
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import Events, ImageJob
from gpucube.imaging.restore import restore_chunk
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam

TOPIC = "gpucube"

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ProcessMemory:
    """The most bytes that a process has held so far, on the host and on its device."""

    process: str
    host: int
    device: int


def _memory_of_this_process(kind: DeviceKind | None = None) -> ProcessMemory:
    return ProcessMemory(
        process=f"{os.uname().nodename}:{os.getpid()}",
        host=resident_peak(),
        device=kind.memory_peak() if kind else 0,
    )


def _errors_as_values(task: Callable[P, R]) -> Callable[P, R | GpucubeError]:
    @functools.wraps(task)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R | GpucubeError:
        try:
            return task(*args, **kwargs)
        except DeviceLost:
            # the nanny starts a new process, which can use the device again; any worker may then do the task
            os._exit(1)
        except GpucubeError as error:
            return error

    return wrapped


@_errors_as_values
def ingest_task(job: IngestJob) -> tuple[list[BlockReport], ProcessMemory]:
    """Read rows into the store."""
    return list(ingest_rows(job)), _memory_of_this_process()


@_errors_as_values
def image_task(
    job: ImageJob, kind: DeviceKind, chunk: int, channels: Sequence[int]
) -> tuple[list[ChannelRecord], ProcessMemory]:
    """Image a chunk."""
    from distributed import get_worker

    worker = get_worker()
    with _lend_device(worker, kind, job.settings) as device:
        records = image_chunk(job, device, channels, chunk=chunk, worker=str(worker.name), events=_EventSender(worker))
    return records, _memory_of_this_process(kind)


@_errors_as_values
def restore_task(
    job: ImageJob, kind: DeviceKind, target: Beam, fitted: Mapping[PlaneKey, Beam], channels: Sequence[int]
) -> tuple[None, ProcessMemory]:
    """Restore a chunk."""
    from distributed import get_worker

    with _lend_device(get_worker(), kind, job.settings) as device:
        restore_chunk(job, device, target, fitted, channels)
    return None, _memory_of_this_process(kind)


_lock = threading.Lock()


def _lend_device(worker: Any, kind: DeviceKind, settings: ImagingSettings) -> AbstractContextManager[Device[Any]]:
    """Return the device of the calling thread. The worker keeps it from task to task."""
    with _lock:
        made_for, devices = getattr(worker, "gpucube_devices", (None, None))
        if devices is None or made_for != kind:
            devices = Devices(kind, worker.state.nthreads).__enter__()  # for as long as this process lives
            worker.gpucube_devices = kind, devices
    return devices.lend(settings)


class _EventSender:
    """`Events` that are sent to the main process. Dask's messages contain plain types only."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def started(self, channel: int) -> None:
        self._worker.log_event(TOPIC, ("started", channel))

    def finished(self, record: ChannelRecord) -> None:
        self._worker.log_event(TOPIC, ("finished", record.to_json()))

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        self._worker.log_event(TOPIC, ("safe", [r.to_json() for r in records]))


def replay(message: tuple[str, Any], events: Events) -> None:
    """Report an event that a worker has sent."""
    name, content = message
    if name == "started":
        events.started(content)
    elif name == "finished":
        events.finished(ChannelRecord.from_json(content))
    else:
        events.safe([ChannelRecord.from_json(line) for line in content])
