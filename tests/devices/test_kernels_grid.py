"""Gridding, degridding and convolution by the CUDA kernels, run on the host, against direct Fourier sums and ducc0.

Accuracy: a gridder of accuracy epsilon makes errors of about epsilon times sum |w V| / sum w, single precision of some
3e-7 of it; results are float32. The same bits whatever the order in which threads run.
"""

from __future__ import annotations

from dataclasses import replace

import ducc0
import numpy as np
import pytest
from hosts.cudahost import thread_order
from hosts.kernel_runs import HOST_ORDERS
from jobs import geometry, samples
from oracles import dft_image, dft_predict, direct_dirty, direct_predict, direction_cosines

from gpucube.constants import LIGHT_SPEED
from gpucube.devices.cpu.device import convolve
from gpucube.devices.cuda.backend import Workspace
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.gridder import SampleBatch, Target, TileGridder
from gpucube.devices.cuda.gridding_kernel import make_kernel, make_w_planes
from gpucube.devices.cuda.uv_grid import BATCH, UvGrid
from gpucube.sky.geometry import n_minus_one

SQUARE = geometry()
RECTANGLE = geometry(64, 48, 20.0, 27.0)
WIDE = geometry(64, 48, 110.0, 90.0)
"""2 degrees across: with w of 3000 wavelengths the phase that w adds is several radians."""

F32, F64 = np.float32, np.float64
PRECISIONS = [(1e-3, F32, 2.0), (1e-4, F32, 1.5), (1e-6, F32, 2.0), (1e-10, F64, 2.0)]
FLAT = [*PRECISIONS, (1e-4, F32, 1.25)]
"""Kernels of 5, 7, 8, 13 and 9 cells: both widths of a row of threads in single precision, the wider in double. The last
is for images without w: in three dimensions its corrections are too large for single precision."""


BOTH = [(False, *case) for case in FLAT] + [(True, *case) for case in PRECISIONS]


WORK_BYTES = 1 << 22
"""Several rounds for some of the batches below, one for others."""


def make_gridder(backend, g, epsilon=1e-4, real=F32, upsampling=None, w_of=None, **changes) -> TileGridder:
    """A gridder for images of `g`, and PSFs of that and twice that size; its planes of w hold the samples `w_of`."""
    upsampling = upsampling or (2.0 if epsilon < 1e-5 else 1.5)
    kernel = make_kernel(epsilon, upsampling, 3 if upsampling > 1.25 else 2, real == F32)
    w_planes = None
    if w_of is not None:
        w = np.concatenate([np.abs(s.uvw[:, 2]) * s.frequency / LIGHT_SPEED for s in w_of])
        w_planes = make_w_planes(kernel, w.min(), w.max(), n_minus_one(g.nx, g.ny, g.cell_x, g.cell_y).min())
    size = {"nx": g.nx, "ny": g.ny, "cell_x": g.cell_x, "cell_y": g.cell_y}
    grid = UvGrid(**size, kernel=kernel, real=np.dtype(real), w_planes=w_planes, **changes)
    wide = replace(grid, nx=2 * g.nx, ny=2 * g.ny, scale=2) if w_planes is None else None
    return TileGridder(backend, Workspace(backend, WORK_BYTES), grid, wide)


def place(gridder: TileGridder, planes):
    """Put the samples of many planes in the order of tiles."""
    first = np.concatenate([[0], np.cumsum([len(s.vis) for s in planes])]).astype(np.int64)
    xp = gridder.backend.xp
    batch = SampleBatch(
        uvw=xp.asarray(np.concatenate([s.uvw for s in planes])),
        vis=xp.asarray(np.concatenate([s.vis for s in planes])),
        weight=xp.asarray(np.concatenate([s.weight for s in planes])),
        first=xp.asarray(first),
        first_row=xp.asarray(first[:-1].copy()),
        per_metre=xp.asarray(np.array([s.frequency / LIGHT_SPEED for s in planes])),
        most=max(len(s.vis) for s in planes),
    )
    return _placed(gridder, batch, len(planes))


