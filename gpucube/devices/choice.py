"""The choice of hardware for a run, and the devices that the threads of a process keep."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpucube.caches import choose_cupy_cache
from gpucube.devices.base import Device, DeviceKind, ImagingSettings
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.kind import ADVICE, CudaKind
from gpucube.errors import GpucubeError


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run computes on."""

    kind: DeviceKind
    note: str = ""  # why `device="auto"` did not choose a GPU, or why some GPUs are not used; empty otherwise
    gpu_count: int = 0  # GPUs that the run may use; 0 for CPU cores
    gpu_memory: int = 0  # bytes that it may take of each GPU
    workers: int = 0  # cores or GPUs of the workers of an existing scheduler; 0 if workers are started here
    worker_memory: int = 0  # bytes of host memory that each of them may take


@dataclass(frozen=True, kw_only=True)
class SeenGpus:
    """The GPUs that one process sees."""

    why_not: str = ""  # what keeps the process from using a GPU; empty if nothing does
    count: int = 0  # GPUs that it can use, itself or through processes that it starts
    memory: int = 0  # bytes that it may take of the first
    note: str = ""  # what the user should know about them


_PROBE = """
import json
from gpucube.devices.cuda.cupy_backend import usable_memory, why_not
found = {"why_not": why_not()}
if not found["why_not"]:
    import cupy
    found |= {"count": int(cupy.cuda.runtime.getDeviceCount()), "memory": usable_memory()}
print("\\n" + json.dumps(found))
"""

_PROBE_SECONDS = 120


def gpus_here() -> SeenGpus:
    """Find the GPUs that this process sees, in a child process: this process then has no context and no memory on a GPU."""
    if importlib.util.find_spec("cupy") is None:
        return SeenGpus(why_not=f"CuPy is not installed ({ADVICE})")
    choose_cupy_cache()
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
        )
        seen = SeenGpus(**json.loads(child.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return SeenGpus(why_not=f"the GPU does not answer within {_PROBE_SECONDS} s")
    except (IndexError, ValueError, TypeError):
        last = (child.stderr.strip().splitlines() or [f"status {child.returncode}"])[-1]
        return SeenGpus(why_not=f"the program that looks for GPUs failed ({last[:200]})")
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if 0 < seen.count < len(named):
        return replace(
            seen, note=f"CUDA_VISIBLE_DEVICES names {', '.join(named)}, but CUDA shows only {seen.count} of them"
        )
    return seen


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
    return Hardware(
        kind=CudaKind(),
        note="; ".join(dict.fromkeys(s.note for s in seen if s.note)),
        gpu_count=sum(s.count for s in seen),
        gpu_memory=min(s.memory for s in seen),
    )


class Devices:
    """The devices of one process, one for each thread, kept from chunk to chunk.

    The memory, plans and tables of a device are reused for the next chunk. As a context manager it also makes the
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
