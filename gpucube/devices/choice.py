"""The choice of a device."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from gpucube.devices.base import Device, ImagingSettings
from gpucube.errors import GpucubeError


def _cpu(settings: ImagingSettings, lanes: int) -> Device:
    from gpucube.devices.cpu.device import CpuDevice

    return CpuDevice(settings)


_kept = threading.local()


def _cuda(settings: ImagingSettings, lanes: int) -> Device:
    """A thread keeps its device from chunk to chunk: memory, plans of FFTs and tables are there already."""
    from gpucube.devices.cuda.cupy_backend import cupy_backend
    from gpucube.devices.cuda.device import CudaDevice

    if getattr(_kept, "made_for", None) != (settings, lanes):
        # the memory of the old one must be free before the new one takes its own
        _kept.made_for, _kept.device = None, None
        _kept.device = CudaDevice(settings, cupy_backend(lanes))
        _kept.made_for = (settings, lanes)
    elif not _kept.device.idle():
        _kept.device.forget()
    return _kept.device


LANES = {"cpu": 1, "cuda": 3}
"""Threads that share one device, each with chunks of its own: on a GPU one computes while others read, upload and write."""

MAKERS: dict[str, Callable[[ImagingSettings, int], Device]] = {"cpu": _cpu, "cuda": _cuda}
"""How each kind of device is made, from the settings and the number of device objects that share the hardware."""


def make_device(name: str, settings: ImagingSettings, lanes: int = 1) -> Device:
    """Make a device by name.

    Parameters
    ----------
    name : str
        Of `MAKERS`.
    settings : ImagingSettings
    lanes : int
        Device objects that share one GPU, each in its own thread.

    Raises
    ------
    GpucubeError
        No such device here, or not enough memory on it.
    """
    if name not in MAKERS:
        raise GpucubeError(f"device {name!r} is not available: use device='cpu'")
    return MAKERS[name](settings, lanes)


def gpus_here() -> tuple[str, int, int]:
    """What keeps this process from using a GPU (empty: nothing), how many it sees, and bytes it may take of the first."""
    from gpucube.devices.cuda import cupy_backend

    reason = cupy_backend.why_not()
    return (reason, 0, 0) if reason else ("", cupy_backend.count(), cupy_backend.usable_memory())


def device_memory_peak(name: str) -> int:
    """Bytes of device memory that this process has held, at most; 0 if it has used none."""
    if name != "cuda" or "cupy" not in sys.modules:
        return 0
    from gpucube.devices.cuda.cupy_backend import memory_held

    return memory_held()


def choose_device(name: str, why_not: Callable[[], str]) -> tuple[str, str]:
    """The device that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for.

    Parameters
    ----------
    name : str
    why_not : callable
        Says what keeps the work from being done on a GPU; empty if nothing does.

    Returns
    -------
    name : str
        ``"cpu"`` or ``"cuda"``.
    note : str
        Why ``"auto"`` does not mean a GPU; empty otherwise.

    Raises
    ------
    GpucubeError
        ``"cuda"``, and no GPU can be used.
    """
    reason = "" if name == "cpu" else why_not()
    if name == "cuda" and reason:
        raise GpucubeError(f"device='cuda' cannot be used: {reason}; or use device='cpu'")
    if name == "cpu" or reason:
        return "cpu", f"imaging on CPU cores: {reason}" if reason else ""
    return "cuda", ""
