"""How much device memory a job takes, and so how many planes a CUDA device holds at once: arithmetic, no device.

In: the job's settings, what FFTs take, and the memory there is. Out: bytes of a device with so many planes, the size of its
workspace, and the number of planes that fit. The plan uses it before there is a device, and the device itself; a test compares
it with what is really allocated. Arrays are counted from the same lists of shapes that they are made from.
"""

from __future__ import annotations

import bisect
import math

import numpy as np

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cuda.backend import Spec, block_bytes, fft_planes
from gpucube.devices.cuda.convolver import stacks_of
from gpucube.devices.cuda.gridder import placed_specs, work_of_placing, work_specs
from gpucube.devices.cuda.gridding_kernel import FFT_SECONDS
from gpucube.devices.cuda.minor_cycle import LISTED, set_room, work_of_sets
from gpucube.devices.cuda.multiscale import round_specs, stack_specs_of_scales, work_of_scales
from gpucube.devices.cuda.uv_grid import UvGrid, choose_grids
from gpucube.devices.cycle_rules import MajorCycleCost, major_in_image
from gpucube.errors import GpucubeError

FLOAT, DOUBLE, INT, LONG, COMPLEX64 = 4, 8, 4, 8, 8
"""Bytes."""

MAJOR_CYCLE = MajorCycleCost(image_fft=2 * FFT_SECONDS, grid_fft=2 * FFT_SECONDS, sample=4e-10)
"""Estimated from an H200's bandwidth, not measured."""

WORK_SHARE = 0.25
"""Share of the memory that the workspace may take: planes are worked on in rounds that fit it. One batch of FFTs must."""

COUNTING_WORDS = 2048 + 6
"""Of each slot, between the launches that find peak and noise (`kernels/statistics.cu`)."""

SORT_BYTES = 3 * LONG
"""Of each sample while keys are sorted: the order, and at most as much again for keys and order."""


def stack_specs(slots: int, ny: int, nx: int, spectra: bool, scales: int) -> list[Spec]:
    """What all slots hold, in the order of `device.Stacks`."""
    images: list[Spec] = [((slots, ny, nx), np.float32)] * 5
    psf: Spec = ((slots, 2 * ny, 2 * nx), np.float32)
    spectrum: Spec = ((slots if spectra else 0, 2 * ny, nx + 1), np.float32)
    masks: list[Spec] = [((slots, ny, nx), np.uint8), ((slots,), np.int32)]
    listed: list[Spec] = [((slots, LISTED), np.int32), ((slots, LISTED), np.float32), ((slots,), np.int32)]
    counting: Spec = ((slots, COUNTING_WORDS), np.uint32)
    return [*images, psf, spectrum, *masks, counting, *listed, *stack_specs_of_scales(slots, ny, nx, scales)]


def weighing_specs(planes: int, count: int, cells: int) -> list[Spec]:
    """What imaging weights take of the workspace: cells of samples; then what must be zero at first."""
    return [((2, count), np.int32), ((planes,), np.uint32), ((planes, cells), np.uint64)]


