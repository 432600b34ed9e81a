"""Parts ``copy`` and ``fft`` of `gpu_speed.py`: what moves whole arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from harness import Bench, Figure

from gpucube.devices.cuda.backend import fft_group


def measure_copy(bench: Bench) -> Iterator[Figure]:
    """Copies on the device and to it: the floors of much else."""
    size = bench.sizes.copy
    yield Figure("copy", "on the device, read and written", "B/s", [2 * size / s for s in bench.copy_seconds])
    yield Figure("copy", "from pinned memory", "B/s", [size / s for s in bench.pinned_seconds])
    ordinary = np.ones(size, np.uint8)
    uploads = [size / s for s in bench.seconds(lambda: bench.backend.upload([ordinary], np.uint8))]
    note = "`Backend.upload`, one thread; floor: from pinned memory"
    yield Figure("copy", "from ordinary memory, staged", "B/s", uploads, bench.pinned_bandwidth, note=note)


def measure_fft(bench: Bench) -> Iterator[Figure]:
    """FFTs of twice the image in groups, as major cycles in the image use them, and the work area of their plans."""
    for size in bench.sizes.images:
        yield from _both_ways(bench, size)


def _both_ways(bench: Bench, size: int) -> Iterator[Figure]:
    shape = (2 * size, 2 * size)
    group = fft_group(4 * size * size)
    rng = np.random.default_rng(2)
    image = bench.xp.empty((group, *shape), np.float32)
    image[:] = bench.xp.asarray(rng.standard_normal(shape, np.float32))  # zeros would be transformed faster
    spectrum = bench.xp.empty((group, shape[0], size + 1), np.complex64)
    bench.backend.rfft2(image, spectrum, group)
    pixels, moved = image.size, image.nbytes + spectrum.nbytes
    floor = pixels * bench.bandwidth / (2 * moved)
    for what, seconds, work_area in (
        (
            "forward",
            bench.seconds(lambda: bench.backend.rfft2(image, spectrum, group)),
            bench.here.plan_bytes(image, "R2C"),
        ),
        (
            "back",
            bench.seconds_consuming(lambda given: bench.backend.irfft2(given, image, group), spectrum.copy()),
            bench.here.plan_bytes(spectrum, "C2R", shape),
        ),
    ):
        note = f"work area {work_area / spectrum.nbytes:.2f} of the spectrum; floor: two passes over input and output"
        rates = [pixels / s for s in seconds]
        what = f"{what}, {group} of {shape[1]} x {shape[0]}"
        yield Figure("fft", what, "pix/s", rates, floor, 0.5 * floor, 0.8 * floor, note)
