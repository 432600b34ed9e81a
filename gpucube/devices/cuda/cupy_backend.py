"""The backend of a GPU: CuPy arrays, kernels compiled by NVRTC, cuFFT, one stream for each thread.

In: nothing but the GPU that `CUDA_VISIBLE_DEVICES` puts first. Out: a `Backend`, or one line that says why there is none.

Several devices share one GPU, each in a thread and a stream of its own: while one computes, others read, upload through
pinned memory, and write. CuPy's memory pool keeps freed blocks for the stream that freed them, so all devices of a thread
use one stream. Whatever runs out of memory raises `MemoryError`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda.backend import Backend, Kernel
from gpucube.devices.cuda.kernel_sources import kernel_source
from gpucube.devices.cuda.kind import ADVICE

SHARE = 0.9
"""Share of the memory that is free when the first device is made; the rest is left to the driver and to cuFFT."""

STAGING_BYTES = 32 << 20
"""Pinned memory is used in two halves of this size: one is filled while the other is sent."""

FFT_MEMORY = 1.0
"""The work area of cuFFT stays with the plan, of one batch: an estimate (`bench/gpu/gpu_speed.py` measures it). Transforms take
nothing more: their output is given."""

CARVEOUT = 100
"""Percentage of the memory of a multiprocessor that is shared memory where `grid.cu` runs: it decides how many blocks fit."""

LEAST_CAPABILITY = 80
"""Compute capability 8.0 (Ampere): the kernels reduce over a warp in one instruction, which older GPUs do not have."""

_OUT_OF_MEMORY = ("CUFFT_ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")
"""The beginnings of the errors of cuFFT, the runtime and the driver when there is no memory left."""


@functools.cache
def why_not() -> str:
    """Find out what keeps this process from using a GPU, and what to do about it; empty if nothing does."""
    try:
        import cupy
    except Exception as error:  # a broken installation may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed ({ADVICE})"
        return f"CuPy cannot be imported ({_one_line(error.__cause__ or error)}; {ADVICE})"
    try:
        # importing CuPy works without a driver: only a kernel that runs shows that everything is there
        if int(cupy.cuda.Device().compute_capability) < LEAST_CAPABILITY:
            return "the GPU is too old (compute capability 8.0 is needed, that of NVIDIA's Ampere generation)"
        ones = cupy.ones(3, np.float32)
        probe = cupy.RawKernel('extern "C" __global__ void probe(float* x) { x[threadIdx.x] += 1.0f; }', "probe")
        probe((1,), (3,), (ones,))
        if float(ones.sum()) != 6.0:
            return "the GPU computes wrongly (run nvidia-smi and look at its state)"
        from cupy.cuda import cufft

        cufft.getVersion()
    except ImportError as error:
        return f"a library of CUDA is missing ({_one_line(error)}; {ADVICE})"
    except Exception as error:  # CuPy's errors of driver, runtime and compiler have no common base
        return f"CuPy finds no working GPU ({_one_line(error)}; nvidia-smi must show one)"
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@functools.cache
def usable_memory() -> int:
    """Bytes of device memory that this process may take in all: asked once, before anything is taken."""
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(SHARE * free)


@contextmanager
def limited_pool() -> Iterator[None]:
    """Limit CuPy's memory pool to what this process may take."""
    import cupy

    pool = cupy.get_default_memory_pool()
    before = pool.get_limit()
    pool.set_limit(size=usable_memory())
    try:
        yield
    finally:
        pool.set_limit(size=before)


def _raising_memory_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raise `MemoryError` where cuFFT, the runtime or the driver is out of memory, as CuPy's allocator does."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except RuntimeError as error:
            if str(error).startswith(_OUT_OF_MEMORY):
                raise MemoryError(str(error)) from None
            raise

    return wrapped


_compiling = threading.Lock()
"""A source takes seconds to compile when it is first used on a machine; one thread compiles it for all."""


def _kernel(stem: str, name: str, options: tuple[str, ...]) -> Kernel:
    with _compiling:
        return _compiled(stem, name, options)


@functools.cache
def _compiled(stem: str, name: str, options: tuple[str, ...]) -> Kernel:
    kernel = _module(stem, options).get_function(name)
    # all the shared memory that the GPU gives a block; without this a launch may take 48 KiB, less what is static
    kernel.max_dynamic_shared_size_bytes = _shared_bytes() - kernel.shared_size_bytes
    if stem == "grid":
        kernel.preferred_shared_memory_carveout = CARVEOUT
    return _raising_memory_error(kernel)


@functools.cache
def _module(stem: str, options: tuple[str, ...]) -> Any:
    import cupy

    return cupy.RawModule(code=kernel_source(stem), options=("--std=c++17", *options))


def _shared_bytes() -> int:
    import cupy

    return int(cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])


