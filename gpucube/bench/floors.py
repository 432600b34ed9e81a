"""Floors: the least time in which the machine could do the work of a stage.

In: sizes, the samples of one channel, and for IMAGE a scene that was imaged with its records. Out: seconds or bytes per
second, and for every stage of IMAGE its work and the least time in which the machine could do it. All is measured at
once, on as many threads as the run used, because memory, caches and turbo clocks are shared. Library calls (ducc0,
casacore, pwrite) and compiled loops that only touch the necessary memory are timed, not code of gpucube.

Most floors follow from the sizes of the data. Those of ``fft``, ``minor`` and ``major`` depend on what every cycle did: one
channel is imaged and watched (`Cycles`), and its floors are scaled to the seconds of the stage.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import ducc0
import numpy as np

from gpucube.bench.outcome import Floor
from gpucube.bench.scene import Scene
from gpucube.bench.workloads import PRODUCTS
from gpucube.caches import njit
from gpucube.data.store import BYTES_A_SAMPLE, PlaneKey, Samples
from gpucube.devices.base import Device, DeviceKind, MinorCycle
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT
from gpucube.environment import provide_threads
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import ImageJob
from gpucube.output.records import ChannelRecord
from gpucube.sky.geometry import ImageGeometry

COPY_BYTES = WRITE_BYTES = 64 << 20
"""Sizes of what is copied and written: beyond any cache, and short enough to be quick."""

MEASURING_SECONDS = 0.3
"""Each thread repeats its call for this long, three times at least."""

LONG_CALL = 4 * MEASURING_SECONDS
"""A call that takes longer than this is made only once."""

MAGNITUDE = np.uint32(0x7FFFFFFF)
"""The bits of a float32 but for its sign: as integers, magnitudes compare like the numbers."""

WEIGHTS_BYTES = 32
"""Bytes that weighting reads and writes for a sample: uvw, and the weight twice."""

REPEATED_BELOW = 5.0
"""Seconds: a shorter run is repeated, because the first one compiles."""


def concurrently(make: Callable[[], Callable[[], object]], workers: int) -> float:
    """Time a call that several threads make at once: seconds, the mean over threads of the median.

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
    """Measure the bytes per second that one of `workers` threads reads and writes while all of them copy."""

    def make() -> Callable[[], object]:
        return partial(np.copyto, np.empty(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8))

    return 2 * COPY_BYTES / concurrently(make, workers)