def _placed(gridder: TileGridder, batch: SampleBatch, planes: int):
    """Samples as a gridder places them; `order` tells the number of each in its batch, of those with weight alone."""
    backend, orders = gridder.backend, [np.zeros(0, np.int64)]

    def sort(keys):
        orders.append(backend.sort(keys))
        return orders[-1]

    gridder.backend = replace(backend, sort=sort)
    placed = gridder.place(batch, planes)
    gridder.backend = backend
    gridder.look(placed)
    placed.order = backend.download(orders[-1])[: kept(gridder, placed)]
    return placed


def kept(gridder: TileGridder, placed) -> int:
    """Number of samples with weight, which come first."""
    weight = gridder.backend.download(placed.weight) > 0
    assert weight[: weight.sum()].all()
    return int(weight.sum())


def slots_of(planes: int) -> np.ndarray:
    """Slots of planes in a stack that has a spare slot at either end; the last plane comes first."""
    return np.arange(planes, 0, -1, dtype=np.int32)


def in_slots(xp, model: np.ndarray):
    stack = np.full((len(model) + 2, *model.shape[1:]), np.nan, np.float32)
    stack[slots_of(len(model))] = model
    return xp.asarray(stack)


def _written(gridder: TileGridder, scale: np.ndarray, write, twice: int = 1) -> np.ndarray:
    """The images that `write(target)` puts into their slots; it leaves the spare slots alone."""
    xp, planes = gridder.backend.xp, len(scale)
    slot = slots_of(planes)
    out = xp.full((planes + 2, twice * gridder.grid.ny, twice * gridder.grid.nx), np.nan, np.float32)
    write(Target(planes=np.arange(planes), scale=scale, slot=slot, images=out))
    out = gridder.backend.download(out)
    assert np.isnan(out[[0, -1]]).all()
    return out[slot]


def image(gridder: TileGridder, placed, scale) -> np.ndarray:
    return _written(gridder, scale, lambda to: gridder.image(placed, to))


def make_psf(gridder: TileGridder, placed, scale, twice: int = 1) -> np.ndarray:
    stacks = []

    def write(to: Target) -> None:
        stacks.extend(found.stack[: found.count].copy() for found in gridder.psf(placed, to, wide=twice == 2))

    psfs = _written(gridder, scale, write, twice)
    if twice == 2:
        assert np.array_equal(gridder.backend.download(gridder.backend.xp.concatenate(stacks)), psfs)
    return psfs


def make_residual(gridder: TileGridder, placed, model, scale) -> np.ndarray:
    stack = in_slots(gridder.backend.xp, model)
    return _written(gridder, scale, lambda to: gridder.residual(placed, stack, to))


def predict(gridder: TileGridder, placed, model) -> np.ndarray:
    xp, planes = gridder.backend.xp, len(model)
    predicted = gridder.predict(placed, np.arange(planes), slots_of(planes), in_slots(xp, model))
    return gridder.backend.download(predicted)[: kept(gridder, placed)]


def scale_of(planes) -> np.ndarray:
    totals = [s.weight.sum(dtype=float) for s in planes]
    return np.array([1 / t if t else 0.0 for t in totals])


def tolerance(s, epsilon: float) -> float:
    good = s.weight > 0
    return (
        3 * max(epsilon, 3e-7) * float(np.average(np.abs(s.vis[good]), weights=s.weight[good])) if good.any() else 0.0
    )


def cut(s, n: int):
    """The first `n` samples that have weight."""
    keep = np.flatnonzero(s.weight)[:n]
    return replace(s, uvw=s.uvw[keep], vis=s.vis[keep], weight=s.weight[keep])


