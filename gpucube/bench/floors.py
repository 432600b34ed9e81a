"""Floors: what the machine can do at best for the work of a stage.

In: sizes, and the samples of one channel. Out: seconds or bytes per second, measured now, on as many threads at once as
the run used, because memory, caches and turbo clocks are shared. These are library calls (ducc0, casacore, pwrite) and
compiled loops that do no more than touch what must be touched. Nothing of gpucube's own is timed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ducc0
import numba
import numpy as np

from gpucube.data.store import Samples
from gpucube.sky.geometry import ImageGeometry

COPY_BYTES = WRITE_BYTES = 64 << 20
"""Sizes of what is copied and written: beyond any cache, and short enough to be quick."""

MEASURING_SECONDS = 0.3
"""Each thread repeats its call for this long, three times at least."""

LONG_CALL = 4 * MEASURING_SECONDS
"""A call that takes longer than this is made only once."""

MAGNITUDE = np.uint32(0x7FFFFFFF)
"""The bits of a float32 but for its sign: as integers, magnitudes compare like the numbers."""


def concurrently(make: Callable[[], Callable[[], object]], workers: int) -> float:
    """Seconds of a call that so many threads make at once: the mean over threads of the median.

    `make` makes the call for one thread, with arrays of its own.
    """
    barrier = threading.Barrier(workers)

    def median(_: int) -> float:
        call = make()
        times: list[float] = []
        barrier.wait()
        until = time.perf_counter() + MEASURING_SECONDS
        while len(times) < 3 or time.perf_counter() < until:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
            if times[0] > LONG_CALL:
                break
        return statistics.median(times[1:] or times)  # the first call also compiles and finds its memory

    with ThreadPoolExecutor(workers) as pool:
        return statistics.mean(pool.map(median, range(workers)))


def copy_bandwidth(workers: int) -> float:
    """Bytes per second, read and written, of one of `workers` threads that all copy."""

    def make() -> Callable[[], object]:
        return partial(np.copyto, np.empty(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8))

    return 2 * COPY_BYTES / concurrently(make, workers)


def gridding(
    samples: Samples, geometry: ImageGeometry, factor: int, *, w_term: bool, epsilon: float, workers: int
) -> tuple[float, float]:
    """Seconds in which ducc0 grids, and degrids, the samples of a channel to `factor` times the image."""
    shape = (factor * geometry.nx, factor * geometry.ny)
    options = {
        "uvw": np.array(samples.uvw),
        "freq": np.array([samples.frequency]),
        "pixsize_x": geometry.cell_x,
        "pixsize_y": geometry.cell_y,
        "epsilon": epsilon,
        "do_wgridding": w_term,
        "divide_by_n": False,
        "flip_v": True,
        "nthreads": 1,
    }

    def grid() -> Callable[[], object]:
        dirty = np.empty(shape, np.float32)
        vis, weight = samples.vis[:, None], samples.weight[:, None]  # (nsample, 1)
        return partial(ducc0.wgridder.vis2dirty, vis=vis, wgt=weight, dirty=dirty, **options)

    def degrid() -> Callable[[], object]:
        model = np.zeros(shape, np.float32)
        model[shape[0] // 3, shape[1] // 3] = 1.0
        return partial(ducc0.wgridder.dirty2vis, dirty=model, **options)

    return concurrently(grid, workers), concurrently(degrid, workers) if factor == 1 else 0.0


def transforms(geometry: ImageGeometry, workers: int) -> tuple[float, float]:
    """Seconds in which ducc0 transforms twice the image forward, and back."""
    ny, nx = 2 * geometry.ny, 2 * geometry.nx

    def forward() -> Callable[[], object]:
        image, spectrum = np.ones((ny, nx), np.float32), np.empty((ny, nx // 2 + 1), np.complex64)
        return partial(ducc0.fft.r2c, image, axes=(0, 1), nthreads=1, out=spectrum)

    def back() -> Callable[[], object]:
        image, spectrum = np.empty((ny, nx), np.float32), np.ones((ny, nx // 2 + 1), np.complex64)
        return partial(ducc0.fft.c2r, spectrum, axes=(0, 1), lastsize=nx, forward=False, nthreads=1, out=image)

    return concurrently(forward, workers), concurrently(back, workers)


@numba.njit(nogil=True, cache=True)
def _largest(values: np.ndarray) -> np.uint32:
    """Bits of the largest magnitude."""
    bits = values.view(np.uint32)
    top = np.uint32(0)
    for k in range(values.size):
        top = max(top, bits[k] & MAGNITUDE)
    return top


@numba.njit(nogil=True, cache=True)
def _empty_minor(values: np.ndarray, iterations: int) -> float:
    """A minor cycle without a PSF: find the largest magnitude, and subtract something from every pixel."""
    total = 0.0
    for _ in range(iterations):
        top = _largest(values)
        total += top
        flux = np.float32(1e-9 * (top & np.uint32(1)))
        for k in range(values.size):
            values[k] -= flux
    return total


def minor_loop(cycles: Sequence[tuple[int, int]], workers: int) -> float:
    """Seconds of compiled loops over (pixels, iterations) that find a peak and touch every pixel."""

    def make() -> Callable[[], object]:
        planes = [np.ones(max(pixels, 1), np.float32) for pixels, _ in cycles]
        return lambda: [_empty_minor(plane, count) for plane, (_, count) in zip(planes, cycles, strict=True)]

    return concurrently(make, workers)


def pixel_pass(pixels: int, workers: int) -> float:
    """Seconds of a compiled loop that looks once at every pixel of an image."""
    return concurrently(lambda: partial(_largest, np.ones(pixels, np.float32)), workers)


def disk_write(folder: Path, plane_bytes: int) -> tuple[float, float]:
    """Bytes per second of writing planes one after the other into a file, and of an fsync after them."""
    data, count = np.ones(plane_bytes, np.uint8).data, max(1, WRITE_BYTES // plane_bytes)
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        file.truncate(count * plane_bytes)
        begin = time.perf_counter()
        for k in range(count):
            os.pwrite(file.fileno(), data, k * plane_bytes)
        written = time.perf_counter()
        os.fsync(file.fileno())
        synced = time.perf_counter()
    return count * plane_bytes / (written - begin), count * plane_bytes / max(synced - written, 1e-9)


def casacore_read(ms: str, columns: Sequence[str], rows: int, step: int) -> float:
    """Seconds in which casacore reads `columns` of the first `rows` rows, `step` rows at a time, and nothing else."""
    from casacore import tables

    with tables.table(ms, ack=False) as table:
        begin = time.perf_counter()
        for first in range(0, rows, step):
            for column in columns:
                table.getcol(column, first, min(step, rows - first))
        return time.perf_counter() - begin
