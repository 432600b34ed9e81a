"""kernels/statistics.cu compared with the CPU's loops: peaks under masks, and exact medians."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ON_GPU, ORDERS, needs_compiler, run

from gpucube.devices.cpu import loops as cpu_loops

pytestmark = needs_compiler

EVERYWHERE = np.zeros((0, 0), bool)


WORDS = 2048 + 6


def measured(planes, slot, masks, mask_of, order=0, blocks=3):
    """The peak of each plane, (|value|, index), and its noise."""
    work, out = np.zeros((len(slot), WORDS), np.uint32), np.full((len(slot), 2), 7, np.uint64)
    for stage in range(6):
        arguments = (planes, slot, masks, mask_of, planes[0].size, stage, work, out)
        run("statistics", "measure", (blocks, len(slot)), (512,), *arguments, order=order)
    assert not work.any(), "the next measurement finds it as this one did"
    key, noise = out[:, 0], out.view(np.float64)[:, 1]
    value = (key >> np.uint64(32)).astype(np.uint32).view(np.float32)
    index = (0xFFFFFFFF - (key & np.uint64(0xFFFFFFFF))).astype(np.int64)
    peaks = [(-1.0, -1) if k == 0 else (float(v), int(i)) for k, v, i in zip(key, value, index, strict=True)]
    return peaks, noise


def unmasked(planes):
    return np.zeros((1, *planes.shape[1:]), bool), np.full(len(planes), -1, np.int32)


DENORMAL = 3
"""The plane of numbers below 1e-38. CuPy compiles with ``-ftz=true``, so they and their differences are 0 on a GPU."""


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
    got = measured(planes, slot, *unmasked(planes), order)[1]
    for s, value in zip(slot, got, strict=True):
        expected = cpu_loops.noise(planes[s], *np.empty((2, planes[s].size), np.float32))
        assert value == (0.0 if order == ON_GPU and s == DENORMAL else expected), f"plane {s}"


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
    assert measured(planes, slot, masks, mask_of, order)[0] == expected
    assert measured(planes, slot[2:3], masks, mask_of, order, blocks=1)[0] == expected[2:3]


@pytest.mark.parametrize("order", ORDERS)
def test_ties_go_to_the_lowest_index_whatever_the_signs(order):
    planes = np.zeros((2, 40, 40), np.float32)
    planes[0, 30, 1], planes[0, 20, 39], planes[0, 20, 38] = 3, 3, -3
    got = measured(planes, np.arange(2, dtype=np.int32), *unmasked(planes), order)
    assert got[0] == [(3.0, 20 * 40 + 38), (0.0, 0)]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_the_peak(bad):
    planes = np.full((1, 6, 7), 1e30, np.float32)
    planes[0, 3, 3] = bad
    ((value, where),), _ = measured(planes, np.zeros(1, np.int32), *unmasked(planes))
    assert not np.isfinite(value)
    assert where == 3 * 7 + 3
