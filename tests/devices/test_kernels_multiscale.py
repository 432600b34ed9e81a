"""kernels/multiscale.cu compared with the CPU's loop on the same convolved images: bit-identical components."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.devices.cpu import loops as cpu_loops

pytestmark = needs_compiler

UNIT = 2048
GROWTH = 1.5


class Batch:
    """Four slots of three scales, of which three are cleaned in another order; slot 0 has a mask.

    Images and responses are waves that are not even and belong to no PSF: the loop is to do the same sums, whatever they are.
    """

    def __init__(self, shape: tuple[int, int]):
        rng = np.random.default_rng(3)
        self.shape = ny, nx = shape
        y, x = np.mgrid[: 2 * ny, : 2 * nx] - np.array([ny, nx])[:, None, None]
        self.smooth = rng.normal(0, 1, (3, 3, ny, nx)).astype(np.float32)
        self.smooth[2, 1] = np.where(rng.random(shape) < 0.5, -4.0, 4.0)  # ties
        waves = rng.uniform(-3, 3, (24, 2))
        cross = [0.5 * np.cos(u * x + v * y + 0.1) * np.exp(-np.hypot(x, y) / 9) for u, v in waves]
        self.cross = np.reshape(cross, (4, 6, 2 * ny, 2 * nx)).astype(np.float32)
        self.cross[:, [0, 2, 5], ny, nx] = [1.0, 0.6, 0.3]
        self.allowed = rng.random((4, 3, ny, nx)) < 0.6
        self.mask_of = np.array([0, -1, -1, -1], np.int32)
        self.slot = np.array([3, 0, 2], np.int32)
        self.level = np.array([[1.5, 1.2, 1.0], [1.0, np.inf, 1.0], [0.5, 0.5, 2.0]], np.float32)
        self.merit = np.array([[1.0, 1.3, 1.8], [1.0, 1.0, 1.0], [1.0, 1.1, 0.9]], np.float32)
        self.step = np.array([[0.1, 0.15, 0.3], [0.2, 0.2, 0.3], [0.1, 0.1, 0.1]], np.float32)
        self.limit = np.array([1000, 60, 25])

    def on_cpu(self, cut: float) -> tuple[list[int], np.ndarray]:
        found, done = np.zeros_like(self.smooth), []
        for b, s in enumerate(self.slot):
            allowed = np.zeros((0, 0, 0), bool) if self.mask_of[s] < 0 else self.allowed[s]
            of_scales = self.merit[b], self.level[b], self.step[b]
            how_far = int(self.limit[b]), cut, GROWTH
            done.append(
                cpu_loops.multiscale_active_set(self.smooth[b], self.cross[s], allowed, *of_scales, found[b], *how_far)
            )
        return done, found

    def on_device(
        self, cut: float, capacity: int, order: int, work: int = 1 << 27, threads: int = 64, blocks: int = 0
    ) -> tuple[list[int], np.ndarray, int]:
        """Iterations, components, and the number of launches; by so many blocks for each plane of more than 300 pixels."""
        ny, nx = self.shape
        pixels, units, sets = ny * nx, -(-ny * nx // UNIT), np.arange(9, dtype=np.int32)
        scratch = np.full(9 * (units + 3 * pixels), -7, np.int32)
        of_sets = np.zeros((9, 4))
        of_sets[:, 3] = cut * self.level.ravel().astype(float)
        of_mask = np.where(self.mask_of[self.slot] < 0, -1, 3 * self.slot)[:, None] + [0, 1, 2]
        masks = np.where(self.mask_of[self.slot][:, None] < 0, -1, of_mask).astype(np.int32).ravel()
        given = (self.smooth, self.allowed.view(np.uint8), masks, sets)
        run("hogbom", "hogbom_count", (2, 9), (64,), *given, pixels, of_sets, pixels, scratch, order=order)
        given = (self.smooth, *given)
        run("hogbom", "hogbom_gather", (2, 9), (64,), *given, ny, nx, of_sets, pixels, scratch, order=order)
        table = np.stack([self.level, self.merit, self.step, 0 * self.step], -1)
        orders, state = np.zeros((3, 4)), np.full((3, 4), -7, np.int32)
        orders[:, 2] = self.limit
        set_size, most = np.zeros(9, np.int32), 300 if blocks else 2**31 - 1
        shared = 4 * (129 * 3 + 1) + 12 * capacity
        for launches in range(1, 10_000):
            cleaned = (self.cross, self.slot, ny, nx, 3, table, orders, GROWTH)
            sizes = (-1, 2**31 - 1, capacity, most, work, int(launches > 1))
            arguments = (*cleaned, *sizes, scratch, set_size, state)
            run("multiscale", "multiscale_active_set", (3,), (threads,), *arguments, shared=shared, order=order)
            if state[:, 3].all():
                break
        which = np.flatnonzero(state[:, 0] < 0).astype(np.int32)
        assert blocks == 0 or (len(which) > 0 and all(state[which, 1] > most))
        partial = np.full((2, len(which), 3, max(1, blocks), 2), 7, np.uint32)
        iterations = np.full((2, len(which)), -7, np.int32)
        of = (self.cross, self.slot, which, ny, nx, 3, table, orders, GROWTH)
        for launch in range(70 if blocks else 0):  # more than are needed, since the host does not look
            kept = (int(launch == 0), 1 - launch % 2, scratch, set_size, state, partial, iterations)
            run("multiscale", "multiscale_set_step", (blocks, len(which)), (threads,), *of, *kept, order=order)
        if blocks:
            assert np.array_equal(*iterations)
            state[which, 0] = iterations[0]
        model, padded = np.zeros((4, ny, nx), np.float32), np.zeros((6, 2 * ny, 2 * nx), np.float32)
        place_of = np.array([-1, 0, 1], np.int32)  # the first scale is a point
        arguments = (scratch, self.slot, place_of, 3, 2, 0, ny, nx, model, padded)
        run("multiscale", "put_components", (3,), (64,), *arguments, order=order)
        found = np.empty_like(self.smooth)
        found[:, 0] = model[self.slot]
        found[:, 1:] = padded.reshape(3, 2, 2 * ny, 2 * nx)[:, :, :ny, :nx]
        assert not padded[:, ny:].any() and not padded[:, :, nx:].any()
        return state[:, 0].tolist(), found, launches


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(16, 16), (23, 110)])
@pytest.mark.parametrize(("capacity", "threads"), [(8_000, 64), (0, 96)], ids=["shared", "global"])
def test_components_are_those_of_the_cpus_loop(shape, capacity, threads, order):
    batch = Batch(shape)
    done, found = batch.on_cpu(0.9)
    assert len(set(done)) == 3 and min(done) > 5
    assert batch.on_device(0.9, capacity, order, threads=threads)[0] == done
    assert np.array_equal(batch.on_device(0.9, capacity, order, threads=threads)[1], found)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("capacity", [8_000, 0], ids=["shared", "global"])
def test_launches_that_end_early_go_on_from_the_sets_that_were_kept(capacity, order):
    batch = Batch((23, 30))
    done, found = batch.on_cpu(-1.0)  # every pixel: textbook
    iterations, components, launches = batch.on_device(-1.0, capacity, order, work=7 * 2070)
    assert iterations == done and launches > 3
    assert np.array_equal(components, found)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_many_blocks_find_the_components_of_one(blocks, order):
    batch = Batch((23, 30))
    batch.limit = np.array([60, 60, 25])
    done, found = batch.on_cpu(0.9)
    iterations, components, _ = batch.on_device(0.9, 8_000, order, blocks=blocks)
    assert iterations == done
    assert np.array_equal(components, found)


def test_planes_that_diverge_or_are_not_finite_end_as_on_the_cpu():
    batch = Batch((16, 16))
    batch.cross *= -1.5  # every component raises the next one
    batch.smooth[1, 0, 3, 4] = np.nan  # the largest of its scale, which has no component then
    done, found = batch.on_cpu(0.9)
    for blocks in (0, 2):
        iterations, components, _ = batch.on_device(0.9, 8_000, 0, blocks=blocks)
        assert iterations == done and max(done) < 60
        assert np.array_equal(components, found, equal_nan=True)
