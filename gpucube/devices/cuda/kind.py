"""GPUs as a kind of device: one worker is one GPU, shared by a few threads of one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpucube.devices.base import FINISHED_BYTES, ImagingSettings, Resources
from gpucube.errors import GpucubeError

if TYPE_CHECKING:
    from gpucube.devices.cuda.backend import Backend
    from gpucube.devices.cuda.device import CudaDevice

ADVICE = "pip install 'gpucube[cuda12]' or 'gpucube[cuda13]'"

PROCESS_BYTES = 1_000_000_000
"""Host memory of a process that uses a GPU, with the driver's own memory and pinned buffers. Estimated, not measured."""

BYTES_A_PIXEL = 40
"""Host memory of each lane for each pixel of the image, beside the planes that are finished together. Estimated."""

PRODUCTS_A_PLANE = 4
"""Images that most jobs write at most."""


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

        memory = DeviceMemory(settings, FFT_MEMORY, device_memory // self.lanes)
        planes, pixels = memory.planes_that_fit(), settings.geometry.nx * settings.geometry.ny
        finished = min(FINISHED_BYTES, planes * pixels * 4 * PRODUCTS_A_PLANE)
        return Resources(
            process_bytes=PROCESS_BYTES,
            host_bytes=self.lanes * (pixels * BYTES_A_PIXEL + finished),
            planes=planes,
            device_bytes=memory.of,
        )

    def memory_peak(self) -> int:
        """The most that arrays of this process have taken of CuPy's pool at any time."""
        from gpucube.devices.cuda.cupy_backend import PEAK

        return PEAK.bytes

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
