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

    def orders(self):
        return self.gain, self.threshold, self.limit

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


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_textbook_loop_agrees_with_the_cpu(shape, order):
    expected, got = Batch(shape), Batch(shape)
    done = expected.on_cpu()
    if shape[0] > 1:
        assert len(set(done)) > 2
    iterations = np.full(5, -7, np.int32)
    run("hogbom", "hogbom_textbook", (5,), (128,), *got.arrays(), *got.orders(), iterations, order=order)
    assert list(iterations) == done
    assert_same(got, expected)


@pytest.mark.parametrize("threads", [32, 1024])
def test_the_number_of_threads_changes_nothing(threads):
    expected, got = Batch((33, 47)), Batch((33, 47))
    done = expected.on_cpu()
    iterations = np.full(5, -7, np.int32)
    run("hogbom", "hogbom_textbook", (5,), (threads,), *got.arrays(), *got.orders(), iterations)
    assert list(iterations) == done
    assert_same(got, expected)
    expected, got = Batch((33, 47)), Batch((33, 47))
    cut = 0.5 * got.threshold
    done = expected.on_cpu(cut)
    active_set(got, cut, capacity=2000, threads=threads)
    assert_same(got, expected)


def active_set(batch: Batch, cut: np.ndarray, capacity: int, room: int = 0, order: int = 0, threads: int = 128):
    iterations, sizes = np.full((2, 5), -7, np.int32)
    spill = np.full((5, 3, room), np.nan, np.float32)
    run(
        *("hogbom", "hogbom_active_set", (5,), (threads,)),
        *(*batch.arrays(), *batch.orders(), cut, capacity, room, spill, sizes, iterations),
        shared=12 * capacity,
        order=order,
    )
    return list(iterations), list(sizes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["shared", "spilled", "some spilled"])
def test_the_active_set_agrees_with_the_cpu(shape, place, order):
    expected, got = Batch(shape), Batch(shape)
    cut = 0.5 * got.threshold
    cut[3] = -1.0  # every pixel that the mask allows: none
    done = expected.on_cpu(cut)
    pixels = shape[0] * shape[1]
    capacity = {"shared": pixels, "spilled": 0, "some spilled": pixels // 2}[place]
    iterations, sizes = active_set(got, cut, capacity, 0 if place == "shared" else pixels, order)
    assert iterations == done
    assert_same(got, expected)
    for b, s in enumerate(got.slot):
        allowed = np.ones(shape, bool) if got.mask_of[s] < 0 else got.masks[got.mask_of[s]]
        assert sizes[b] == np.count_nonzero((np.abs(got.residual[s]) > cut[b]) & allowed)


def test_a_set_without_room_is_left_alone_and_reports_the_room_it_needs():
    before, got = Batch((33, 47)), Batch((33, 47))
    cut = 0.5 * got.threshold
    iterations, sizes = active_set(got, cut, capacity=20, room=30)
    assert [i == -1 for i in iterations] == [s > 30 for s in sizes]
    assert -1 in iterations
    for b, s in enumerate(got.slot):
        if iterations[b] == -1:
            assert np.array_equal(got.model[s], before.model[s])
    expected = Batch((33, 47))
    done = expected.on_cpu(cut)
    again = Batch((33, 47))
    assert active_set(again, cut, capacity=20, room=max(sizes))[0] == done
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
        state = (*got.arrays(), *got.orders(), launch % 2, partial, iterations)
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
    iterations = np.full(5, -7, np.int32)
    run("hogbom", "hogbom_textbook", (5,), (128,), *got.arrays(), *got.orders(), iterations)
    assert list(iterations) == done
    assert_same(got, expected)
