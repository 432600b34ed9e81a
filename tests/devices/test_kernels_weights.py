"""kernels/weights.cu compared with the CPU's loops: channels of different lengths at once, samples on every edge."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.constants import LIGHT_SPEED
from gpucube.devices.cpu import loops as cpu_loops

pytestmark = needs_compiler

BRIGGS = (5.0 * 10.0**-0.5) ** 2


PARTS = 3
"""Blocks that sum one plane's cells."""


def channel(n: int, half: tuple[int, int], per_metre: float, cells: tuple[float, float], seed: int):
    """n samples, most inside the uv plane; the first lie on the edges of cells, of the half planes and of the plane."""
    rng = np.random.default_rng(seed)
    uv = rng.normal(0, 0.4, (n, 2)) * half
    hu, hv = half
    edges = [
        *((0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (-3.0, 0.0), (3.0, -0.0), (2.5, -0.5), (-2.5, 0.5), (0.0, -4.0)),
        *((hu, 0.0), (-hu, 1.0), (hu - 0.25, hv - 0.25), (0.25 - hu, 0.25 - hv), (1.0, hv), (1.0, -hv), (np.nan, 0.0)),
    ]
    uv[: len(edges)] = np.array(edges)[:n]
    metres = np.zeros((n, 3))
    metres[:, 0], metres[:, 1] = uv[:, 0] / cells[0] / per_metre, uv[:, 1] / cells[1] / per_metre
    weight = rng.uniform(0.5, 2.0, n).astype(np.float32)
    weight[rng.random(n) < 0.1] = 0.0
    return metres, weight


def chunk(shape: tuple[int, int]):
    """Channels of 900, none, one, 14, 2000 and 50 samples; the last but one has no weight at all."""
    ny, nx = shape
    half, cells = (nx // 2, ny // 2), (nx * 1.1e-4, ny * 0.9e-4)
    lengths = [900, 0, 1, 14, 2000, 50]
    per_metre = 1.4e9 * (1 + 0.01 * np.arange(len(lengths))) / LIGHT_SPEED
    parts = [channel(n, half, p, cells, i) for i, (n, p) in enumerate(zip(lengths, per_metre, strict=True))]
    parts[4][1][:] = 0.0
    parts[5][1][:] *= np.float32(1e-4) ** np.linspace(0, 1, 50, dtype=np.float32)
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    uvw, weight = (np.concatenate(p) for p in zip(*parts, strict=True))
    return half, cells, per_metre, first, np.ascontiguousarray(uvw), weight


def on_cpu(half, cells, per_metre, uvw, weight, weighting, taper):
    """Cell, look-up, density and weights of one channel."""
    cell, lookup = np.empty((2, len(weight)), np.int32)
    inside = cpu_loops.uv_cells(uvw, per_metre, *cells, *half, weight, cell, lookup)
    density, slope, constant = np.zeros((half[1] + 1) * (2 * half[0] + 1)), 0.0, 1.0
    if weighting != "natural":
        total, squares = cpu_loops.cell_density(cell, weight, density, half[0])
        slope, constant = 1.0, 0.0
        if weighting == "briggs":
            slope, constant = BRIGGS / (squares / total) if total else 0.0, 1.0
    out = np.empty(len(weight), np.float32)
    total = cpu_loops.weigh(lookup, weight, density, slope, constant, uvw, taper, out)
    return cell, lookup, inside, density, slope, out, total


def on_device(half, cells, per_metre, first, first_row, uvw, weight, weighting, taper, order=0, blocks=3):
    """The same for all channels."""
    n, size = len(per_metre), (half[1] + 1) * (2 * half[0] + 1)
    cell, lookup = np.full((2, first[-1]), 77, np.int32)
    inside, largest = np.zeros(n, np.int32), np.zeros(n, np.uint32)
    density = np.zeros((n, size), np.uint64)
    sums, total = np.full((n, PARTS, 2), np.nan), np.full(n, np.nan)
    out = np.full(first[-1], np.nan, np.float32)
    grid, block = (blocks, n), (256,)
    ranges = (uvw, weight, first, first_row, per_metre)
    run("weights", "uv_cells", grid, block, *ranges, *cells, *half, cell, lookup, inside, largest, order=order)
    if weighting != "natural":
        run("weights", "sum_density", grid, block, cell, weight, first, inside, largest, size, density, order=order)
        cells_of = (inside, largest, size, half[0], density, sums)
        run("weights", "sum_cells", (PARTS, n), (1024,), *cells_of, order=order)
    robust = {"natural": -1.0, "uniform": 0.0, "briggs": BRIGGS}[weighting]
    tables = (inside, largest, size, density, robust, sums, PARTS, taper)
    run("weights", "weigh", grid, block, uvw, lookup, weight, first, first_row, *tables, out, order=order)
    run("weights", "sum_weights", (n,), (1024,), out, first, total, order=order)
    return cell, lookup, inside, density, largest, sums, out, total


@pytest.mark.parametrize("tapered", [False, True])
@pytest.mark.parametrize("weighting", ["natural", "uniform", "briggs"])
@pytest.mark.parametrize("shape", [(32, 32), (31, 50), (2, 2)])
def test_weights_agree_with_the_cpu(shape, weighting, tapered):
    half, cells, per_metre, first, uvw, weight = chunk(shape)
    n = len(per_metre)
    taper = np.array([1e-5, 2e-6, 3e-5]) * tapered * np.ones((n, 1))
    got = on_device(half, cells, per_metre, first, first[:-1].copy(), uvw, weight, weighting, taper)
    cell, lookup, inside, density, _, sums, out, total = got
    for c in range(n):
        mine = slice(first[c], first[c + 1])
        expected = on_cpu(half, cells, per_metre[c], uvw[mine], weight[mine], weighting, taper[c])
        assert np.array_equal(cell[mine], expected[0])
        assert np.array_equal(lookup[mine], expected[1])
        assert inside[c] == expected[2]
        # the same float64 steps but for the order of the density's sum, and exp; then rounded to float32
        assert out[mine] == pytest.approx(expected[5], rel=1.3e-7)
        assert total[c] == pytest.approx(expected[6], rel=1e-7)
        if weighting != "natural" and inside[c]:
            density_sum, squares = sums[c].sum(axis=0)
            if weighting == "briggs":
                assert BRIGGS / (squares / density_sum) == pytest.approx(expected[4], rel=1e-12)
            # 2^-61 of the largest possible sum, for every one of the samples
            scale = density[c].sum(dtype=float) / expected[3].sum()
            assert density[c] / scale == pytest.approx(expected[3], rel=1e-12, abs=0)


def test_the_density_forgets_no_cell_however_small_its_weight():
    half, cells, per_metre = (16, 16), (1e-3, 1e-3), np.ones(1)
    uvw = np.array([[2e3, 3e3, 0.0], [5e3, 1e3, 0.0], [-5e3, -1e3, 0.0]])
    weight = np.array([1e30, 1e-30, 3e-39], np.float32)
    first, none = np.array([0, 3]), np.zeros((1, 3))
    density, out = (
        on_device(half, cells, per_metre, first, first[:1].copy(), uvw, weight, "uniform", none)[i] for i in (3, 6)
    )
    assert np.count_nonzero(density) == 2
    assert out[0] == 1.0
    assert 0 < out[1] < 1e-10


@pytest.mark.parametrize("order", ORDERS[-2:])
def test_neither_thread_order_nor_launch_shape_nor_neighbours_change_a_bit(order):
    half, cells, per_metre, first, uvw, weight = chunk((32, 32))
    taper = np.full((len(per_metre), 3), 1e-5)
    rows = first[:-1].copy()
    together = on_device(half, cells, per_metre, first, rows, uvw, weight, "briggs", taper)
    again = on_device(half, cells, per_metre, first, rows, uvw, weight, "briggs", taper, order, blocks=5)
    for a, b in zip(together, again, strict=True):
        assert np.array_equal(a, b)
    c, mine = 5, slice(first[5], first[6])
    alone = on_device(
        half, cells, per_metre[c : c + 1], first[c:] - first[c], rows[:1], uvw[mine], weight[mine], "briggs", taper[:1]
    )
    assert np.array_equal(alone[6], together[6][mine])
    assert alone[7][0] == together[7][c]


def test_channels_may_share_their_rows_of_uvw():
    half, cells = (16, 16), (0.003, 0.003)
    rng = np.random.default_rng(5)
    uvw, weight = rng.normal(0, 900, (100, 3)), rng.uniform(0.1, 1, 200).astype(np.float32)
    per_metre, taper = np.array([3.0, 3.1]), np.zeros((2, 3))
    first, first_row = np.array([0, 100, 200]), np.zeros(2, np.int64)
    out = on_device(half, cells, per_metre, first, first_row, uvw, weight, "briggs", taper)[6]
    for c in range(2):
        mine = slice(100 * c, 100 * c + 100)
        expected = on_cpu(half, cells, per_metre[c], uvw, weight[mine], "briggs", taper[c])
        assert out[mine] == pytest.approx(expected[5], rel=1.3e-7)
