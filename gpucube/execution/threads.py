"""Workers that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from gpucube.data.ingest import BlockReport, IngestJob, ingest_rows
from gpucube.devices.base import DeviceKind
from gpucube.devices.choice import Devices
from gpucube.execution.workers import resident_peak
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.loop import image_chunk
from gpucube.imaging.restore import restore_chunk
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam


class _Cancelled(BaseException):
    """Ends a chunk in a thread when the run is over for another reason."""


class ThreadWorkers:
    """Threads of this process, one device each."""

    def __init__(self, workers: int, kind: DeviceKind):
        self._workers, self._kind = workers, kind
        self._devices = Devices(kind, workers)
        self._cancelled = threading.Event()

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterator[BlockReport]:
        """One reader: casacore holds the interpreter lock, transposing and writing run beside it."""
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

        yield from self._run([(task, (i, c)) for i, c in enumerate(chunks)])

    def _abort_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def restore(self, job: ImageJob, target: Beam, fitted: dict, chunks: Sequence[Sequence[int]]) -> None:
        """As `image`."""

        def task(channels: Sequence[int]) -> None:
            with self._devices.lend(job.settings) as device:
                restore_chunk(job, device, target, fitted, channels)

        for _ in self._run([(task, (c,)) for c in chunks]):
            pass

    def _run(self, calls: Sequence[tuple[Callable, tuple]]) -> Iterator[Any]:
        with self._kind.working():
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="worker")
            try:
                waiting = {pool.submit(function, *arguments) for function, arguments in calls}
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
