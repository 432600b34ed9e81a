"""kernels/planes.cu, the items of kernels/uv_tiles.cu and the tables of kernels/restore.cu, compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.cudahost import thread_order
from hosts.host_backend import host_module
from hosts.kernel_runs import HOST_ORDERS, ORDERS, needs_compiler, run
from jobs import geometry

from gpucube.constants import ARCSEC
from gpucube.sky.beam import Beam, sampled_gaussian

pytestmark = needs_compiler

SLOTS = np.array([4, 1, 3], np.int32)
SHAPES = [(1, 1), (7, 9), (40, 33), (64, 70)]


def stack(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((5, *shape)).astype(np.float32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_of_planes_are_cut_out_wherever_they_begin_and_however_long_their_rows_are(shape, order) -> None:
    ny, nx = shape
    given = stack((2 * ny, 2 * nx))
    narrow = given.reshape(-1, ny, nx)
    first = np.array([(4 * 2 * ny + ny) * 2 * nx + nx, 4 * 1 * ny * nx, 0], np.int64)
    pitch, out = np.array([2 * nx, nx, 2 * nx], np.int32), np.full((3, ny, nx), np.nan, np.float32)
    grid = (-(-nx // 32), -(-ny // 8), 3)
    run("planes", "cut_planes", grid, (32, 8), given, first, pitch, ny, nx, out, order=order)
    assert np.array_equal(out, [given[4, ny:, nx:], narrow[4], given[0, :ny, :nx]])


@pytest.mark.parametrize("order", ORDERS)
def test_pairs_of_images_are_copied_slot_by_slot(order) -> None:
    one, other, to_one, to_other = (stack((30, 50), seed) for seed in range(4))
    expected = to_one.copy(), to_other.copy()
    expected[0][SLOTS], expected[1][SLOTS] = one[SLOTS], other[SLOTS]
    run("planes", "copy_pairs", (2, 3), (256,), one, other, SLOTS, 1500, to_one, to_other, order=order)
    assert np.array_equal(to_one, expected[0]) and np.array_equal(to_other, expected[1])


@pytest.mark.parametrize("order", ORDERS)
def test_slots_get_their_masks_or_none(order) -> None:
    given = (np.random.default_rng(2).random((2, 30, 50)) < 0.5).view(np.uint8)
    which, masks, mask_of = np.array([1, -1, 1], np.int32), np.zeros((5, 30, 50), np.uint8), np.full(5, 7, np.int32)
    run("planes", "put_masks", (2, 3), (256,), given, which, SLOTS, 1500, masks, mask_of, order=order)
    assert mask_of.tolist() == [7, -1, 7, 3, 4]
    assert np.array_equal(masks[[4, 3]], given[[1, 1]])
    assert not masks[[0, 1, 2]].any()


@pytest.mark.parametrize("order", ORDERS)
def test_rows_come_into_the_order_of_their_visibilities_set_by_set(order) -> None:
    rng = np.random.default_rng(3)
    sizes = [700, 1, 300, 0]
    rows = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    uvw, orders = rng.standard_normal((rows[-1], 3)), [rng.permutation(700), rng.permutation(300)]
    first_order, ordered = np.array([0, -1, 700, -1], np.int64), np.full_like(uvw, np.nan)
    numbers = np.concatenate(orders).astype(np.int32)
    run("planes", "order_rows", (2, 4), (256,), uvw, numbers, rows, first_order, ordered, order=order)
    expected = uvw.copy()
    expected[orders[0]], expected[701 + orders[1]] = uvw[:700], uvw[701:]
    assert np.array_equal(ordered, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_planes_are_summed_in_double_precision(shape, order) -> None:
    given, total = 1e6 * stack(shape), np.zeros(3)
    pixels = shape[0] * shape[1]
    run("planes", "sum_planes", (3,), (1024,), given, SLOTS, pixels, total, order=order)
    # of float64 sums in two orders
    assert total == pytest.approx(given[SLOTS].sum(axis=(1, 2), dtype=float), abs=1e-15 * pixels * 1e7)


BEAMS = [Beam(bmaj=80 * ARCSEC, bmin=60 * ARCSEC, bpa=0.4), Beam(bmaj=95 * ARCSEC, bmin=0.0, bpa=-1.1)]


@pytest.mark.parametrize("order", ORDERS)
def test_gaussians_and_their_spectra_are_those_of_the_cpu(order) -> None:
    g = geometry(40, 30, 20.0, 27.0)
    spectra, unit = np.zeros((2, 60, 41), np.float32), np.pi / np.sqrt(4 * np.log(2)) / g.cell_y
    shape = np.array([[np.sin(b.bpa), np.cos(b.bpa), b.bmaj * unit, b.bmin * unit, 2.0] for b in BEAMS])
    run("restore", "gaussian_spectra", (2, 8, 2), (32, 8), shape, g.cell_y / g.cell_x, 30, 40, spectra, order=order)
    for found, beam in zip(spectra, BEAMS, strict=True):
        expected = 2.0 * beam.spectrum(g)
        assert found == pytest.approx(expected, abs=2e-7 * float(expected.max()))

    form, half_y, half_x = BEAMS[0].sampling(g)
    table = np.full(7 + (2 * half_y + 1) * (2 * half_x + 1), np.nan, np.float32)
    halves = np.array([half_y], np.int32), np.array([half_x], np.int32)
    run(
        *("restore", "sample_gaussians", (2, 1), (256,), np.array([form]), np.array([7], np.int64), *halves, table),
        order=order,
    )
    assert table[7:] == pytest.approx(sampled_gaussian(form, half_y, half_x).ravel(), rel=2e-7)  # exp's last bit


@pytest.mark.parametrize("order", HOST_ORDERS)
@pytest.mark.parametrize("key", [np.uint32, np.uint64])
@pytest.mark.parametrize("w_planes", [0, 5])
def test_items_hold_every_sample_once_in_the_layers_where_it_counts(key, w_planes, order) -> None:
    """Three planes, one of them empty, of 5 x 60 tiles: more than one block's threads."""
    rng, planes, tiles_x, tiles_y, most, support = np.random.default_rng(4), 3, 5, 60, 7, 3
    layers, tiles = w_planes or 2, tiles_x * tiles_y * (1 if w_planes else 4)
    plane, x, y = rng.choice([0, 2], 3000), rng.integers(0, 10, 3000), (120 * rng.random(3000) ** 3).astype(int)
    w = rng.integers(0, w_planes - support + 1, 3000) if w_planes else np.zeros(3000, int)
    tile = (plane * tiles_y + y // 2) * tiles_x + x // 2
    keys = tile * w_planes + w if w_planes else tile * 4 + y % 2 * 2 + x % 2
    by_key = np.argsort(keys, kind="stable")
    dropped = np.full(50, planes * tiles_x * tiles_y * (w_planes or 4))
    sorted_keys = np.concatenate([keys[by_key], dropped]).astype(key)

    room, stride = 1500, tiles + 1
    items, tile_of = np.zeros((planes, layers), np.int32), np.full((planes, layers, room), -1, np.int32)
    first, count = np.zeros((planes, layers, room), np.int64), np.zeros((planes, layers, room), np.int32)
    first_item = np.zeros((planes, layers, stride), np.int32)
    sizes = [np.int32(n) for n in (w_planes, tiles_x, tiles_y, most, room, stride)]
    module = host_module(
        "uv_tiles", (f"-DSUPPORT={support}", f"-DKEY={'unsigned long long' if key == np.uint64 else 'unsigned'}")
    )
    arrays = (items, tile_of, first, count, first_item)
    with thread_order(order):
        given = (sorted_keys, np.int64(len(sorted_keys)), *sizes, *arrays)
        module.get_function("make_items")((planes, layers), (256,), given)

    for p in range(planes):
        for layer in range(layers):
            n = items[p, layer]
            assert (count[p, layer, :n] > 0).all() and (count[p, layer, :n] <= most).all()
            held = [k for i in range(n) for k in first[p, layer, i] + np.arange(count[p, layer, i])]
            reached = (w <= layer) & (layer < w + support) if w_planes else np.ones(3000, bool)
            assert sorted(by_key[held]) == list(np.flatnonzero((plane == p) & reached))
            wide = not w_planes and layer == 1
            expected = y * 2 * tiles_x + x if wide else (y // 2) * tiles_x + x // 2
            of_item = np.repeat(tile_of[p, layer, :n], count[p, layer, :n])
            assert np.array_equal(expected[by_key[held]], of_item)
            own = tiles if wide or w_planes else tiles // 4
            assert first_item[p, layer, own] == n
            for t in rng.integers(0, own, 40):
                of_tile = np.arange(first_item[p, layer, t], first_item[p, layer, t + 1])
                assert np.array_equal(of_tile, np.flatnonzero(tile_of[p, layer, :n] == t))
