"""Högbom minor cycles of many planes by the kernels in `kernels/hogbom.cu`: which form is launched, and how often.

In: stacks of residuals, PSFs and models, the slots of the planes to be cleaned, and how far to clean each. Out: models, changed
in place, the iterations done, and in how many pixels each model changed. Algorithms: Högbom 1974 (A&AS 15, 417) on the whole
image, or on an active set after Clark 1980 (A&A 89, 377). The components are bit-identical with those of the CPU's loops,
whatever the form.

The host looks once at a minor cycle. It looks again where a launch has done as many iterations as one may (`WORK`), or where
sets need more memory than was set aside for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpucube.devices.base import DeviceArray, MinorCycle
from gpucube.devices.cuda.backend import Backend, Kernels, Spec, Workspace, packed
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT, SPARSE_COMPONENTS

STATIC_SHARED_BYTES = 2048
"""Shared memory of the active set's kernel beside the set itself, rounded up."""

BYTES_A_MEMBER = 12
"""Place, value and model of a pixel of the active set."""

FEW_MEMBERS, FEW_THREADS = 2048, 256
"""Sets of at most so many pixels are cleaned by blocks of so few threads that several of them share a multiprocessor."""

UNIT = 2048
"""Pixels whose members are counted together (`kernels/hogbom.cu`)."""

SMALL_IMAGE = 1 << 16
"""Up to so many pixels one block cleans a plane as fast as many blocks, which need a launch for every iteration."""

LAUNCHES_AT_ONCE = (32, 512)
"""Least and largest number of iterations that are queued before the host looks, where each iteration is a launch."""

WORK = 1 << 27
"""Pixels that one launch updates on a plane before it lets the host look: a tenth of a second. A GPU that also drives a display
ends a launch of some seconds, and an interrupt is not heard while one runs."""

LEAST_ITERATIONS = 16
"""Of a launch on whole images, however large they are."""

LISTED = SPARSE_COMPONENTS - 1
"""Most pixels of a model whose changes are listed."""

UNLISTED = 2**31 - 1
"""Stands for the number of changed pixels where it is not known."""

_MOST_ITERATIONS = 2**31 - 1
_ANY_SIZE = 2**31 - 1


class Images(NamedTuple):
    """Stacks on the device, in the order in which kernels take them."""

    residual: DeviceArray  # (nslot, ny, nx) float32
    psf: DeviceArray  # (nslot, 2 ny, 2 nx) float32
    model: DeviceArray  # (nslot, ny, nx) float32
    masks: DeviceArray  # (nmask, ny, nx) uint8
    mask_of: DeviceArray  # (nslot,) int32: each slot's mask, -1 for none


class Changes(NamedTuple):
    """The pixels of each slot's model that its last minor cycle changed, in raster order; not listed if more than `LISTED`."""

    where: DeviceArray  # (nslot, LISTED) int32
    change: DeviceArray  # (nslot, LISTED) float32
    number: DeviceArray  # (nslot,) int32


