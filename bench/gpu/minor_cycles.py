"""Part ``hogbom`` of `gpu_speed.py`: minor cycles."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import CELL, FREQUENCY, Bench, Figure, settings_for

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import Device, MinorCycle
from gpucube.devices.cuda.backend import Kernels
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT

TEXTBOOK_BYTES = 12
"""Bytes of memory that an iteration over the whole image moves for each pixel: residual read and written, PSF read."""

LEAST, AIM = 0.8, 0.9
"""What textbook Högbom must reach, and what is hoped for, as shares of the floor that the bandwidth of a copy sets."""

NOISE_SAMPLES = 20_000
"""Samples of a plane of noise."""


def measure_hogbom(bench: Bench) -> Iterator[Figure]:
    """Minor cycles, as the device does them, and textbook Högbom in a single launch; iterations of all planes together."""
    yield _textbook(bench, bench.sizes.textbook)
    yield _textbook(bench, bench.sizes.large)
    yield _one_launch(bench)
    yield _active_set(bench, bench.sizes.active_set, bench.sizes.active, 0.5)
    yield _active_set(bench, bench.sizes.large_set, bench.sizes.large_active, None)


def _noise(bench: Bench, planes: int) -> list[Samples]:
    """Noise on the same uv points for each plane."""
    uv = bench.uv[: min(NOISE_SAMPLES, bench.sizes.samples)] * (LIGHT_SPEED / FREQUENCY / CELL)
    uvw, weight = np.column_stack([uv, np.zeros(len(uv))]), np.ones(len(uv), np.float32)

    def one() -> Samples:
        vis = bench.rng.standard_normal((len(uv), 2), np.float32).view(np.complex64)[:, 0]
        return Samples(uvw=uvw, frequency=FREQUENCY, vis=vis, weight=weight, rows="shared")

    return [one() for _ in range(planes)]


def _ready(bench: Bench, planes: int, size: int, minorcycle: str) -> tuple[Device[Any], list[Any]]:
    """A device with planes of noise and their PSFs, ready for minor cycles."""
    samples = _noise(bench, planes)
    settings = settings_for(size, minorcycle=minorcycle, majorcycle="image", samples=len(samples[0].weight))
    device = bench.here.kind.make(settings)
    held = device.begin(samples, [None] * planes)
    device.make_psf(held, True)
    return device, held


def _textbook(bench: Bench, sizes: tuple[int, int, int]) -> Figure:
    planes, size, iterations = sizes
    device, held = _ready(bench, planes, size, "textbook")
    cycles = [MinorCycle(threshold=0.0, max_iterations=iterations, gain=0.1)] * planes

    def clean() -> None:
        assert set(device.minor(held, cycles)) == {iterations}

    rates = [planes * iterations / s for s in bench.seconds(clean)]
    device.reset()
    floor = bench.bandwidth / (TEXTBOOK_BYTES * size * size)
    note = f"floor: {TEXTBOOK_BYTES} bytes a pixel"
    what = f"textbook, {planes} of {size} x {size}"
    return Figure("hogbom", what, "it/s", rates, floor, LEAST * floor, AIM * floor, note)


def _one_launch(bench: Bench) -> Figure:
    xp, (planes, size, iterations) = bench.xp, bench.sizes.textbook
    residual, psf = xp.empty((planes, size, size), np.float32), xp.empty((planes, 2 * size, 2 * size), np.float32)
    residual[:] = xp.asarray(bench.rng.standard_normal((size, size), np.float32))
    from_centre = (np.arange(2 * size) - size) ** 2 / 8.0
    psf[:] = xp.asarray(np.exp(-np.add.outer(from_centre, from_centre)), np.float32)
    model, masks = xp.zeros_like(residual), xp.zeros((1, 1, 1), np.uint8)
    mask_of, slot = xp.full(planes, -1, np.int32), xp.asarray(np.arange(planes, dtype=np.int32))
    images = (residual, psf, model, masks, mask_of, slot, size, size)
    orders = xp.asarray(np.tile([0.1, 0.0, iterations, 0.0], (planes, 1)))
    how_far = (orders, iterations, 0, xp.empty((planes, 2), np.int32))
    kernels = Kernels(bench.backend, {"hogbom": ()})
    seconds = bench.seconds(lambda: kernels.launch("hogbom.hogbom_textbook", (planes,), (1024,), *images, *how_far))
    rates = [planes * iterations / s for s in seconds]
    floor = bench.bandwidth / (TEXTBOOK_BYTES * size * size)
    note = f"floor: {TEXTBOOK_BYTES} bytes a pixel; one block a plane"
    what = f"textbook, {planes} of {size} x {size}, one launch"
    return Figure("hogbom", what, "it/s", rates, floor, 0.5 * floor, AIM * floor, note)


def _active_set(bench: Bench, sizes: tuple[int, int, int], active: int, least: float | None) -> Figure:
    planes, size, iterations = sizes
    device, held = _ready(bench, planes, size, "activeset")
    values = np.sort(np.abs(device.fetch(held[0], "residual")), axis=None)
    # with this gain planes reach the threshold after thousands of iterations, and not all at once
    threshold = float(values[-active]) / ACTIVE_SET_CUT
    cycles = [MinorCycle(threshold=threshold, max_iterations=iterations, gain=0.02)] * planes
    done = sum(device.minor(held, cycles))
    rates = [done / s for s in bench.seconds(lambda: device.minor(held, cycles))]
    device.reset()
    psf = bench.xp.zeros(planes * 4 * size * size, np.float32)
    reads = bench.xp.asarray(bench.rng.integers(0, len(psf), planes * active * 16))
    floor = 16 * planes / statistics.median(bench.seconds(lambda: psf[reads]))
    what = f"active set of {active} pixels, {planes} of {size} x {size}"
    note = f"{done} iterations; floor: as many random reads of the PSFs"
    if least is None:  # a launch for each iteration: bound by launches
        return Figure("hogbom", what, "it/s", rates, floor, note=note)
    return Figure("hogbom", what, "it/s", rates, floor, least * floor, LEAST * floor, note)
