"""What `gpu_speed.py` needs of a GPU beside gpucube's own `Backend`.

In: nothing. Out: an `Accelerator`: a kind of device, its backend, pinned memory, the peak of device memory during a call, the
share of the time that the device is busy, and the names of the hardware. Tests bring an accelerator of their own, which runs
the kernels on the host.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from gpucube.devices.base import DeviceKind
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.cupy_backend import cupy_backend, why_not
from gpucube.devices.cuda.kind import CudaKind
from gpucube.errors import GpucubeError

SAMPLING = 0.1
"""Seconds between two looks at whether the GPU is busy."""

L2_FETCH_LIMIT = 5
"""cudaLimitMaxL2FetchGranularity, which CuPy does not name."""

LOOKS_BACK = 1.0
"""Seconds: a look may tell of that time before it."""


class Accelerator(Protocol):
    """A device that can be measured."""

    kind: DeviceKind  # makes its devices
    backend: Backend  # its arrays, FFTs and kernels
    least_seconds: float  # what is timed is repeated until it takes this long

    def synchronise(self) -> None:
        """Wait for all work on the device, on any stream."""

    def pinned(self, size: int) -> np.ndarray:
        """Allocate pinned host memory, uint8 (size,)."""

    def send(self, out: Any, pinned: np.ndarray) -> None:
        """Copy pinned memory to the device."""

    def plan_bytes(self, array: Any, kind: str, shape: tuple[int, int] | None = None) -> int:
        """Work area of an FFT plan over the last two of three axes, kind ``"R2C"``, ``"C2R"`` or ``"C2C"``."""

    def peak_memory(self, call: Callable[[], object]) -> tuple[int, int]:
        """Largest number of bytes of arrays while a call runs, and bytes that the memory pool holds after it."""

    def busy(self, call: Callable[[], object]) -> tuple[list[float], str]:
        """Run a call; sampled percentages of the time in which any kernel ran, and how, or why there are none."""

    def describe(self) -> dict[str, Any]:
        """Names and versions of the hardware and its software; ``gpu`` and ``cufinufft`` at least."""


class Gpu:
    """The GPU that `CUDA_VISIBLE_DEVICES` puts first: an `Accelerator`. GpucubeError says if none works."""

    least_seconds = 0.05

    def __init__(self, l2_fetch: int | None = None) -> None:
        if reason := why_not():
            raise GpucubeError(f"no GPU to measure: {reason}")
        if l2_fetch:
            import cupy

            cupy.cuda.runtime.deviceSetLimit(L2_FETCH_LIMIT, l2_fetch)
        self.kind: DeviceKind = CudaKind()
        self.backend = cupy_backend()
        self._cupy = self.backend.xp

    def synchronise(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def pinned(self, size: int) -> np.ndarray:
        import cupyx

        return cupyx.empty_pinned(size, np.uint8)

    def send(self, out: Any, pinned: np.ndarray) -> None:
        """Copy without staging."""
        out.set(pinned)

    def plan_bytes(self, array: Any, kind: str, shape: tuple[int, int] | None = None) -> int:
        from cupyx.scipy.fft import get_fft_plan

        return int(get_fft_plan(array, shape, axes=(1, 2), value_type=kind).work_area.mem.size)

    def peak_memory(self, call: Callable[[], object]) -> tuple[int, int]:
        """Follow every allocation of CuPy's pool."""
        cupy = self._cupy

        class Watch(cupy.cuda.MemoryHook):
            name = "peak"
            now = most = 0

            def malloc_postprocess(self, **event: Any) -> None:
                if event["mem_ptr"]:
                    self.now += event["mem_size"]
                    self.most = max(self.most, self.now)

            def free_postprocess(self, **event: Any) -> None:
                self.now -= event["mem_size"]

        self.backend.free()
        pool = cupy.get_default_memory_pool()
        before = pool.total_bytes()
        with Watch() as watch:
            call()
        return watch.most, pool.total_bytes() - before

    def busy(self, call: Callable[[], object]) -> tuple[list[float], str]:
        """Listen to nvidia-smi while the call runs."""
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", f"{1000 * SAMPLING:.0f}"]
        command = ["nvidia-smi", "-i", self._cupy.cuda.Device().pci_bus_id, *query]
        samples: list[tuple[float, float]] = []

        def listen(lines: Any) -> None:
            for line in lines:
                with suppress(ValueError):  # "[N/A]"
                    samples.append((time.perf_counter(), float(line)))

        try:
            sampler = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            return [], f"nvidia-smi cannot be run: {error.strerror}"
        listener = threading.Thread(target=listen, args=(sampler.stdout,))
        listener.start()
        begin = time.perf_counter()
        try:
            call()
        finally:
            end = time.perf_counter()
            sampler.terminate()
            listener.join()
            sampler.wait()
        inside = [percent for at, percent in samples if begin + LOOKS_BACK < at < end]
        return inside, f"nvidia-smi utilization.gpu every {1000 * SAMPLING:.0f} ms, {len(inside)} samples"

    def describe(self) -> dict[str, Any]:
        runtime, device = self._cupy.cuda.runtime, self._cupy.cuda.Device()
        properties = runtime.getDeviceProperties(device.id)
        query = ["nvidia-smi", "-i", device.pci_bus_id, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = cufinufft = ""
        with suppress(OSError):
            driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        with suppress(metadata.PackageNotFoundError):
            cufinufft = metadata.version("cufinufft")
        return {
            "gpu": properties["name"].decode(),
            "driver": driver,
            "cuda_driver": runtime.driverGetVersion(),
            "cuda_runtime": runtime.runtimeGetVersion(),
            "cupy": self._cupy.__version__,
            "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
            "processors": properties["multiProcessorCount"],
            "cufinufft": cufinufft,
        }
