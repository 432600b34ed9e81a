"""Predict how much memory a plane takes while a CPU core images it. Arithmetic only, no arrays.

In: the job's settings. Out: bytes, from the arrays of all steps of a plane's life in `gpucube.devices.cpu.device`. The uv grids
of ducc0 take most of it. ducc0 chooses between kernels of various widths: a narrow one needs a larger grid. `grid_size` makes
the same choice from the same costs (ducc0, src/ducc0/wgridder/wgridder.h, ``getNuNv``). A test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import ducc0

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.device import MAJOR_CYCLE, SINGLE_PRECISION_EPSILON
from gpucube.devices.cycle_rules import major_in_image
from gpucube.heap import MAPPED, largest_sum

KERNELS = {
    # (dimensions, -log10 epsilon): {support: smallest upsampling that reaches it}
    (2, 2): {4: 1.35, 5: 1.2},
    (2, 3): {4: 2.05, 5: 1.45, 6: 1.3, 7: 1.2},
    (2, 4): {5: 2.1, 6: 1.55, 7: 1.4, 8: 1.35},
    (2, 5): {6: 2.15, 7: 1.65, 8: 1.55},
    (2, 6): {7: 2.2, 8: 1.7, 9: 1.45, 10: 1.35, 11: 1.3, 12: 1.25, 13: 1.2},
    (2, 7): {8: 2.2, 9: 1.75, 10: 1.55, 11: 1.4, 12: 1.3, 13: 1.25, 14: 1.2},
    (2, 8): {9: 2.2, 10: 1.8, 11: 1.55, 12: 1.45, 13: 1.35, 14: 1.3, 15: 1.25},
    (2, 9): {10: 2.2, 11: 1.8, 12: 1.6, 13: 1.5, 14: 1.4, 15: 1.35, 16: 1.3},
    (2, 10): {11: 2.2, 12: 1.85, 13: 1.65, 14: 1.5, 15: 1.4, 16: 1.35},
    (3, 2): {4: 1.45, 5: 1.25, 6: 1.2},
    (3, 3): {4: 2.3, 5: 1.5, 6: 1.35, 7: 1.3},
    (3, 4): {5: 2.3, 6: 1.65, 7: 1.5},
    (3, 5): {6: 2.3, 7: 1.8, 8: 1.75},
    (3, 6): {7: 2.3, 8: 1.75, 9: 1.5, 10: 1.4, 11: 1.3, 12: 1.25, 13: 1.2},
    (3, 7): {8: 2.3, 9: 1.8, 10: 1.55, 11: 1.4, 12: 1.35, 13: 1.3, 14: 1.25},
    (3, 8): {9: 2.3, 10: 1.85, 11: 1.6, 12: 1.45, 13: 1.4, 14: 1.35},
    (3, 9): {10: 2.3, 11: 1.9, 12: 1.65, 13: 1.5, 14: 1.45, 15: 1.4},
    (3, 10): {11: 2.3, 12: 1.9, 13: 1.7, 14: 1.55, 15: 1.5},
}
"""The kernels of ducc0 (``KernelDB``) that it may choose."""

MOST = 2.6
"""The largest upsampling of ducc0's kernels."""

FLOAT = 4
"""Bytes of a pixel of an image, and of a weight."""


def plane_bytes(settings: ImagingSettings) -> int:
    """Predict the largest number of bytes that one plane takes at any time."""
    image = FLOAT * settings.geometry.nx * settings.geometry.ny
    # uvw, order, visibilities and weights in the files of the store, which are mapped; several partitions are joined
    mapped = (24 + 4 + 8 + 4) * settings.samples if settings.sources == 1 else 0
    if (
        2 * image >= MAPPED
    ):  # buffers to measure noise: the system gives no memory for most of the second, which is not written
        mapped += image
    real = _real(settings)
    grid = 2 * real * math.prod(grid_size(settings, 1, settings.w_term))
    # an image is made in double precision and kept in single precision: the hole that its grid leaves stays
    hole = grid if real > FLOAT and grid < MAPPED else 0
    return mapped + hole + largest_sum(_steps(settings), again=not settings.alone, hole=False)


