"""Speed of the CUDA device on one GPU, each figure beside its floor and beside what it must reach.

In: which parts to measure. Out: tables as Markdown on standard output, JSON with the hardware if asked for. Every figure is
the median of some repeats with its spread, (largest - smallest) / median. Floors are measured in the same run, most of them
with the bandwidth of a copy on the device. A part that fails is told and does not stop the others.

    python bench/gpu/gpu_speed.py --json result.json > result.md
    python bench/gpu/gpu_speed.py --parts copy,hogbom
    python bench/gpu/gpu_speed.py --on-host          # without a GPU: exercises all of this script, measures nothing of interest

What each part does stands at its function. Needs no casacore: no MeasurementSet is read.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerator import Accelerator, Gpu, Host

from gpucube.bench.machine import Others, cores, machine
from gpucube.bench.scene import make_store, scene_of
from gpucube.bench.workloads import WORKLOADS, Workload
from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import BYTES_A_SAMPLE, PlaneKey, Samples
from gpucube.devices.base import ImagingSettings, MinorCycle
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.backend import Kernels, fft_group
from gpucube.devices.cuda.gridder import PlacedSamples, SampleBatch, Target, TileGridder
from gpucube.devices.cuda.memory import DeviceMemory
from gpucube.devices.cuda.uv_grid import choose_grids
from gpucube.devices.cycles import ACTIVE_SET_CUT
from gpucube.errors import GpucubeError
from gpucube.execution.plan import chunk_size, make_chunks
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.job import ImageJob
from gpucube.imaging.loop import image_chunk
from gpucube.output.fits_cube import create_cubes
from gpucube.output.fits_header import CubeDescription
from gpucube.output.records import ChannelRecord
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

EPSILON = 1e-4

CELL = 1e-5
"""Radians: every image has the same pixels, so that all share their uv points."""

FILL = 0.45
"""Longest baseline, in units of 1 / cell."""

FREQUENCY = 1.4e9

BYTES_A_PLACED_SAMPLE = 28
"""Cell, fraction of a cell, visibility and weight of a sorted sample in single precision."""

LEAST_SECONDS = 0.05
"""What is timed is repeated until it takes this long."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: planes x pixels on a side x iterations of the minor cycles; `active` are pixels of its sets."""

    copy: int = 1 << 30
    images: tuple[int, ...] = (512, 1024, 2048, 4096)
    images_with_w: tuple[int, ...] = (512, 2048)
    samples: int = 16_000_000
    samples_with_w: int = 4_000_000
    textbook: tuple[int, int, int] = (64, 1024, 200)
    active_set: tuple[int, int, int] = (128, 512, 20_000)
    active: int = 2000
    large: tuple[int, int, int] = (1, 4096, 4000)
    workload: Workload = WORKLOADS["vla-hi"]
    busy_seconds: float = 8.0
    planes_in_memory: int = 32
    planes_repeated: int = 8


TINY = Sizes(
    1 << 16,
    (32,),
    (32,),
    300,
    100,
    (2, 24, 3),
    (2, 24, 5),
    20,
    (1, 24, 3),
    Workload(name="tiny", array="vla-d", channels=3, integrations=1, imsize=32, cell=60.0, bright=0.3, sources=2),
    0.0,
    2,
    2,
)
"""For kernels run on the host."""


@dataclass(frozen=True)
class Figure:
    """One line of the tables.

    Attributes
    ----------
    part, what, unit : str
    values : list of float
        One for each repeat.
    floor : float or None
        The best that this machine could do, in the same unit.
    least, aim : float or None
        What it must reach, and what is hoped for.
    note : str
        What the floor is, and how it was measured.
    """

    part: str
    what: str
    unit: str
    values: list[float]
    floor: float | None = None
    least: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0


