"""Predict how much host memory the processes of a run take together. Arithmetic only.

In: the memory that a device takes, that reading takes, and that this process has when the run is planned. Out: bytes for a
number of workers. Stages follow one another, so the largest one counts. Each term is what is allocated.
`tests/memory_matrix.py` compares the sum with what runs really take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucube.devices.base import Resources

PROCESS_BYTES = 265_000_000
"""Least memory of the process that makes the run: interpreter, libraries and compiled loops. Measured: 240 to 257 MB."""

LATER_BYTES = 50_000_000
"""What this process loads or compiles after it has planned the run. Measured: 27 to 48 MB."""

RECORD_BYTES = 9_000
"""What the record of a plane takes at the end of a run: as an object, and as text of the summary. Measured."""


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """What a run takes of host memory.

    Attributes
    ----------
    resources : Resources
    held : int
        Bytes that this process holds when the run is planned.
    reading : callable
        Bytes that a process takes to read while so many threads transpose.
    sorting, finishing : int
        Bytes that this process takes for the rows of the store, to sort them and to add up weights, and for all records.
    readers : int
        Processes that read where those that image do not.
    """

    resources: Resources
    held: int = 0
    reading: Callable[[int], int] = lambda threads: 0
    sorting: int = 0
    finishing: int = 0
    readers: int = 0

    def of(self, workers: int, in_process: bool) -> int:
        """Predict the bytes that all processes hold together; `in_process` says that the workers are threads of this one."""
        imaging, alone = self.resources.host_bytes, max(PROCESS_BYTES, self.held + LATER_BYTES)
        reading = self.reading(workers if in_process else 1)
        here = max(self.sorting, self.finishing)
        if in_process:
            alone = max(alone, self.resources.process_bytes)
            return alone + max(here, reading, workers * imaging)
        if self.readers:
            readers = self.readers * (PROCESS_BYTES + reading)
            return alone + here + max(readers, workers * (self.resources.process_bytes + imaging))
        return alone + here + workers * (self.resources.process_bytes + max(reading, imaging))
