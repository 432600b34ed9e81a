"""A backend of the CUDA device for the meter, which computes nothing and counts everything. Its arrays are called ghosts.

In: nothing. Out: a `Backend` of arrays that have a shape and a type but no values, and a `Counter` of its operations. An
operation is a call into the array library or the launch of a kernel. A look is a point at which the host waits for the
device. A copy transfers data to the device. The FFT of a stack, the sort and a packed upload are one operation each, even if
the library uses several kernels or batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

MEMORY = 20 << 30
"""Bytes that the device believes it may take: a lane's share of an H100."""

ITEM_COUNT = 250
"""What a ghost says where the path asks for a whole number: about the items of a plane of 200,000 samples."""


Counts: TypeAlias = tuple[int, ...]
"""Operations, looks, copies and bytes."""


@dataclass
class Counter:
    """What has been asked of the array library so far."""

    operations: int = 0
    looks: int = 0  # among the operations
    copies: int = 0  # to the device, among the operations
    bytes: int = 0  # copied either way
    batches: int = 0  # of FFTs: cuFFT is called for each
    names: list[str] = field(default_factory=list)

    def add(self, name: str, looks: int = 0, copies: int = 0, nbytes: int = 0) -> None:
        """Count one operation."""
        self.operations += 1
        self.looks += looks
        self.copies += copies
        self.bytes += nbytes
        self.names.append(name)

    def counts(self) -> Counts:
        """Operations, looks, copies and bytes so far."""
        return self.operations, self.looks, self.copies, self.bytes


