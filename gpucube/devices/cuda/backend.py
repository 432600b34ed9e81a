"""Where kernels run: an array namespace, compiled kernels, FFTs, memory, and the ways to and from the host.

The CUDA device is written against `Backend` alone. `gpucube.devices.cuda.cupy_backend` makes the one for a GPU. The tests
make one of numpy and the kernels' host build, so that the same lines run with and without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gpucube.devices.base import DeviceArray


class Kernel(Protocol):
    """A compiled kernel, to be called as a `cupy.RawKernel`."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One stream of work on one device.

    FFTs are over the last two axes of a stack and keep its precision. The inverse ones do not normalise. All but `rfft2` may
    destroy their input.
    """

    xp: ModuleType  # numpy or cupy
    kernel: Callable[[str, str, tuple[str, ...]], Kernel]  # file stem in `kernels/`, name, compiler options
    rfft2: Callable[[DeviceArray], DeviceArray]
    irfft2: Callable[[DeviceArray, tuple[int, int]], DeviceArray]  # spectra, (ny, nx)
    fft2: Callable[[DeviceArray], DeviceArray]
    ifft2: Callable[[DeviceArray], DeviceArray]
    upload: Callable[[Sequence[np.ndarray], DTypeLike], DeviceArray]  # all elements one after another, (n,)
    download: Callable[[DeviceArray], np.ndarray]  # complete when it returns
    synchronise: Callable[[], None]  # wait until all work submitted so far is done
    memory: int  # bytes that this stream of work may take in all
    free: Callable[[], None]  # return unused memory to the device
    out_of_memory: type[Exception]  # what is raised when the device has no memory left
    shared_bytes: int  # largest dynamic shared memory of a block
    processors: int  # multiprocessors
    fft_memory: float  # bytes that the plan of an FFT keeps, in units of the larger of its input and output


class Kernels:
    """The kernels of some source files; `options` are the compiler's for each file stem."""

    def __init__(self, backend: Backend, options: dict[str, tuple[str, ...]]):
        self._kernel, self._options = backend.kernel, options

    def launch(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any, shared_mem: int = 0
    ) -> None:
        """Launch a kernel, given as ``"file.kernel"``; Python integers and floats become int and double."""
        stem, kernel = name.split(".")
        plain: dict[type, type] = {int: np.int32, float: np.float64}
        values = tuple(plain[type(v)](v) if type(v) in plain else v for v in arguments)
        self._kernel(stem, kernel, self._options[stem])(grid, block, values, shared_mem=shared_mem)

    def over(self, name: str, planes: int, ny: int, nx: int, *arguments: Any) -> None:
        """Launch with a thread for every value of a stack of planes."""
        self.launch(name, (-(-nx // 32), -(-ny // 8), planes), (32, 8), *arguments)


FFT_PIXELS = 1 << 23
"""Largest number of pixels that are transformed at once: enough to keep any GPU busy."""


def fft_group(pixels: int) -> int:
    """Number of planes of so many (padded) pixels that are transformed at once.

    It is always the same, since the last bits of an FFT may depend on the batch.
    """
    return max(1, min(16, FFT_PIXELS // pixels))
