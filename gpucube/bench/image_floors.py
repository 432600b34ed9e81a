"""The floors of the stages of IMAGE, from what the stages did.

In: a scene that was imaged, its records, and the `Cycles` of one channel that was watched. Out: for every stage its work, and
the least time in which the machine could do it. Most floors follow from the sizes of the data. Those of ``fft``, ``minor`` and
``major`` depend on what every cycle did: they are measured for the watched channel and scaled to the seconds of the stage.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpucube.bench import floors
from gpucube.bench.outcome import Floor
from gpucube.bench.scene import Scene
from gpucube.bench.workloads import PRODUCTS
from gpucube.data.store import BYTES_A_SAMPLE, PlaneKey
from gpucube.devices.base import Device, DeviceKind, MinorCycle
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import ImageJob
from gpucube.output.records import ChannelRecord
from gpucube.sky.geometry import ImageGeometry

WEIGHTS_BYTES = 32
"""Bytes that weighting reads and writes for a sample: uvw, and the weight twice."""

REPEATED_BELOW = 5.0
"""Seconds: a shorter run is repeated, because the first one compiles."""


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

    gridding = partial(floors.gridding, samples.in_order(), geometry, epsilon=settings.epsilon, workers=workers)
    grid, degrid = gridding(1, w_term=settings.w_term)
    narrow = gridding(1, w_term=False)[0] if settings.w_term else grid
    wide = gridding(2, w_term=False)[0] if cleaned else 0.0
    look = floors.pixel_pass(pixels, workers)
    write_speed, sync_speed = floors.disk_write(folder, 4 * pixels)

    def copied(work: float, unit: str, nbytes: float) -> Floor:
        limit = nbytes / bandwidth / workers
        return Floor(work=work, unit=unit, nbytes=nbytes, seconds=limit, name="memory copy", kind="memory")

    gridded = Floor(work=vis, unit="vis", nbytes=BYTES_A_SAMPLE * vis, name="ducc0 gridding", kind="gridding")
    looked = Floor(work=measured, unit="pix", nbytes=4 * measured, name="three looks at a plane", kind="loops")
    on_disk = Floor(work=written, unit="B", nbytes=written, kind="disk")
    return {
        "upload": copied(vis, "vis", 2 * BYTES_A_SAMPLE * vis),
        "weights": copied(vis, "vis", WEIGHTS_BYTES * vis),
        "grid": replace(gridded, seconds=nchan * grid / workers),
        "psf": replace(gridded, seconds=(cleaned * wide + (nchan - cleaned) * narrow) / workers),
        "fft": _fft_floor(seconds["fft"], cycles, geometry, workers),
        "measure": replace(looked, seconds=3 * (majors + nchan) * look / workers),
        "minor": _minor_floor(sum(r.iterations for r in records), seconds["minor"], cycles, look, workers),
        "major": _major_floor(majors, seconds["major"], cycles, look, (grid + degrid) / workers),
        "restore": copied(restored, "pix", 8 * restored),
        "write": replace(on_disk, seconds=written / write_speed / workers, name="pwrite"),
        "sync": replace(on_disk, seconds=written / sync_speed, name="fsync"),
    }


def _minor_floor(iterations: int, seconds: float, cycles: Cycles, look: float, workers: int) -> Floor:
    """A loop that finds a peak among the same pixels and touches each, as often as the minor cycles did."""
    limit = None
    if cycles.minor:
        loops = floors.minor_loop(cycles.minor, workers) + look * len(cycles.minor)
        limit = seconds * loops / cycles.minor_seconds
    return Floor(work=float(iterations), unit="it", seconds=limit, name="peak and touch, active pixels", kind="loops")


def _fft_floor(seconds: float, cycles: Cycles, geometry: ImageGeometry, workers: int) -> Floor:
    """ducc0 FFTs of twice the image: a pair for every major cycle that used them, and one for the PSF."""
    if cycles.fft_seconds == 0:
        return Floor(unit="pix", name="ducc0 FFT", kind="FFT")
    forward, back = floors.transforms(geometry, workers)
    ideal = cycles.with_fft * (forward + back) + workers * forward  # every worker made one PSF
    limit = seconds * ideal / cycles.fft_seconds
    transformed = 4.0 * geometry.nx * geometry.ny * limit * workers / (0.5 * (forward + back))
    return Floor(work=transformed, unit="pix", seconds=limit, name="ducc0 FFT of twice the image", kind="FFT")


def _major_floor(majors: int, seconds: float, cycles: Cycles, look: float, both_ways: float) -> Floor:
    """The rest of the major cycles: through the visibilities, or components that are subtracted one at a time."""
    floor = Floor(work=float(majors), unit="cycle", kind="loops")
    if not cycles.minor:
        return floor
    if cycles.fft_seconds == 0:
        return replace(floor, seconds=majors * both_ways, name="ducc0 degrid and grid", kind="gridding")
    looks = cycles.changed_pixels + len(cycles.minor)
    limit = seconds * looks * look / cycles.major_seconds
    return replace(floor, seconds=limit, name="a look at a plane per changed pixel")
