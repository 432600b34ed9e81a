"""Gridding and degridding of many planes by the kernels in `kernels/`: which is launched when, with what.

In: samples of many planes one after another, and models. Out: dirty images, PSFs, visibilities and residual images, each
plane in its slot of a stack. Written against a `gpucube.devices.cuda.backend.Backend`.

Algorithm: non-uniform FFT with the kernel of `gpucube.devices.cuda.gridding_kernel`. Samples are sorted by tiles of the uv
grid once (`uv_tiles.cu`). Tiles are summed in shared memory and gathered in a fixed order (`grid.cu`). FFTs are batched,
between passes that pad, crop and correct for the taper (`convolve.cu`). With w: improved w-stacking, plane by plane. Results
repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda.backend import Backend, Kernels
from gpucube.devices.cuda.uv_grid import UvGrid
from gpucube.sky.geometry import n_minus_one


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Samples of many planes on the device, one plane after another.

    Plane p has the samples first[p] to first[p + 1], and the rows of `uvw` from first_row[p] on. Planes may share rows.
    """

    uvw: DeviceArray  # (nrow, 3) float64, metres
    vis: DeviceArray  # (nsample,) complex64
    weight: DeviceArray  # (nsample,) float32; samples of weight 0 are dropped, whatever they hold
    first: np.ndarray  # (nplane + 1,) int64, on the host
    first_row: np.ndarray  # (nplane,) int64, on the host
    per_metre: np.ndarray  # (nplane,) float64, on the host: frequency / c

    def most_samples(self) -> int:
        """Find the largest number of samples of a plane."""
        return int(np.diff(self.first).max(initial=0))


