"""Workers of a Dask cluster: jobs in, their reports out as they end.

Each thread has one or two chunks at a time, so that only a few are lost if a worker dies. Lost chunks are split until the
channel that kills its worker is alone. That channel is marked as failed.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from gpucube import disk
from gpucube.data.ingest import BlockReport, IngestJob
from gpucube.data.store import PlaneKey
from gpucube.devices.base import DeviceKind
from gpucube.devices.choice import Hardware, SeenGpus, find_hardware, gpus_here
from gpucube.errors import GpucubeError
from gpucube.execution.dask_cluster import Call, DaskCluster, connect
from gpucube.execution.machine import available_memory, least, process_memory_limits, resident_peak
from gpucube.execution.tasks import TOPIC, image_task, ingest_task, replay, restore_task
from gpucube.execution.tuning import ClusterLimits
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.plane import fail_channel
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam
from gpucube.text import one_line

T = TypeVar("T")

Chunk = tuple[int, list[int]]
"""Index of a chunk, for the records, and its channels."""


class DaskWorkers:
    """Workers of a Dask cluster.

    Parameters
    ----------
    cluster : DaskCluster
        Closed with this object.
    kind : DeviceKind
        What the workers image on.
    start_imagers : callable, optional
        Starts the cluster that images, if it is not the one that reads.
    """

    def __init__(
        self, cluster: DaskCluster, kind: DeviceKind, start_imagers: Callable[[], DaskCluster] | None = None
    ) -> None:
        self._cluster, self._kind, self._start_imagers = cluster, kind, start_imagers
        self._host_peaks: dict[str, int] = {}
        self._reading_peak = self._device_peak = 0

    def begin_imaging(self) -> None:
        """Change to the cluster that images."""
        if self._start_imagers is not None:
            self._reading_peak, self._host_peaks = self.memory_peak(), {}
            self._cluster.close()
            self._cluster, self._start_imagers = self._start_imagers(), None

    def everywhere(self, function: Callable[[], T]) -> list[T]:
        """Call a function in every worker process; returns the values of those that did not die meanwhile."""
        return self._cluster.on_every_worker(function)

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterator[BlockReport]:
        """Each worker opens the MeasurementSet itself and writes its rows into the shared store."""
        with _ways_in({job.partition.folder for job in jobs}) as way_in:
            calls: list[Call] = [(ingest_task, (job.through(way_in[job.partition.folder]),)) for job in jobs]
            for reports in self._values("reading", calls):
                yield from reports

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """Image chunks in order, a few at a time. A chunk that fails is halved until the faulty channel is alone."""

        def hear(message: tuple[str, Any]) -> None:
            # if it cannot be journalled now, it is journalled with its chunk, and the error is reported then
            with suppress(GpucubeError):
                replay(message, events)

        self.begin_imaging()
        with self._cluster.listening(TOPIC, hear):
            pending: list[Chunk] = [(i, list(channels)) for i, channels in enumerate(chunks)]
            suspects: list[Chunk] = []
            while pending:
                failed: list[Chunk] = []
                for chunk, outcome in self._outcomes(job, pending):
                    if isinstance(outcome, Exception):
                        failed.append(chunk)
                    else:
                        yield outcome
                suspects += [chunk for chunk in failed if len(chunk[1]) == 1]
                pending = [half for chunk in failed if len(chunk[1]) > 1 for half in _halves(chunk)]
            # What waited on a worker that died is blamed with the channel that killed it: each gets a last try on its own
            for (_, channels), outcome in self._outcomes(job, suspects, window=1):
                if isinstance(outcome, Exception):
                    outcome = [fail_channel(job, channels[0], one_line(outcome))]
                    events.finished(outcome[0])
                yield outcome

    def _outcomes(
        self, job: ImageJob, chunks: Sequence[Chunk], window: int | None = None
    ) -> Iterator[tuple[Chunk, list[ChannelRecord] | Exception]]:
        """Yield every chunk as it ends, with its records or its error."""
        calls: list[Call] = [(image_task, (job, self._kind, index, channels)) for index, channels in chunks]
        for (_, _, index, channels), outcome in self._cluster.run(calls, window):
            if not isinstance(outcome, Exception):
                yield (index, channels), self._noted(outcome)
            elif job.store.exists():
                yield (index, channels), outcome
            else:
                raise GpucubeError(f"the visibility store in {job.store.folder} was damaged while in use")

    def restore(
        self, job: ImageJob, target: Beam, fitted: Mapping[PlaneKey, Beam], chunks: Sequence[Sequence[int]]
    ) -> None:
        """Restore chunks in order, a few at a time."""
        self.begin_imaging()
        calls: list[Call] = [(restore_task, (job, self._kind, target, fitted, list(channels))) for channels in chunks]
        for _ in self._values("restoring", calls):
            pass

    def _values(self, doing: str, calls: Sequence[Call]) -> Iterator[Any]:
        """What each call returns, as it ends.

        Raises
        ------
        GpucubeError
            A call failed.
        """
        for _, outcome in self._cluster.run(calls):
            if isinstance(outcome, Exception):
                raise GpucubeError(f"a worker failed while {doing}: {one_line(outcome)}")
            yield self._noted(outcome)

    def _noted(self, outcome: Any) -> Any:
        """Record the memory of the process that ran a task, and return the task's value."""
        value, memory = outcome
        self._host_peaks[memory.process] = max(memory.host, self._host_peaks.get(memory.process, 0))
        self._device_peak = max(memory.device, self._device_peak)
        return value

    def memory_peak(self) -> int:
        """Sum of the peaks of this process and all workers, for the larger of the reading and imaging phases."""
        return max(self._reading_peak, resident_peak() + sum(self._host_peaks.values()))

    def device_memory_peak(self) -> int:
        """The largest of all workers."""
        return self._device_peak

    def close(self) -> None:
        """Disconnect; stop the cluster if it was started here."""
        self._cluster.close()


