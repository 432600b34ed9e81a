"""Högbom minor cycles of many planes by the kernels in `kernels/hogbom.cu`: which form is launched, and how often.

In: stacks of residuals, PSFs and models, the slots of the planes to be cleaned, and how far each shall go. Out: models changed in
place, and the iterations done. Algorithms: Högbom 1974 (A&AS 15, 417) on the whole image, or on an active set after Clark 1980
(A&A 89, 377); the sequence of components is that of the CPU's loops to the last bit, whatever the form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.devices.base import ACTIVE_SET_CUT, MinorCycle
from gpucube.devices.cuda.backend import Backend, Kernels

STATIC_SHARED_BYTES = 2048
"""What the active set's kernel has of shared memory beside the set itself, rounded up."""

BYTES_A_MEMBER = 12
"""Place, value and model of a pixel of the active set."""

SMALL_IMAGE = 1 << 14
"""Pixels up to which one block cleans a plane as fast as many, which need a launch for every iteration."""

LAUNCHES_AT_ONCE = (32, 512)
"""Least and most iterations that are queued before the host looks, where each takes a launch."""

_MOST_ITERATIONS = 2**31 - 1


@dataclass(frozen=True)
class Images:
    """Stacks on the device: residual and model (slots, ny, nx), psf (slots, 2 ny, 2 nx), float32; masks (any, ny, nx) uint8,
    and of every slot which of them counts, -1 for none."""

    residual: Any
    psf: Any
    model: Any
    masks: Any
    mask_of: Any

    def pointers(self) -> tuple[Any, ...]:
        """As kernels take them."""
        return self.residual, self.psf, self.model, self.masks, self.mask_of

    def size(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.residual.shape[1:]


def _on_device(backend: Backend, cycles: Sequence[MinorCycle]) -> tuple[Any, Any, Any]:
    """Gain, threshold and limit of every plane."""
    asarray = backend.xp.asarray
    return (
        asarray(np.array([o.gain for o in cycles], float)),
        asarray(np.array([o.threshold for o in cycles], float)),
        asarray(np.array([min(o.max_iterations, _MOST_ITERATIONS) for o in cycles], np.int32)),
    )


def active_set(
    backend: Backend, kernels: Kernels, images: Images, slots: Any, cycles: Sequence[MinorCycle]
) -> list[int]:
    """All planes in one launch, their sets in shared memory; those that are too large for it again, in global memory.

    Parameters
    ----------
    backend, kernels
        The kernels of ``hogbom``.
    images : Images
        Models are changed.
    slots : int32, shape (n,)
        Planes to be cleaned.
    cycles : sequence of MinorCycle
        One for each.

    Returns
    -------
    list of int
        Iterations done.
    """
    xp, (ny, nx) = backend.xp, images.size()
    shared = min(backend.shared_bytes - STATIC_SHARED_BYTES, BYTES_A_MEMBER * ny * nx) // BYTES_A_MEMBER
    gain, threshold, limit = _on_device(backend, cycles)
    cut = ACTIVE_SET_CUT * threshold

    def launch(which: Any, capacity: int, room: int) -> tuple[np.ndarray, np.ndarray]:
        iterations, sizes = xp.zeros(len(which), np.int32), xp.zeros(len(which), np.int32)
        spill = xp.empty((len(which), 3, room), np.float32)
        kernels.launch(
            *("hogbom.hogbom_active_set", (len(which),), (1024,), *images.pointers(), slots[which], ny, nx),
            *(gain[which], threshold[which], limit[which], cut[which], capacity, room, spill, sizes, iterations),
            shared_mem=BYTES_A_MEMBER * capacity,
        )
        return backend.download(iterations), backend.download(sizes)

    done, sizes = launch(xp.arange(len(slots)), shared, 0)
    for which in np.flatnonzero(sizes > shared):  # one by one, so that they take no more memory than one needs
        done[which] = launch(xp.asarray([which]), 0, int(sizes[which]))[0][0]
    return done.tolist()


def textbook(backend: Backend, kernels: Kernels, images: Images, slots: Any, cycles: Sequence[MinorCycle]) -> list[int]:
    """The whole image: a block for each plane in one launch, or many blocks where there are fewer planes than would fill
    the device. Parameters and result as `active_set`."""
    ny, nx = images.size()
    blocks = 2 * backend.processors // len(slots)
    if blocks > 1 and ny * nx > SMALL_IMAGE:
        return _by_many_blocks(backend, kernels, images, slots, cycles, blocks)
    iterations = backend.xp.zeros(len(slots), np.int32)
    what = (*images.pointers(), slots, ny, nx, *_on_device(backend, cycles), iterations)
    kernels.launch("hogbom.hogbom_textbook", (len(slots),), (1024,), *what)
    return backend.download(iterations).tolist()


def _by_many_blocks(
    backend: Backend, kernels: Kernels, images: Images, slots: Any, cycles: Sequence[MinorCycle], blocks: int
) -> list[int]:
    """Blocks cannot wait for each other, so each iteration is a launch; they are queued, and the host looks after some."""
    xp, (ny, nx), count = backend.xp, images.size(), len(slots)
    partial, iterations = xp.zeros((2, count, blocks, 2), np.uint32), xp.zeros((2, count), np.int32)
    grid, block = (blocks, count), (1024,)
    searched = (images.residual, images.masks, images.mask_of, slots, ny, nx)
    kernels.launch("hogbom.hogbom_start", grid, block, *searched, partial, iterations)
    what = (*images.pointers(), slots, ny, nx, *_on_device(backend, cycles))
    most = np.array([min(o.max_iterations, _MOST_ITERATIONS) for o in cycles])
    before, parity, queue = np.full(count, -1), 0, LAUNCHES_AT_ONCE[0]
    while True:
        for _ in range(queue):
            kernels.launch("hogbom.hogbom_step", grid, block, *what, parity, partial, iterations)
            parity = 1 - parity
        now = backend.download(iterations[parity])
        if np.all((now >= most) | (now == before)):
            return now.tolist()
        before, queue = now, min(2 * queue, LAUNCHES_AT_ONCE[1])
