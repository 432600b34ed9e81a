"""The backend of a GPU: CuPy arrays, kernels compiled by NVRTC, cuFFT, one stream for each device object.

In: nothing but the GPU that `CUDA_VISIBLE_DEVICES` puts first. Out: `Backend`, or in one line why there is none.

Several device objects share one GPU, each in a thread and a stream of its own: while one computes, others read, upload
through pinned memory, and write. CuPy's memory pool keeps freed blocks for the stream that freed them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucube.devices.backend import Backend
from gpucube.devices.kernel_sources import kernel_source

SHARE = 0.9
"""Of the memory that is free when the first device object is made; the rest is left to the driver and to cuFFT."""

STAGING_BYTES = 32 << 20
"""Pinned memory is used in two halves of this size: one is filled while the other is on its way."""

_HALVES = 2

FFT_WORK = 2.0
"""cuFFT's own work area, and CuPy's copy of what a real inverse transform would destroy: an estimate, not measured."""


def sizes_alone() -> Backend:
    """For planning: what is made with it knows its sizes and can do nothing."""

    def nothing(*arguments: Any) -> Any:
        return None

    return Backend(np, *[nothing] * 10, MemoryError, 0, 0, FFT_WORK)


@functools.cache
def why_not() -> str:
    """What keeps this process from using a GPU and what to do about it; empty if nothing does."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (pip install 'gpucube[cuda12]' or 'gpucube[cuda13]')"
    try:
        # importing CuPy works without a driver: only a kernel that runs shows that all is there
        ones = cupy.ones(3, np.float32)
        probe = cupy.RawKernel('extern "C" __global__ void probe(float* x) { x[threadIdx.x] += 1.0f; }', "probe")
        probe((1,), (3,), (ones,))
        if float(ones.sum()) != 6.0:
            return "the GPU computes wrongly (run nvidia-smi and look at its state)"
    except Exception as error:  # CuPy's errors of driver, runtime and compiler have no common base
        return f"CuPy finds no working GPU ({' '.join(str(error).split())}; nvidia-smi must show one)"
    return ""


def count() -> int:
    """GPUs that this process sees."""
    import cupy

    return cupy.cuda.runtime.getDeviceCount()


def memory_held() -> int:
    """Bytes that CuPy's pool has taken from the device; it gives them back only when memory runs out."""
    import cupy

    return cupy.get_default_memory_pool().total_bytes()


@functools.cache
def usable_memory() -> int:
    """Bytes of device memory that this process may take in all: asked once, before anything is taken."""
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    usable = int(SHARE * free)
    cupy.get_default_memory_pool().set_limit(size=usable)
    return usable


@functools.cache
def _module(stem: str, options: tuple[str, ...]) -> Any:
    import cupy

    return cupy.RawModule(code=kernel_source(stem), options=("--std=c++17", *options))


class _Module:
    """Kernels that may ask for more shared memory than a launch gives by itself."""

    def __init__(self, module: Any):
        self._module = module

    def get_function(self, name: str) -> Any:
        kernel = self._module.get_function(name)

        def launch(grid: tuple, block: tuple, arguments: tuple, *, shared_mem: int = 0) -> None:
            if shared_mem > 48 << 10 and kernel.max_dynamic_shared_size_bytes < shared_mem:
                kernel.max_dynamic_shared_size_bytes = shared_mem
            kernel(grid, block, arguments, shared_mem=shared_mem)

        return launch


class _Staging:
    """Pinned memory on the way to the device."""

    def __init__(self, stream: Any):
        import cupy
        import cupyx

        self._cupy, self._stream = cupy, stream
        self._halves = [cupyx.empty_pinned(STAGING_BYTES, np.uint8) for _ in range(_HALVES)]
        self._sent = [cupy.cuda.Event(disable_timing=True) for _ in range(_HALVES)]
        self._next = 0

    def upload(self, arrays: Sequence[np.ndarray], dtype: Any) -> Any:
        """See `Backend.upload`."""
        dtype = np.dtype(dtype)
        out = self._cupy.empty(sum(a.size for a in arrays), dtype)
        room, at = STAGING_BYTES // dtype.itemsize, 0
        for array in arrays:
            flat = array.reshape(-1)
            for start in range(0, flat.size, room):
                part = flat[start : start + room]
                half, sent = self._halves[self._next], self._sent[self._next]
                self._next = (self._next + 1) % _HALVES
                sent.synchronize()
                pinned = half.view(dtype)[: part.size]
                pinned[:] = part
                out[at : at + part.size].set(pinned, stream=self._stream)
                sent.record(self._stream)
                at += part.size
        return out


def cupy_backend(lanes: int = 1) -> Backend:
    """A backend for the calling thread: its own stream, and its share of the device's memory.

    Parameters
    ----------
    lanes : int
        Device objects that share the GPU.
    """
    import cupy
    import cupyx

    memory = usable_memory() // lanes
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.use()
    staging = _Staging(stream)
    attributes = cupy.cuda.Device().attributes

    def download(array: Any) -> np.ndarray:
        out = cupyx.empty_pinned(array.shape, array.dtype)
        cupy.ascontiguousarray(array).get(stream=stream, out=out, blocking=True)
        return out

    return Backend(
        xp=cupy,
        compile=lambda stem, options: _Module(_module(stem, tuple(options))),
        rfft2=cupy.fft.rfft2,
        irfft2=lambda grid, shape: cupy.fft.irfft2(grid, s=shape, norm="forward"),
        fft2=cupy.fft.fft2,
        ifft2=lambda grid: cupy.fft.ifft2(grid, norm="forward"),
        upload=staging.upload,
        download=download,
        synchronise=stream.synchronize,
        memory=lambda: memory,
        free=cupy.get_default_memory_pool().free_all_blocks,
        out_of_memory=cupy.cuda.memory.OutOfMemoryError,
        shared_bytes=int(attributes["MaxSharedMemoryPerBlockOptin"]),
        processors=int(attributes["MultiProcessorCount"]),
        fft_work=FFT_WORK,
    )
