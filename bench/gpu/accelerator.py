"""What `gpu_speed.py` needs of a GPU beside gpucube's own `Backend`, and a stand-in where there is none.

In: nothing. Out: `Gpu` or `Host`, alike in use: a backend, pinned memory, the peak of device memory during a call, the share
of the time that the device is busy, and what the hardware is called. `Host` runs the kernels as the tests do
(tests/hosts/host_backend.py): it exercises every line of the benchmark and measures nothing of interest.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpucube.devices.base import DeviceKind
from gpucube.devices.cuda.cupy_backend import cupy_backend, why_not
from gpucube.devices.cuda.kind import CudaKind
from gpucube.errors import GpucubeError


class Gpu:
    """The GPU that `CUDA_VISIBLE_DEVICES` puts first.

    Raises
    ------
    GpucubeError
        There is none that works.
    """

    def __init__(self) -> None:
        if reason := why_not():
            raise GpucubeError(f"no GPU to measure: {reason}; --on-host exercises this script without one")
        self.kind: DeviceKind = CudaKind()
        self.backend = cupy_backend()
        self._cupy = self.backend.xp

    def synchronise(self) -> None:
        """Wait for all work on the device, whichever stream it is on."""
        self._cupy.cuda.Device().synchronize()

    def pinned(self, size: int) -> np.ndarray:
        """So many bytes of pinned host memory."""
        import cupyx

        return cupyx.empty_pinned(size, np.uint8)

    def send(self, out: Any, pinned: np.ndarray) -> None:
        """Copy pinned memory to the device."""
        out.set(pinned)

    def plan_bytes(self, array: Any, kind: str, shape: tuple[int, int] | None = None) -> int:
        """Work area of a cuFFT plan over the last two of three axes, kind ``"R2C"``, ``"C2R"`` or ``"C2C"``."""
        from cupyx.scipy.fft import get_fft_plan

        return int(get_fft_plan(array, shape, axes=(1, 2), value_type=kind).work_area.mem.size)

    def peak_memory(self, call: Callable[[], object]) -> tuple[int, int]:
        """Bytes that arrays take at most while a call runs, and what CuPy's pool holds after it, beside what was there."""
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
        """Percent of the time in which any kernel ran while a call did, sampled; and how, or why there are none."""
        bus = self._cupy.cuda.Device().pci_bus_id
        command = [
            "nvidia-smi",
            "-i",
            bus,
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
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
        # a sample tells of up to a second before it
        inside = [percent for at, percent in samples if begin + 1.0 < at < end]
        return inside, f"nvidia-smi utilization.gpu every 100 ms, {len(inside)} samples"

    def describe(self) -> dict[str, Any]:
        """Name, driver, CUDA, CuPy."""
        runtime, device = self._cupy.cuda.runtime, self._cupy.cuda.Device()
        properties = runtime.getDeviceProperties(device.id)
        try:
            query = ["nvidia-smi", "-i", device.pci_bus_id, "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            driver = ""
        return {
            "gpu": properties["name"].decode(),
            "driver": driver,
            "cuda_driver": runtime.driverGetVersion(),
            "cuda_runtime": runtime.runtimeGetVersion(),
            "cupy": self._cupy.__version__,
            "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
            "processors": properties["multiProcessorCount"],
            "cufinufft": _version("cufinufft"),
        }


class Host:
    """Kernels run on the host, in threads of this process too."""

    def __init__(self) -> None:
        sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
        from hosts.host_backend import HostCuda, host_backend

        self.kind: DeviceKind = HostCuda()
        self.backend = host_backend()

    def synchronise(self) -> None:
        """Nothing is ever under way."""

    def pinned(self, size: int) -> np.ndarray:
        """Ordinary memory."""
        return np.empty(size, np.uint8)

    def send(self, out: Any, pinned: np.ndarray) -> None:
        """A copy."""
        out[...] = pinned

    def plan_bytes(self, array: Any, kind: str, shape: tuple[int, int] | None = None) -> int:
        """Not known."""
        return 0

    def peak_memory(self, call: Callable[[], object]) -> tuple[int, int]:
        """Of numpy's arrays."""
        tracemalloc.start()
        try:
            call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return peak, peak

    def busy(self, call: Callable[[], object]) -> tuple[list[float], str]:
        """Runs the call; there is nothing to be said of it."""
        call()
        return [], ""

    def describe(self) -> dict[str, Any]:
        """What it is not."""
        return {"gpu": "none: kernels run on the host", "cufinufft": ""}


Accelerator = Gpu | Host


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
