"""How much device memory a job takes, and so how many planes a CUDA device holds at once: arithmetic, no device.

In: the job's settings, and what FFTs take. Out: bytes of each step of a plane's life (docs/cuda.md), and the number of planes
that fit. The plan uses it before there is a device, and the device itself; a test compares it with what is really allocated.
"""

from __future__ import annotations

import bisect
import math

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cuda.backend import fft_group
from gpucube.devices.cuda.gridding_kernel import FFT_SECONDS
from gpucube.devices.cuda.minor_cycle import BYTES_A_MEMBER, set_room
from gpucube.devices.cuda.uv_grid import UvGrid, choose_grids
from gpucube.devices.cycle_rules import MajorCycleCost, major_in_image
from gpucube.errors import GpucubeError

FLOAT, DOUBLE, INT, LONG, COMPLEX64 = 4, 8, 4, 8, 8
"""Bytes."""

MAJOR_CYCLE = MajorCycleCost(image_fft=2 * FFT_SECONDS, grid_fft=2 * FFT_SECONDS, sample=4e-10)
"""Estimated from an H200's bandwidth, not measured."""


class DeviceMemory:
    """The device memory of a job."""

    def __init__(self, settings: ImagingSettings, fft_memory: float):
        self._settings, self._fft_memory = settings, fft_memory
        self.grids = choose_grids(settings)
        self.in_image = major_in_image(settings, settings.samples, MAJOR_CYCLE)

    def planes_that_fit(self, memory: int) -> int:
        """Find the largest number of planes that `memory` bytes hold at once; raises GpucubeError if not even one fits."""
        if planes := bisect.bisect_right(range(1, max(memory, 1)), memory, key=self.of):
            return planes
        g = self._settings.geometry
        raise GpucubeError(
            f"imaging one channel of {g.nx} x {g.ny} pixels needs {self.of(1) / 1e9:.2f} GB of device memory, "
            f"{memory / 1e9:.2f} GB may be used: choose a smaller `imsize`, or `device='cpu'`"
        )

    def of(self, planes: int) -> int:
        """Predict the largest number of bytes that so many planes take at any time, each with `settings.samples` samples.

        That is the stacks, the uvw, the plans of FFTs, and the largest of what each step takes beside them.
        """
        settings, grids = self._settings, self.grids
        pixels, each = settings.geometry.nx * settings.geometry.ny, settings.samples
        samples = planes * each
        stacks = planes * pixels * (5 * FLOAT + 4 * FLOAT + (2 * FLOAT if self.in_image else 0) + 1)
        # uvw are uploaded, and put into the order of the visibilities
        rows = each * (3 * DOUBLE + INT + LONG)
        uploaded = samples * (COMPLEX64 + FLOAT)
        density = 0 if settings.weighting == "natural" else planes * pixels * LONG // 2
        weighing = uploaded + samples * (2 * INT + FLOAT) + density
        weighed = uploaded + samples * FLOAT
        sorting = weighed + _sorting(grids.image, samples)
        gridding = weighed + _placed(grids.image, samples) + self._gridding(grids.image, planes)
        kept = 0 if self.in_image else _placed(grids.image, samples)
        psf = max(self._psf(grid, planes) for grid in (grids.narrow, grids.wide))
        if self.in_image:  # padded images and their transforms
            major = 2 * self._convolution_bytes()
        else:
            major = self._gridding(grids.image, planes, residual=True)
        cleaning = planes * BYTES_A_MEMBER * set_room(settings.geometry.ny, settings.geometry.nx)
        steps = max(weighing, sorting, gridding, samples * FLOAT + kept + psf, kept + max(cleaning, major))
        return stacks + rows + self._plans() + steps

    def _psf(self, grid: UvGrid, planes: int) -> int:
        """Count what PSFs take: sorting and gridding of unit visibilities, one group of planes at a time."""
        samples = min(grid.group, planes) * self._settings.samples
        return _sorting(grid, samples) + samples * (COMPLEX64 + FLOAT) + self._gridding(grid, planes)

    def _gridding(self, grid: UvGrid, planes: int, residual: bool = False) -> int:
        """Count what gridding one group takes: buffers of items, the grid, the padded image; with w the sum of its planes.

        The items are counted as if the samples lay in as many tiles as they can. A `residual` also takes the model's
        spectrum, or with w the predicted visibilities.
        """
        w, cell = grid.w_planes is not None, grid.complex.itemsize
        together, samples = min(planes, grid.group), self._settings.samples
        items = min(samples, self._occupied(grid) + samples // grid.max_samples)
        tiles = grid.tiles[0] * grid.tiles[1]
        squares = together * (items * (grid.side**2 * cell + 16) + tiles * 48)
        spectrum, padded = _fft_bytes(grid)
        more = together * grid.ny * grid.nx * grid.real.itemsize if w else 0
        if residual:
            more += planes * samples * cell if w else spectrum
        return squares + spectrum + padded + more

    def _occupied(self, grid: UvGrid) -> int:
        """Count the tiles in which samples may lie: an ellipse of tiles around the origin, half of it without w."""
        uv_max, (fft_y, fft_x) = self._settings.uv_max, grid.fft
        semi_x = uv_max * grid.cell_x * fft_x / grid.tile + 1.5
        semi_y = uv_max * grid.cell_y * fft_y / grid.tile + 1.5
        area = math.pi * semi_x * semi_y * (0.5 if grid.w_planes is None else 1.0)
        return int(min(grid.tiles[0] * grid.tiles[1], area + semi_y))

    def _convolution_bytes(self) -> int:
        """Count the padded images of one group of a convolution, or their transforms."""
        g = self._settings.geometry
        return fft_group(4 * g.nx * g.ny) * 2 * g.ny * (2 * g.nx + 2) * FLOAT

    def _plans(self) -> int:
        """Bytes that the plans of FFTs keep, one for each kind of transform."""
        image, narrow, wide = (max(_fft_bytes(grid)) for grid in (self.grids.image, self.grids.narrow, self.grids.wide))
        in_image = image + 2 * self._convolution_bytes()
        bytes_of_ffts = (in_image if self.in_image else 2 * image) + wide + (narrow if self._settings.w_term else 0)
        return int(self._fft_memory * bytes_of_ffts)


def _sorting(grid: UvGrid, samples: int) -> int:
    """Count key and order, two arrays more of each while they are sorted, and the `PlacedSamples` that come of it."""
    return 6 * LONG * samples + _placed(grid, samples)


def _placed(grid: UvGrid, samples: int) -> int:
    """Count the `PlacedSamples` of so many samples."""
    real, cell = grid.real.itemsize, grid.complex.itemsize
    return samples * (2 * LONG + 2 * INT + 2 * cell + real + (0 if grid.w_planes is None else INT + real))


def _fft_bytes(grid: UvGrid) -> tuple[int, int]:
    """Count the grids of one group, and its padded images."""
    fft_y, fft_x = grid.fft
    padded = grid.real.itemsize if grid.w_planes is None else grid.complex.itemsize
    rows = grid.group * fft_y
    return rows * grid.columns * grid.complex.itemsize, rows * fft_x * padded