@contextmanager
def _ways_in(folders: set[str]) -> Iterator[dict[str, str]]:
    """Make a second path to each folder of a store, which is removed when reading has ended.

    A task that outlives the run on somebody's scheduler must not write into a store that was made since, or whose rows were
    sorted since.
    """
    ways = {folder: os.path.join(folder, f"reading-{secrets.token_hex(8)}") for folder in folders}
    try:
        with disk.explain("cannot make a link into the scratch folder"):
            opened = {folder: way if disk.link(os.curdir, way) else folder for folder, way in ways.items()}
        yield opened
    finally:
        for way in ways.values():
            disk.remove_if_possible(way)


def _halves(chunk: Chunk) -> tuple[Chunk, Chunk]:
    index, channels = chunk
    half = len(channels) // 2
    return (index, channels[:half]), (index, channels[half:])


def hardware_of_workers(device: str, address: str, limits: ClusterLimits) -> Hardware:
    """Find the hardware of the workers of an existing scheduler. Each uses the first GPU that it sees.

    Raises
    ------
    GpucubeError
        There is no scheduler, or it has no workers.
    """
    with closing(connect(address, limits)) as cluster:

        def gpus() -> list[SeenGpus]:
            return [replace(seen, count=min(seen.count, 1)) for seen in cluster.on_every_worker(gpus_here)]

        hardware = find_hardware(device, gpus)
        memory = cluster.on_every_worker(_memory_of_worker)
    if not memory:
        raise GpucubeError(f"the workers of the Dask scheduler at {address} died")
    threads = Counter[str]()
    for node, count, _, _ in memory:
        threads[node] += count
    each = min(min(process // count, of_node // threads[node]) for node, count, process, of_node in memory)
    lanes = hardware.kind.lanes
    return replace(hardware, workers=max(1, threads.total() // lanes), worker_memory=each * lanes)


def _memory_of_worker(dask_worker: Any) -> tuple[str, int, int, int]:
    """The node of a worker, its threads, and the bytes that its process and all processes of the node may take."""
    of_node = available_memory()
    limits = process_memory_limits() | {"Dask": dask_worker.memory_manager.memory_limit or of_node}
    return os.uname().nodename, dask_worker.state.nthreads, least(limits)[0], of_node
