"""GPUs as a kind of device: one worker is one GPU, shared by a few threads of one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpucube.devices.base import ImagingSettings, Resources
from gpucube.errors import GpucubeError

if TYPE_CHECKING:
    from gpucube.devices.cuda.backend import Backend
    from gpucube.devices.cuda.device import CudaDevice

ADVICE = "pip install 'gpucube[cuda12]' or 'gpucube[cuda13]'"

PROCESS_BYTES = 1_000_000_000
"""Host memory of a process that uses a GPU, with the driver's own memory and pinned buffers. Estimated, not measured."""

BYTES_A_PIXEL = 40
"""Host memory of each lane for each pixel of the image: it holds only the planes that it writes. Estimated."""


@dataclass(frozen=True)
class CudaKind:
    """See `gpucube.devices.base.DeviceKind`. While one lane computes, the others read, upload and write."""

    name = "cuda"
    lanes = 3
    chunks_a_lane = 3
    workers_share_process = False

    def make(self, settings: ImagingSettings, lanes: int = 1) -> CudaDevice:
        """Make a device with a stream of its own and its share of the GPU's memory."""
        from gpucube.devices.cuda.device import CudaDevice

        return CudaDevice(settings, self.backend(lanes))

    def backend(self, lanes: int) -> Backend:
        """Make the backend of a device that shares its GPU with `lanes` - 1 others."""
        from gpucube.devices.cuda.cupy_backend import cupy_backend

        return cupy_backend(lanes)

    def working(self) -> AbstractContextManager[None]:
        """Limit CuPy's memory pool to what this process may take."""
        from gpucube.devices.cuda.cupy_backend import limited_pool

        return limited_pool()

    def resources(self, settings: ImagingSettings, device_memory: int) -> Resources:
        from gpucube.devices.cuda.cupy_backend import FFT_MEMORY
        from gpucube.devices.cuda.memory import DeviceMemory

        memory = DeviceMemory(settings, FFT_MEMORY)
        return Resources(
            process_bytes=PROCESS_BYTES,
            host_bytes=self.lanes * settings.geometry.nx * settings.geometry.ny * BYTES_A_PIXEL,
            planes=memory.planes_that_fit(device_memory // self.lanes),
            device_bytes=memory.of,
        )

    def memory_peak(self) -> int:
        """Bytes that CuPy's pool has taken, which it returns only when memory runs out; 0 before CuPy is imported."""
        cupy = sys.modules.get("cupy")
        return int(cupy.get_default_memory_pool().total_bytes()) if cupy else 0

    def cluster_factory(self) -> Callable[..., Any]:
        try:
            from dask_cuda import LocalCUDACluster
            from pynvml import NVMLError
        except ImportError as error:
            raise GpucubeError(f"a worker for each GPU needs dask-cuda ({error}): {ADVICE}") from None

        def start(**options: Any) -> Any:
            # a process for each of the GPUs of lowest number in CUDA_VISIBLE_DEVICES; CuPy's pool bounds the device's memory
            try:
                return LocalCUDACluster(device_memory_limit=0, **options)
            except NVMLError as error:  # in some containers
                raise GpucubeError(
                    f"dask-cuda cannot ask the driver about the GPUs (NVML: {error}): use one GPU with `workers=1`"
                ) from None

        return start