def gridding(
    samples: Samples, geometry: ImageGeometry, factor: int, *, w_term: bool, epsilon: float, workers: int
) -> tuple[float, float]:
    """Time ducc0 as it grids, and degrids, the samples of a channel to `factor` times the image: seconds of each."""
    provide_threads()
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
    """Time ducc0 as it transforms twice the image forward, and back: seconds of each."""
    ny, nx = 2 * geometry.ny, 2 * geometry.nx

    def forward() -> Callable[[], object]:
        image, spectrum = np.ones((ny, nx), np.float32), np.empty((ny, nx // 2 + 1), np.complex64)
        return partial(ducc0.fft.r2c, image, axes=(0, 1), nthreads=1, out=spectrum)

    def back() -> Callable[[], object]:
        image, spectrum = np.empty((ny, nx), np.float32), np.ones((ny, nx // 2 + 1), np.complex64)
        return partial(ducc0.fft.c2r, spectrum, axes=(0, 1), lastsize=nx, forward=False, nthreads=1, out=image)

    return concurrently(forward, workers), concurrently(back, workers)


@njit()
def _largest(values: np.ndarray) -> np.uint32:
    """Find the bits of the largest magnitude."""
    bits = values.view(np.uint32)
    top = np.uint32(0)
    for k in range(values.size):
        top = max(top, bits[k] & MAGNITUDE)
    return top


@njit()
def _empty_minor(values: np.ndarray, iterations: int) -> float:
    """Do what a minor cycle does without a PSF: find the largest magnitude, and subtract something from every pixel."""
    total = 0.0
    for _ in range(iterations):
        top = _largest(values)
        total += top
        flux = np.float32(1e-9 * (top & np.uint32(1)))
        for k in range(values.size):
            values[k] -= flux
    return total


def minor_loop(cycles: Sequence[tuple[int, int]], workers: int) -> float:
    """Time compiled loops over (pixels, iterations) that find a peak and touch every pixel: seconds."""

    def make() -> Callable[[], object]:
        planes = [np.ones(max(pixels, 1), np.float32) for pixels, _ in cycles]
        return lambda: [_empty_minor(plane, count) for plane, (_, count) in zip(planes, cycles, strict=True)]

    return concurrently(make, workers)


def pixel_pass(pixels: int, workers: int) -> float:
    """Time a compiled loop that looks once at every pixel of an image: seconds."""
    return concurrently(lambda: partial(_largest, np.ones(pixels, np.float32)), workers)


def disk_write(folder: Path, plane_bytes: int) -> tuple[float, float]:
    """Measure the bytes per second of writing planes one after the other into a file, and of an fsync after them."""
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
    """Time casacore as it reads `columns` of the first `rows` rows, `step` rows at a time, and nothing else: seconds."""
    from casacore import tables

    with tables.table(ms, ack=False) as table:
        cells = {column: table.getcol(column, 0, min(step, rows)) for column in columns}
        begin = time.perf_counter()
        for first in range(0, rows, step):
            count = min(step, rows - first)
            for column, array in cells.items():
                table.getcolnp(column, array[:count], first, count)
        return time.perf_counter() - begin


@dataclass
class Cycles:
    """What the cycles of one channel did, summed over the workers that imaged it."""

    minor: list[tuple[int, int]] = field(default_factory=list)  # pixels of the active set and iterations of each
    minor_seconds: float = 0.0
    major_seconds: float = 0.0  # without FFTs
    fft_seconds: float = 0.0  # of PSF and major cycles; 0 if major cycles go through the visibilities
    with_fft: int = 0  # major cycles that used FFTs
    changed_pixels: int = 0  # of the model, before the other major cycles

    def __add__(self, other: Cycles) -> Cycles:
        return Cycles(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class WatchedDevice:
    """A device that works on one plane. It counts what the cycles do, and passes every call on."""

    def __init__(self, device: Device[Any]) -> None:
        self._device = device
        self._model = np.zeros(0)
        self.cycles = Cycles()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def minor(self, planes: Sequence[Any], cycles: Sequence[MinorCycle]) -> list[int]:
        """Run the minor cycle, and count the pixels that it updates."""
        (plane,), (cycle,) = planes, cycles
        self._model = self._device.fetch(plane, "model").copy()
        residual = np.abs(self._device.fetch(plane, "residual"))
        active = int(np.count_nonzero(residual > ACTIVE_SET_CUT * cycle.threshold))
        begin = time.perf_counter()
        iterations = self._device.minor(planes, cycles)
        self.cycles.minor_seconds += time.perf_counter() - begin
        self.cycles.minor.append((active, iterations[0]))
        return iterations

    def major(self, planes: Sequence[Any]) -> None:
        """Run the major cycle, and count the pixels that changed."""
        changed = int(np.count_nonzero(self._device.fetch(planes[0], "model") != self._model))
        spent = self._device.substage_seconds
        before = spent.get("fft", 0.0)
        begin = time.perf_counter()
        self._device.major(planes)
        seconds = time.perf_counter() - begin
        fft = spent.get("fft", 0.0) - before
        self.cycles.major_seconds += seconds - fft
        if fft > 0:
            self.cycles.with_fft += 1
        else:
            self.cycles.changed_pixels += changed


def watch(job: ImageJob, kind: DeviceKind, channel: int, workers: int) -> Cycles:
    """Image one channel on all workers at once, and count what its cycles do."""

    def one(_: int) -> Cycles:
        device = WatchedDevice(kind.make(job.settings, workers))  # a device belongs to the thread that made it
        (record,) = image_chunk(job, cast(Device[Any], device), [channel])
        device.cycles.fft_seconds = record.seconds.get("fft", 0.0)
        return device.cycles

    def all_workers() -> Cycles:
        with ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(one, range(workers)), Cycles())

    with kind.working():
        begin = time.perf_counter()
        cycles = all_workers()
        return all_workers() if time.perf_counter() - begin < REPEATED_BELOW else cycles


def image_floors(
    scene: Scene,
    records: Sequence[ChannelRecord],
    seconds: Mapping[str, float],
    cycles: Cycles,
    workers: int,
    folder: Path,
    bandwidth: float,
) -> dict[str, Floor]:
    """Measure the floors, from the records of all channels, median seconds by stage and the cycles of the hardest channel.

    `folder` lies on the disk of the cubes, and `bandwidth` is that of a copy on each of the workers, bytes per second.
    """
    settings, geometry = scene.job.settings, scene.job.settings.geometry
    nchan, pixels = len(scene.channels), geometry.nx * geometry.ny
    cleaned = sum(r.major_cycles > 0 for r in records)
    majors = sum(r.major_cycles for r in records)
    samples = scene.job.store.samples(PlaneKey(channel=scene.hardest, stokes=0))
    assert samples is not None, "the channel with the most power has samples"
    vis = float(len(samples.weight) * nchan)
    measured, restored = float((majors + nchan) * pixels), float(nchan * pixels)
    written = 4.0 * len(PRODUCTS) * restored

    gridded = partial(gridding, samples.in_order(), geometry, epsilon=settings.epsilon, workers=workers)
    grid, degrid = gridded(1, w_term=settings.w_term)
    narrow = gridded(1, w_term=False)[0] if settings.w_term else grid
    wide = gridded(2, w_term=False)[0] if cleaned else 0.0
    look = pixel_pass(pixels, workers)
    write_speed, sync_speed = disk_write(folder, 4 * pixels)

    def copied(work: float, unit: str, nbytes: float) -> Floor:
        limit = nbytes / bandwidth / workers
        return Floor(work=work, unit=unit, nbytes=nbytes, seconds=limit, name="memory copy", kind="memory")

    by_ducc0 = Floor(work=vis, unit="vis", nbytes=BYTES_A_SAMPLE * vis, name="ducc0 gridding", kind="gridding")
    looked = Floor(work=measured, unit="pix", nbytes=4 * measured, name="three looks at a plane", kind="loops")
    on_disk = Floor(work=written, unit="B", nbytes=written, kind="disk")
    return {
        "upload": copied(vis, "vis", 2 * BYTES_A_SAMPLE * vis),
        "weights": copied(vis, "vis", WEIGHTS_BYTES * vis),
        "grid": replace(by_ducc0, seconds=nchan * grid / workers),
        "psf": replace(by_ducc0, seconds=(cleaned * wide + (nchan - cleaned) * narrow) / workers),
        "fft": _fft_floor(seconds["fft"], cycles, geometry, workers),
        "measure": replace(looked, seconds=3 * (majors + nchan) * look / workers),
        "minor": _minor_floor(sum(r.iterations for r in records), seconds["minor"], cycles, look, workers),
        "major": _major_floor(majors, seconds["major"], cycles, look, (grid + degrid) / workers),
        "restore": copied(restored, "pix", 8 * restored),
        "write": replace(on_disk, seconds=written / write_speed / workers, name="pwrite"),
        "sync": replace(on_disk, seconds=written / sync_speed, name="fsync"),
    }


def _minor_floor(iterations: int, seconds: float, cycles: Cycles, look: float, workers: int) -> Floor:
    """Time a loop that finds a peak among the same pixels and touches each, as often as the minor cycles did."""
    limit = None
    if cycles.minor:
        loops = minor_loop(cycles.minor, workers) + look * len(cycles.minor)
        limit = seconds * loops / cycles.minor_seconds
    return Floor(work=float(iterations), unit="it", seconds=limit, name="peak and touch, active pixels", kind="loops")


def _fft_floor(seconds: float, cycles: Cycles, geometry: ImageGeometry, workers: int) -> Floor:
    """Time ducc0 FFTs of twice the image: a pair for every major cycle that used them, and one for the PSF."""
    if cycles.fft_seconds == 0:
        return Floor(unit="pix", name="ducc0 FFT", kind="FFT")
    forward, back = transforms(geometry, workers)
    ideal = cycles.with_fft * (forward + back) + workers * forward  # every worker made one PSF
    limit = seconds * ideal / cycles.fft_seconds
    transformed = 4.0 * geometry.nx * geometry.ny * limit * workers / (0.5 * (forward + back))
    return Floor(work=transformed, unit="pix", seconds=limit, name="ducc0 FFT of twice the image", kind="FFT")


def _major_floor(majors: int, seconds: float, cycles: Cycles, look: float, both_ways: float) -> Floor:
    """Estimate the rest of the major cycles: through the visibilities, or component by component."""
    floor = Floor(work=float(majors), unit="cycle", kind="loops")
    if not cycles.minor:
        return floor
    if cycles.fft_seconds == 0:
        return replace(floor, seconds=majors * both_ways, name="ducc0 degrid and grid", kind="gridding")
    looks = cycles.changed_pixels + len(cycles.minor)
    limit = seconds * looks * look / cycles.major_seconds
    return replace(floor, seconds=limit, name="a look at a plane per changed pixel")