@dataclass(frozen=True, kw_only=True)
class PlacedSamples:
    """Samples of a chunk in the order of tiles, without those of no weight.

    Visibilities are turned: conjugated where the sample was, and with w by exp(-2 pi i w centre). Predicted visibilities
    are turned likewise. Without w, `cell_w` and `z_w` have one element, which is not used.
    """

    count: int
    key: DeviceArray  # (count,) int64: plane, tile and first plane of w
    order: DeviceArray  # (count,) int64: the number of each sample in its batch
    cell: DeviceArray  # (count, 2) int32: first cell that the kernel reaches, x and y
    z: DeviceArray  # (count,) complex: where the tap polynomials of x and y are evaluated
    cell_w: DeviceArray  # (count,) int32
    z_w: DeviceArray  # (count,) real
    vis: DeviceArray  # (count,) complex
    weight: DeviceArray  # (count,) real


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which planes are imaged, and where their images go."""

    planes: np.ndarray  # (n,) int, on the host: numbers in the `PlacedSamples`
    scale: DeviceArray  # (n,) float64: 1 / sum of weights, or 0 for a plane without weight
    slot: DeviceArray  # (n,) int32: places in `images`
    images: DeviceArray  # (nslot, ny, nx) float32, written

    def groups(self, size: int) -> Iterator[Target]:
        """Split it into groups of at most `size` planes."""
        for start in range(0, len(self.planes), size):
            part = slice(start, start + size)
            yield replace(self, planes=self.planes[part], scale=self.scale[part], slot=self.slot[part])


@dataclass(frozen=True, kw_only=True)
class _Items:
    """Work for one launch. Block i takes `count[i]` samples from `first[i]` on, all in `tile[i]`."""

    tile: DeviceArray  # (nitem,) int32
    first: DeviceArray  # (nitem,) int64
    count: DeviceArray  # (nitem,) int32
    of_tile: DeviceArray  # (nplane * ntile + 1,) int32: tile t has the items of_tile[t] to of_tile[t + 1]


class TileGridder:
    """Gridding and degridding on one grid."""

    def __init__(self, backend: Backend, grid: UvGrid):
        self.backend, self.grid = backend, grid
        real, kernel = grid.real, grid.kernel
        precision = (f"-DREAL={'float' if real == np.float32 else 'double'}",)
        width = (*precision, f"-DSUPPORT={kernel.support}")
        self._kernels = Kernels(backend, {"uv_tiles": width, "grid": width, "convolve": precision})

        def table(values: np.ndarray, kind: np.dtype = real) -> DeviceArray:
            return backend.xp.asarray(values, kind)  # type: ignore[no-any-return]  # numpy or cupy

        fft_y, fft_x = grid.fft
        self._coefficients = table(kernel.coefficients)  # (degree + 1, support)
        self._taper_x = table(kernel.correction(grid.nx, fft_x))  # (nx,)
        self._taper_y = table(kernel.correction(grid.ny, fft_y))  # (ny,)
        if grid.w_planes is not None:
            height = n_minus_one(grid.nx, grid.ny, grid.cell_x, grid.cell_y)
            self._taper_w = table(grid.w_planes.correction(kernel, height))  # (ny, nx)
            self._height = table(height - grid.w_planes.centre, np.dtype(np.float64))  # (ny, nx)

    def place(self, samples: SampleBatch) -> PlacedSamples:
        """Sort the samples of a chunk by tiles, and drop those of no weight."""
        xp, grid, planes = self.backend.xp, self.grid, len(samples.per_metre)
        (fft_y, fft_x), (tiles_y, tiles_x), w = grid.fft, grid.tiles, grid.w_planes
        largest, tiles = samples.most_samples(), tiles_y * tiles_x
        dropped = planes * tiles * (w.count if w else 1)
        runs = tuple(xp.asarray(a) for a in (samples.first, samples.first_row, samples.per_metre))
        positions = (grid.cell_x, grid.cell_y, fft_x, fft_y, *((w.count, w.first, w.spacing) if w else (0, 0.0, 1.0)))

        key = xp.full(len(samples.weight), dropped, np.int64)
        if largest:
            blocks, given = (-(-largest // 256), planes), (samples.uvw, samples.weight, *runs)
            tiling = (grid.tile, tiles_x, tiles_y, np.int64(dropped))
            self._kernels.launch("uv_tiles.sort_keys", blocks, (256,), *given, *positions, *tiling, key)
        order = xp.argsort(key, kind="stable").astype(np.int64)
        key = key[order]
        count = int(xp.searchsorted(key, xp.asarray([dropped]))[0])

        of_w = count if w else 1
        placed = PlacedSamples(
            count=count,
            key=key[:count],
            order=order[:count],
            cell=xp.empty((count, 2), np.int32),
            z=xp.empty(count, grid.complex),
            cell_w=xp.empty(of_w, np.int32),
            z_w=xp.empty(of_w, grid.real),
            vis=xp.empty(count, grid.complex),
            weight=xp.empty(count, grid.real),
        )
        if count:
            everything = (samples.uvw, samples.vis, samples.weight, *runs)
            sorted_as = (w.centre if w else 0.0, tiles, key, order, np.int64(count))
            written = (placed.cell, placed.z, placed.cell_w, placed.z_w, placed.vis, placed.weight)
            sizes = ((-(-count // 256),), (256,))
            self._kernels.launch("uv_tiles.place_samples", *sizes, *everything, *positions, *sorted_as, *written)
        return placed

    def image(self, placed: PlacedSamples, to: Target) -> None:
        """Make dirty images: scale[p] times sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n - 1)))]."""
        for group in to.groups(self.grid.group):
            self._image("grid.grid_samples", placed, group)

    def psf(self, placed: PlacedSamples, to: Target) -> None:
        """Make images of visibilities that are all 1. The grid must neglect w: a source at the centre has none."""
        if self.grid.w_planes is not None:
            raise ValueError("the PSF is made without w")
        for group in to.groups(self.grid.group):
            self._image("grid.grid_ones", placed, group)

    def predict(self, placed: PlacedSamples, planes: np.ndarray, slot: DeviceArray, model: DeviceArray) -> DeviceArray:
        """Compute the visibilities of models: sum over pixels of I exp(+2 pi i (u l + v m + w (n - 1))).

        The models of `planes` lie in the slots of `model`, float32 (slots, ny, nx), Jy/pixel. Returns complex
        (placed.count,), turned as the visibilities of `placed`; samples of other planes get 0.
        """
        predicted: DeviceArray = self.backend.xp.zeros(placed.count, self.grid.complex)
        w = self.grid.w_planes
        for start in range(0, len(planes), self.grid.group):
            part = slice(start, start + self.grid.group)
            for p in range(w.count) if w else (-1,):  # each plane of w adds its part
                items = self._items(placed, planes[part], p)
                if len(items.tile):
                    spectrum = self._spectrum(model, slot[part], p)
                    self._on_items("grid.degrid_samples", 1, placed, items, p, spectrum, predicted)
        return predicted

    def residual(self, placed: PlacedSamples, model: DeviceArray, to: Target) -> None:
        """Make images of vis - model: one pass over the samples without w, two with w. Models lie in the images' slots."""
        if self.grid.w_planes is None:
            for group in to.groups(self.grid.group):
                self._image("grid.grid_residual", placed, group, self._spectrum(model, group.slot))
            return
        predicted = self.predict(placed, to.planes, to.slot, model)
        if placed.count:
            blocks = (-(-placed.count // 256),)
            self._kernels.launch("grid.subtract_model", blocks, (256,), placed.vis, np.int64(placed.count), predicted)
        self.image(replace(placed, vis=predicted), to)

    def _items(self, placed: PlacedSamples, planes: np.ndarray, w_plane: int) -> _Items:
        """Divide the samples of some planes among blocks; tiles are numbered in the order of `planes`."""
        xp, grid = self.backend.xp, self.grid
        tiles = grid.tiles[0] * grid.tiles[1]
        of_plane = xp.asarray(planes, np.int64)[:, None] * tiles + xp.arange(tiles)  # (nplane, ntile)
        if grid.w_planes is None:
            first_key = last_key = of_plane.ravel()
        else:
            first_key = last_key = of_plane.ravel() * grid.w_planes.count
            first_key = first_key + max(w_plane - grid.kernel.support + 1, 0)
            last_key = last_key + w_plane
        begin = xp.searchsorted(placed.key, first_key)
        end = xp.searchsorted(placed.key, last_key, side="right")
        of_tile = xp.zeros(len(begin) + 1, np.int64)
        of_tile[1:] = xp.cumsum(-(-(end - begin) // grid.max_samples))
        numbers = xp.arange(int(of_tile[-1]))
        tile = xp.searchsorted(of_tile, numbers, side="right") - 1
        first = begin[tile] + (numbers - of_tile[tile]) * grid.max_samples
        count = xp.minimum(end[tile] - first, grid.max_samples)
        short = [a.astype(np.int32) for a in (tile, count, of_tile)]
        return _Items(tile=short[0], first=first.astype(np.int64), count=short[1], of_tile=short[2])

    def _on_items(
        self, name: str, squares: int, placed: PlacedSamples, items: _Items, w_plane: int, *arrays: DeviceArray
    ) -> None:
        """Launch a kernel of `grid.cu` that holds so many squares; `arrays` are its spectrum, if any, and its output."""
        grid, (fft_y, fft_x), (tiles_y, tiles_x) = self.grid, self.grid.fft, self.grid.tiles
        threads = 256 if grid.kernel.support > 8 else 64
        samples = (placed.cell, placed.z, placed.cell_w, placed.z_w, placed.vis, placed.weight, self._coefficients)
        work = (items.tile, items.first, items.count)
        sizes = (grid.side, grid.tile, tiles_x, tiles_y, fft_x, fft_y, w_plane)
        blocks, shared = (len(items.tile),), grid.shared_bytes(squares)
        self._kernels.launch(name, blocks, (threads,), *samples, *work, *sizes, *arrays, shared_mem=shared)

    def _gridded(
        self, name: str, placed: PlacedSamples, planes: np.ndarray, w_plane: int, *spectrum: DeviceArray
    ) -> DeviceArray | None:
        """Make the grids of one group, (group, fft_y, columns), or None where no sample reaches this plane of w."""
        xp, grid, items = self.backend.xp, self.grid, self._items(placed, planes, w_plane)
        if not len(items.tile):
            return None
        (fft_y, fft_x), (tiles_y, tiles_x) = grid.fft, grid.tiles
        buffer = xp.empty((len(items.tile), grid.side, grid.side), grid.complex)
        self._on_items(name, 1 + len(spectrum), placed, items, w_plane, *spectrum, buffer)
        gridded: DeviceArray = xp.empty((grid.group, fft_y, grid.columns), grid.complex)
        gridded[len(planes) :] = 0
        sizes = (grid.side, grid.tile, tiles_x, tiles_y, fft_x, fft_y, w_plane)
        over = (len(planes), fft_y, grid.columns)
        self._kernels.over("grid.gather_tiles", *over, buffer, items.of_tile, *sizes, gridded)
        return gridded

    def _image(self, name: str, placed: PlacedSamples, to: Target, *spectrum: DeviceArray) -> None:
        """Make the images of one group."""
        grid, over = self.grid, (len(to.planes), self.grid.ny, self.grid.nx)
        sizes, where = (grid.ny, grid.nx, *grid.fft), (to.scale, to.slot)
        if grid.w_planes is None:
            gridded = self._gridded(name, placed, to.planes, -1, *spectrum)
            if gridded is None:
                to.images[to.slot] = 0
                return
            padded, tapers = self.backend.irfft2(gridded, grid.fft), (self._taper_y, self._taper_x)
            self._kernels.over("convolve.crop_image", *over, padded, *tapers, *where, *sizes, to.images)
            return
        total = self.backend.xp.zeros(over, grid.real)
        for p in range(grid.w_planes.count):
            gridded = self._gridded(name, placed, to.planes, p)
            if gridded is not None:
                padded, w = self.backend.ifft2(gridded), grid.w_planes.w(p)
                self._kernels.over("convolve.add_w_plane", *over, padded, self._height, w, *sizes, total)
        tapers_w = (self._taper_y, self._taper_x, self._taper_w)
        self._kernels.over("convolve.finish_w_planes", *over, total, *tapers_w, *where, grid.ny, grid.nx, to.images)

    def _spectrum(self, model: DeviceArray, slot: DeviceArray, w_plane: int = -1) -> DeviceArray:
        """Compute spectra of the models of one group, with w those on one plane of w."""
        grid, over = self.grid, (len(slot), *self.grid.fft)
        given, sizes = (model, self._taper_y, self._taper_x), (slot, grid.ny, grid.nx, *grid.fft)
        kind = grid.real if grid.w_planes is None else grid.complex
        padded: DeviceArray = self.backend.xp.empty((grid.group, *grid.fft), kind)
        padded[len(slot) :] = 0
        if grid.w_planes is None:
            self._kernels.over("convolve.pad_image", *over, *given, *sizes, padded)
            return self.backend.rfft2(padded)
        turned = (self._taper_w, self._height, grid.w_planes.w(w_plane))
        self._kernels.over("convolve.pad_w_plane", *over, *given, *turned, *sizes, padded)
        return self.backend.fft2(padded)
