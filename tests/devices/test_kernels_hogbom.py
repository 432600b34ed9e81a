"""kernels/hogbom.cu compared with the CPU's loops: the same components in the same order, and bit-identical pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.devices.cpu import loops as cpu_loops

pytestmark = needs_compiler

SHAPES = [(16, 16), (33, 47), (1, 1), (9, 300), (70, 5)]
EVERYWHERE = np.zeros((0, 0), bool)


class Batch:
    """Six slots, of which five are cleaned in another order: no mask, a mask, an empty mask, nothing to clean, ties."""

    def __init__(self, shape: tuple[int, int], seed: int = 1):
        rng = np.random.default_rng(seed)
        self.shape = ny, nx = shape
        self.residual = np.empty((6, ny, nx), np.float32)
        self.model = rng.normal(0, 0.01, (6, ny, nx)).astype(np.float32)
        self.psf = np.empty((6, 2 * ny, 2 * nx), np.float32)
        y, x = np.arange(-ny, ny)[:, None], np.arange(-nx, nx)
        for s in range(6):
            waves = rng.uniform(-3, 3, (20, 2))
            self.psf[s] = np.mean([np.cos(u * x + v * y) for u, v in waves], axis=0)
            sky = rng.normal(0, 0.05, shape)
            for _ in range(4):
                j, i = rng.integers(ny), rng.integers(nx)
                sky += rng.choice([1, 0.5, -0.7]) * self.psf[s, ny - j : 2 * ny - j, nx - i : 2 * nx - i]
            self.residual[s] = sky
        self.residual[3] = 0.0
        self.residual[5] = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        self.masks = rng.random((2, ny, nx)) < 0.6
        self.masks[1] = False
        self.mask_of = np.array([-1, 0, 1, -1, 0, -1], np.int32)
        self.slot = np.array([4, 0, 5, 2, 3], np.int32)
        self.gain = np.array([0.1, 0.3, 0.1, 0.2, 0.1])
        self.threshold = np.array([0.2, 0.3, 0.5, 0.0, 0.0])
        self.limit = np.array([50, 1000, 7, 10, 10], np.int32)

    def mask(self, s: int) -> np.ndarray:
        return EVERYWHERE if self.mask_of[s] < 0 else self.masks[self.mask_of[s]]

    def arrays(self):
        return self.residual, self.psf, self.model, self.masks, self.mask_of, self.slot, *self.shape

    def orders(self, cut: np.ndarray | float = np.nan) -> np.ndarray:
        return np.column_stack([self.gain, self.threshold, self.limit, np.broadcast_to(cut, 5)])

    def on_cpu(self, cut: np.ndarray | None = None) -> list[int]:
        done = []
        for b, s in enumerate(self.slot):
            planes = self.residual[s], self.psf[s], self.mask(s), self.model[s]
            order = float(self.gain[b]), float(self.threshold[b]), int(self.limit[b])
            if cut is None:
                done.append(cpu_loops.hogbom_textbook(*planes, *order))
            else:
                done.append(cpu_loops.hogbom_active_set(*planes, *order, float(cut[b])))
        return done


def assert_same(got: Batch, expected: Batch) -> None:
    for name in ("residual", "model", "psf"):
        assert np.array_equal(getattr(got, name), getattr(expected, name), equal_nan=True), name


def textbook(batch: Batch, most: int = 10_000, order: int = 0, threads: int = 128) -> tuple[list[int], int]:
    """Iterations, and the number of launches."""
    state = np.full((5, 2), -7, np.int32)
    for launches in range(1, 10_000):
        how_far = (batch.orders(), most, int(launches > 1), state)
        run("hogbom", "hogbom_textbook", (5,), (threads,), *batch.arrays(), *how_far, order=order)
        if state[:, 1].all():
            break
    return list(state[:, 0]), launches


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_textbook_loop_agrees_with_the_cpu(shape, order):
    expected, got = Batch(shape), Batch(shape)
    done = expected.on_cpu()
    if shape[0] > 1:
        assert len(set(done)) > 2
    assert textbook(got, order=order) == (done, 1)
    assert_same(got, expected)


@pytest.mark.parametrize("most", [1, 7])
def test_launches_that_end_early_go_on_from_the_residual(most):
    expected, got = Batch((33, 47)), Batch((33, 47))
    done = expected.on_cpu()
    assert textbook(got, most) == (done, -(-max(done) // most))
    assert_same(got, expected)


@pytest.mark.parametrize("threads", [32, 1024])
def test_the_number_of_threads_changes_nothing(threads):
    expected, got = Batch((33, 47)), Batch((33, 47))
    done = expected.on_cpu()
    assert textbook(got, threads=threads)[0] == done
    assert_same(got, expected)
    expected, got = Batch((33, 47)), Batch((33, 47))
    cut = 0.5 * got.threshold
    done = expected.on_cpu(cut)
    assert Sets(got, cut, room=2000, blocks=2, threads=min(threads, 256)).clean(2000, threads=threads)[0] == done
    assert_same(got, expected)


UNIT = 2048
ANY_SIZE = 2**31 - 1


class Sets:
    """The active sets of a batch, counted and gathered."""

    def __init__(self, batch: Batch, cut: np.ndarray, room: int, order: int = 0, blocks: int = 1, threads: int = 64):
        ny, nx = batch.shape
        self.batch, self.orders, self.room, self.order = batch, batch.orders(cut), room, order
        self.scratch = np.full((5, -(-ny * nx // UNIT) + 3 * room), -7, np.int32)
        self.where, self.change = np.full((6, 40), -7, np.int32), np.full((6, 40), np.nan, np.float32)
        self.changed = np.full(6, -7, np.int32)
        masks = (batch.masks, batch.mask_of, batch.slot)
        arguments = (batch.residual, *masks, ny * nx, self.orders, room, self.scratch)
        run("hogbom", "hogbom_count", (blocks, 5), (threads,), *arguments, order=order)
        arguments = (batch.residual, batch.model, *masks, ny, nx, self.orders, room, self.scratch)
        run("hogbom", "hogbom_gather", (blocks, 5), (threads,), *arguments, order=order)

    def clean(self, capacity: int, split: int = -1, work: int = 1 << 27, threads: int = 128, most: int = ANY_SIZE):
        """Iterations, sizes and launches. Sets of up to `split` pixels are cleaned by another launch than larger ones."""
        state, batch = np.full((5, 4), -7, np.int32), self.batch
        classes = [(-1, split), (split, ANY_SIZE)] if split >= 0 else [(-1, ANY_SIZE)]
        for launches in range(1, 10_000):
            for above, up_to in classes:
                planes = (batch.psf, batch.model, batch.slot, *batch.shape, self.orders, above, up_to, capacity, most)
                how_far = (self.room, work, int(launches > 1), self.scratch, state)
                changes = (40, self.where, self.change, self.changed)
                run(
                    *("hogbom", "hogbom_active_set", (5,), (threads,), *planes, *how_far, *changes),
                    shared=12 * capacity,
                    order=self.order,
                )
            if state[:, 3].all():
                break
        self.state = state
        return list(state[:, 0]), list(state[:, 1]), launches


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [*SHAPES, (90, 100)])
@pytest.mark.parametrize("place", ["shared", "global", "some in global", "of several units"])
def test_the_active_set_agrees_with_the_cpu(shape, place, order):
    expected, got = Batch(shape), Batch(shape)
    before = got.model.copy()
    cut = 0.5 * got.threshold
    cut[3] = -1.0  # every pixel that the mask allows: none
    done = expected.on_cpu(cut)
    pixels = shape[0] * shape[1]
    capacity = {"global": 0, "some in global": pixels // 2}.get(place, pixels)
    sets = Sets(got, cut, pixels, order, blocks=2 if place == "of several units" else 1, threads=32)
    iterations, sizes, launches = sets.clean(capacity, split=pixels // 3)
    assert (iterations, launches) == (done, 1)
    assert_same(got, expected)
    for b, s in enumerate(got.slot):
        allowed = np.ones(shape, bool) if got.mask_of[s] < 0 else got.masks[got.mask_of[s]]
        assert sizes[b] == np.count_nonzero((np.abs(got.residual[s]) > cut[b]) & allowed)
        # the pixels that changed, as the CPU lists them
        change = got.model[s] - before[s]
        where = np.flatnonzero(change)
        assert sets.state[b, 2] == sets.changed[s] == len(where)
        if len(where) <= 40:
            assert np.array_equal(sets.where[s, : len(where)], where)
            assert np.array_equal(sets.change[s, : len(where)], change.ravel()[where])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("capacity", [0, 2000], ids=["global", "shared"])
def test_launches_that_end_early_go_on_from_the_set_that_was_kept(capacity, order):
    expected, got = Batch((33, 47)), Batch((33, 47))
    cut = 0.5 * got.threshold
    done = expected.on_cpu(cut)
    # sets of up to 1024 pixels: three iterations in a launch
    iterations, sizes, launches = Sets(got, cut, 2000, order).clean(capacity, work=3 * 1024 + 1023)
    assert max(sizes) < 1024 or len(set(sizes)) > 2
    assert iterations == done and launches > 3
    assert_same(got, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("shape", [(33, 47), (90, 100)])
def test_large_sets_are_cleaned_by_many_blocks_as_by_one(shape, blocks, order):
    expected, got = Batch(shape), Batch(shape)
    cut = 0.5 * got.threshold
    for batch in (expected, got):
        batch.limit[1] = 60
    one, many = (Sets(batch, cut, shape[0] * shape[1], order) for batch in (expected, got))
    done, sizes, _ = one.clean(0)
    left, _, _ = many.clean(0, most=50)
    which = np.flatnonzero(np.array(left) < 0).astype(np.int32)
    assert 1 <= len(which) < 5 and all(sizes[b] > 50 for b in which)
    n, half = len(which), 0
    partial, iterations = np.full((2, n, blocks, 2), 7, np.uint32), np.full((2, n), -7, np.int32)
    planes = (got.psf, got.slot, which, *shape, many.orders, many.room)
    for launch in range(max(done) + 3):
        state = (int(launch == 0), half, many.scratch, many.state, partial, iterations)
        run("hogbom", "hogbom_set_step", (blocks, n), (64,), *planes, *state, order=order)
        half = 1 - half
    assert list(iterations[0]) == list(iterations[1]) == [done[b] for b in which]
    planes = (got.model, got.slot, which, *shape, many.room, iterations[half].copy())
    changes = (40, many.where, many.change, many.changed)
    run("hogbom", "hogbom_set_finish", (n,), (128,), *planes, many.scratch, many.state, *changes, order=order)
    assert_same(got, expected)
    assert np.array_equal(many.state, one.state)
    assert np.array_equal(many.changed, one.changed)
    for s in got.slot:
        if many.changed[s] <= 40:
            assert np.array_equal(many.where[s], one.where[s])
            assert np.array_equal(many.change[s], one.change[s], equal_nan=True)


def test_a_set_without_room_is_left_alone_and_reports_the_room_it_needs():
    before, got = Batch((33, 47)), Batch((33, 47))
    cut = 0.5 * got.threshold
    iterations, sizes, _ = Sets(got, cut, room=30).clean(20)
    assert [i == -1 for i in iterations] == [s > 30 for s in sizes]
    assert -1 in iterations
    for b, s in enumerate(got.slot):
        if iterations[b] == -1:
            assert np.array_equal(got.model[s], before.model[s])
    expected = Batch((33, 47))
    done = expected.on_cpu(cut)
    again = Batch((33, 47))
    assert Sets(again, cut, room=max(sizes)).clean(20)[0] == done
    assert_same(again, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 3, 12])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_one_launch_per_iteration_by_many_blocks_agrees_with_the_cpu(shape, blocks, order):
    expected, got = Batch(shape), Batch(shape)
    expected.limit[1] = got.limit[1] = 60
    done = expected.on_cpu()
    partial = np.zeros((2, 5, blocks), np.complex64)  # pairs of 32-bit words
    iterations = np.full((2, 5), -7, np.int32)
    geometry = (got.masks, got.mask_of, got.slot, *got.shape)
    partial = partial.view(np.float32).view(np.uint32)
    run("hogbom", "hogbom_start", (blocks, 5), (64,), got.residual, *geometry, partial, iterations, order=order)
    for launch in range(max(done) + 3):  # more than are needed, since the host does not look
        state = (*got.arrays(), got.orders(), launch % 2, partial, iterations)
        run("hogbom", "hogbom_step", (blocks, 5), (64,), *state, order=order)
    assert list(iterations[0]) == list(iterations[1]) == done
    assert_same(got, expected)


def test_values_that_are_not_finite_are_treated_as_on_the_cpu():
    expected, got = Batch((16, 16)), Batch((16, 16))
    for batch in (expected, got):
        batch.residual[0, 3, 4] = np.nan
        batch.residual[5, 9, 9] = -np.inf
        batch.limit[:] = 4
    done = expected.on_cpu()
    assert textbook(got)[0] == done
    assert_same(got, expected)
