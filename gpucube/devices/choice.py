"""The choice of hardware for a run, and the devices that the threads of a process keep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from gpucube.devices.base import Device, DeviceKind, ImagingSettings
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.kind import CudaKind
from gpucube.errors import GpucubeError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run computes on."""

    kind: DeviceKind
    note: str = ""  # why `device="auto"` did not choose a GPU; empty otherwise
    gpu_count: int = 0  # GPUs that the run may use; 0 for CPU cores
    gpu_memory: int = 0  # bytes that it may take of each GPU
    workers: int = 0  # threads of the workers of an existing scheduler; 0 if workers are started here
    worker_memory: int = 0  # bytes of host memory that each of them may take


@dataclass(frozen=True, kw_only=True)
class SeenGpus:
    """The GPUs that one process sees."""

    why_not: str = ""  # what keeps the process from using a GPU; empty if nothing does
    count: int = 0  # GPUs that it can use, itself or through processes that it starts
    memory: int = 0  # bytes that it may take of the first


def gpus_here() -> SeenGpus:
    """Find the GPUs that this process sees."""
    from gpucube.devices.cuda import cupy_backend

    if reason := cupy_backend.why_not():
        return SeenGpus(why_not=reason)
    return SeenGpus(count=cupy_backend.count(), memory=cupy_backend.usable_memory())


def find_hardware(device: str, look: Callable[[], Sequence[SeenGpus]] = lambda: [gpus_here()]) -> Hardware:
    """Find the hardware that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for; GpucubeError for ``"cuda"`` without a GPU.

    `look` returns the GPUs of every process that is going to do the work. It is not called for ``"cpu"``.
    """
    if device == "cpu":
        return Hardware(kind=CpuKind())
    seen = look()
    if reason := next((s.why_not for s in seen if s.why_not), ""):
        if device == "cuda":
            raise GpucubeError(f"`device='cuda'` cannot be used: {reason}; or use `device='cpu'`")
        return Hardware(kind=CpuKind(), note=f"imaging on CPU cores: {reason}")
    return Hardware(kind=CudaKind(), gpu_count=sum(s.count for s in seen), gpu_memory=min(s.memory for s in seen))


class Devices:
    """The devices of one process, one for each thread, kept from chunk to chunk.

    What a device has allocated, planned and tabulated for one chunk serves the next. As a context manager it also makes the
    kind's process-wide settings (`DeviceKind.working`) and undoes them. `lanes` threads share the hardware.
    """

    def __init__(self, kind: DeviceKind, lanes: int = 1):
        self._kind, self._lanes = kind, lanes
        self._kept = threading.local()
        self._settings = ExitStack()

    def __enter__(self) -> Devices:
        self._settings.enter_context(self._kind.working())
        return self

    def __exit__(self, *error: object) -> None:
        self._settings.close()

    @contextmanager
    def lend(self, settings: ImagingSettings) -> Iterator[Device[Any]]:
        """Lend the calling thread its device for these settings. After an exception the device is not used again."""
        made_for, device = getattr(self._kept, "made", (None, None))
        self._kept.made = None, None
        if device is None or made_for != settings:
            # the memory of the old one must be free before the new one takes its own
            device = None
            device = self._kind.make(settings, self._lanes)
        yield device
        self._kept.made = settings, device
