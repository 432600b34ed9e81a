"""The uv grids of a job: the gridding kernel, FFT size, tiles and planes of w of each. Sizes alone, no device.

In: `ImagingSettings`. Out: a `UvGrid` each for dirty images and residuals, for PSFs of the image's size, and for PSFs of twice
that. `gpucube.devices.cuda.gridder` works on them, `gpucube.devices.cuda.memory` predicts what that takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cuda.backend import fft_group
from gpucube.devices.cuda.gridding_kernel import GriddingKernel, WPlanes, choose_kernel, make_w_planes
from gpucube.errors import AccuracyError
from gpucube.fft_size import good_fft_size
from gpucube.sky.geometry import n_minus_one

BATCH = 64
"""Samples whose taps a block holds at once: BATCH in grid.cu."""

SIDES = {"float32": 40, "float64": 28}
"""Cells of a tile with its halo of `support` cells, each way. 8 modulo 16 keeps rows of float2 on different banks of shared
memory. Both fit twice (model and residual) into the 48 KiB that a block gets without asking."""

MAX_SAMPLES = 4096
"""Largest number of samples of one item: crowded tiles are shared among blocks."""


@dataclass(frozen=True, kw_only=True)
class UvGrid:
    """The grid of one image size, gridding kernel and precision."""

    nx: int  # pixels of the images
    ny: int
    cell_x: float  # radians
    cell_y: float
    kernel: GriddingKernel
    real: np.dtype  # float32 or float64: precision of the grid and its FFTs; images are float32 in either case
    w_planes: WPlanes | None = None  # None neglects w
    scale: int = 1  # of the FFT's size to that of the grid whose order of samples it shares
    side: int = 0  # cells of a tile with its halo, each way; 0 for the one in SIDES
    max_samples: int = MAX_SAMPLES

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", self.side or SIDES[self.real.name])

    @cached_property
    def complex(self) -> np.dtype:
        """Type of a cell."""
        return np.dtype(np.complex64 if self.real == np.float32 else np.complex128)

    @property
    def tile(self) -> int:
        """Cells of a tile without its halo, each way."""
        return self.side - self.kernel.support

    @cached_property
    def fft(self) -> tuple[int, int]:
        """Shape of the FFT, (fft_y, fft_x), both even: tiles of a grid of twice the size are quarters of its own."""
        # the kernel must not reach round the grid and meet itself
        halves = (self.kernel.upsampling * n / (2 * self.scale) for n in (self.ny, self.nx))
        fft_y, fft_x = (2 * self.scale * good_fft_size(max(int(np.ceil(n)), self.kernel.support)) for n in halves)
        return fft_y, fft_x

    @cached_property
    def columns(self) -> int:
        """Columns of the grid: for real images, which have no planes of w, half of the FFT's are enough."""
        fft_x = self.fft[1]
        return fft_x // 2 + 1 if self.w_planes is None else fft_x

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Numbers of tiles, (tiles_y, tiles_x)."""
        fft_y, fft_x = (n // self.scale for n in self.fft)
        reach_x = fft_x // 2 if self.w_planes is None else fft_x
        return self.scale * (fft_y // self.tile + 1), self.scale * (reach_x // self.tile + 1)

    @property
    def layers(self) -> int:
        """Layers of the items of samples: this grid and one of twice its size, or all planes of w."""
        return 2 if self.w_planes is None else self.w_planes.count

    @cached_property
    def group(self) -> int:
        """Planes that are transformed at once."""
        return fft_group(self.fft[0] * self.fft[1])

    def shared_bytes(self, squares: int) -> int:
        """Dynamic shared memory of a block that holds so many squares of side * side cells."""
        reals = BATCH * (1 + 2 * self.kernel.support) + self.kernel.coefficients.size
        cells = squares * self.side**2 + 2 * BATCH
        return cells * self.complex.itemsize + BATCH * 8 + reals * self.real.itemsize


@dataclass(frozen=True, kw_only=True)
class UvGrids:
    """The grids of a job. Without w `image` and `narrow` are one and the same object."""

    image: UvGrid  # for dirty images and residuals
    narrow: UvGrid  # for PSFs of the image's size
    wide: UvGrid  # for PSFs of twice that: the same kernel on twice as many cells each way, so one order of samples serves both


def choose_grids(settings: ImagingSettings) -> UvGrids:
    """Choose the grids of a job, in single precision where that reaches epsilon.

    Raises GpucubeError if nothing reaches epsilon, or if the image extends beyond the horizon.
    """
    narrow = _choose_grid(settings, False)
    image = _choose_grid(settings, True) if settings.w_term else narrow
    return UvGrids(image=image, narrow=narrow, wide=replace(narrow, nx=2 * narrow.nx, ny=2 * narrow.ny, scale=2))


def _choose_grid(settings: ImagingSettings, w: bool) -> UvGrid:
    """Choose the grid for images of the job's size."""
    g = settings.geometry
    nx, ny, dimensions = g.nx, g.ny, 3 if w else 2
    try:
        kernel, real = choose_kernel(settings.epsilon, nx, ny, settings.samples, dimensions, True), "float32"
    except AccuracyError:
        kernel, real = choose_kernel(settings.epsilon, nx, ny, settings.samples, dimensions, False), "float64"
    w_planes = None
    if w:
        lowest = float(n_minus_one(nx, ny, g.cell_x, g.cell_y).min())
        w_planes = make_w_planes(kernel, 0.0, settings.w_max, lowest)
    return UvGrid(nx=nx, ny=ny, cell_x=g.cell_x, cell_y=g.cell_y, kernel=kernel, real=np.dtype(real), w_planes=w_planes)
