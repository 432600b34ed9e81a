"""Where kernels run: an array namespace, compiled kernels, FFTs, memory, and the ways to and from the host.

The CUDA device is written against `Backend` alone. `gpucube.devices.cupy_backend` makes the one for a GPU; the tests make one
of numpy and the kernels' host build, so that the same lines run with and without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Backend:
    """One stream of work on one device.

    Attributes
    ----------
    xp : module
        numpy or cupy.
    compile : callable
        (file stem in `kernels/`, compiler options) -> object with ``get_function(name)``, which gives a kernel to be called
        as ``kernel(grid, block, arguments, shared_mem=bytes)``.
    rfft2, irfft2, fft2, ifft2 : callable
        Of a stack over its last two axes, keeping single precision; inverse ones not normalised. ``irfft2(grid, shape)``.
        All but `rfft2` may destroy what they are given.
    upload : callable
        (host arrays, dtype) -> one device array of all their elements, one after another, shape (n,).
    download : callable
        Device array -> host array, complete when it returns.
    synchronise : callable
        Wait until all work given so far is done.
    memory : callable
        Bytes that this stream of work may take in all.
    free : callable
        Give back to the device what is no longer used.
    out_of_memory : type
        What is raised when the device has no memory left.
    shared_bytes : int
        Largest dynamic shared memory of a block.
    processors : int
        Multiprocessors.
    fft_work, fft_kept : float
        Bytes that an FFT takes beside what it is given and returns, for the time it runs, and for good once a size has been
        used; in units of the larger of the two.
    """

    xp: Any
    compile: Callable[[str, Sequence[str]], Any]
    rfft2: Callable[[Any], Any]
    irfft2: Callable[[Any, tuple[int, int]], Any]
    fft2: Callable[[Any], Any]
    ifft2: Callable[[Any], Any]
    upload: Callable[[Sequence[np.ndarray], Any], Any]
    download: Callable[[Any], np.ndarray]
    synchronise: Callable[[], None]
    memory: Callable[[], int]
    free: Callable[[], None]
    out_of_memory: type[Exception]
    shared_bytes: int
    processors: int
    fft_work: float
    fft_kept: float


class Kernels:
    """The kernels of some source files, ready to be launched.

    Parameters
    ----------
    backend : Backend
    options : dict
        Compiler options of each file stem.
    """

    def __init__(self, backend: Backend, options: dict[str, Sequence[str]]):
        self._modules = {stem: backend.compile(stem, given) for stem, given in options.items()}

    def launch(self, name: str, grid: tuple, block: tuple, *arguments: Any, shared_mem: int = 0) -> None:
        """Launch a kernel, given as ``"file.kernel"``; Python integers and floats become int and double."""
        stem, kernel = name.split(".")
        plain = {int: np.int32, float: np.float64}
        values = tuple(plain[type(v)](v) if type(v) in plain else v for v in arguments)
        self._modules[stem].get_function(kernel)(grid, block, values, shared_mem=shared_mem)

    def over(self, name: str, planes: int, ny: int, nx: int, *arguments: Any) -> None:
        """Launch with a thread for every value of a stack of planes."""
        self.launch(name, (-(-nx // 32), -(-ny // 8), planes), (32, 8), *arguments)


FFT_PIXELS = 1 << 23
"""Pixels that are transformed at once, at most: enough to keep any GPU busy."""


def fft_group(pixels: int) -> int:
    """Planes that are transformed at once: always so many, since the last bits of an FFT may depend on the batch.

    Parameters
    ----------
    pixels : int
        Of one plane as it is transformed.
    """
    return max(1, min(16, FFT_PIXELS // pixels))