def _steps(settings: ImagingSettings) -> Iterator[list[int]]:
    """Yield the sizes of the arrays that a plane has in each step of its life, in the order of `CpuDevice`."""
    ny, nx = settings.geometry.shape
    image, samples, real = FLOAT * ny * nx, settings.samples, _real(settings)
    in_image = major_in_image(settings, samples, MAJOR_CYCLE)
    # visibilities, weights and imaging weights in the order of uvw
    always = [8 * samples, FLOAT * samples, FLOAT * samples]
    if 2 * image < MAPPED:
        always.append(2 * image)
    if image < MAPPED:  # the zeros; likewise
        always.append(image)
    if settings.masked:
        always.append(ny * nx)
    if settings.sources > 1:
        always.append(24 * samples)
        yield [*always, 24 * samples // 2, 24 * samples // 2, 6 * samples]  # half of them are copied
    yield [*always, 8 * samples, 0 if settings.weighting == "natural" else 8 * (ny // 2 + 1) * (nx + 1)]
    yield [*always, *_gridding(settings, 1, settings.w_term)]
    plane = [*always, image]
    yield [*plane, *_gridding(settings, 2 if settings.cleaned else 1, False), 2 * real * samples]
    if settings.cleaned:
        # the PSF; residual and model, the model subtracted, and the best of both
        plane += [4 * image, *5 * [image]]
        if nscale := len(settings.scales):
            # spectra of all scales, the PSF convolved with every pair; what `PlaneScales` makes them from
            plane += [*nscale * [2 * image], nscale * (nscale + 1) // 2 * 4 * image]
            yield [*plane, *6 * [2 * image], 4 * image, 4 * image]
            # residual, components and mask of every scale, and `convolve`
            yield [*plane, *2 * nscale * [image], nscale * ny * nx, 2 * image, 4 * image, image]
        if in_image:
            yield [*plane, 4 * image, 2 * image]  # the transform of the PSF
            plane.append(2 * image)
            yield [*plane, 2 * image, 4 * image, image, image]  # `convolve`, and the change of the model
        else:
            predicted = [2 * real * samples, 2 * real * samples]
            yield [*plane, *predicted, *_gridding(settings, 1, settings.w_term)]
        yield [*plane, image, 4 * image, 4 * image, 2 * image]  # `sampled_spectrum` and the restored image
    else:
        yield [*plane, image, image, image]  # the PSF and the restored image, and one as it is written
    if settings.smoothed:
        yield [*plane, image, 4 * image, 4 * image]  # `Beam.spectrum` and the restored image
        yield [*plane, image, 2 * image, 2 * image, 4 * image, image]  # `convolve`


def _real(settings: ImagingSettings) -> int:
    """Bytes of a real number in ducc0's grids."""
    return FLOAT if settings.epsilon >= SINGLE_PRECISION_EPSILON else 2 * FLOAT


def _gridding(settings: ImagingSettings, scale: int, w: bool) -> list[int]:
    """List the arrays with which ducc0 makes an image of `scale` times the size: that image, its grids, copies of the samples."""
    ny, nx = settings.geometry.shape
    real, samples = _real(settings), settings.samples
    cells = math.prod(grid_size(settings, scale, w))
    arrays = [scale**2 * ny * nx * real, 2 * real * cells, 24 * samples, samples, 8 * samples, 8 * samples]
    if not w:
        arrays.append(real * cells)
    return arrays if real == FLOAT else [*arrays, 2 * real * samples, real * samples]


def grid_size(settings: ImagingSettings, scale: int, w: bool) -> tuple[int, int]:
    """Find the uv grid (nu, nv) that ducc0 chooses for images of `scale` times the job's size.

    It is exact if `epsilon` is a power of ten. Otherwise it is the largest of three: for the powers of ten around it, and with
    upsampling interpolated between them.
    """
    g, digits = settings.geometry, -math.log10(settings.epsilon)
    loose, tight = (KERNELS[3 if w else 2, power] for power in (math.floor(digits + 1e-6), math.ceil(digits - 1e-6)))
    least = min(loose.values())
    between = {
        support: loose.get(support, least) + digits % 1 * (tight.get(support, MOST) - loose.get(support, least))
        for support in loose.keys() | tight.keys()
    }
    lanes: int = min(8, ducc0.misc.native_vector_lengths()[0 if _real(settings) == FLOAT else 1])
    turns = g.w_phase(settings.w_max) / (2 * math.pi) if w else 0.0

    def sizes(upsampling: float) -> tuple[int, int]:
        nu, nv = (max(16, 2 * ducc0.fft.good_size(int(scale * n * upsampling * 0.5) + 1)) for n in (g.nx, g.ny))
        return nu, nv

    def cost(support: int, upsampling: float) -> float:
        nu, nv = sizes(upsampling)
        fft = nu * nv / 2048**2 * math.log(nu * nv) / math.log(2048**2) * 0.0693
        vectors = -(-support // lanes)
        gridding = 2.2e-10 * settings.samples * lanes * (support * vectors + (2 * vectors + 1) * (support + 3))
        if w:
            return fft * int(turns * upsampling + support) + gridding * support
        return fft + gridding

    choices = [loose] if loose is tight else [loose, between, tight]
    return max(sizes(min(kernels.items(), key=lambda kernel: cost(*kernel))[1]) for kernels in choices)
