"""The workers of a run: their protocol, and the choice between threads, a local cluster and an existing scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from gpucube.data.ingest import BlockReport, IngestJob
from gpucube.data.store import PlaneKey
from gpucube.devices.base import DeviceKind
from gpucube.devices.cpu.kind import CpuKind
from gpucube.execution.dask_cluster import connect, start_cluster
from gpucube.execution.dask_workers import DaskWorkers
from gpucube.execution.machine import cores
from gpucube.execution.plan import Plan
from gpucube.execution.threads import ThreadWorkers
from gpucube.execution.tuning import ClusterLimits
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam

T = TypeVar("T")


class Workers(Protocol):
    """Something that runs the three kinds of task: reading rows, imaging chunks, restoring chunks."""

    def everywhere(self, function: Callable[[], T]) -> list[T]:
        """Call a function in every process that reads, or that images if imaging has begun; returns the values."""
        ...

    def begin_imaging(self) -> None:
        """Prepare for imaging, which may run in other processes than reading."""
        ...

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterable[BlockReport]:
        """Run `gpucube.data.ingest.ingest_rows` on each job; its reports come in any order."""
        ...

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """Run `gpucube.imaging.chunk.image_chunk` on each chunk of channels; the records come in any order."""
        ...

    def restore(
        self, job: ImageJob, target: Beam, fitted: Mapping[PlaneKey, Beam], chunks: Sequence[Sequence[int]]
    ) -> None:
        """Run `gpucube.imaging.restore.restore_chunk` on each chunk of channels."""
        ...

    def memory_peak(self) -> int:
        """Largest resident size of all processes together, bytes."""
        ...

    def device_memory_peak(self) -> int:
        """Largest number of bytes of device memory that any process has held."""
        ...

    def close(self) -> None:
        """Release the workers."""
        ...


def make_workers(plan: Plan, kind: DeviceKind, scheduler: str, limits: ClusterLimits) -> Workers:
    """Make the workers that a plan asks for.

    Parameters
    ----------
    plan : Plan
    kind : DeviceKind
    scheduler : str
        Address of an existing scheduler; empty for none.
    limits : ClusterLimits

    Raises
    ------
    GpucubeError
        The scheduler does not answer or has no workers; local workers cannot be started.
    """
    if plan.in_process:
        return ThreadWorkers(max(plan.workers, kind.lanes), kind)
    if scheduler:
        return DaskWorkers(connect(scheduler, limits), kind)

    if kind.workers_share_process:
        return DaskWorkers(start_cluster(plan.workers, kind, plan.worker_memory, limits), kind)
    # a process on each core reads, because cores limit reading; then there is one for each GPU
    kind.cluster_factory()  # what is missing is noticed before anything is read
    readers = start_cluster(cores(), CpuKind(), plan.worker_memory, limits)
    return DaskWorkers(readers, kind, lambda: start_cluster(plan.workers, kind, plan.worker_memory, limits))