class DeviceMemory:
    """The device memory of a job; `memory` is what the device may take in all."""

    def __init__(self, settings: ImagingSettings, fft_memory: float, memory: int):
        self._settings, self._fft_memory, self.memory = settings, fft_memory, memory
        self.grids = choose_grids(settings)
        self.in_image = major_in_image(settings, settings.samples, MAJOR_CYCLE)
        self.spectra = self.in_image or bool(settings.scales)  # whether the spectra of PSFs are kept

    def planes_that_fit(self) -> int:
        """Find the largest number of planes that the memory holds at once; raises GpucubeError if not even one fits."""
        if planes := bisect.bisect_right(range(1, max(self.memory, 1)), self.memory, key=self.of):
            return planes
        g = self._settings.geometry
        raise GpucubeError(
            f"imaging one channel of {g.nx} x {g.ny} pixels needs {self.of(1) / 1e9:.2f} GB of device memory, "
            f"{self.memory / 1e9:.2f} GB may be used: choose a smaller `imsize`, or `device='cpu'`"
        )

    def of(self, planes: int) -> int:
        """Predict the largest number of bytes that so many planes take at any time, each with `settings.samples` samples.

        That is the stacks, the workspace, the plans and tables of FFTs, and the samples where they take most. Planes share their
        rows if they come from one partition of the store.
        """
        settings, grids = self._settings, self.grids
        ny, nx, each = settings.geometry.ny, settings.geometry.nx, settings.samples
        count = planes * each
        stacks = block_bytes(stack_specs(planes, ny, nx, self.spectra, len(settings.scales)))
        # uvw are uploaded, and put into the order of the visibilities
        alike = each if settings.sources < 2 else count
        rows = alike * 3 * DOUBLE
        raw = rows + alike * INT
        uploaded, weight = count * (COMPLEX64 + FLOAT), count * FLOAT
        placed = block_bytes(placed_specs(grids.image, planes, count, each))
        placing = max(SORT_BYTES * count, LONG * count + placed)
        begin = rows + weight + max(raw + uploaded, uploaded + placing)
        kept = placed
        if settings.w_term:  # the PSF is made without w, of samples in another order
            of_psf = block_bytes(placed_specs(grids.narrow, planes, count, each, with_vis=False))
            kept += rows + weight + max(SORT_BYTES * count, LONG * count + of_psf)
        return stacks + self.work(planes) + self._plans() + self._tables() + max(begin, kept)

    def work(self, planes: int) -> int:
        """Bytes of the workspace: all that a step takes for all planes at once, or where that is too much for fewer."""
        settings, grids = self._settings, self.grids
        pixels, count = settings.geometry.nx * settings.geometry.ny, planes * settings.samples
        half_u, half_v = settings.geometry.nx // 2, settings.geometry.ny // 2
        cells = 0 if settings.weighting == "natural" else (half_v + 1) * (2 * half_u + 1)
        placing = max(block_bytes(work_of_placing(grid, planes, count)) for grid in (grids.image, grids.narrow))
        begin = block_bytes(weighing_specs(planes, count, cells)) + placing + planes * 64 * 17 + 2048
        share, shape = int(WORK_SHARE * self.memory), settings.geometry.shape
        if scales := len(settings.scales):
            convolving = [block_bytes(round_specs(n, *shape, scales)) for n in (planes, 1)]
            together = min(convolving[0], max(convolving[1], share))
            cleaning = block_bytes(work_of_scales(planes, *shape, scales)) + together
        else:
            cleaning = block_bytes(work_of_sets(planes, pixels, set_room(*shape)))
        rounds = min(self._rounds(planes), max(self._rounds(1), share))
        return max(begin, cleaning, rounds)

    def _rounds(self, planes: int) -> int:
        """Count what the largest step takes that may be done in rounds: gridding, convolution, or finished images."""
        g, grids = self._settings.geometry, self.grids
        # a residual may be smoothed, too: a spectrum of each plane beside the stacks of a convolution
        twice = block_bytes(stacks_of(g.nx, g.ny, planes)) + planes * 2 * g.ny * (g.nx + 1) * FLOAT
        finishing = planes * g.nx * g.ny * 6 * FLOAT
        gridding = [
            block_bytes(work_specs(grid, planes, planes * self._items(grid), residual=residual, wide=wide))
            for grid, residual, wide in (
                (grids.image, not self.in_image, False),
                (grids.narrow, False, False),
                (grids.wide, False, True),
            )
        ]
        return max(*gridding, twice, finishing)

    def _items(self, grid: UvGrid) -> int:
        """Count the items of a plane as if its samples lay in as many tiles as they can."""
        samples = self._settings.samples
        return max(1, min(samples, self._occupied(grid) + samples // grid.max_samples))

    def _occupied(self, grid: UvGrid) -> int:
        """Count the tiles in which samples may lie: an ellipse of tiles around the origin, half of it without w."""
        uv_max, (fft_y, fft_x) = self._settings.uv_max, grid.fft
        semi_x = uv_max * grid.cell_x * fft_x / grid.tile + 1.5
        semi_y = uv_max * grid.cell_y * fft_y / grid.tile + 1.5
        area = math.pi * semi_x * semi_y * (0.5 if grid.w_planes is None else 1.0)
        return int(min(grid.tiles[0] * grid.tiles[1], area + semi_y))

    def _plans(self) -> int:
        """Bytes that the plans of FFTs keep, one for each kind of transform of one batch."""
        g, grids = self._settings.geometry, self.grids
        image, narrow, wide = (_batch_bytes(grid) for grid in (grids.image, grids.narrow, grids.wide))
        twice = max(block_bytes([spec]) for spec in stacks_of(g.nx, g.ny, 1))
        bytes_of_ffts = (image if self.in_image else 2 * image) + (2 * twice if self.spectra else 0) + wide
        return int(self._fft_memory * (bytes_of_ffts + (narrow if self._settings.w_term else 0)))

    def _tables(self) -> int:
        """Bytes of what is tabulated for every pixel: with w its height; and the spectra of scales."""
        nx, ny = self._settings.geometry.nx, self._settings.geometry.ny
        heights = nx * ny * (DOUBLE + self.grids.image.real.itemsize) if self._settings.w_term else 0
        return heights + len(self._settings.scales) * 2 * ny * (nx + 1) * FLOAT


def _batch_bytes(grid: UvGrid) -> int:
    """Count the larger of one batch of grids and of its padded images."""
    specs = work_specs(grid, 1, 0)
    assert specs[1][0][0] == fft_planes(1, grid.group)
    return max(block_bytes([specs[1]]), block_bytes([specs[2]]))
