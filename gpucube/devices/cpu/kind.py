"""CPU cores as a kind of device: one worker is one thread, and its memory is the host's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpucube.devices.base import ImagingSettings, Resources
from gpucube.devices.cpu.allocator import keeping_freed_memory

if TYPE_CHECKING:
    from gpucube.devices.cpu.device import CpuDevice

PROCESS_BYTES = 300_000_000
"""Memory of a process that has imaged nothing yet: interpreter and libraries. Measured."""

BYTES_A_PIXEL = 200
"""Largest number of bytes held for each pixel of the image: the arrays of a plane, the PSF of twice the size with its
spectrum, and what ducc0 and the FFTs need meanwhile. Measured."""

BYTES_A_SAMPLE = 100
"""The same for each sample of a plane: uvw, visibilities and weights, and their copies in ducc0."""

BYTES_A_PAIR_OF_SCALES = 16
"""For each pixel of the image and pair of scales: the PSF of twice the size, convolved with both."""

BYTES_A_SCALE = 20
"""For each pixel and scale: spectrum of twice the size, convolved residual, components, mask."""


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
        pixels = settings.geometry.nx * settings.geometry.ny
        nscale = len(settings.scales)
        of_scales = BYTES_A_PAIR_OF_SCALES * nscale * (nscale + 1) // 2 + BYTES_A_SCALE * nscale
        host_bytes = pixels * (BYTES_A_PIXEL + of_scales) + settings.samples * BYTES_A_SAMPLE
        return Resources(
            process_bytes=PROCESS_BYTES, host_bytes=host_bytes, planes=sys.maxsize, device_bytes=lambda planes: 0
        )

    def memory_peak(self) -> int:
        return 0  # there is no memory but the host's

    def cluster_factory(self) -> Callable[..., Any]:
        from distributed import LocalCluster

        return LocalCluster
