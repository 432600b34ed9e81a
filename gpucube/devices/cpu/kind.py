"""CPU cores as a kind of device: one worker is one thread, and its memory is the host's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpucube.caches import is_compiled
from gpucube.devices.base import ImagingSettings, Resources
from gpucube.devices.cpu.allocator import keeping_freed_memory

if TYPE_CHECKING:
    from gpucube.devices.cpu.device import CpuDevice

PROCESS_BYTES = 260_000_000
"""Memory of a worker process that has imaged nothing yet: interpreter, libraries and compiled loops. Measured: 238 MB,
once 256 MB."""

COMPILER_BYTES = 120_000_000
"""What a process that compiles its loops itself holds beside that. Measured on a job with images of 1024 x 1024 pixels: 529 MB
if it compiles, 395 MB if not, where 427 MB are predicted."""


@dataclass(frozen=True)
class CpuKind:
    """See `gpucube.devices.base.DeviceKind`."""

    name = "cpu"
    lanes = 1
    chunks_a_lane = 8
    workers_share_process = True

    def make(self, settings: ImagingSettings, lanes: int = 1) -> CpuDevice:
        """Make a device; any number of lanes may share the cores."""
        from gpucube.devices.cpu.device import CpuDevice

        return CpuDevice(settings)

    def working(self) -> AbstractContextManager[None]:
        return keeping_freed_memory()

    def resources(self, settings: ImagingSettings, device_memory: int = 0) -> Resources:
        from gpucube.devices.cpu import loops
        from gpucube.devices.cpu.memory import plane_bytes

        return Resources(
            process_bytes=PROCESS_BYTES + (0 if is_compiled(loops.peak) else COMPILER_BYTES),
            host_bytes=plane_bytes(settings),
            planes=sys.maxsize,
            device_bytes=lambda planes: 0,
        )

    def memory_peak(self) -> int:
        return 0  # there is no memory but the host's

    def cluster_factory(self) -> Callable[..., Any]:
        from distributed import LocalCluster

        return LocalCluster
