"""Multiscale minor cycles of many planes by the kernels in `kernels/multiscale.cu`: what is launched, and how often.

In: stacks of residuals and of spectra of PSFs, the slots of the planes to be cleaned, and how far to clean each. Out: models,
changed in place, and the iterations done. The algorithm is that of `gpucube.devices.cpu.multiscale` (Cornwell 2008), and given
the same convolved images the components are bit-identical with those of the CPU's loop. Convolutions are FFTs, whose last bits
differ between devices.

PSFs convolved with every pair of scales are made when a plane is first cleaned, and kept in its slot. Convolved residuals and
active sets live in the workspace for one minor cycle. The host looks once at a minor cycle. It looks again where a
launch has done as many iterations as one may (`minor_cycle.WORK`), or where planes have more active pixels than shared memory
holds: many blocks clean them then, with a launch for each iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda import minor_cycle
from gpucube.devices.cuda.backend import (
    Backend,
    Kernels,
    Spec,
    Workspace,
    allocated,
    block_bytes,
    fft_group,
    fft_planes,
    packed,
)
from gpucube.devices.cuda.convolver import Convolver, stacks_of
from gpucube.devices.cuda.minor_cycle import ANY_SIZE, Images
from gpucube.devices.scales import GROWTH, LEAST_RESPONSE, MASK_LEVEL, scale_bias, scale_kernel


class ScaleStacks(NamedTuple):
    """What slots hold for multiscale CLEAN, beside their images."""

    spectrum: DeviceArray  # (nslot, 2 ny, nx + 1) float32, of the PSF
    cross: DeviceArray  # (nslot, npair, 2 ny, 2 nx) float32: the PSF convolved with every pair of scales
    allowed: DeviceArray  # (nslot, nscale, ny, nx) uint8: where components may lie, of slots that have masks


def stack_specs_of_scales(slots: int, ny: int, nx: int, scales: int) -> list[Spec]:
    """Shapes of `ScaleStacks` without the spectra."""
    pairs = scales * (scales + 1) // 2
    return [((slots, pairs, 2 * ny, 2 * nx), np.float32), ((slots, scales, ny, nx), np.uint8)]


def work_of_scales(planes: int, ny: int, nx: int, scales: int) -> list[Spec]:
    """Arrays of the workspace in a minor cycle of so many planes; `round_specs` come beside them."""
    sets, pixels = planes * scales, ny * nx
    return [
        ((sets, -(-pixels // minor_cycle.UNIT) + 3 * pixels), np.int32),
        ((sets, ny, nx), np.float32),
        ((planes, 4), np.int32),
        ((sets, 4), np.float32),
        ((sets, 4), np.float64),
        ((3, sets), np.int32),
    ]


def round_specs(planes: int, ny: int, nx: int, scales: int) -> list[Spec]:
    """Padded images and their transforms, of every scale of planes that are convolved together; and a transform of each."""
    return [*stacks_of(nx, ny, planes * scales), stacks_of(nx, ny, planes)[1]]


def _head_bytes(scales: int) -> int:
    """Shared memory of `multiscale_active_set` before the active pixels."""
    return 4 * (129 * scales + 1)


class Multiscale:
    """Minor cycles of images (ny, nx) with scales of these sizes, in pixels.

    Pixels are active if their convolved residual is above `cut` times the threshold of their scale; all are with -1.
    """

    def __init__(
        self,
        backend: Backend,
        work: Workspace,
        convolver: Convolver,
        shape: tuple[int, int],
        sizes: Sequence[float],
        smallscalebias: float,
        cut: float,
    ):
        self._backend, self._work, self._convolver, self._shape, self._cut = backend, work, convolver, shape, cut
        self._group = fft_group(4 * shape[0] * shape[1])
        self._shapes = [scale_kernel(size) for size in sizes]
        self._count = len(sizes)
        self._wide = [s for s, kernel in enumerate(self._shapes) if kernel.size > 1]
        self._bias = scale_bias(sizes, smallscalebias)
        self._kernels = Kernels(backend, {"multiscale": (), "hogbom": (), "convolve": ("-DREAL=float",)})
        self._spectra: DeviceArray | None = None  # (nscale, 2 ny, nx + 1) float32, made for the first minor cycle

    def clean(
        self,
        images: Images,
        stacks: ScaleStacks,
        where: DeviceArray,
        orders: np.ndarray,
        how_far: DeviceArray,
        fresh: np.ndarray,
        remasked: np.ndarray,
    ) -> list[int]:
        """Clean the planes in the slots `where` (n,) int32, as the orders (n, 4) say (`minor_cycle.orders_of`).

        Orders lie on the host, and on the device in `how_far`. `fresh` are the slots of new planes, `remasked` those with a new
        mask. Returns the iterations of each plane.
        """
        (ny, nx), planes, backend = self._shape, len(where), self._backend
        self._work.start()
        work = self._work.take(*work_of_scales(planes, ny, nx, self._count))
        self._together = self._planes_together(planes)
        self._round = self._work.take(*round_specs(self._together, ny, nx, self._count))
        if self._spectra is None:
            self._spectra = self._make_spectra()
        if len(fresh):
            self._make_cross(stacks, packed(backend, fresh)[0])
        if len(remasked):
            self._make_allowed(images, stacks, packed(backend, remasked)[0], work)
        done = self._clean(images, stacks, where, orders, how_far, work)
        if done.any():
            self._add_components(images.model, where, work[0])
        return [int(n) for n in done]

    def _planes_together(self, planes: int) -> int:
        """Number of planes that are convolved in one round."""
        together = planes
        while together > 1 and block_bytes(round_specs(together, *self._shape, self._count)) > self._work.left:
            together = max(1, min(together - 1, int(0.9 * together)))
        return together

    def _padded(self, planes: int) -> DeviceArray:
        """Whole batches of padded images."""
        return self._backend.view(self._round[0], 0, stacks_of(*self._shape[::-1], planes)[0][0], np.dtype(np.float32))

    def _transforms(self, planes: int, of: int = 1) -> DeviceArray:
        """Whole batches of their transforms; with `of` = 2 in the smaller stack."""
        return self._backend.view(
            self._round[of], 0, stacks_of(*self._shape[::-1], planes)[1][0], np.dtype(np.complex64)
        )

    def _make_spectra(self) -> DeviceArray:
        """Spectra of the scales, for `convolve`; and small tables that all planes share."""
        (ny, nx), count = self._shape, self._count
        place_of = np.full(count, -1, np.int32)
        place_of[self._wide] = np.arange(len(self._wide))
        sizes = np.array([kernel.size for kernel in self._shapes])
        halves = np.array([kernel.shape[0] // 2 for kernel in self._shapes], np.int32)
        scale_of, all_of = np.array(self._wide, np.int32), np.arange(count, dtype=np.int32)
        small = packed(self._backend, place_of, scale_of, self._bias, all_of, np.cumsum(sizes) - sizes, halves)
        self._place_of, self._scale_of, self._bias_there = small[:3]
        values = self._backend.upload([kernel.reshape(-1) for kernel in self._shapes], np.float32)
        (spectra,) = allocated(self._backend, ((count, 2 * ny, nx + 1), np.float32))
        padded = self._padded(count)
        self._kernels.over("multiscale.put_kernels", count, 2 * ny, 2 * nx, values, *small[4:], ny, nx, padded)
        self._convolver.spectrum(padded, count, self._transforms(count), small[3], spectra)
        return spectra

    def _make_cross(self, stacks: ScaleStacks, slots: DeviceArray) -> None:
        """Convolve PSFs with every pair of scales."""
        (ny, nx), over = self._shape, self._kernels.over
        pairs = self._count * (self._count + 1) // 2
        room = fft_planes(self._together * self._count, self._group)
        for begin in range(0, len(slots) * pairs, room):
            some = min(room, len(slots) * pairs - begin)
            padded, transform = self._padded(some), self._transforms(some)
            size = (2 * ny, nx + 1)
            given = (stacks.spectrum, slots, self._spectra, pairs, begin, *size)
            over("multiscale.cross_spectra", some, *size, *given, transform)
            self._backend.irfft2(transform, padded, self._group)
            size = (2 * ny, 2 * nx)
            over("multiscale.put_cross", some, *size, padded, slots, pairs, begin, *size, stacks.cross)

    def _make_allowed(
        self, images: Images, stacks: ScaleStacks, slots: DeviceArray, work: Sequence[DeviceArray]
    ) -> None:
        """Convolve masks with every scale: a component may lie where enough of it is inside."""
        (ny, nx), over, planes, scales = self._shape, self._kernels.over, len(slots), self._count
        masks = self._backend.view(work[0], 0, (planes, ny, nx), np.dtype(np.float32))  # no active sets are there yet
        over("multiscale.mask_images", planes, ny, nx, images.masks, images.mask_of, slots, ny, nx, masks)
        (numbers,) = packed(self._backend, np.arange(planes, dtype=np.int32))
        self._smooth(masks, numbers, work[1])
        given = (work[1], slots, scales, ny, nx, MASK_LEVEL)
        over("multiscale.allow", planes * scales, ny, nx, *given, stacks.allowed)

    def _smooth(self, images: DeviceArray, slots: DeviceArray, out: DeviceArray) -> None:
        """Convolve images with every scale."""
        (ny, nx), over, scales, wide = self._shape, self._kernels.over, self._count, len(self._wide)
        size = (2 * ny, nx + 1)
        for begin, some, there in self._rounds(slots):
            padded = self._padded(some * max(1, wide))
            if wide:
                one, transform, spread = self._padded(some), self._transforms(some, 2), self._transforms(some * wide)
                over("convolve.pad_twice", some, 2 * ny, 2 * nx, images, there, ny, nx, one)
                self._backend.rfft2(one, transform, self._group)
                given = (transform, self._spectra, self._scale_of, wide, *size)
                over("multiscale.spread_scales", some * wide, *size, *given, spread)
                self._backend.irfft2(spread, padded, self._group)
            numbers = (scales, wide, begin, ny, nx)
            over("multiscale.take_scales", some * scales, ny, nx, images, there, padded, self._place_of, *numbers, out)

    def _rounds(self, slots: DeviceArray) -> list[tuple[int, int, DeviceArray]]:
        """The first plane of each round, its planes, and their slots."""
        begins = range(0, len(slots), self._together)
        sizes = [(begin, min(self._together, len(slots) - begin)) for begin in begins]
        return [(b, n, self._backend.view(slots, 4 * b, (n,), np.dtype(np.int32))) for b, n in sizes]

    def _clean(
        self,
        images: Images,
        stacks: ScaleStacks,
        where: DeviceArray,
        orders: np.ndarray,
        how_far: DeviceArray,
        work: Sequence[DeviceArray],
    ) -> np.ndarray:
        """Find components in active sets; returns the iterations of each plane."""
        (ny, nx), planes, scales, launch = self._shape, len(where), self._count, self._kernels.launch
        scratch, smooth, state, table, sets, of_sets = work
        pixels, count, backend = ny * nx, planes * scales, self._backend
        of_each = [backend.view(of_sets, 4 * count * k, (count,), np.dtype(np.int32)) for k in range(3)]
        set_slot, set_mask, set_size = of_each
        self._smooth(images.residual, where, smooth)
        given = (stacks.cross, where, images.mask_of, planes, scales, ny, nx, how_far, self._bias_there)
        into = (table, sets, set_slot, set_mask)
        launch("multiscale.weigh_scales", (-(-count // 64),), (64,), *given, LEAST_RESPONSE, self._cut, *into)
        units = -(-pixels // minor_cycle.UNIT)
        grid, masks = (max(1, min(4 * backend.processors, -(-units // 8))), count), (stacks.allowed, set_mask, set_slot)
        launch("hogbom.hogbom_count", grid, (256,), smooth, *masks, pixels, sets, pixels, scratch)
        launch("hogbom.hogbom_gather", grid, (256,), smooth, smooth, *masks, ny, nx, sets, pixels, scratch)
        free = backend.shared_bytes - minor_cycle.STATIC_SHARED_BYTES - _head_bytes(scales)
        fits = min(free // minor_cycle.BYTES_A_MEMBER, scales * pixels)
        planes_of = (stacks.cross, where, ny, nx, scales, table, how_far, GROWTH)
        kept = (scratch, set_size, state)
        found = self._by_one_block(planes_of, minor_cycle.launches_by_size(fits, scales * pixels), fits, kept)
        large = np.flatnonzero(found[:, 0] < 0).astype(np.int32)
        if not len(large):
            return found[:, 0]
        if backend.processors // len(large) < 2:
            return self._by_one_block(planes_of, [(fits, ANY_SIZE, 0, 1024)], ANY_SIZE, kept)[:, 0]
        found[large, 0] = self._by_many_blocks(planes_of, large, found[large, 1].max(), orders[large, 2], kept)
        return found[:, 0]

    def _by_one_block(
        self,
        planes_of: tuple[Any, ...],
        launches: Sequence[tuple[int, int, int, int]],
        most: int,
        kept: tuple[DeviceArray, DeviceArray, DeviceArray],
    ) -> np.ndarray:
        """Clean planes of at most `most` active pixels by a block each (`minor_cycle.launches_by_size`); returns all states."""
        head, state = _head_bytes(self._count), kept[-1]

        def launch(resumed: int) -> None:
            for above, up_to, capacity, threads in launches:
                sizes = (above, up_to, capacity, most, minor_cycle.WORK, resumed)
                shared = head + minor_cycle.BYTES_A_MEMBER * capacity
                arguments = (*planes_of, *sizes, *kept)
                grid, block = (len(state),), (threads,)
                self._kernels.launch("multiscale.multiscale_active_set", grid, block, *arguments, shared_mem=shared)

        return minor_cycle.launch_until_done(self._backend, launch, state)

    def _by_many_blocks(
        self,
        planes_of: tuple[Any, ...],
        which: np.ndarray,
        largest: int,
        limits: np.ndarray,
        kept: tuple[DeviceArray, DeviceArray, DeviceArray],
    ) -> np.ndarray:
        """Clean these planes with a launch for each iteration; returns their iterations."""
        xp, count = self._backend.xp, len(which)
        blocks = max(1, min(self._backend.processors // count, -(-int(largest) // 1024)))
        partial, iterations = xp.empty((2, count, self._count, blocks, 2), np.uint32), xp.empty((2, count), np.int32)
        cross, where, *others = planes_of
        of = (cross, where, xp.asarray(which), *others)

        def step(half: int, first: int = 0) -> None:
            arguments = (*of, first, half, *kept, partial, iterations)
            self._kernels.launch("multiscale.multiscale_set_step", (blocks, count), (1024,), *arguments)

        step(1, first=1)
        _, done = minor_cycle.step_until_done(self._backend, step, iterations, limits)
        return done

    def _add_components(self, model: DeviceArray, where: DeviceArray, scratch: DeviceArray) -> None:
        """Add the components to the models, those of wide scales convolved with them."""
        (ny, nx), over, scales, wide = self._shape, self._kernels.over, self._count, len(self._wide)
        size = (2 * ny, nx + 1)
        for begin, some, there in self._rounds(where):
            padded = self._padded(some * max(1, wide))
            if wide:
                self._backend.clear(padded)
            given = (scratch, there, self._place_of, scales, wide, begin, ny, nx, model, padded)
            self._kernels.launch("multiscale.put_components", (some,), (1024,), *given)
            if wide:
                one, transform, spread = self._padded(some), self._transforms(some, 2), self._transforms(some * wide)
                self._backend.rfft2(padded, spread, self._group)
                gathered = (spread, self._spectra, self._scale_of, wide, *size, transform)
                over("multiscale.gather_scales", some, *size, *gathered)
                self._backend.irfft2(transform, one, self._group)
                over("multiscale.add_components", some, ny, nx, one, there, ny, nx, model)
