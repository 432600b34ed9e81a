"""What the parts of `gpu_speed.py` share: how a figure is timed, what it looks like, and the data that are measured on.

In: an `Accelerator` and `Sizes`. Out: a `Bench`, which the parts take, and the `Figure`s that they give.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from accelerator import Accelerator

from gpucube.bench.outcome import spread
from gpucube.bench.scene import Scene, make_store, scene_of
from gpucube.bench.workloads import WORKLOADS, Workload
from gpucube.devices.base import ImagingSettings
from gpucube.imaging.job import ImageJob
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry
from gpucube.text import markdown_table, with_prefix

EPSILON = 1e-4

CELL = 1e-5
"""Radians: every image has the same pixels, so all share their uv points."""

FILL = 0.45
"""Longest baseline, in units of 1 / cell."""

FREQUENCY = 1.4e9

COPIES = 8
"""Of an array that a call destroys, so that a synchronisation does not count."""

PLAIN_UNITS = ("s", "x", "%", "runs", "channels", "channels/s", "of 1")
"""Units that take no metric prefix."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    copy: int = 1 << 30  # bytes
    images: tuple[int, ...] = (512, 1024, 2048, 4096)  # pixels on a side
    images_with_w: tuple[int, ...] = (512, 2048)
    samples: int = 16_000_000  # that are gridded
    samples_with_w: int = 4_000_000
    textbook: tuple[int, int, int] = (64, 1024, 200)  # minor cycles: planes, pixels on a side, iterations
    active_set: tuple[int, int, int] = (128, 512, 20_000)
    active: int = 2000  # pixels of the active sets
    large_set: tuple[int, int, int] = (1, 1024, 2000)
    large_active: int = 200_000
    large: tuple[int, int, int] = (1, 4096, 4000)
    workload: Workload = WORKLOADS["vla-hi"]
    busy_seconds: float = 8.0  # how long the GPU is kept busy
    planes_in_memory: int = 32  # whose memory is checked
    planes_repeated: int = 8  # whose bits are checked


@dataclass(frozen=True)
class Figure:
    """One line of the tables."""

    part: str
    what: str
    unit: str
    values: list[float]  # one for each repeat
    floor: float | None = None  # the best that this machine could do, in the same unit
    least: float | None = None  # what it must reach
    aim: float | None = None  # what is hoped for
    note: str = ""  # what the floor is, and how it was measured

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return spread(self.values)

    @property
    def reached(self) -> str:
        """``"yes"``, ``"no"`` or ``"aim"``; empty where nothing is asked for."""
        if self.least is None:
            return ""
        if self.aim is not None and self.median >= self.aim:
            return "aim"
        return "yes" if self.median >= self.least else "no"


def shown(value: float | None, unit: str) -> str:
    """Three digits and the unit; empty for None."""
    if value is None:
        return ""
    return f"{value:.3g} {unit}" if unit in PLAIN_UNITS else with_prefix(value, unit)


def table(figures: Sequence[Figure]) -> str:
    """The figures of a part as Markdown."""
    rows = [["what", "median", "spread", "floor", "must reach", "aim", "reached", ""]]
    for f in figures:
        spread_text = f"{f.spread:.0%}" if len(f.values) > 1 else ""
        limits = [shown(value, f.unit) for value in (f.floor, f.least, f.aim)]
        rows.append([f.what, shown(f.median, f.unit), spread_text, *limits, f.reached, f.note])
    return markdown_table(rows)


def say(text: str) -> None:
    """Report what is going on, on standard error."""
    print(f"gpu_speed: {text}", file=sys.stderr, flush=True)


class Bench:
    """What the parts share; `repeat` is the number of timings of each figure, `lanes` that of threads in part busy."""

    def __init__(self, here: Accelerator, sizes: Sizes, repeat: int, lanes: int):
        self.here, self.sizes, self.repeat, self.lanes = here, sizes, repeat, lanes
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
        count = max(1, min(1000, math.ceil(self.here.least_seconds / once)))
        return [self._timed(call, count) for _ in range(repeat or self.repeat)]

    def seconds_consuming(self, call: Callable[[Any], object], original: Any) -> list[float]:
        """Seconds of a call that destroys its argument: each gets a copy, made outside the clock."""
        call(original.copy())
        values = []
        for _ in range(self.repeat):
            given = [original.copy() for _ in range(COPIES)]
            self.here.synchronise()
            begin = time.perf_counter()
            for array in given:
                call(array)
            self.here.synchronise()
            values.append((time.perf_counter() - begin) / COPIES)
        return values

    def _timed(self, call: Callable[[], object], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        self.here.synchronise()
        return (time.perf_counter() - begin) / count

    @cached_property
    def copy_seconds(self) -> list[float]:
        """Seconds of a copy of `sizes.copy` bytes on the device."""
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
        """Seconds of a copy of `sizes.copy` bytes from pinned memory."""
        pinned = self.here.pinned(self.sizes.copy)
        pinned[:] = 1
        target = self.xp.empty(self.sizes.copy, np.uint8)
        return self.seconds(lambda: self.here.send(target, pinned))

    @property
    def pinned_bandwidth(self) -> float:
        """Bytes per second from pinned memory."""
        return self.sizes.copy / statistics.median(self.pinned_seconds)

    @cached_property
    def uv(self) -> np.ndarray:
        """Points of the uv plane in cycles per pixel, denser in the middle, in random order: (samples, 2)."""
        count = max(self.sizes.samples, self.sizes.samples_with_w)
        radius, angle = FILL * self.rng.random(count), 2.0 * np.pi * self.rng.random(count)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    @cached_property
    def scene(self) -> Scene:
        """The workload's visibilities, in files that the page cache holds."""
        return scene_of(self.sizes.workload, make_store(self.sizes.workload, f"{self._folder.name}/store"))

    def with_cubes(self) -> ImageJob:
        """The workload's job with cubes to be written; each call replaces them."""
        return self.scene.with_cubes(f"{self._folder.name}/cube")


def settings_for(size: int, **changes: object) -> ImagingSettings:
    """Settings for a square image."""
    geometry = ImageGeometry(nx=size, ny=size, cell_x=CELL, cell_y=CELL, centre=Direction(ra=0.0, dec=0.5))
    return ImagingSettings(geometry=geometry, epsilon=EPSILON, **changes)
