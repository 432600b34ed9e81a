"""Workers that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

from gpucube.data.ingest import BlockReport, IngestJob, ingest_rows
from gpucube.data.store import PlaneKey
from gpucube.devices.base import DeviceKind
from gpucube.devices.choice import Devices
from gpucube.execution.machine import resident_peak
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.restore import restore_chunk
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam

R = TypeVar("R")


class _Cancelled(BaseException):
    """Ends a chunk in a thread when the run is over for another reason."""


class ThreadWorkers:
    """Threads of this process, each with its own device.

    Gridding, FFTs and compiled loops do not hold the interpreter lock. Small jobs run this way, because starting a cluster would
    take most of their time.
    """

    def __init__(self, workers: int, kind: DeviceKind) -> None:
        self._workers, self._kind = workers, kind
        self._devices = Devices(kind, workers)
        self._cancelled = threading.Event()

    def everywhere(self, function: Callable[[], R]) -> list[R]:
        """Call a function here."""
        return [function()]

    def begin_imaging(self) -> None:
        """Threads are ready."""

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterator[BlockReport]:
        """One thread reads, because casacore holds the interpreter lock; the others transpose and write."""
        for job in jobs:
            yield from ingest_rows(job, self._workers)

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """Chunks in order, each by the next free thread."""

        def task(index: int, channels: Sequence[int]) -> list[ChannelRecord]:
            with self._devices.lend(job.settings) as device:
                return image_chunk(
                    job,
                    device,
                    channels,
                    chunk=index,
                    worker=threading.current_thread().name,
                    events=events,
                    abort_if_cancelled=self._abort_if_cancelled,
                )

        yield from self._run(task, list(enumerate(chunks)))

    def _abort_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def restore(
        self, job: ImageJob, target: Beam, fitted: Mapping[PlaneKey, Beam], chunks: Sequence[Sequence[int]]
    ) -> None:
        """Chunks in order, each by the next free thread."""

        def task(channels: Sequence[int]) -> None:
            with self._devices.lend(job.settings) as device:
                restore_chunk(job, device, target, fitted, channels)

        for _ in self._run(task, [(channels,) for channels in chunks]):
            pass

    def _run(self, task: Callable[..., R], arguments: Sequence[tuple[object, ...]]) -> Iterator[R]:
        """Yield the value of the task for each tuple of arguments, as it ends."""
        with self._devices:
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="worker")
            try:
                waiting = {pool.submit(task, *a) for a in arguments}
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BaseException:
                self._cancelled.set()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def memory_peak(self) -> int:
        """Of this process."""
        return resident_peak()

    def device_memory_peak(self) -> int:
        """Of this process."""
        return self._kind.memory_peak()

    def close(self) -> None:
        """Nothing is held."""
