"""kernels/statistics.cu compared with the CPU's loops: peaks under masks, and exact medians."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.devices.cpu import loops as cpu_loops

pytestmark = needs_compiler

EVERYWHERE = np.zeros((0, 0), bool)


def peaks(planes, slot, masks, mask_of, order=0, blocks=3):
    key = np.zeros(len(slot), np.uint64)
    pixels = planes[0].size
    run("statistics", "peak", (blocks, len(slot)), (256,), planes, slot, masks, mask_of, pixels, key, order=order)
    value = (key >> np.uint64(32)).astype(np.uint32).view(np.float32)
    index = (0xFFFFFFFF - (key & np.uint64(0xFFFFFFFF))).astype(np.int64)
    return [(-1.0, -1) if k == 0 else (float(v), int(i)) for k, v, i in zip(key, value, index, strict=True)]


def noises(planes, slot, order=0, blocks=3):
    n, pixels = len(slot), planes[0].size
    counts, prefix = np.zeros((n, 2048), np.uint32), np.zeros(n, np.uint32)
    rank, median, noise = np.full(n, (pixels - 1) // 2, np.uint32), np.full(n, np.nan, np.float32), np.full(n, np.nan)
    for stage in range(6):
        run(
            *("statistics", "histogram", (blocks, n), (512,)),
            *(planes, slot, pixels, stage, prefix, median, counts),
            order=order,
        )
        run("statistics", "choose", (n,), (256,), pixels, stage, counts, prefix, rank, median, noise, order=order)
    return noise


def awkward(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(4)
    n = shape[0] * shape[1]
    kinds = [
        rng.standard_normal(n),
        np.full(n, -2.5),
        rng.integers(0, 2, n),
        rng.integers(-1000, 1000, n) * 1e-45,
        10.0 ** rng.uniform(-38, 38, n) * rng.choice([-1, 1], n),
        np.arange(n),
        np.where(np.arange(n) == 0, 1e30, 0.5),
        np.where(rng.random(n) < 0.5, -0.0, 0.0),
    ]
    return np.array(kinds).astype(np.float32).reshape(len(kinds), *shape)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 9), (64, 48), (101, 103)])
def test_the_noise_is_bit_identical_to_the_cpus(shape, order):
    planes = awkward(shape)
    slot = np.array([3, 0, 7, 1, 2, 6, 4, 5], np.int32)
    got = noises(planes, slot, order)
    for s, value in zip(slot, got, strict=True):
        assert value == cpu_loops.noise(planes[s], *np.empty((2, planes[s].size), np.float32)), f"plane {s}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (64, 48), (33, 70)])
def test_peaks_agree_with_the_cpu(shape, order):
    rng = np.random.default_rng(6)
    planes = awkward(shape)
    masks = rng.random((3, *shape)) < 0.3
    masks[1] = False
    slot = np.arange(len(planes), dtype=np.int32)[::-1].copy()
    mask_of = np.array([-1, 0, 2, -1, 1, -1, 0, 2], np.int32)
    expected = [cpu_loops.peak(planes[s], EVERYWHERE if mask_of[s] < 0 else masks[mask_of[s]]) for s in slot]
    assert peaks(planes, slot, masks, mask_of, order) == expected
    assert peaks(planes, slot[2:3], masks, mask_of, order, blocks=1) == expected[2:3]


@pytest.mark.parametrize("order", ORDERS)
def test_ties_go_to_the_lowest_index_whatever_the_signs(order):
    planes = np.zeros((2, 40, 40), np.float32)
    planes[0, 30, 1], planes[0, 20, 39], planes[0, 20, 38] = 3, 3, -3
    got = peaks(planes, np.arange(2, dtype=np.int32), np.zeros((1, 40, 40), bool), np.full(2, -1, np.int32), order)
    assert got == [(3.0, 20 * 40 + 38), (0.0, 0)]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_the_peak(bad):
    planes = np.full((1, 6, 7), 1e30, np.float32)
    planes[0, 3, 3] = bad
    ((value, where),) = peaks(planes, np.zeros(1, np.int32), np.zeros((1, 6, 7), bool), np.full(1, -1, np.int32))
    assert not np.isfinite(value)
    assert where == 3 * 7 + 3
