"""Parts ``grid`` and ``sort`` of `gpu_speed.py`: gridding, degridding, and the sorting before them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import numpy as np
from harness import CELL, EPSILON, FILL, FREQUENCY, Bench, Figure, say, settings_for

from gpucube.constants import LIGHT_SPEED
from gpucube.devices.cuda.backend import Workspace
from gpucube.devices.cuda.gridder import PlacedSamples, SampleBatch, Target, TileGridder
from gpucube.devices.cuda.uv_grid import choose_grids

LEAST_BYTES, AIM_BYTES = 3000, 1000
"""A sample must take no longer than a copy of so many bytes, and aims at so many: 1 and 3 Gvis/s on an H100."""

LARGEST_W = 0.5 * FILL / CELL
"""Wavelengths."""

BYTES_A_PLACED_SAMPLE = 28
"""Position, visibility and weight of a sorted sample in single precision."""

WORK_BYTES = 1 << 31
"""Of the workspace."""


def measure_grid(bench: Bench) -> Iterator[Figure]:
    """Gridding, degridding and both fused, of sorted samples, with FFTs and passes over images; cuFINUFFT beside them.

    The planes that are transformed at once share the samples; cuFINUFFT has all of them in one plane. Its `setpts`,
    which sorts, is not counted, nor is `place`.
    """
    sizes = bench.sizes
    for size in sizes.images:
        yield from _measure_grid(bench, size, sizes.samples, w_max=0.0)
    for size in sizes.images_with_w:
        yield from _measure_grid(bench, size, sizes.samples_with_w, w_max=LARGEST_W)


def measure_sort(bench: Bench) -> Iterator[Figure]:
    """Sorting samples into tiles, done once for each chunk."""
    size = bench.sizes.images_with_w[0]
    yield _measure_sort(bench, size, bench.sizes.samples, w_max=0.0)
    yield _measure_sort(bench, size, bench.sizes.samples_with_w, w_max=LARGEST_W)


def _gridder(bench: Bench, size: int, count: int, w_max: float) -> TileGridder:
    settings = settings_for(size, w_term=w_max > 0, samples=count, w_max=w_max)
    return TileGridder(bench.backend, Workspace(bench.backend, WORK_BYTES), choose_grids(settings).image)


def _sorter(bench: Bench, gridder: TileGridder, count: int, w_max: float) -> Callable[[], PlacedSamples]:
    """The call that sorts `count` samples, which are shared out among the planes that are transformed at once."""
    xp, planes = bench.xp, gridder.grid.group
    each = count // planes
    metres = LIGHT_SPEED / FREQUENCY
    w = bench.rng.uniform(0.0, w_max, each * planes) if w_max else np.zeros(each * planes)
    first = np.arange(planes + 1, dtype=np.int64) * each
    batch = SampleBatch(
        uvw=xp.asarray(np.column_stack([bench.uv[: each * planes] / CELL, w]) * metres),
        vis=xp.asarray(bench.rng.standard_normal((each * planes, 2), np.float32).view(np.complex64)[:, 0]),
        weight=xp.ones(each * planes, np.float32),
        first=xp.asarray(first),
        first_row=xp.asarray(first[:-1].copy()),
        per_metre=xp.asarray(np.full(planes, 1.0 / metres)),
        most=each,
    )

    def place() -> PlacedSamples:
        placed = gridder.place(batch, planes)
        gridder.look(placed)
        return placed

    return place


def _measure_grid(bench: Bench, size: int, count: int, w_max: float) -> Iterator[Figure]:
    xp = bench.xp
    gridder = _gridder(bench, size, count, w_max)
    placed = _sorter(bench, gridder, count, w_max)()
    grid, planes = gridder.grid, gridder.grid.group
    to = Target(
        planes=np.arange(planes),
        scale=np.ones(planes),
        slot=np.arange(planes),
        images=xp.zeros((planes, size, size), np.float32),
    )
    model = xp.zeros((planes, size, size), np.float32)
    model[:, size // 3, size // 4] = 1.0
    calls = {
        "grid": lambda: gridder.image(placed, to),
        "degrid": lambda: gridder.predict(placed, to.planes, to.slot, model),
        "degrid, subtract, grid": lambda: gridder.residual(placed, model, to),
    }
    how = f"{grid.kernel.support} cells, upsampling {grid.kernel.upsampling}, {planes} planes"
    how += f", {grid.w_planes.count} planes of w" if grid.w_planes else ""
    note = f"{how}; floor: each sample, grid and padded image read or written once"
    floor = _floor(bench, gridder, placed.count)
    theirs = {} if w_max else cufinufft_rates(bench, size, count)
    for name, rates in theirs.items():
        yield Figure("grid", f"{name}, {size} x {size}, cuFINUFFT", "vis/s", rates)
    for name, call in calls.items():
        rates = [placed.count / s for s in bench.seconds(call)]
        least = aim = None
        if name == "grid" and not w_max:
            least = max(bench.bandwidth / LEAST_BYTES, statistics.median(theirs.get(name, [0.0])))
            aim = bench.bandwidth / AIM_BYTES
        what = f"{name}, {size} x {size}" + (", w" if w_max else "")
        yield Figure("grid", what, "vis/s", rates, floor, least, aim, note)


def _floor(bench: Bench, gridder: TileGridder, count: int) -> float:
    """Samples per second if samples, grids and padded images were read or written once on each pass."""
    grid, (fft_y, fft_x) = gridder.grid, gridder.grid.fft
    real = grid.complex.itemsize if grid.w_planes else grid.real.itemsize
    grids = grid.group * fft_y * (grid.columns * grid.complex.itemsize + fft_x * real)
    passes = grid.w_planes.count if grid.w_planes else 1
    return count * bench.bandwidth / (passes * (BYTES_A_PLACED_SAMPLE * count + 2 * grids))


def cufinufft_rates(bench: Bench, size: int, count: int) -> dict[str, list[float]]:
    """Samples per second that cuFINUFFT grids (type 1) and degrids (type 2); nothing where it is absent or fails."""
    rates = {}
    try:
        for kind, name in ((1, "grid"), (2, "degrid")):
            rates[name] = [count / s for s in _cufinufft_seconds(bench, size, count, kind)]
    except ImportError:
        pass
    except Exception as error:  # another program's trouble is not ours
        say(f"cuFINUFFT: {type(error).__name__}: {error}")
    return rates


def _cufinufft_seconds(bench: Bench, size: int, count: int, kind: int) -> list[float]:
    from cufinufft import Plan

    xp, uv = bench.xp, 2.0 * np.pi * bench.uv[:count]
    x, y = (xp.asarray(np.ascontiguousarray(uv[:, k]), np.float32) for k in (0, 1))
    strengths, modes = xp.ones(count, np.complex64), xp.zeros((size, size), np.complex64)
    modes[size // 3, size // 4] = 1.0
    plan = Plan(kind, (size, size), 1, EPSILON, dtype="complex64")
    bench.here.synchronise()  # its stream does not wait for ours
    plan.setpts(x, y)
    data, out = (strengths, xp.empty_like(modes)) if kind == 1 else (modes, xp.empty_like(strengths))
    bench.here.synchronise()
    return bench.seconds(lambda: plan.execute(data, out))


def _measure_sort(bench: Bench, size: int, count: int, w_max: float) -> Figure:
    place = _sorter(bench, _gridder(bench, size, count, w_max), count, w_max)
    placed = place()
    key = bench.xp.asarray(bench.rng.permutation(placed.count).astype(np.uint32))
    floor = placed.count / statistics.median(bench.seconds(lambda: bench.backend.sort(key)))
    rates = [placed.count / s for s in bench.seconds(place)]
    what = f"{size} x {size}" + (", w" if w_max else "")
    return Figure("sort", what, "vis/s", rates, floor, note="floor: argsort of as many 32-bit keys")