class _Peak:
    """The largest number of bytes that arrays of this process have taken of CuPy's pool at any time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._watched = threading.local()

    def watch(self) -> None:
        """Follow the allocations of the calling thread, also those of the sort and of cuFFT."""
        import cupy

        if hasattr(self._watched, "hook"):
            return
        peak, pool = self, cupy.get_default_memory_pool()

        class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]  # CuPy has no types
            name = "gpucube"

            def malloc_postprocess(self, **event: Any) -> None:
                # memory in use grows here and nowhere else
                peak.bytes = max(peak.bytes, int(pool.used_bytes()))

        self._watched.hook = Hook()
        self._watched.hook.__enter__()  # for the life of the thread


PEAK = _Peak()


class _Ffts:
    """FFTs of stacks, by plans that are kept: each for one batch of one size."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], Any] = {}

    def transform(self, kind: str, forward: bool) -> Callable[[DeviceArray, DeviceArray, int], None]:
        """The transform of a kind of plan, ``"R2C"``, ``"C2R"`` or ``"C2C"``."""
        from cupy.cuda import cufft
        from cupyx.scipy.fft import get_fft_plan

        direction = cufft.CUFFT_FORWARD if forward else cufft.CUFFT_INVERSE

        def run(given: DeviceArray, out: DeviceArray, batch: int) -> None:
            size = tuple((out if kind == "C2R" else given).shape[1:])
            key = (kind, given.dtype.char, size, batch)
            if (plan := self._plans.get(key)) is None:
                plan = get_fft_plan(given[:batch], size, axes=(1, 2), value_type=kind)
                self._plans[key] = plan
            for start in range(0, len(given), batch):
                plan.fft(given[start : start + batch], out[start : start + batch], direction)

        return _raising_memory_error(run)

    def clear(self) -> None:
        """Forget the plans, and so free their work areas."""
        self._plans.clear()


class _Staging:
    """Pinned memory through which arrays are uploaded."""

    def __init__(self, stream: Any):
        import cupy
        import cupyx

        self._cupy, self._stream = cupy, stream
        self._halves = [cupyx.empty_pinned(STAGING_BYTES, np.uint8) for _ in range(2)]
        self._sent = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        self._next = 0

    def upload(self, arrays: Sequence[np.ndarray], dtype: DTypeLike) -> DeviceArray:
        """See `Backend.upload`."""
        kind = np.dtype(dtype)
        out: DeviceArray = self._cupy.empty(sum(a.size for a in arrays), kind)
        room, at = STAGING_BYTES // kind.itemsize, 0
        for array in arrays:
            flat = array.reshape(-1)
            for start in range(0, flat.size, room):
                part = flat[start : start + room]
                half, sent = self._halves[self._next], self._sent[self._next]
                self._next = 1 - self._next
                sent.synchronize()
                pinned = half.view(kind)[: part.size]
                pinned[:] = part
                out[at : at + part.size].set(pinned, stream=self._stream)
                sent.record(self._stream)
                at += part.size
        return out


def cupy_backend(lanes: int = 1) -> Backend:
    """Make a backend for the calling thread, with the thread's stream; `lanes` of them share the GPU's memory."""
    import cupy
    import cupyx

    stream = cupy.cuda.get_current_stream()
    if not stream.ptr:  # the thread has no stream of its own yet; CuPy keeps the one in use
        stream = cupy.cuda.Stream(non_blocking=True).use()

    def download(array: DeviceArray) -> np.ndarray:
        out: np.ndarray = cupyx.empty_pinned(array.shape, array.dtype)
        cupy.ascontiguousarray(array).get(stream=stream, out=out, blocking=True)
        return out

    ffts = _Ffts()
    PEAK.watch()

    def free() -> None:
        ffts.clear()
        cupy.get_default_memory_pool().free_all_blocks()

    def sort(keys: DeviceArray) -> DeviceArray:
        order: DeviceArray = cupy.argsort(keys, kind="stable")
        return order

    def view(block: DeviceArray, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        array: DeviceArray = cupy.ndarray(shape, dtype, memptr=block.data + at)  # type: ignore[attr-defined]
        return array

    return Backend(
        xp=cupy,
        kernel=_kernel,
        rfft2=ffts.transform("R2C", True),
        irfft2=ffts.transform("C2R", False),
        fft2=ffts.transform("C2C", True),
        ifft2=ffts.transform("C2C", False),
        sort=_raising_memory_error(sort),
        clear=lambda array: array.fill(0),  # type: ignore[attr-defined]
        view=view,
        upload=_raising_memory_error(_Staging(stream).upload),
        download=_raising_memory_error(download),
        synchronise=stream.synchronize,
        memory=usable_memory() // lanes,
        free=free,
        # CuPy's own is one; Thrust, which sorts, raises the plain one
        out_of_memory=MemoryError,
        shared_bytes=_shared_bytes(),
        processors=int(cupy.cuda.Device().attributes["MultiProcessorCount"]),
        fft_memory=FFT_MEMORY,
    )