def ragged(g, w: float = 0.0):
    """Planes of very different numbers of samples: many, none, one, one batch, one more than a batch, none with weight."""
    first = samples(g, n=900, seed=1, fill=0.49, w=w)
    blank = samples(g, n=40, seed=6, w=w)
    return [
        first,
        cut(first, 0),
        cut(samples(g, seed=2, frequency=1.5e9, w=w), 1),
        cut(samples(g, seed=3, frequency=1.3e9, w=w), BATCH),
        cut(samples(g, seed=4, w=w), BATCH + 1),
        replace(blank, weight=np.zeros_like(blank.weight)),
    ]


def some_pixels(g) -> list[tuple[int, int]]:
    corners = [(0, 0), (g.nx - 1, 0), (0, g.ny - 1), (g.nx - 1, g.ny - 1), (g.nx // 2, g.ny // 2)]
    rng = np.random.default_rng(9)
    return corners + [(int(rng.integers(g.nx)), int(rng.integers(g.ny))) for _ in range(20)]


def sources(g, planes: int) -> np.ndarray:
    """Models with a few sources in corners, at edges and within."""
    model = np.zeros((planes, g.ny, g.nx), np.float32)
    rng = np.random.default_rng(5)
    for plane in model:
        plane[0, 0], plane[-1, -1], plane[g.ny // 2, g.nx // 2] = 1.0, -0.5, 0.3
        for _ in range(4):
            plane[rng.integers(g.ny), rng.integers(g.nx)] += rng.normal()
    return model


def exact_visibilities(g, planes, model: np.ndarray, w_term: bool) -> list[np.ndarray]:
    if not w_term:
        return [dft_predict(s, g, m) for s, m in zip(planes, model, strict=True)]
    return [
        direct_predict(
            s.uvw,
            s.frequency,
            [(*direction_cosines(g, x, y), float(m[y, x])) for y, x in zip(*np.nonzero(m), strict=True)],
        )
        for s, m in zip(planes, model, strict=True)
    ]


def turned(gridder: TileGridder, placed, planes, vis: list[np.ndarray]) -> np.ndarray:
    """Visibilities as `placed` holds them: in its order, conjugated where x (or w) is negative, and turned by w."""
    order = placed.order
    uvw = np.concatenate([s.uvw * s.frequency / LIGHT_SPEED for s in planes])[order]
    vis = np.concatenate(vis)[order]
    if gridder.grid.w_planes is None:
        return np.where(uvw[:, 0] < 0, vis.conj(), vis)
    vis = np.where(uvw[:, 2] < 0, vis.conj(), vis)
    return vis * np.exp(-2j * np.pi * np.abs(uvw[:, 2]) * gridder.grid.w_planes.centre)


@pytest.mark.parametrize(("epsilon", "real", "upsampling"), FLAT)
@pytest.mark.parametrize("g", [SQUARE, RECTANGLE], ids=["square", "rectangle"])
def test_dirty_images_of_a_ragged_batch_are_direct_fourier_sums(backend, g, epsilon, real, upsampling):
    planes = ragged(g)
    gridder = make_gridder(backend, g, epsilon, real, upsampling)
    images = image(gridder, place(gridder, planes), scale_of(planes))
    assert (images.shape, images.dtype) == ((len(planes), *g.shape), np.float32)
    for s, found in zip(planes, images, strict=True):
        if s.weight.any():
            assert found == pytest.approx(dft_image(s, g, s.weight, s.vis), abs=tolerance(s, epsilon))
        else:
            assert not found.any()


@pytest.mark.parametrize(("epsilon", "real", "upsampling"), PRECISIONS)
def test_dirty_images_of_a_wide_field_take_account_of_w(backend, epsilon, real, upsampling):
    planes = ragged(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, epsilon, real, upsampling, w_of=planes)
    images = image(gridder, place(gridder, planes), scale_of(planes))
    pixels = some_pixels(WIDE)
    for s, found in zip(planes, images, strict=True):
        if not s.weight.any():
            assert not found.any()
            continue
        found = np.array([found[y, x] for x, y in pixels])
        expected = direct_dirty(s.uvw, s.frequency, s.vis, s.weight, WIDE, pixels)
        assert found == pytest.approx(expected, abs=tolerance(s, epsilon))
        without = direct_dirty(s.uvw, s.frequency, s.vis, s.weight, WIDE, pixels, w_term=False)
        assert np.abs(expected - without).max() > 100 * tolerance(s, 1e-4), "the oracle itself must see w"


@pytest.mark.parametrize("twice", [1, 2])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-6])
def test_the_psf_is_the_image_of_ones(backend, twice, epsilon):
    planes = ragged(RECTANGLE)
    gridder = make_gridder(backend, RECTANGLE, epsilon)
    psfs = make_psf(gridder, place(gridder, planes), scale_of(planes), twice)
    shape = (twice * RECTANGLE.ny, twice * RECTANGLE.nx)
    for s, psf in zip(planes, psfs, strict=True):
        if not s.weight.any():
            assert not psf.any()
            continue
        expected = dft_image(s, RECTANGLE, s.weight, np.ones(len(s.vis)), shape)
        assert psf == pytest.approx(expected, abs=3 * max(epsilon, 3e-7))
        assert psf[shape[0] // 2, shape[1] // 2] == pytest.approx(1, abs=3 * max(epsilon, 3e-7))


@pytest.mark.parametrize("w_term", [False, True])
def test_images_agree_with_ducc0_at_every_pixel(backend, w_term):
    g, epsilon = WIDE, 1e-4
    s = samples(g, n=1500, w=3000.0)
    gridder = make_gridder(backend, g, epsilon, w_of=[s] if w_term else None)
    (found,) = image(gridder, place(gridder, [s]), scale_of([s]))
    expected = ducc0.wgridder.vis2dirty(
        uvw=s.uvw,
        freq=np.array([s.frequency]),
        vis=s.vis.astype(complex)[:, None],
        wgt=s.weight.astype(float)[:, None],
        npix_x=g.nx,
        npix_y=g.ny,
        pixsize_x=g.cell_x,
        pixsize_y=g.cell_y,
        epsilon=1e-9,
        do_wgridding=w_term,
        divide_by_n=False,
        flip_v=True,
    ).T * scale_of([s])
    assert found == pytest.approx(expected, abs=tolerance(s, epsilon))


@pytest.mark.parametrize(("w_term", "epsilon", "real", "upsampling"), BOTH)
def test_predicted_visibilities_are_direct_fourier_sums(backend, w_term, epsilon, real, upsampling):
    planes = ragged(WIDE, w=3000.0 if w_term else 0.0)
    gridder = make_gridder(backend, WIDE, epsilon, real, upsampling, w_of=planes if w_term else None)
    placed, model = place(gridder, planes), sources(WIDE, len(planes))
    expected = turned(gridder, placed, planes, exact_visibilities(WIDE, planes, model, w_term))
    # three epsilon of the flux in the model; double precision shows what epsilon 1e-10 is worth
    floor = 3e-7 if real == F32 else 1e-14
    size = np.abs(model).sum((1, 2)).max()
    assert np.abs(predict(gridder, placed, model) - expected).max() < 3 * max(epsilon, floor) * size


@pytest.mark.parametrize(("w_term", "epsilon", "real", "upsampling"), BOTH)
def test_degridding_is_the_adjoint_of_gridding(backend, w_term, epsilon, real, upsampling):
    """<image(V), m> = Re <w V, predict(m)>, to rounding and not only to epsilon."""
    planes = ragged(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, epsilon, real, upsampling, w_of=planes if w_term else None)
    placed = place(gridder, planes)
    model = np.random.default_rng(8).normal(size=(len(planes), *WIDE.shape)).astype(np.float32)
    images = image(gridder, placed, np.ones(len(planes)))
    left = (images.astype(float) * model).sum()
    weighted = (backend.download(placed.weight).astype(float) * backend.download(placed.vis))[: kept(gridder, placed)]
    predicted = predict(gridder, placed, model)
    right = (weighted * predicted.conj()).real.sum()
    size = np.linalg.norm(weighted) * np.linalg.norm(predicted)
    # images are float32 in both cases; in single precision grids and FFTs are, too
    assert left == pytest.approx(right, abs=(1e-6 if real == F32 else 1e-7) * size)


@pytest.mark.parametrize(("w_term", "epsilon", "real", "upsampling"), BOTH)
def test_the_residual_is_the_image_of_the_visibilities_minus_the_model(backend, w_term, epsilon, real, upsampling):
    planes = ragged(WIDE, w=3000.0 if w_term else 0.0)
    gridder = make_gridder(backend, WIDE, epsilon, real, upsampling, w_of=planes if w_term else None)
    model = sources(WIDE, len(planes))
    residuals = make_residual(gridder, place(gridder, planes), model, scale_of(planes))
    pixels = some_pixels(WIDE)
    for s, m, residual, of_model in zip(
        planes, model, residuals, exact_visibilities(WIDE, planes, model, w_term), strict=True
    ):
        if not s.weight.any():
            assert not residual.any()
            continue
        left = replace(s, vis=s.vis - of_model)
        expected = direct_dirty(s.uvw, s.frequency, left.vis, s.weight, WIDE, pixels, w_term)
        found = np.array([residual[y, x] for x, y in pixels])
        assert found == pytest.approx(
            expected, abs=tolerance(left, epsilon) + 3 * max(epsilon, 3e-7) * float(np.abs(m).sum())
        )


def on_edges(g, fft_y: int, fft_x: int, tile: int):
    """Samples exactly on cells, half cells, tile edges, the axes and the edges of the uv plane, and beyond it."""
    x = np.array([0, 0.5, 1, tile, tile - 1, tile - 0.5, fft_x / 2, fft_x / 2 - 0.5, 0.7 * fft_x, 1.5 * fft_x, -0.0])
    y = np.array([0, 0.5, 1, tile, tile - 1, tile + 0.5, fft_y / 2, fft_y / 2 - 0.5, 0.6 * fft_y, 2.5 * fft_y])
    x, y = (a.ravel() for a in np.meshgrid(np.append(x, -x), np.append(y, -y)))
    rng = np.random.default_rng(3)
    frequency = LIGHT_SPEED  # a metre is a wavelength
    uvw = np.column_stack([x / (fft_x * g.cell_x), -y / (fft_y * g.cell_y), np.zeros(len(x))])
    vis = (rng.standard_normal((len(x), 2)) @ [1, 1j]).astype(np.complex64)
    s = samples(g, n=1)
    return replace(s, uvw=uvw, frequency=frequency, vis=vis, weight=rng.uniform(0.5, 2, len(x)).astype(np.float32))


@pytest.mark.parametrize("w_term", [False, True])
@pytest.mark.parametrize("side", [14, 0])
def test_samples_on_the_edges_of_the_uv_plane_and_of_tiles_are_gridded_like_any_other(backend, side, w_term):
    g, epsilon = RECTANGLE, 1e-6
    gridder = make_gridder(backend, g, epsilon, side=side)
    s = on_edges(g, *gridder.grid.fft, gridder.grid.tile)
    if w_term:
        gridder = make_gridder(backend, g, epsilon, side=side, w_of=[s])
    placed = place(gridder, [s])
    expected = dft_image(s, g, s.weight, s.vis)
    assert image(gridder, placed, scale_of([s]))[0] == pytest.approx(expected, abs=tolerance(s, epsilon))
    # predicted visibilities, also of samples that are their own conjugate
    model = sources(g, 1)
    against = turned(gridder, placed, [s], [dft_predict(s, g, model[0])])
    on_axis = s.uvw[placed.order, 0] == 0
    found = predict(gridder, placed, model)
    size = 3 * epsilon * np.abs(model).sum()
    assert np.minimum(np.abs(found - against), np.abs(found - against.conj())).max() < size
    assert np.abs(found - against)[on_axis].max() < size


@pytest.mark.parametrize("w_term", [False, True])
def test_tiles_and_items_of_any_size_give_the_same_image(backend, w_term):
    planes = ragged(WIDE, w=3000.0)
    model = sources(WIDE, len(planes))
    counts, results = set(), []
    for side, most in ((0, 4096), (0, 7), (13, 50), (24, 1), (90, 100)):
        gridder = make_gridder(backend, WIDE, 1e-4, w_of=planes if w_term else None, side=side, max_samples=most)
        counts.add((gridder.grid.tiles[0] % 2, gridder.grid.tiles[1] % 2))
        placed = place(gridder, planes)
        assert kept(gridder, placed) == sum(np.count_nonzero(s.weight) for s in planes)
        results.append(make_residual(gridder, placed, model, scale_of(planes)))
    assert len(counts) > 1, "odd and even numbers of tiles"
    for result in results[1:]:
        # only the order of float32 sums differs
        assert result == pytest.approx(results[0], abs=2e-6 * float(np.abs(results[0]).max()))


@pytest.mark.parametrize("w_term", [False, True])
def test_the_order_of_threads_and_blocks_does_not_change_a_bit(backend, w_term):
    planes = ragged(WIDE, w=3000.0)
    model = sources(WIDE, len(planes))

    def everything():
        gridder = make_gridder(backend, WIDE, 1e-4, w_of=planes if w_term else None, side=16, max_samples=40)
        placed = place(gridder, planes)
        arrays = [image(gridder, placed, scale_of(planes)), predict(gridder, placed, model)]
        arrays.append(make_residual(gridder, placed, model, scale_of(planes)))
        if not w_term:
            arrays += [make_psf(gridder, placed, scale_of(planes), twice) for twice in (1, 2)]
        return [a.tobytes() for a in arrays]

    expected = everything()
    for order in HOST_ORDERS[1:]:
        with thread_order(order):
            assert everything() == expected


@pytest.mark.parametrize("w_term", [False, True])
def test_a_plane_does_not_depend_on_its_neighbours(backend, w_term):
    planes = ragged(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, 1e-4, w_of=planes if w_term else None)
    together = image(gridder, place(gridder, planes), scale_of(planes))
    for s, among_others in zip(planes, together, strict=True):
        assert image(gridder, place(gridder, [s]), scale_of([s]))[0].tobytes() == among_others.tobytes()


def test_planes_that_share_rows_share_uvw(backend):
    s = samples(RECTANGLE)
    other = replace(samples(RECTANGLE, seed=7), uvw=s.uvw, frequency=1.5e9)
    gridder = make_gridder(backend, RECTANGLE)
    n = len(s.vis)
    asarray = backend.xp.asarray
    batch = SampleBatch(
        uvw=asarray(s.uvw),
        vis=asarray(np.concatenate([s.vis, other.vis])),
        weight=asarray(np.concatenate([s.weight, other.weight])),
        first=asarray(np.array([0, n, 2 * n])),
        first_row=asarray(np.array([0, 0])),
        per_metre=asarray(np.array([s.frequency, other.frequency]) / LIGHT_SPEED),
        most=n,
    )
    shared = _placed(gridder, batch, 2)
    scale = scale_of([s, other])
    assert np.array_equal(image(gridder, shared, scale), image(gridder, place(gridder, [s, other]), scale))


@pytest.mark.parametrize("w_term", [False, True])
def test_samples_without_weight_are_dropped_whatever_their_values(backend, w_term):
    s = samples(WIDE, w=3000.0)
    good = s.weight > 0
    uvw, vis = s.uvw.copy(), s.vis.copy()
    uvw[~good], vis[~good] = np.nan, np.nan
    gridder = make_gridder(backend, WIDE, w_of=[s] if w_term else None)
    placed = place(gridder, [replace(s, uvw=uvw, vis=vis)])
    assert kept(gridder, placed) == np.count_nonzero(good)
    assert sorted(placed.order) == list(np.flatnonzero(good))
    assert np.array_equal(image(gridder, placed, scale_of([s])), image(gridder, place(gridder, [s]), scale_of([s])))


@pytest.mark.parametrize("w_term", [False, True])
def test_a_batch_without_any_sample_gives_empty_images(backend, w_term):
    s = samples(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, w_of=[s] if w_term else None)
    none = [cut(s, 0), cut(s, 0)]
    placed = place(gridder, none)
    assert kept(gridder, placed) == 0
    assert not image(gridder, placed, np.zeros(2)).any()
    assert not make_residual(gridder, placed, sources(WIDE, 2), np.zeros(2)).any()
    assert predict(gridder, placed, sources(WIDE, 2)).shape == (0,)


def test_convolution_with_the_psf_agrees_with_the_cpu_device(backend):
    planes = [samples(RECTANGLE, seed=seed) for seed in (1, 2, 3)]
    plain = make_gridder(backend, RECTANGLE, 1e-6)
    scale, model = scale_of(planes), sources(RECTANGLE, 3)
    xp, slot = backend.xp, backend.xp.asarray(slots_of(3))
    convolver = Convolver(backend, Workspace(backend, 0), RECTANGLE.nx, RECTANGLE.ny)
    placed = place(plain, planes)
    psfs = np.zeros((convolver.group, 2 * RECTANGLE.ny, 2 * RECTANGLE.nx), np.float32)
    psfs[:3] = make_psf(plain, placed, scale, 2)
    spectrum = xp.zeros((5, 2 * RECTANGLE.ny, RECTANGLE.nx + 1), np.float32)
    transform = xp.zeros((convolver.group, *spectrum.shape[1:]), np.complex64)
    convolver.spectrum(xp.asarray(psfs), 3, transform, slot, spectrum)
    dirty = image(plain, placed, scale)
    convolved = backend.download(convolver.convolve(in_slots(xp, model), spectrum, slot))
    residual = dirty - convolved[:3, : RECTANGLE.ny, : RECTANGLE.nx]
    spectrum = backend.download(spectrum)[slots_of(3)]
    for p in range(3):
        # float32 FFTs of a few Jy
        assert residual[p] == pytest.approx(dirty[p] - convolve(model[p], spectrum[p]), abs=5e-6)
        only = xp.zeros(1, np.int32)
        alone = convolver.convolve(xp.asarray(model[p : p + 1]), xp.asarray(spectrum[p : p + 1]), only)
        convolved = backend.download(alone)[0, : RECTANGLE.ny, : RECTANGLE.nx]
        assert np.array_equal(dirty[p] - convolved, residual[p])
    # both ways of a major cycle agree to the gridding accuracy
    flux = float(np.abs(model).sum((1, 2)).max())
    assert residual == pytest.approx(make_residual(plain, placed, model, scale), abs=6e-6 * flux)
    assert np.abs(dirty - residual).max() > 0.1


@pytest.mark.parametrize("w_term", [False, True])
def test_some_planes_of_a_batch_may_be_imaged_without_the_others(backend, w_term):
    planes = ragged(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, 1e-4, w_of=planes if w_term else None)
    placed, model, xp = place(gridder, planes), sources(WIDE, len(planes)), backend.xp
    scale = scale_of(planes)
    everything = make_residual(gridder, placed, model, scale)
    some = np.array([4, 0, 5])
    out = xp.zeros((3, *WIDE.shape), np.float32)
    to = Target(planes=some, scale=scale[some], slot=np.arange(3), images=out)
    gridder.residual(placed, xp.asarray(model[some]), to)
    assert np.array_equal(backend.download(out), everything[some])


def test_the_psf_is_not_made_with_w(backend):
    s = samples(WIDE, w=3000.0)
    gridder = make_gridder(backend, WIDE, w_of=[s])
    with pytest.raises(ValueError, match="without w"):
        make_psf(gridder, place(gridder, [s]), scale_of([s]))
