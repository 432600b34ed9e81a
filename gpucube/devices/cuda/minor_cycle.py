"""Högbom minor cycles of many planes by the kernels in `kernels/hogbom.cu`: which form is launched, and how often.

In: stacks of residuals, PSFs and models, the slots of the planes to be cleaned, and how far to clean each. Out: models, changed
in place, and the iterations done. Algorithms: Högbom 1974 (A&AS 15, 417) on the whole image, or on an active set after Clark
1980 (A&A 89, 377). The components are bit-identical with those of the CPU's loops, whatever the form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpucube.devices.base import DeviceArray, MinorCycle
from gpucube.devices.cuda.backend import Backend, Kernels
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT

STATIC_SHARED_BYTES = 2048
"""Shared memory of the active set's kernel beside the set itself, rounded up."""

BYTES_A_MEMBER = 12
"""Place, value and model of a pixel of the active set."""

SMALL_IMAGE = 1 << 14
"""Up to so many pixels one block cleans a plane as fast as many blocks, which need a launch for every iteration."""

LAUNCHES_AT_ONCE = (32, 512)
"""Least and largest number of iterations that are queued before the host looks, where each iteration is a launch."""

_MOST_ITERATIONS = 2**31 - 1


class Images(NamedTuple):
    """Stacks on the device, in the order in which kernels take them."""

    residual: DeviceArray  # (nslot, ny, nx) float32
    psf: DeviceArray  # (nslot, 2 ny, 2 nx) float32
    model: DeviceArray  # (nslot, ny, nx) float32
    masks: DeviceArray  # (nmask, ny, nx) uint8
    mask_of: DeviceArray  # (nslot,) int32: each slot's mask, -1 for none


def active_set(
    backend: Backend, kernels: Kernels, images: Images, slots: DeviceArray, cycles: Sequence[MinorCycle]
) -> list[int]:
    """Clean the active sets of the planes in the slots (n,) int32, and return the iterations of each.

    One launch cleans all sets in shared memory. Those too large for it are cleaned again, in global memory.
    """
    xp, (_, ny, nx) = backend.xp, images.residual.shape
    shared = min(backend.shared_bytes - STATIC_SHARED_BYTES, BYTES_A_MEMBER * ny * nx) // BYTES_A_MEMBER
    gain, threshold, limit = _on_device(backend, cycles)  # (n,) each
    cut = xp.asarray(ACTIVE_SET_CUT * np.array([c.threshold for c in cycles], float))  # (n,)

    def launch(which: DeviceArray, capacity: int, room: int) -> tuple[np.ndarray, np.ndarray]:
        iterations, sizes = xp.zeros(len(which), np.int32), xp.zeros(len(which), np.int32)
        spill = xp.empty((len(which), 3, room), np.float32)
        planes = (*images, slots[which], ny, nx)
        how_far = (gain[which], threshold[which], limit[which], cut[which])
        sets, grid, bytes_of_sets = (capacity, room, spill, sizes), (len(which),), BYTES_A_MEMBER * capacity
        name, block = "hogbom.hogbom_active_set", (1024,)
        kernels.launch(name, grid, block, *planes, *how_far, *sets, iterations, shared_mem=bytes_of_sets)
        return backend.download(iterations), backend.download(sizes)

    done, sizes = launch(xp.arange(len(slots)), shared, 0)
    for which in np.flatnonzero(sizes > shared):  # one by one, so that they take no more memory than one needs
        done[which] = launch(xp.asarray([which]), 0, int(sizes[which]))[0][0]
    return [int(n) for n in done]


def textbook(
    backend: Backend, kernels: Kernels, images: Images, slots: DeviceArray, cycles: Sequence[MinorCycle]
) -> list[int]:
    """Clean whole images; arguments and result are those of `active_set`.

    Each plane has one block, or many where the planes alone would not fill the device.
    """
    _, ny, nx = images.residual.shape
    blocks = 2 * backend.processors // len(slots)
    if blocks > 1 and ny * nx > SMALL_IMAGE:
        return _by_many_blocks(backend, kernels, images, slots, cycles, blocks)
    iterations = backend.xp.zeros(len(slots), np.int32)
    planes, how_far = (*images, slots, ny, nx), _on_device(backend, cycles)
    kernels.launch("hogbom.hogbom_textbook", (len(slots),), (1024,), *planes, *how_far, iterations)
    return [int(n) for n in backend.download(iterations)]


def _by_many_blocks(
    backend: Backend, kernels: Kernels, images: Images, slots: DeviceArray, cycles: Sequence[MinorCycle], blocks: int
) -> list[int]:
    """Clean with a launch for each iteration, since blocks cannot wait for each other; the host looks after many launches."""
    xp, (ny, nx), count = backend.xp, images.residual.shape[1:], len(slots)
    partial, iterations = xp.zeros((2, count, blocks, 2), np.uint32), xp.zeros((2, count), np.int32)
    grid, block = (blocks, count), (1024,)
    searched = (images.residual, images.masks, images.mask_of, slots, ny, nx)
    kernels.launch("hogbom.hogbom_start", grid, block, *searched, partial, iterations)
    planes, how_far = (*images, slots, ny, nx), _on_device(backend, cycles)
    most = np.array([min(c.max_iterations, _MOST_ITERATIONS) for c in cycles])
    before, parity, queue = np.full(count, -1), 0, LAUNCHES_AT_ONCE[0]
    while True:
        for _ in range(queue):
            kernels.launch("hogbom.hogbom_step", grid, block, *planes, *how_far, parity, partial, iterations)
            parity = 1 - parity
        now = backend.download(iterations[parity])
        if np.all((now >= most) | (now == before)):
            return [int(n) for n in now]
        before, queue = now, min(2 * queue, LAUNCHES_AT_ONCE[1])


def _on_device(backend: Backend, cycles: Sequence[MinorCycle]) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Upload gain, threshold and iteration limit of every plane."""
    upload = backend.xp.asarray
    limits = np.array([min(c.max_iterations, _MOST_ITERATIONS) for c in cycles], np.int32)
    return upload([float(c.gain) for c in cycles]), upload([float(c.threshold) for c in cycles]), upload(limits)
