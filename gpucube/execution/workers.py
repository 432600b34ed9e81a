"""Who does the work: the protocol, and the choice."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from gpucube.data.ingest import BlockReport, IngestJob
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam


class Workers(Protocol):
    """Something that runs the three kinds of task."""

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterable[BlockReport]:
        """Run `ingest_rows` over jobs."""
        ...

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """Run `image_chunk` over chunks of channels."""
        ...

    def restore(self, job: ImageJob, target: Beam, fitted: dict, chunks: Sequence[Sequence[int]]) -> None:
        """Run `restore_chunk` over chunks of channels."""
        ...

    def memory_peak(self) -> int:
        """Largest resident size in bytes of all processes together."""
        ...

    def device_memory_peak(self) -> int:
        """Most bytes of device memory that any process has held."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def resident_peak() -> int:
    """Largest resident size of this process so far, bytes."""
    try:
        # getrusage would count what the parent held when it started this process
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
