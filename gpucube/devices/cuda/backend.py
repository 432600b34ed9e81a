"""Where kernels run: memory, compiled kernels, FFTs, a sort, and the ways to and from the host. The seam is narrow on purpose.

The CUDA device is written against `Backend` alone. `gpucube.devices.cuda.cupy_backend` makes the one for a GPU. The tests
make one of numpy and the kernels' host build, so that the same lines run with and without a GPU; `gpucube.bench.ghosts` makes
one that only counts.

Every call through the seam costs Python microseconds, whatever it does on the device. So the device asks for whole chunks:
small arrays travel together (`packed`), arrays of a step are parts of one block of memory (`Workspace`), and kernels are bound
once (`Kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gpucube.devices.base import DeviceArray

Spec: TypeAlias = tuple[tuple[int, ...], DTypeLike]
"""Shape and type of an array."""

ALIGNMENT = 256
"""Bytes: where the parts of a block of memory begin."""

LARGE = 1 << 16
"""Bytes from which on an array is not small any more (`packed`)."""


class Kernel(Protocol):
    """A compiled kernel, to be called as a `cupy.RawKernel`."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None: ...


Fft: TypeAlias = Callable[[DeviceArray, DeviceArray, int], None]
"""Transform the planes of a stack into those of another, in batches of so many planes; the stacks hold whole batches."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One stream of work on one device.

    FFTs are over the last two axes of a stack and keep its precision. The inverse ones do not normalise. All but `rfft2` may
    destroy their input; `fft2` and `ifft2` may write into it.
    """

    xp: ModuleType  # numpy or cupy, for little more than `empty`, `zeros` and `asarray`
    kernel: Callable[[str, str, tuple[str, ...]], Kernel]  # file stem in `kernels/`, name, compiler options
    rfft2: Fft
    irfft2: Fft
    fft2: Fft
    ifft2: Fft
    sort: Callable[[DeviceArray], DeviceArray]  # of unsigned keys (n,); returns the order (n,) int64, stable
    clear: Callable[[DeviceArray], None]  # set all bytes to 0
    view: Callable[
        [DeviceArray, int, tuple[int, ...], np.dtype[Any]], DeviceArray
    ]  # of a block of bytes, from a byte on
    upload: Callable[[Sequence[np.ndarray], DTypeLike], DeviceArray]  # all elements one after another, (n,)
    download: Callable[[DeviceArray], np.ndarray]  # complete when it returns
    synchronise: Callable[[], None]  # wait until all work submitted so far is done
    memory: int  # bytes that this stream of work may take in all
    free: Callable[[], None]  # return unused memory to the device
    out_of_memory: type[Exception]  # what is raised when the device has no memory left
    shared_bytes: int  # largest dynamic shared memory of a block
    processors: int  # multiprocessors
    fft_memory: (
        float  # bytes that the plan of an FFT keeps, in units of the larger of its input and output of one batch
    )


def block_bytes(specs: Sequence[Spec]) -> int:
    """Count the bytes of a block of memory that holds these arrays."""
    return sum([-(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT for shape, dtype in specs])


def divided(backend: Backend, block: DeviceArray, specs: Sequence[Spec], at: int = 0) -> list[DeviceArray]:
    """Make arrays of the parts of a block of memory, uint8 (n,), from a byte on."""
    arrays, view = [], backend.view
    for shape, dtype in specs:
        kind = np.dtype(dtype)
        arrays.append(view(block, at, shape, kind))
        at += -(-math.prod(shape) * kind.itemsize // ALIGNMENT) * ALIGNMENT
    return arrays


def allocated(backend: Backend, *specs: Spec) -> list[DeviceArray]:
    """Allocate arrays in one block of memory."""
    return divided(backend, backend.xp.empty(max(1, block_bytes(specs)), np.uint8), specs)


def packed(backend: Backend, *arrays: np.ndarray) -> list[DeviceArray]:
    """Upload small arrays in one copy. If the last one is large, it goes on its own, and is not copied on the host."""
    small, large = (arrays[:-1], arrays[-1:]) if arrays[-1].nbytes > LARGE else (arrays, ())
    content = b"".join([a.tobytes() + bytes(-a.nbytes % ALIGNMENT) for a in small])  # up to the next multiple
    parts = [np.frombuffer(content or bytes(1), np.uint8), *[a.reshape(-1).view(np.uint8) for a in large]]
    block, there, at = backend.upload(parts, np.uint8), [], 0
    for a in arrays:
        there.append(backend.view(block, at, a.shape, a.dtype))
        at += a.nbytes + -a.nbytes % ALIGNMENT
    return there


class Workspace:
    """A block of memory for what a step needs for its own time. It is kept from step to step.

    Work on the device is done in the order in which it is submitted, so a step may overwrite what the last one left.
    """

    def __init__(self, backend: Backend, nbytes: int):
        self._backend = backend
        self.use(backend.xp.empty(nbytes, np.uint8))

    def use(self, block: DeviceArray) -> None:
        """Replace the block by this one, uint8 (n,)."""
        self._block, self.nbytes, self._at, self._wanted = block, len(block), 0, 0

    def start(self) -> None:
        """Begin a step: all arrays taken before are void."""
        if self._wanted > self.nbytes:
            self.use(self._backend.xp.empty(self._wanted, np.uint8))
        self._at = self._wanted = 0

    @property
    def left(self) -> int:
        """Bytes of the block that are not taken yet."""
        return self.nbytes - self._at

    def take(self, *specs: Spec) -> list[DeviceArray]:
        """Make arrays that last until the next step; what does not fit takes memory of its own."""
        needed = block_bytes(specs)
        self._wanted += needed
        if self._at + needed > self.nbytes:
            return allocated(self._backend, *specs)
        arrays = divided(self._backend, self._block, specs, self._at)
        self._at += needed
        return arrays


class Kernels:
    """The kernels of some source files; `options` are the compiler's for each file stem."""

    def __init__(self, backend: Backend, options: dict[str, tuple[str, ...]]):
        self._kernel, self._options = backend.kernel, options
        self._bound: dict[str, Kernel] = {}

    def launch(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any, shared_mem: int = 0
    ) -> None:
        """Launch a kernel, given as ``"file.kernel"``; Python integers and floats become int and double."""
        if (kernel := self._bound.get(name)) is None:
            stem, function = name.split(".")
            kernel = self._bound[name] = self._kernel(stem, function, self._options[stem])
        values = [_int32(v) if (kind := type(v)) is int else np.float64(v) if kind is float else v for v in arguments]
        kernel(grid, block, tuple(values), shared_mem=shared_mem)

    def over(self, name: str, planes: int, ny: int, nx: int, *arguments: Any) -> None:
        """Launch with a thread for every value of a stack of planes."""
        self.launch(name, (-(-nx // 32), -(-ny // 8), planes), (32, 8), *arguments)


_int32 = lru_cache(maxsize=1024)(np.int32)
"""Numpy takes half a microsecond to make one, and launches have the same numbers again and again."""

FFT_PIXELS = 1 << 23
"""Largest number of pixels that are transformed at once: enough to keep any GPU busy."""


def fft_group(pixels: int) -> int:
    """Number of planes of so many (padded) pixels that are transformed at once.

    It is always the same, since the last bits of an FFT may depend on the batch. The backend transforms a stack in batches of
    this size, so its stacks hold whole batches (`fft_planes`).
    """
    return max(1, min(16, FFT_PIXELS // pixels))


def fft_planes(planes: int, group: int) -> int:
    """Number of planes in a stack that holds so many and is transformed in batches of `group`."""
    return -(-planes // group) * group
