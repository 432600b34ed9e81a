"""How much device memory a job takes, and so how many planes a CUDA device works on at once: arithmetic, no device.

In: the job's settings and the gridders made for them. Out: bytes of each step of a plane's life (docs/cuda.md), and how many
planes fit. The same functions serve the plan, before there is a device, and the device itself; a test holds them against
what is really allocated. Here too is made what depends on the settings alone: gridders, and the way of the major cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.cupy_backend import sizes_alone
from gpucube.devices.cuda.gridder import TileGridder
from gpucube.devices.cuda.gridding_kernel import choose_kernel, make_w_planes
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry, n_minus_one

_FFT_SECONDS = 4e-13
_SAMPLE_SECONDS = 4e-10
"""Cost model of a major cycle, per pixel and octave of an FFT and per sample degridded and gridded: estimates from the
bandwidth of an H200, not measured. They decide between two ways that agree."""


@dataclass(frozen=True)
class Gridders:
    """One for dirty images and residuals, one for PSFs of the image's size, one for PSFs of twice that."""

    image: TileGridder
    narrow: TileGridder
    wide: TileGridder


def make_gridders(settings: ImagingSettings, backend: Backend) -> Gridders:
    """Gridders of a job; in single precision where that reaches epsilon.

    Raises
    ------
    GpucubeError
        Nothing reaches epsilon, or the image reaches beyond the horizon.
    """
    g = settings.geometry

    def gridder(scale: int, w: bool) -> TileGridder:
        nx, ny, dimensions = scale * g.nx, scale * g.ny, 3 if w else 2
        try:
            real, kernel = np.float32, choose_kernel(settings.epsilon, nx, ny, settings.samples, dimensions, True)
        except GpucubeError:
            real, kernel = np.float64, choose_kernel(settings.epsilon, nx, ny, settings.samples, dimensions, False)
        w_planes = None
        if w:
            lowest = float(n_minus_one(nx, ny, g.cell_x, g.cell_y).min())
            w_planes = make_w_planes(kernel, 0.0, settings.w_max, lowest)
        return TileGridder(backend, nx, ny, g.cell_x, g.cell_y, kernel, real, w_planes)

    narrow = gridder(1, False)
    return Gridders(gridder(1, True) if settings.w_term else narrow, narrow, gridder(2, False))


def major_in_image(settings: ImagingSettings) -> bool:
    """Whether major cycles are done in the image: exact without w, and chosen by cost unless told."""
    if settings.w_term or settings.majorcycle == "visibility":
        return False
    if settings.majorcycle == "image":
        return True
    pixels = settings.geometry.nx * settings.geometry.ny
    in_image = 2 * 4 * pixels * np.log2(4 * pixels) * _FFT_SECONDS
    through_visibilities = settings.samples * _SAMPLE_SECONDS + 4 * pixels * np.log2(2 * pixels) * _FFT_SECONDS
    return bool(in_image < through_visibilities)


def device_memory(settings: ImagingSettings, gridders: Gridders, convolver: Convolver, planes: int) -> int:
    """Most bytes of device memory that so many planes take at any time, each of `settings.samples` samples.

    The stacks, the plans of FFTs, and the larger of what each step takes beside them: upload and weights; sorting and
    gridding; PSFs, one group at a time; major cycles. Minor cycles whose active set spills are rare and smaller: not counted.
    """
    pixels, samples, all_samples = (
        settings.geometry.nx * settings.geometry.ny,
        settings.samples,
        planes * settings.samples,
    )
    in_image, uv_max = major_in_image(settings), settings.uv_max
    stacks = planes * pixels * (6 * 4 + 16 + (8 if in_image else 0) + 1)
    # uvw are uploaded, and put into the order of the visibilities
    rows = samples * (24 + 4 + 8)
    weighing = 12 * all_samples + 12 * all_samples + (0 if settings.weighting == "natural" else 4 * planes * pixels)
    kept = 0 if in_image else gridders.image.kept_memory(all_samples)
    placing = 16 * all_samples + gridders.image.place_memory(all_samples)
    gridding = (
        16 * all_samples + gridders.image.kept_memory(all_samples) + gridders.image.work_memory(planes, samples, uv_max)
    )
    held = 4 * all_samples + kept
    psfs = [
        g.place_memory(min(g.group, planes) * samples)
        + 12 * min(g.group, planes) * samples
        + g.work_memory(planes, samples, uv_max)
        for g in (gridders.narrow, gridders.wide)
    ]
    major = convolver.work_memory() if in_image else gridders.image.work_memory(planes, samples, uv_max, residual=True)
    plans = gridders.image.plan_memory(1 if in_image else 2) + gridders.wide.plan_memory(1)
    plans += (convolver.plan_memory() if in_image else 0) + (gridders.narrow.plan_memory(1) if settings.w_term else 0)
    return stacks + rows + plans + max(weighing, placing, gridding, *(held + p for p in psfs), kept + major)


def plan_memory(settings: ImagingSettings, memory: int) -> tuple[int, Callable[[int], int]]:
    """What a device object would take, without a device.

    Parameters
    ----------
    settings : ImagingSettings
    memory : int
        Bytes of device memory that it may take.

    Returns
    -------
    planes : int
        That fit at once.
    memory_of : callable
        Bytes that so many planes take, at most.

    Raises
    ------
    GpucubeError
        Not even one plane fits.
    """
    backend = sizes_alone()
    gridders = make_gridders(settings, backend)
    convolver = Convolver(backend, settings.geometry.nx, settings.geometry.ny)
    planes = planes_that_fit(settings, gridders, convolver, memory)
    return planes, lambda count: device_memory(settings, gridders, convolver, count)


def planes_that_fit(settings: ImagingSettings, gridders: Gridders, convolver: Convolver, memory: int) -> int:
    """Most planes that `memory` bytes hold at once.

    Raises
    ------
    GpucubeError
        Not even one.
    """
    one = device_memory(settings, gridders, convolver, 1)
    if one > memory:
        g: ImageGeometry = settings.geometry
        raise GpucubeError(
            f"imaging one channel of {g.nx} x {g.ny} pixels needs {one / 1e9:.2f} GB of device memory, "
            f"{memory / 1e9:.2f} GB may be used: choose a smaller imsize, or device='cpu'"
        )

    def fits(planes: int) -> bool:
        return device_memory(settings, gridders, convolver, planes) <= memory

    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