def set_room(ny: int, nx: int) -> int:
    """Pixels of each plane's active set for which memory is set aside. Larger sets take more in a second round."""
    return min(ny * nx, max(1 << 15, ny * nx // 16))


def work_of_sets(planes: int, pixels: int, room: int) -> list[Spec]:
    """Arrays of the workspace for sets of at most `room` pixels."""
    return [((planes, -(-pixels // UNIT) + 3 * room), np.int32), ((planes, 4), np.int32)]


def active_set(
    backend: Backend,
    kernels: Kernels,
    images: Images,
    changes: Changes,
    work: Workspace,
    slots: np.ndarray,
    where: DeviceArray,
    orders: np.ndarray,
    how_far: DeviceArray,
) -> tuple[list[int], list[int]]:
    """Clean the active sets of the planes in the slots (n,) int32, as the orders (n, 4) say (`orders_of`).

    Slots and orders lie on the host, and on the device in `where` and `how_far`. Returns the iterations of each plane, and the
    number of pixels of its model that changed.
    """
    each = set_room(*images.residual.shape[1:])
    state, room = _clean_sets(backend, kernels, images, changes, work, where, how_far, each), len(slots) * each
    missing = list(np.flatnonzero(state[:, 0] < 0))  # whose sets have no room
    while missing:
        count = 1  # as many at once as fit the memory that all planes took before, and at least one
        while count < len(missing) and (count + 1) * state[missing[: count + 1], 1].max() <= room:
            count += 1
        some, missing = missing[:count], missing[count:]
        largest, (there, farther) = int(state[some, 1].max()), packed(backend, slots[some], orders[some])
        work.start()
        state[some] = _clean_sets(backend, kernels, images, changes, work, there, farther, largest)
    return [int(n) for n in state[:, 0]], [int(n) for n in state[:, 2]]


def _clean_sets(
    backend: Backend,
    kernels: Kernels,
    images: Images,
    changes: Changes,
    work: Workspace,
    slots: DeviceArray,
    how_far: DeviceArray,
    room: int,
) -> np.ndarray:
    """Clean the sets of at most `room` pixels; returns the state of every plane as the kernel leaves it, (n, 4) int32."""
    (_, ny, nx), count = images.residual.shape, len(slots)
    pixels, units = ny * nx, -(-ny * nx // UNIT)
    most = min((backend.shared_bytes - STATIC_SHARED_BYTES) // BYTES_A_MEMBER, pixels)
    few = min(FEW_MEMBERS, most)
    scratch, state = work.take(*work_of_sets(count, pixels, room))
    many = (max(1, min(4 * backend.processors, -(-units // 8))), count)
    masks = (images.masks, images.mask_of, slots)
    kernels.launch("hogbom.hogbom_count", many, (256,), images.residual, *masks, pixels, how_far, room, scratch)
    planes = (images.residual, images.model, *masks, ny, nx)
    kernels.launch("hogbom.hogbom_gather", many, (256,), *planes, how_far, room, scratch)
    # of a few pixels or many: a block whose set belongs to the other launch ends at once
    launches = [(-1, few if pixels > few else _ANY_SIZE, few, FEW_THREADS), (few, _ANY_SIZE, most, 1024)]
    for resumed in range(_MOST_ITERATIONS):
        for above, up_to, capacity, threads in launches if pixels > few else launches[:1]:
            kernels.launch(
                "hogbom.hogbom_active_set",
                (count,),
                (threads,),
                *(images.psf, images.model, slots, ny, nx, how_far),
                *(above, up_to, capacity, room, WORK, min(resumed, 1), scratch, state, LISTED, *changes),
                shared_mem=BYTES_A_MEMBER * capacity,
            )
        found = np.array(backend.download(state))
        if found[:, 3].all():
            break
    return found


def textbook(
    backend: Backend, kernels: Kernels, images: Images, where: DeviceArray, orders: np.ndarray, how_far: DeviceArray
) -> tuple[list[int], list[int]]:
    """Clean whole images; arguments and result are those of `active_set`, but no changes are listed.

    Each plane has one block, or many where the planes alone would not fill the device.
    """
    _, ny, nx = images.residual.shape
    blocks = backend.processors // len(where)
    clean = _by_many_blocks if blocks > 1 and ny * nx > SMALL_IMAGE else _by_one_block
    return clean(backend, kernels, images, where, orders, how_far), [UNLISTED] * len(where)


def _by_one_block(
    backend: Backend, kernels: Kernels, images: Images, slots: DeviceArray, orders: np.ndarray, how_far: DeviceArray
) -> list[int]:
    """Clean in one launch, or as many as the iterations need."""
    xp, (_, ny, nx) = backend.xp, images.residual.shape
    state, most = xp.empty((len(slots), 2), np.int32), WORK // (ny * nx)
    for resumed in range(_MOST_ITERATIONS):
        limits = (how_far, max(LEAST_ITERATIONS, most), min(resumed, 1), state)
        kernels.launch("hogbom.hogbom_textbook", (len(slots),), (1024,), *images, slots, ny, nx, *limits)
        found = backend.download(state)
        if found[:, 1].all():
            break
    return [int(n) for n in found[:, 0]]


def _by_many_blocks(
    backend: Backend, kernels: Kernels, images: Images, slots: DeviceArray, orders: np.ndarray, how_far: DeviceArray
) -> list[int]:
    """Clean with a launch for each iteration, since blocks cannot wait for each other; the host looks after many launches."""
    xp, (ny, nx), count = backend.xp, images.residual.shape[1:], len(slots)
    blocks = max(1, min(backend.processors // count, -(-ny * -(-nx // 256) // 32)))
    partial, iterations = xp.empty((2, count, blocks, 2), np.uint32), xp.empty((2, count), np.int32)
    grid, block = (blocks, count), (1024,)
    searched = (images.residual, images.masks, images.mask_of, slots, ny, nx)
    kernels.launch("hogbom.hogbom_start", grid, block, *searched, partial, iterations)
    planes, most = (*images, slots, ny, nx, how_far), orders[:, 2]
    before, parity, queue = np.full(count, -1), 0, LAUNCHES_AT_ONCE[0]
    while True:
        for _ in range(queue):
            kernels.launch("hogbom.hogbom_step", grid, block, *planes, parity, partial, iterations)
            parity = 1 - parity
        now = backend.download(iterations[parity])
        if np.all((now >= most) | (now == before)):
            return [int(n) for n in now]
        before, queue = now, min(2 * queue, LAUNCHES_AT_ONCE[1])


def orders_of(cycles: Sequence[MinorCycle]) -> np.ndarray:
    """Gain, threshold, iteration limit and the active set's cut of every plane, (n, 4) float64."""
    return np.array(
        [[c.gain, c.threshold, min(c.max_iterations, _MOST_ITERATIONS), ACTIVE_SET_CUT * c.threshold] for c in cycles],
        float,
    )