class Ghost:
    """An array without values. Every operator and every index counts as an operation."""

    __slots__ = ("counter", "dtype", "fill", "filled", "part_of", "shape")

    def __init__(self, counter: Counter, shape: Any, dtype: DTypeLike, part_of: tuple[Ghost, int] | None = None):
        self.counter, self.fill, self.part_of = counter, 0.0, part_of
        self.filled: dict[int, Ghost] = {}  # parts with values, by their first byte
        self.shape: tuple[int, ...] = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def _new(self, name: str, shape: Any, dtype: DTypeLike | None = None) -> Ghost:
        self.counter.add(name)
        return Ghost(self.counter, shape, self.dtype if dtype is None else dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __int__(self) -> int:
        self.counter.add("int", looks=1, nbytes=self.dtype.itemsize)
        return ITEM_COUNT

    __index__ = __int__

    def __getitem__(self, key: Any) -> Ghost:
        return self._new("index", _indexed(self.shape, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.counter.add("assign")

    def _binary(self, other: Any) -> Ghost:
        return self._new("operator", np.broadcast_shapes(self.shape, getattr(other, "shape", ())))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = _binary

    def __neg__(self) -> Ghost:
        return self._new("operator", self.shape)

    def astype(self, dtype: DTypeLike) -> Ghost:
        """Convert."""
        return self._new("astype", self.shape, dtype)

    def ravel(self) -> Ghost:
        """Flatten."""
        return self._new("ravel", (self.size,))

    def reshape(self, *shape: int) -> Ghost:
        """Give it another shape."""
        return self._new("reshape", _reshaped(self.size, shape))

    def copy(self) -> Ghost:
        """Copy."""
        return self._new("copy", self.shape)


def _indexed(shape: tuple[int, ...], key: Any) -> tuple[int, ...]:
    """Find the shape of an indexed array."""
    keys = key if isinstance(key, tuple) else (key,)
    arrays = [k for k in keys if isinstance(k, Ghost | np.ndarray)]
    if arrays:
        return (*arrays[0].shape, *shape[len(keys) :])
    sides: list[int] = []
    axis = 0
    for k in keys:
        if k is None:
            sides.append(1)
            continue
        if isinstance(k, slice):
            sides.append(len(range(*k.indices(shape[axis]))))
        axis += 1
    return (*sides, *shape[axis:])


class _Namespace(SimpleNamespace):
    """The part of an array library that the device uses."""

    def __init__(self, counter: Counter):
        def array(name: str, shape: Any, dtype: DTypeLike = float) -> Ghost:
            counter.add(name)
            return Ghost(counter, shape, dtype)

        def asarray(name: str) -> Callable[..., Ghost]:
            def made(values: Any, dtype: DTypeLike | None = None) -> Ghost:
                if isinstance(values, Ghost):
                    return array(name, values.shape, dtype or values.dtype)
                given = np.asarray(values, dtype)
                counter.add(name, copies=1, nbytes=given.nbytes)
                return Ghost(counter, given.shape, given.dtype)

            return made

        super().__init__(
            empty=lambda shape, dtype=float: array("empty", shape, dtype),
            zeros=lambda shape, dtype=float: array("zeros", shape, dtype),
            ones=lambda shape, dtype=float: array("ones", shape, dtype),
            full=lambda shape, value, dtype=float: array("full", shape, dtype),
            arange=lambda n, dtype=np.int64: array("arange", (n,), dtype),
            asarray=asarray("asarray"),
            array=asarray("array"),
            argsort=lambda a, kind="": array("argsort", a.shape, np.int64),
            searchsorted=lambda a, v, side="": array("searchsorted", v.shape, np.int64),
            cumsum=lambda a: array("cumsum", a.shape, a.dtype),
            minimum=lambda a, b: array("minimum", a.shape, a.dtype),
            multiply=lambda a, b: array("multiply", np.broadcast_shapes(a.shape, np.shape(b)), a.dtype),
            reshape=lambda a, shape: array("reshape", _reshaped(a.size, shape), a.dtype),
            stack=lambda arrays: array("stack", (len(arrays), *arrays[0].shape), arrays[0].dtype),
            concatenate=lambda arrays: array("concatenate", (sum(map(len, arrays)),), arrays[0].dtype),
        )


def _reshaped(size: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size // -math.prod(shape) if n < 0 else n for n in shape)


_BEAM = np.exp(-0.1 * np.add.outer((np.arange(33.0) - 16) ** 2, (np.arange(33.0) - 16) ** 2)).astype(np.float32)
"""What windows of PSFs around their peaks show."""


@cache
def _beams(planes: int) -> np.ndarray:
    """The windows of so many planes, made once: a download takes no processor time."""
    return np.repeat(_BEAM[None], planes, axis=0)


def ghost_backend(backend: Callable[..., Any], answers: dict[str, dict[int, float]]) -> tuple[Any, Counter]:
    """Make a `Backend` by calling `backend`, and the counter of what is asked of it.

    `answers` says what some kernels write: kernel -> number of the argument -> value of all its elements. All other arrays
    hold 0.
    """
    counter = Counter()

    def upload(arrays: Sequence[np.ndarray], dtype: DTypeLike) -> Ghost:
        size = sum(a.size for a in arrays)
        counter.add("upload", copies=1, nbytes=size * np.dtype(dtype).itemsize)
        return Ghost(counter, (size,), dtype)

    def download(array: Ghost) -> np.ndarray:
        counter.add("download", looks=1, nbytes=array.nbytes)
        if array.dtype == np.uint8:  # a block of several arrays
            block = np.zeros(array.shape, array.dtype)
            for at, part in array.filled.items():
                block[at : at + part.nbytes] = np.full(part.shape, part.fill, part.dtype).reshape(-1).view(np.uint8)
            return block
        if array.shape[1:] == _BEAM.shape:
            return _beams(array.shape[0])
        return np.broadcast_to(np.array(array.fill, array.dtype), array.shape)

    def kernel(stem: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
        written = answers.get(name, {})

        def launch(grid: Any, block: Any, arguments: Any, *, shared_mem: int = 0) -> None:
            counter.add(f"{stem}.{name}")
            for number, value in written.items():
                arguments[number].fill = value
                if arguments[number].part_of is not None:
                    block, at = arguments[number].part_of
                    block.filled[at] = arguments[number]

        return launch

    def compiled(stem: str, options: tuple[str, ...]) -> Any:
        return SimpleNamespace(get_function=lambda name: kernel(stem, name, options))

    def fft(name: str) -> Callable[[Ghost, Ghost, int], None]:
        def transform(given: Ghost, out: Ghost, batch: int) -> None:
            counter.add(name)
            counter.batches += len(given) // batch

        return transform

    def view(block: Ghost, at: int, shape: tuple[int, ...], dtype: Any) -> Ghost:
        return Ghost(counter, shape, dtype, (block, at))

    def sort(keys: Ghost) -> Ghost:
        counter.add("sort")
        return Ghost(counter, keys.shape, np.int64)

    wanted = {f.name for f in fields(backend)}  # type: ignore[arg-type]  # a dataclass
    everything = {
        "xp": _Namespace(counter),
        "kernel": kernel,
        "compile": compiled,
        "rfft2": fft("rfft2"),
        "irfft2": fft("irfft2"),
        "fft2": fft("fft2"),
        "ifft2": fft("ifft2"),
        "sort": sort,
        "clear": lambda array: counter.add("clear"),
        "view": view,
        "upload": upload,
        "download": download,
        "synchronise": lambda: counter.add("synchronise", looks=1),
        "memory": MEMORY,
        "free": lambda: None,
        "out_of_memory": MemoryError,
        "shared_bytes": 227 << 10,
        "processors": 132,
        "fft_memory": 1.0,
        "fft_work": 0.0,
        "fft_kept": 1.0,
    }
    return backend(**{name: value for name, value in everything.items() if name in wanted}), counter
