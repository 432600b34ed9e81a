"""Högbom minor cycles of many planes by the kernels in `kernels/hogbom.cu`: which form is launched, and how often.

In: stacks of residuals, PSFs and models, the slots of the planes to be cleaned, and how far to clean each. Out: models, changed
in place, the iterations done, and in how many pixels each model changed. Algorithms: Högbom 1974 (A&AS 15, 417) on the whole
image, or on an active set after Clark 1980 (A&A 89, 377). The components are bit-identical with those of the CPU's loops,
whatever the form.

The host looks once at a minor cycle. It looks again where a launch has done as many iterations as one may (`WORK`), or where
sets need more memory than was set aside for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
ANY_SIZE = 2**31 - 1
"""Stands for no limit of the number of pixels."""


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
    state, room = _clean_sets(backend, kernels, images, changes, work, where, orders, how_far, each), len(slots) * each
    missing = list(np.flatnonzero(state[:, 0] < 0))  # whose sets have no room
    while missing:
        count = 1  # as many at once as fit the memory that all planes took before, and at least one
        while count < len(missing) and (count + 1) * state[missing[: count + 1], 1].max() <= room:
            count += 1
        some, missing = missing[:count], missing[count:]
        largest, (there, farther) = int(state[some, 1].max()), packed(backend, slots[some], orders[some])
        work.start()
        state[some] = _clean_sets(backend, kernels, images, changes, work, there, orders[some], farther, largest)
    return state[:, 0].tolist(), state[:, 2].tolist()


def _clean_sets(
    backend: Backend,
    kernels: Kernels,
    images: Images,
    changes: Changes,
    work: Workspace,
    slots: DeviceArray,
    orders: np.ndarray,
    how_far: DeviceArray,
    room: int,
) -> np.ndarray:
    """Clean the sets of at most `room` pixels; returns the state of every plane as the kernel leaves it, (n, 4) int32."""
    sets = _Sets(backend, kernels, images, changes, work, slots, how_far, room)
    fits = min((backend.shared_bytes - STATIC_SHARED_BYTES) // BYTES_A_MEMBER, sets.pixels)
    state = sets.clean(launches_by_size(fits, sets.pixels), fits)
    left = np.flatnonzero(state[:, 0] < 0).astype(np.int32)
    if not len(left) or not len(large := left[state[left, 1] <= room]):
        return state
    if backend.processors // len(large) > 1:
        return sets.clean_by_many_blocks(large, state[large, 1].max(), orders[large, 2])
    return sets.clean([(fits, ANY_SIZE, 0, 1024)], ANY_SIZE)


def launches_by_size(fits: int, most: int) -> list[tuple[int, int, int, int]]:
    """One launch for small active sets and one for larger ones; only the first if no set has more than `most` pixels.

    Each cleans the sets of more than so many and at most so many pixels, in shared memory for so many, with so many threads. At
    most `fits` pixels fit shared memory. A block whose set belongs to the other launch ends at once.
    """
    few = min(FEW_MEMBERS, fits)
    if most <= few:
        return [(-1, ANY_SIZE, few, FEW_THREADS)]
    return [(-1, few, few, FEW_THREADS), (few, ANY_SIZE, fits, 1024)]


def launch_until_done(backend: Backend, launch: Callable[[int], None], state: DeviceArray) -> np.ndarray:
    """Launch again until every plane has finished; returns the state, whose last column says whether a plane has.

    `launch` takes 0 the first time and then 1: planes go on from their state.
    """
    launch(0)
    while not (found := np.array(backend.download(state)))[:, -1].all():
        launch(1)
    return found


class _Sets:
    """The active sets of some planes: they are gathered when they are made."""

    def __init__(
        self,
        backend: Backend,
        kernels: Kernels,
        images: Images,
        changes: Changes,
        work: Workspace,
        slots: DeviceArray,
        how_far: DeviceArray,
        room: int,
    ):
        _, ny, nx = images.residual.shape
        self._backend, self._launch, self._changes, self._room = backend, kernels.launch, changes, room
        self.pixels, self._count, units = ny * nx, len(slots), -(-ny * nx // UNIT)
        self._planes, self._orders = (images.psf, images.model, slots, ny, nx), how_far
        self._scratch, self._state = work.take(*work_of_sets(self._count, self.pixels, room))
        grid, masks = (max(1, min(4 * backend.processors, -(-units // 8))), self._count), images[3:]
        into = (self._orders, room, self._scratch)
        self._launch("hogbom.hogbom_count", grid, (256,), images.residual, *masks, slots, self.pixels, *into)
        planes = (images.residual, images.model, *masks, slots, ny, nx)
        self._launch("hogbom.hogbom_gather", grid, (256,), *planes, *into)

    def clean(self, launches: Sequence[tuple[int, int, int, int]], most: int) -> np.ndarray:
        """Clean the sets of at most `most` pixels by one block for each plane (`launches_by_size`); returns the state."""
        grid, into = (self._count,), (self._scratch, self._state, LISTED, *self._changes)

        def launch(resumed: int) -> None:
            for above, up_to, capacity, threads in launches:
                sizes, how_far = (above, up_to, capacity, most), (self._room, WORK, resumed)
                arguments, shared = (*self._planes, self._orders, *sizes, *how_far, *into), BYTES_A_MEMBER * capacity
                self._launch("hogbom.hogbom_active_set", grid, (threads,), *arguments, shared_mem=shared)

        return launch_until_done(self._backend, launch, self._state)

    def clean_by_many_blocks(self, which: np.ndarray, largest: int, limits: np.ndarray) -> np.ndarray:
        """Clean the sets of these planes with a launch for each iteration; returns the state of all."""
        xp, count, (psf, model, *planes) = self._backend.xp, len(which), self._planes
        slots, *shape = planes
        blocks = max(1, min(self._backend.processors // count, -(-largest // 1024)))
        of = (slots, xp.asarray(which), *shape)
        partial, iterations = xp.empty((2, count, blocks, 2), np.uint32), xp.empty((2, count), np.int32)
        kept = (self._scratch, self._state, partial, iterations)

        def step(half: int, first: int = 0) -> None:
            arguments = (psf, *of, self._orders, self._room, first, half, *kept)
            self._launch("hogbom.hogbom_set_step", (blocks, count), (1024,), *arguments)

        step(1, first=1)
        half, _ = step_until_done(self._backend, step, iterations, limits)
        ended = (self._room, iterations[half], self._scratch, self._state, LISTED, *self._changes)
        self._launch("hogbom.hogbom_set_finish", (count,), (1024,), model, *of, *ended)
        return np.array(self._backend.download(self._state))


def step_until_done(
    backend: Backend, step: Callable[[int], None], iterations: DeviceArray, limits: np.ndarray
) -> tuple[int, np.ndarray]:
    """Queue launches that each do an iteration, from half 0 of the state on.

    Returns the half that holds the last state, and its iterations. The host looks after many launches. A plane has finished
    that is at its limit, or has not got on since the last look.
    """
    before, half, queue = np.full(len(limits), -1), 0, LAUNCHES_AT_ONCE[0]
    while True:
        for _ in range(queue):
            step(half)
            half = 1 - half
        now = backend.download(iterations[half])
        if np.all((now >= limits) | (now == before)):
            return half, now
        before, queue = now, min(2 * queue, LAUNCHES_AT_ONCE[1])


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
    state, most = xp.empty((len(slots), 2), np.int32), max(LEAST_ITERATIONS, WORK // (ny * nx))

    def launch(resumed: int) -> None:
        planes = (*images, slots, ny, nx, how_far, most, resumed, state)
        kernels.launch("hogbom.hogbom_textbook", (len(slots),), (1024,), *planes)

    iterations: list[int] = launch_until_done(backend, launch, state)[:, 0].tolist()
    return iterations


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
    planes = (*images, slots, ny, nx, how_far)

    def step(half: int) -> None:
        kernels.launch("hogbom.hogbom_step", grid, block, *planes, half, partial, iterations)

    _, done = step_until_done(backend, step, iterations, orders[:, 2])
    iterations_of: list[int] = done.tolist()
    return iterations_of


def orders_of(cycles: Sequence[MinorCycle]) -> np.ndarray:
    """Gain, threshold, iteration limit and the active set's cut of every plane, (n, 4) float64."""
    of_each = [(c.gain, c.threshold, min(c.max_iterations, _MOST_ITERATIONS)) for c in cycles]
    orders = np.empty((len(cycles), 4))
    orders[:, :3] = of_each
    orders[:, 3] = ACTIVE_SET_CUT * orders[:, 1]
    return orders