class Bench:
    """What the parts share.

    Parameters
    ----------
    here : Gpu or Host
    sizes : Sizes
    repeat : int
    """

    def __init__(self, here: Accelerator, sizes: Sizes, repeat: int):
        self.here, self.sizes, self.repeat = here, sizes, repeat
        self.backend, self.xp = here.backend, here.backend.xp
        self.rng = np.random.default_rng(1)
        self._folder = tempfile.TemporaryDirectory(prefix="gpucube-gpu-speed-")

    def close(self) -> None:
        """Remove what was written."""
        self._folder.cleanup()

    def seconds(self, call: Callable[[], object], repeat: int | None = None) -> list[float]:
        """Seconds of one call, measured `repeat` times after a call that compiles and finds its memory."""
        call()
        self.here.synchronise()
        once = self._timed(call, 1)
        least = LEAST_SECONDS if isinstance(self.here, Gpu) else 0.0
        count = max(1, min(1000, math.ceil(least / once)))
        return [self._timed(call, count) for _ in range(repeat or self.repeat)]

    def _timed(self, call: Callable[[], object], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        self.here.synchronise()
        return (time.perf_counter() - begin) / count

    @cached_property
    def copy_seconds(self) -> list[float]:
        """Of a copy of `sizes.copy` bytes on the device."""
        source, target = (self.xp.zeros(self.sizes.copy, np.uint8) for _ in range(2))

        def copy() -> None:
            target[:] = source

        return self.seconds(copy)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the device's memory, read and written."""
        return 2 * self.sizes.copy / statistics.median(self.copy_seconds)

    @cached_property
    def pinned_seconds(self) -> list[float]:
        """Of a copy of `sizes.copy` bytes from pinned memory."""
        pinned = self.here.pinned(self.sizes.copy)
        pinned[:] = 1
        target = self.xp.empty(self.sizes.copy, np.uint8)
        return self.seconds(lambda: self.here.send(target, pinned))

    @cached_property
    def uv(self) -> np.ndarray:
        """Points of the uv plane in cycles per pixel, as dense in the middle as those of an array, in random order."""
        count = max(self.sizes.samples, self.sizes.samples_with_w)
        radius, angle = FILL * self.rng.random(count), 2.0 * np.pi * self.rng.random(count)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    @cached_property
    def job(self) -> ImageJob:
        """The workload's visibilities, in files that the page cache holds, and nothing to be written."""
        workload = self.sizes.workload
        store = make_store(workload, f"{self._folder.name}/store")
        return scene_of(workload, store).job

    def with_cubes(self) -> ImageJob:
        """The same with cubes to be written; each call replaces them."""
        frequency, width = self.job.frequency, abs(float(self.job.frequency[1] - self.job.frequency[0]))
        axis = SpectralAxis(
            frequency=frequency, width=np.full(len(frequency), width), frame=FRAMES["LSRK"], restfreq=None
        )
        description = CubeDescription(geometry=self.job.settings.geometry, axis=axis)
        products = ("image", "residual", "model")
        name = f"{self._folder.name}/cube"
        return replace(self.job, cubes=create_cubes(name, products, description, overwrite=True))


def geometry(size: int) -> ImageGeometry:
    """Of a square image."""
    return ImageGeometry(nx=size, ny=size, cell_x=CELL, cell_y=CELL, centre=Direction(ra=0.0, dec=0.5))


def measure_copy(bench: Bench) -> Iterator[Figure]:
    """Copies on the device and to it: the floors of much else."""
    size = bench.sizes.copy
    yield Figure("copy", "on the device, read and written", "B/s", [2 * size / s for s in bench.copy_seconds])
    yield Figure("copy", "from pinned memory", "B/s", [size / s for s in bench.pinned_seconds])
    ordinary = np.ones(size, np.uint8)
    uploads = bench.seconds(lambda: bench.backend.upload([ordinary], np.uint8))
    floor = size / statistics.median(bench.pinned_seconds)
    note = "`Backend.upload`, one thread; floor: from pinned memory"
    yield Figure("copy", "from ordinary memory, staged", "B/s", [size / s for s in uploads], floor, note=note)


def placed_samples(bench: Bench, gridder: TileGridder, count: int, w_max: float) -> tuple[PlacedSamples, Callable]:
    """`count` samples shared out among as many planes as are transformed at once, and the call that sorts them again."""
    xp, planes = bench.xp, gridder.grid.group
    each = count // planes
    metres = LIGHT_SPEED / FREQUENCY
    w = bench.rng.uniform(0.0, w_max, each * planes) if w_max else np.zeros(each * planes)
    uvw = xp.asarray(np.column_stack([bench.uv[: each * planes] / CELL, w]) * metres)
    vis = xp.asarray(bench.rng.standard_normal((each * planes, 2), np.float32).view(np.complex64)[:, 0])
    weight = xp.ones(each * planes, np.float32)
    first = np.arange(planes + 1, dtype=np.int64) * each
    batch = SampleBatch(
        uvw=uvw,
        vis=vis,
        weight=weight,
        first=first,
        first_row=first[:-1].copy(),
        per_metre=np.full(planes, 1.0 / metres),
    )

    def place() -> PlacedSamples:
        return gridder.place(batch)

    return place(), place


def gridding_floor(bench: Bench, gridder: TileGridder, count: int, passes: int) -> tuple[float, str]:
    """Samples per second at which samples, grids and padded images would be read or written once on each pass."""
    grid, (fft_y, fft_x) = gridder.grid, gridder.grid.fft
    real = grid.real.itemsize if grid.w_planes is None else grid.complex.itemsize
    grids = grid.group * fft_y * (grid.columns * grid.complex.itemsize + fft_x * real)
    nbytes = passes * (BYTES_A_PLACED_SAMPLE * count + 2 * grids)
    return count / (nbytes / bench.bandwidth), "floor: each sample, grid and padded image read or written once"


def measure_grid(bench: Bench) -> Iterator[Figure]:
    """Gridding, degridding and both fused, of sorted samples, FFTs and passes over images included; cuFINUFFT beside them.

    As many planes as are transformed at once share the samples; cuFINUFFT has all of them in one plane. Its `setpts`,
    which sorts, is not counted, nor is `place`.
    """
    for w_term, sizes, count in (
        (False, bench.sizes.images, bench.sizes.samples),
        (True, bench.sizes.images_with_w, bench.sizes.samples_with_w),
    ):
        for size in sizes:
            yield from _measure_grid(bench, size, count, w_term)


def _measure_grid(bench: Bench, size: int, count: int, w_term: bool) -> Iterator[Figure]:
    xp = bench.xp
    w_max = 0.5 * FILL / CELL if w_term else 0.0
    settings = ImagingSettings(geometry=geometry(size), epsilon=EPSILON, w_term=w_term, samples=count, w_max=w_max)
    gridder = TileGridder(bench.backend, choose_grids(settings).image)
    placed, _ = placed_samples(bench, gridder, count, w_max)
    grid, planes = gridder.grid, gridder.grid.group
    to = Target(
        planes=np.arange(planes),
        scale=xp.ones(planes),
        slot=xp.asarray(np.arange(planes, dtype=np.int32)),
        images=xp.zeros((planes, size, size), np.float32),
    )
    model = xp.zeros((planes, size, size), np.float32)
    model[:, size // 3, size // 4] = 1.0
    w_planes = grid.w_planes.count if grid.w_planes else 1
    floor, note = gridding_floor(bench, gridder, placed.count, w_planes)
    how = f"{grid.kernel.support} cells, upsampling {grid.kernel.upsampling}, {planes} planes"
    how += f", {w_planes} planes of w" if w_term else ""
    calls = {
        "grid": lambda: gridder.image(placed, to),
        "degrid": lambda: gridder.predict(placed, to.planes, to.slot, model),
        "degrid, subtract, grid": lambda: gridder.residual(placed, model, to),
    }
    theirs = {} if w_term else cufinufft_rates(bench, size, count)
    for name, rates in theirs.items():
        yield Figure("grid", f"{name}, {size} x {size}, cuFINUFFT", "vis/s", rates)
    for name, call in calls.items():
        rates = [placed.count / s for s in bench.seconds(call)]
        what = f"{name}, {size} x {size}" + (", w" if w_term else "")
        limits: tuple[float | None, float | None] = (None, None)
        if name == "grid" and not w_term:
            limits = (max(1e9, statistics.median(theirs.get(name, [0.0]))), 3e9)
        yield Figure("grid", what, "vis/s", rates, floor, *limits, f"{how}; {note}")


def cufinufft_rates(bench: Bench, size: int, count: int) -> dict[str, list[float]]:
    """Samples per second that cuFINUFFT grids (type 1) and degrids (type 2); nothing where it is absent or fails."""
    xp, rates = bench.xp, {}
    try:
        from cufinufft import Plan

        uv = 2.0 * np.pi * bench.uv[:count]
        x, y = (xp.asarray(np.ascontiguousarray(uv[:, k]), np.float32) for k in (0, 1))
        strengths, modes = xp.ones(count, np.complex64), xp.zeros((size, size), np.complex64)
        modes[size // 3, size // 4] = 1.0
        for kind, name in ((1, "grid"), (2, "degrid")):
            plan = Plan(kind, (size, size), 1, EPSILON, dtype="complex64")
            plan.setpts(x, y)
            data, out = (strengths, xp.empty_like(modes)) if kind == 1 else (modes, xp.empty_like(strengths))
            bench.here.synchronise()
            times = bench.seconds(lambda plan=plan, data=data, out=out: plan.execute(data, out))
            rates[name] = [count / s for s in times]
    except ImportError:
        pass
    except Exception as error:  # another program's trouble is not ours
        say(f"cuFINUFFT: {type(error).__name__}: {error}")
    return rates


def measure_sort(bench: Bench) -> Iterator[Figure]:
    """Sorting samples into tiles, done once for each chunk."""
    for w_term, count in ((False, bench.sizes.samples), (True, bench.sizes.samples_with_w)):
        size = bench.sizes.images_with_w[0]
        w_max = 0.5 * FILL / CELL if w_term else 0.0
        settings = ImagingSettings(geometry=geometry(size), epsilon=EPSILON, w_term=w_term, samples=count, w_max=w_max)
        gridder = TileGridder(bench.backend, choose_grids(settings).image)
        placed, place = placed_samples(bench, gridder, count, w_max)
        key = placed.key[bench.xp.asarray(bench.rng.permutation(placed.count))]
        floor = placed.count / statistics.median(bench.seconds(lambda key=key: bench.xp.argsort(key, kind="stable")))
        what = f"{size} x {size}" + (", w" if w_term else "")
        rates = [placed.count / s for s in bench.seconds(place)]
        yield Figure("sort", what, "vis/s", rates, floor, note="floor: argsort of as many 64-bit keys")


def measure_fft(bench: Bench) -> Iterator[Figure]:
    """FFTs of twice the image in groups, as major cycles in the image use them, and the work area of their plans."""
    for size in bench.sizes.images:
        shape = (2 * size, 2 * size)
        group = fft_group(4 * size * size)
        image = bench.xp.zeros((group, *shape), np.float32)
        spectrum = bench.xp.zeros((group, 2 * size, size + 1), np.complex64)
        pixels, moved = image.size, image.nbytes + spectrum.nbytes
        floor = pixels * bench.bandwidth / (2 * moved)
        for what, call, given, kind in (
            ("forward", lambda image=image: bench.backend.rfft2(image), image, "R2C"),
            ("back", lambda s=spectrum, shape=shape: bench.backend.irfft2(s, shape), spectrum, "C2R"),
        ):
            area = bench.here.plan_bytes(given, kind, shape if kind == "C2R" else None) / spectrum.nbytes
            note = f"work area {area:.2f} of the spectrum; floor: two passes over input and output"
            rates = [pixels / s for s in bench.seconds(call)]
            yield Figure("fft", f"{what}, {group} of {shape[1]} x {shape[0]}", "pix/s", rates, floor, note=note)


def noise_samples(bench: Bench, size: int, planes: int) -> list[Samples]:
    """Some thousands of samples of noise on the same uv points for each plane."""
    uv = bench.uv[: min(20_000, bench.sizes.samples)] * (LIGHT_SPEED / FREQUENCY / CELL)
    uvw, weight = np.column_stack([uv, np.zeros(len(uv))]), np.ones(len(uv), np.float32)

    def one() -> Samples:
        vis = bench.rng.standard_normal((len(uv), 2), np.float32).view(np.complex64)[:, 0]
        return Samples(uvw=uvw, frequency=FREQUENCY, vis=vis, weight=weight, rows="shared")

    return [one() for _ in range(planes)]


def cleaned_planes(bench: Bench, planes: int, size: int, minorcycle: Any) -> tuple[Any, list[Any]]:
    """A device with planes of noise and their PSFs, ready for minor cycles."""
    samples = noise_samples(bench, size, planes)
    settings = ImagingSettings(
        geometry=geometry(size),
        epsilon=EPSILON,
        minorcycle=minorcycle,
        majorcycle="image",
        samples=len(samples[0].weight),
    )
    device = bench.here.kind.make(settings)
    held = device.begin(samples, [None] * planes)
    device.make_psf(held, True)
    return device, held


def measure_hogbom(bench: Bench) -> Iterator[Figure]:
    """Minor cycles, as the device does them, and textbook Högbom in a single launch; iterations of all planes together."""
    note = "floor: 12 bytes a pixel"
    for (planes, size, iterations), least, aim in (
        (bench.sizes.textbook, 200e3, 340e3),
        (bench.sizes.large, 16e3, 21e3),
    ):
        floor = bench.bandwidth / (12 * size * size)
        device, held = cleaned_planes(bench, planes, size, "textbook")
        cycles = [MinorCycle(threshold=0.0, max_iterations=iterations, gain=0.1)] * planes

        def clean(device: Any = device, held: Any = held, cycles: Any = cycles, expected: Any = iterations) -> None:
            assert set(device.minor(held, cycles)) == {expected}

        rates = [planes * iterations / s for s in bench.seconds(clean)]
        yield Figure("hogbom", f"textbook, {planes} of {size} x {size}", "it/s", rates, floor, least, aim, note)
        device.reset()
        del device, held, clean
    yield _one_launch(bench)
    yield _active_set(bench)


def _one_launch(bench: Bench) -> Figure:
    xp, (planes, size, iterations) = bench.xp, bench.sizes.textbook
    residual, psf = xp.empty((planes, size, size), np.float32), xp.empty((planes, 2 * size, 2 * size), np.float32)
    residual[:] = xp.asarray(bench.rng.standard_normal((size, size), np.float32))
    from_centre = (np.arange(2 * size) - size) ** 2 / 8.0
    psf[:] = xp.asarray(np.exp(-np.add.outer(from_centre, from_centre)), np.float32)
    model, masks = xp.zeros_like(residual), xp.zeros((1, 1, 1), np.uint8)
    mask_of, slot = xp.full(planes, -1, np.int32), xp.asarray(np.arange(planes, dtype=np.int32))
    gain, threshold = xp.full(planes, 0.1), xp.zeros(planes)
    limit, done = xp.full(planes, iterations, np.int32), xp.zeros(planes, np.int32)
    kernels = Kernels(bench.backend, {"hogbom": ()})
    images = (residual, psf, model, masks, mask_of, slot, size, size)

    def launch() -> None:
        kernels.launch("hogbom.hogbom_textbook", (planes,), (1024,), *images, gain, threshold, limit, done)

    rates = [planes * iterations / s for s in bench.seconds(launch)]
    what, floor = f"textbook, {planes} of {size} x {size}, one launch", bench.bandwidth / (12 * size * size)
    return Figure("hogbom", what, "it/s", rates, floor, 200e3, 340e3, "floor: 12 bytes a pixel; one block a plane")


def _active_set(bench: Bench) -> Figure:
    planes, size, iterations = bench.sizes.active_set
    device, held = cleaned_planes(bench, planes, size, "activeset")
    values = np.sort(np.abs(device.fetch(held[0], "residual")), axis=None)
    # with this gain, planes get there in thousands of iterations, and not all at once
    threshold = float(values[-bench.sizes.active]) / ACTIVE_SET_CUT
    cycles = [MinorCycle(threshold=threshold, max_iterations=iterations, gain=0.02)] * planes
    done = sum(device.minor(held, cycles))
    rates = [done / s for s in bench.seconds(lambda: device.minor(held, cycles))]
    psf = bench.xp.zeros(planes * 4 * size * size, np.float32)
    reads = bench.xp.asarray(bench.rng.integers(0, len(psf), planes * bench.sizes.active * 16))
    floor = 16 * planes / statistics.median(bench.seconds(lambda: psf[reads]))
    what = f"active set of {bench.sizes.active} pixels, {planes} of {size} x {size}"
    note = f"{done} iterations in one launch; floor: as many random reads of the PSFs"
    device.reset()
    return Figure("hogbom", what, "it/s", rates, floor, 10e6, 50e6, note)


def measure_chunk(bench: Bench) -> Iterator[Figure]:
    """A whole chunk from host memory to cleaned planes, on one thread of the GPU and on all cores of the CPU."""
    job, channels = bench.job, range(bench.sizes.workload.channels)
    records: dict[str, list[ChannelRecord]] = {}

    def on_gpu() -> None:
        records["cuda"] = image_chunk(job, bench.here.kind.make(job.settings), channels)

    workers = cores()
    chunks = make_chunks(chunk_size("auto", len(channels), workers, len(channels)), job.store.channel_power)

    def on_cpu() -> None:
        batches = ThreadWorkers(workers, CpuKind()).image(job, chunks)
        records["cpu"] = [record for batch in batches for record in batch]

    gpu, cpu = bench.seconds(on_gpu), bench.seconds(on_cpu, min(3, bench.repeat))
    stages: dict[str, float] = {}
    for record in records["cuda"]:
        for stage, spent in record.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + spent
    shares = ", ".join(f"{name} {spent / sum(stages.values()):.0%}" for name, spent in stages.items() if spent)
    samples = sum(int(r.visibilities) for r in records["cuda"])
    pinned = bench.sizes.copy / statistics.median(bench.pinned_seconds)
    floor = BYTES_A_SAMPLE * job.store.counts.size * bench.sizes.workload.rows / pinned
    name = f"{bench.sizes.workload.name}, {len(channels)} channels"
    yield Figure("chunk", f"{name}, GPU", "s", gpu, floor, note=f"floor: upload; {samples} samples; {shares}")
    yield Figure("chunk", f"{name}, CPU on {workers} cores", "s", cpu)
    how = _agreement(records["cpu"], records["cuda"])
    ratios = [statistics.median(cpu) / s for s in gpu]
    yield Figure("chunk", "times faster than the CPU", "x", ratios, statistics.median(cpu) / floor, 50.0, 200.0, how)


def _agreement(one: Sequence[ChannelRecord], other: Sequence[ChannelRecord]) -> str:
    pairs = list(zip(*(sorted(r, key=lambda r: r.channel) for r in (one, other)), strict=True))
    same = sum(a.stop_code == b.stop_code for a, b in pairs)
    flux = max(abs(a.model_flux - b.model_flux) for a, b in pairs) / max(abs(a.model_flux) for a, _ in pairs)
    return f"same stop reason in {same} of {len(pairs)} channels, model fluxes within {flux:.1e} of the largest"


def measure_busy(bench: Bench) -> Iterator[Figure]:
    """Share of the time that the GPU runs any kernel while many chunks are imaged and written by the threads of one process."""
    job, lanes = bench.with_cubes(), bench.here.kind.lanes
    channels = bench.sizes.workload.channels
    size = chunk_size("auto", channels, lanes, channels, bench.here.kind.chunks_a_lane)
    chunks = make_chunks(size, job.store.channel_power)

    def image(rounds: int) -> float:
        begin = time.perf_counter()
        for _ in ThreadWorkers(lanes, bench.here.kind).image(job, chunks * rounds):
            pass
        return time.perf_counter() - begin

    image(1)
    rounds = max(1, math.ceil(bench.sizes.busy_seconds / image(1)))
    walls: list[float] = []
    percents, how = bench.here.busy(lambda: walls.append(image(rounds)))
    rate = channels * rounds / walls[0]
    note = f"{len(chunks) * rounds} chunks of up to {size} channels on {lanes} threads, cubes written"
    yield Figure("busy", "channels imaged", "channels/s", [rate], note=note)
    if percents:
        yield Figure("busy", "GPU busy", "%", percents, 100.0, 80.0, 95.0, how)
    elif how:
        raise GpucubeError(f"the share of the time that the GPU is busy was not measured: {how}")


def measure_memory(bench: Bench) -> Iterator[Figure]:
    """Peak of device memory over the life of some planes against what `DeviceMemory` predicts: the smaller over the larger."""
    job = bench.job
    planes = min(bench.sizes.planes_in_memory, bench.sizes.workload.channels)
    samples = [job.store.samples(PlaneKey(channel=channel, stokes=0)) for channel in range(planes)]
    for what, changes in (
        ("major cycles in the image", {"majorcycle": "image"}),
        ("major cycles through visibilities", {"majorcycle": "visibility"}),
        ("w term", {"w_term": True}),
    ):
        settings = replace(job.settings, **changes)
        predicted = DeviceMemory(settings, bench.backend.fft_memory).of(planes)
        device = bench.here.kind.make(settings)

        def live(device: Any = device) -> None:
            held = device.begin(samples, [None] * planes)
            device.make_psf(held, True)
            device.measure(held)
            device.minor(held, [MinorCycle(threshold=0.0, max_iterations=200, gain=0.1)] * planes)
            device.major(held)

        most, kept = bench.here.peak_memory(live)
        taken = f"{most / 1e9:.3f} GB taken, {kept / 1e9:.3f} GB held by the pool"
        note = f"{planes} planes: {predicted / 1e9:.3f} GB predicted, {taken}"
        yield Figure("memory", what, "of 1", [min(most / predicted, predicted / most)], 1.0, 0.9, note=note)
        device.reset()


def measure_repeat(bench: Bench) -> Iterator[Figure]:
    """The same chunk again and again, and in chunks of one channel: checksums of its planes must not change."""
    count, runs = min(bench.sizes.planes_repeated, bench.sizes.workload.channels), 10 if bench.repeat > 1 else 2
    bright = bench.sizes.workload.bright_channels
    first = max(0, min(bright[0] - count // 2, bench.sizes.workload.channels - count))
    channels = range(first, first + count)

    def checksums(chunks: Sequence[Sequence[int]]) -> dict[int, Any]:
        job = bench.with_cubes()
        found = [r for c in chunks for r in image_chunk(job, bench.here.kind.make(job.settings), c)]
        return {r.channel: r.checksums for r in found}

    expected = checksums([channels])
    same = sum(checksums([channels]) == expected for _ in range(runs - 1))
    yield Figure("repeat", "runs with the same bits", "runs", [1.0 + same], least=float(runs), aim=float(runs))
    alone = checksums([[c] for c in channels])
    equal = float(sum(alone[c] == expected[c] for c in channels))
    yield Figure(
        "repeat", "channels with the same bits alone", "channels", [equal], least=float(count), aim=float(count)
    )


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "copy": measure_copy,
    "grid": measure_grid,
    "sort": measure_sort,
    "fft": measure_fft,
    "hogbom": measure_hogbom,
    "chunk": measure_chunk,
    "busy": measure_busy,
    "memory": measure_memory,
    "repeat": measure_repeat,
}


def quantity(value: float | None, unit: str) -> str:
    """Three digits with a prefix; empty for None."""
    if value is None:
        return ""
    if unit in ("s", "x", "%", "runs", "channels", "channels/s", "of 1"):
        return f"{value:.3g} {unit}"
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000.0
    return f"{value:.3g} T{unit}"


def reached(figure: Figure) -> str:
    """``"yes"``, ``"no"`` or ``"aim"``; empty where nothing is asked for."""
    if figure.least is None:
        return ""
    if figure.aim is not None and figure.median >= figure.aim:
        return "aim"
    return "yes" if figure.median >= figure.least else "no"


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    lines = ["| what | median | spread | floor | must reach | aim | reached | |", "|---|---|---|---|---|---|---|---|"]
    for f in figures:
        limits = [quantity(v, f.unit) for v in (f.floor, f.least, f.aim)]
        spread = f"{f.spread:.0%}" if len(f.values) > 1 else ""
        lines.append(
            f"| {f.what} | {quantity(f.median, f.unit)} | {spread} | {' | '.join(limits)} | {reached(f)} | {f.note} |"
        )
    return "\n".join(lines)


def say(text: str) -> None:
    """Tell what is going on, on standard error."""
    print(f"gpu_speed: {text}", file=sys.stderr, flush=True)


def run(bench: Bench, parts: Sequence[str], seconds: float) -> tuple[list[Figure], dict[str, str]]:
    """Figures of all parts, and what went wrong in some."""
    figures: list[Figure] = []
    errors: dict[str, str] = {}
    begin = time.perf_counter()
    for part in parts:
        if time.perf_counter() - begin > seconds:
            errors[part] = f"no time left of {seconds:g} s"
            continue
        say(part)
        try:
            for figure in PARTS[part](bench):
                figures.append(figure)
                say(f"  {figure.what}: {quantity(figure.median, figure.unit)}")
        except Exception as error:  # whatever it is, the other parts may work
            if not isinstance(error, GpucubeError):
                traceback.print_exc()
            errors[part] = " ".join(f"{type(error).__name__}: {error}".split())
        with suppress(Exception):  # of a GPU that does nothing any more, which the next part will tell
            bench.backend.free()
    return figures, errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status: 0, 1 if a part failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each figure (default 5)")
    parser.add_argument("--seconds", type=float, default=400.0, help="no part begins after these (default 400)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the hardware too")
    parser.add_argument("--on-host", action="store_true", help="tiny sizes, kernels run on the host")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    if options.repeat < 1:
        parser.error("--repeat should be at least 1")
    begin, others = time.perf_counter(), Others()
    time.sleep(0.5)
    busy = round(100 * others.share())
    try:
        here = Host() if options.on_host else Gpu()
    except GpucubeError as error:
        parser.error(str(error))
    bench = Bench(here, TINY if options.on_host else Sizes(), options.repeat)
    try:
        figures, errors = run(bench, parts, options.seconds)
    finally:
        bench.close()
    hardware = machine() | here.describe() | {"busy_before_percent": busy}
    wall = time.perf_counter() - begin
    print(f"# Speed of the CUDA device on {hardware['gpu']}\n")
    print(", ".join(f"{k} {v}" for k, v in hardware.items() if v and k not in ("gpu", "accelerators")) + ".")
    print(f"\nMedians of {options.repeat}; spread: (largest - smallest) / median. {wall:.0f} s in all.")
    print(f"Other programs used {busy} % of the machine before the start.")
    if "grid" in parts and not hardware["cufinufft"]:
        print("cuFINUFFT is absent (package `cufinufft`): gridding is held to 1 Gvis/s alone.")
    for part in parts:
        print(f"\n## {part}\n\n{' '.join(PARTS[part].__doc__.split())}\n")
        if some := [f for f in figures if f.part == part]:
            print(table(some))
        if part in errors:
            print(f"\nFailed: {errors[part]}")
    if options.json:
        rows = [asdict(f) | {"median": f.median, "spread": f.spread, "reached": reached(f)} for f in figures]
        result = {
            "hardware": hardware,
            "repeat": options.repeat,
            "wall_seconds": wall,
            "figures": rows,
            "errors": errors,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
