"""Workers that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from gpucube.data.ingest import BlockReport, IngestJob, ingest_rows
from gpucube.devices.choice import device_memory_peak, make_device
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

    def __init__(self, workers: int, device: str):
        self._workers, self._device = workers, device
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
            device = make_device(self._device, job.settings, self._workers)
            worker = threading.current_thread().name
            return image_chunk(
                job,
                device,
                channels,
                chunk=index,
                worker=worker,
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
            restore_chunk(job, make_device(self._device, job.settings, self._workers), target, fitted, channels)

        for _ in self._run([(task, (c,)) for c in chunks]):
            pass

    def _run(self, calls: Sequence[tuple[Callable, tuple]]) -> Iterator[Any]:
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
        return device_memory_peak(self._device)

    def close(self) -> None:
        """Nothing is held."""
