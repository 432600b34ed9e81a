"""Gridding and degridding of many planes by the kernels in `kernels/`: which is launched when, with what.

In: samples of many planes one after another, and models. Out: dirty images, PSFs, visibilities and residual images, each
plane in its slot of a stack. Written against a `gpucube.devices.backend.Backend`.

Algorithm: non-uniform FFT with the kernel of `gpucube.gridding_kernel`; samples sorted by tiles of the uv grid once
(`uv_tiles.cu`), tiles summed in shared memory and gathered in a fixed order (`grid.cu`), batched FFTs between padding and
taper passes (`convolve.cu`). With w: improved w-stacking, plane by plane. Results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.devices.cuda.backend import Backend, Kernels, fft_group
from gpucube.devices.cuda.gridding_kernel import GriddingKernel, WPlanes
from gpucube.fft_size import good_fft_size
from gpucube.sky.geometry import n_minus_one

BATCH = 64
"""Samples whose taps a block holds at once: BATCH in grid.cu."""

SIDES = {"float32": 40, "float64": 28}
"""Cells of a tile with its halo, each way. 8 modulo 16 keeps rows of float2 on different banks of shared memory; both fit
the 48 KiB that a block gets without asking, twice (model and residual)."""

MAX_SAMPLES = 4096
"""Most samples of one item: crowded tiles are shared out among blocks."""


@dataclass(frozen=True)
class PlacedSamples:
    """Samples of a chunk in the order of tiles, without those of no weight.

    Visibilities are turned: conjugated where the sample was, and with w by exp(-2 pi i w centre). Predicted visibilities
    are turned likewise. `order[k]` is the original number of sample k. Nothing but `planes` and `count` is on the host.
    """

    planes: int
    count: int
    key: Any
    order: Any
    cell: Any
    z: Any
    cell_w: Any
    z_w: Any
    vis: Any
    weight: Any


@dataclass(frozen=True)
class _Items:
    """Work for one launch: block i takes `count[i]` samples from `first[i]` on, all in `tile[i]`; tile t has the items
    from ``of_tile[t]`` to ``of_tile[t + 1]``."""

    tile: Any
    first: Any
    count: Any
    of_tile: Any


class TileGridder:
    """Gridding for one image geometry, kernel and precision.

    Parameters
    ----------
    backend : Backend
    nx, ny : int
        Pixels of the images.
    cell_x, cell_y : float
        Radians.
    kernel : GriddingKernel
    real : numpy dtype
        float32 or float64: precision of grids and FFTs. Images are float32 whichever.
    w_planes : WPlanes or None
        None neglects w.
    side, max_samples : int
        See `SIDES` and `MAX_SAMPLES`.
    """

    def __init__(
        self,
        backend: Backend,
        nx: int,
        ny: int,
        cell_x: float,
        cell_y: float,
        kernel: GriddingKernel,
        real: Any = np.float32,
        w_planes: WPlanes | None = None,
        side: int | None = None,
        max_samples: int = MAX_SAMPLES,
    ):
        xp = backend.xp
        self.backend, self.kernel, self.w_planes, self.max_samples = backend, kernel, w_planes, max_samples
        self.nx, self.ny, self.cell_x, self.cell_y = nx, ny, cell_x, cell_y
        self.real = np.dtype(real)
        self.complex = np.dtype(np.complex64 if self.real == np.float32 else np.complex128)
        self.side = side or SIDES[self.real.name]
        self.tile = self.side - kernel.support + 1
        # a kernel must not reach round the grid and meet itself
        least = 2 * kernel.support
        self.fft_x, self.fft_y = (good_fft_size(max(int(np.ceil(kernel.upsampling * n)), least)) for n in (nx, ny))
        self.columns = self.fft_x // 2 + 1 if w_planes is None else self.fft_x
        reach_x = self.fft_x // 2 if w_planes is None else self.fft_x
        self.tiles_x, self.tiles_y = reach_x // self.tile + 1, self.fft_y // self.tile + 1
        self.group = fft_group(self.fft_x * self.fft_y)
        precision = (f"-DREAL={'float' if self.real == np.float32 else 'double'}",)
        width = (*precision, f"-DSUPPORT={kernel.support}")
        self._kernels = Kernels(backend, {"uv_tiles": width, "grid": width, "convolve": precision})
        self._coefficients = xp.asarray(kernel.coefficients, self.real)
        self._taper_x = xp.asarray(kernel.correction(nx, self.fft_x), self.real)
        self._taper_y = xp.asarray(kernel.correction(ny, self.fft_y), self.real)
        if w_planes is not None:
            height = n_minus_one(nx, ny, cell_x, cell_y)
            self._taper_w = xp.asarray(w_planes.correction(kernel, height), self.real)
            self._height = xp.asarray(height - w_planes.centre)

    def shared_bytes(self, squares: int) -> int:
        """Dynamic shared memory of a tile kernel that holds so many squares of side * side cells."""
        reals = BATCH * (1 + 2 * self.kernel.support) + self.kernel.coefficients.size
        cells = squares * self.side**2 + BATCH
        return cells * self.complex.itemsize + BATCH * 8 + reals * self.real.itemsize

    def place_memory(self, samples: int) -> int:
        """Bytes that `place` takes for so many samples beside what it is given; it keeps `kept_memory` of them."""
        # key and order, and two arrays more of each while they are sorted
        return 6 * 8 * samples + self.kept_memory(samples)

    def kept_memory(self, samples: int) -> int:
        """Bytes of the `PlacedSamples` of so many samples."""
        real, cell, w = self.real.itemsize, self.complex.itemsize, self.w_planes is not None
        return samples * (2 * 8 + 8 + 2 * cell + real + (4 + real if w else 0))

    def _fft_bytes(self) -> tuple[int, int]:
        """Of the grids and of the padded images of one group."""
        cells = self.group * self.fft_y
        real = self.real.itemsize if self.w_planes is None else self.complex.itemsize
        return cells * self.columns * self.complex.itemsize, cells * self.fft_x * real

    def plan_memory(self, transforms: int) -> int:
        """Bytes that plans of FFTs keep, for so many kinds of transform."""
        return int(transforms * self.backend.fft_kept * max(self._fft_bytes()))

    def _occupied(self, uv_max: float) -> int:
        """Tiles that samples within `uv_max` wavelengths of the origin may lie in: an ellipse of tiles, half of it without w."""
        tiles = self.tiles_x * self.tiles_y
        semi_axes = [
            uv_max * cell * size / self.tile + 1.5
            for cell, size in ((self.cell_x, self.fft_x), (self.cell_y, self.fft_y))
        ]
        area = np.pi * semi_axes[0] * semi_axes[1] * (0.5 if self.w_planes is None else 1.0)
        return int(min(tiles, area + semi_axes[1]))

    def work_memory(self, planes: int, samples: int, uv_max: float, residual: bool = False) -> int:
        """Bytes that the gridding of so many planes takes, each of at most so many samples: one group at a time.

        Buffers of items, as if the samples lay in as many tiles as they can within `uv_max` wavelengths; the grid, the padded
        image, and the FFT's own work; with w the sum of its planes. For a `residual` also the model's spectrum, or with w the
        predicted visibilities.
        """
        real, cell, w = self.real.itemsize, self.complex.itemsize, self.w_planes is not None
        together, tiles = min(planes, self.group), self.tiles_x * self.tiles_y
        items = min(samples, self._occupied(uv_max) + samples // self.max_samples)
        squares = together * (items * (self.side**2 * cell + 16) + tiles * 48)
        grid, padded = self._fft_bytes()
        more = together * self.ny * self.nx * real if w else 0
        if residual:
            more += planes * samples * cell if w else grid
        return squares + grid + padded + int(self.backend.fft_work * max(grid, padded)) + more

    def place(self, uvw: Any, vis: Any, weight: Any, first: Any, first_row: Any, per_metre: Any) -> PlacedSamples:
        """Sort the samples of a chunk.

        Parameters
        ----------
        uvw : float64, shape (rows, 3)
            Metres.
        vis : complex64, shape (n,)
        weight : float32, shape (n,)
            Imaging weight; samples of weight 0 are dropped, whatever they hold.
        first : int64, shape (planes + 1,)
            Samples of plane p are first[p] to first[p + 1]; host array.
        first_row : int64, shape (planes,)
            First row of `uvw` of each plane; planes may share rows.
        per_metre : float64, shape (planes,)
            frequency / c.
        """
        xp, planes = self.backend.xp, len(first) - 1
        largest, tiles = int(np.max(np.diff(first), initial=0)), self.tiles_x * self.tiles_y
        w = self.w_planes
        w_arguments = (w.count, w.first, w.spacing) if w else (0, 0.0, 1.0)
        dropped = planes * tiles * w_arguments[0] if w else planes * tiles
        first, first_row, per_metre = (xp.asarray(a) for a in (first, first_row, per_metre))
        sky = (self.cell_x, self.cell_y, self.fft_x, self.fft_y, *w_arguments)
        key = xp.full(len(weight), dropped, np.int64)
        if largest:
            where = (uvw, weight, first, first_row, per_metre, *sky, self.tile, self.tiles_x, self.tiles_y)
            self._kernels.launch(
                "uv_tiles.sort_keys", (-(-largest // 256), planes), (256,), *where, np.int64(dropped), key
            )
        order = xp.argsort(key, kind="stable").astype(np.int64)
        key = key[order]
        count = int(xp.searchsorted(key, xp.asarray([dropped]))[0])
        of_w = count if w else 1
        placed = PlacedSamples(
            planes,
            count,
            key[:count],
            order[:count],
            xp.empty((count, 2), np.int32),
            xp.empty(count, self.complex),
            xp.empty(of_w, np.int32),
            xp.empty(of_w, self.real),
            xp.empty(count, self.complex),
            xp.empty(count, self.real),
        )
        if count:
            out = (placed.cell, placed.z, placed.cell_w, placed.z_w, placed.vis, placed.weight)
            given = (uvw, vis, weight, first, first_row, per_metre, *sky, w.centre if w else 0.0, tiles)
            self._kernels.launch(
                "uv_tiles.place_samples", (-(-count // 256),), (256,), *given, key, order, np.int64(count), *out
            )
        return placed

    def _groups(self, planes: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Planes that are transformed at once."""
        for start in range(0, len(planes), self.group):
            yield slice(start, start + self.group), planes[start : start + self.group]

    def _items(self, placed: PlacedSamples, planes: np.ndarray, w_plane: int) -> _Items:
        """Work on some of the planes; in it they are numbered as they stand in `planes`."""
        xp = self.backend.xp
        tiles = self.tiles_x * self.tiles_y
        of_plane = xp.asarray(planes, np.int64)[:, None] * tiles + xp.arange(tiles)
        if self.w_planes is None:
            first_key = last_key = of_plane.ravel()
        else:
            first_key = last_key = of_plane.ravel() * self.w_planes.count
            first_key = first_key + max(w_plane - self.kernel.support + 1, 0)
            last_key = last_key + w_plane
        begin = xp.searchsorted(placed.key, first_key)
        end = xp.searchsorted(placed.key, last_key, side="right")
        of_tile = xp.zeros(len(begin) + 1, np.int64)
        of_tile[1:] = xp.cumsum(-(-(end - begin) // self.max_samples))
        numbers = xp.arange(int(of_tile[-1]))
        tile = xp.searchsorted(of_tile, numbers, side="right") - 1
        first = begin[tile] + (numbers - of_tile[tile]) * self.max_samples
        count = xp.minimum(end[tile] - first, self.max_samples)
        return _Items(tile.astype(np.int32), first.astype(np.int64), count.astype(np.int32), of_tile.astype(np.int32))

    def _on_items(
        self, name: str, squares: int, placed: PlacedSamples, vis: Any, items: _Items, w_plane: int, *out: Any
    ) -> None:
        threads = 256 if self.kernel.support > 8 else 64
        samples = (placed.cell, placed.z, placed.cell_w, placed.z_w, vis, placed.weight, self._coefficients)
        work = (items.tile, items.first, items.count, self.side, self.tile, self.tiles_x, self.tiles_y)
        where = (*samples, *work, self.fft_x, self.fft_y, w_plane)
        grid, shared = (len(items.tile),), self.shared_bytes(squares)
        self._kernels.launch(name, grid, (threads,), *where, *out, shared_mem=shared)

    def _grid(
        self, name: str, placed: PlacedSamples, vis: Any, planes: np.ndarray, w_plane: int, *spectrum: Any
    ) -> Any | None:
        """Grids (group, fft_y, columns), or None where no sample reaches this plane of w."""
        xp, items = self.backend.xp, self._items(placed, planes, w_plane)
        if not len(items.tile):
            return None
        buffer = xp.empty((len(items.tile), self.side, self.side), self.complex)
        self._on_items(name, 1 + len(spectrum), placed, vis, items, w_plane, *spectrum, buffer)
        grid = xp.empty((self.group, self.fft_y, self.columns), self.complex)
        grid[len(planes) :] = 0
        tiles = (self.side, self.tile, self.tiles_x, self.tiles_y, self.fft_x, self.fft_y)
        self._kernels.over(
            "grid.gather_tiles", len(planes), *grid.shape[1:], buffer, items.of_tile, *tiles, w_plane, grid
        )
        return grid

    def _image(
        self,
        name: str,
        placed: PlacedSamples,
        vis: Any,
        planes: np.ndarray,
        scale: Any,
        slot: Any,
        out: Any,
        *spectrum: Any,
    ) -> None:
        """Images of one group into their slots."""
        xp, size, fft = self.backend.xp, (self.ny, self.nx), (self.fft_y, self.fft_x)
        if self.w_planes is None:
            grid = self._grid(name, placed, vis, planes, -1, *spectrum)
            if grid is None:
                out[slot] = 0
                return
            padded = self.backend.irfft2(grid, fft)
            tapers = (self._taper_y, self._taper_x)
            self._kernels.over(
                "convolve.crop_image", len(planes), *size, padded, *tapers, scale, slot, *size, *fft, out
            )
            return
        total = xp.zeros((len(planes), *size), self.real)
        for p in range(self.w_planes.count):
            grid = self._grid(name, placed, vis, planes, p)
            if grid is not None:
                padded, w = self.backend.ifft2(grid), self.w_planes.w(p)
                self._kernels.over(
                    "convolve.add_w_plane", len(planes), *size, padded, self._height, w, *size, *fft, total
                )
        tapers = (self._taper_y, self._taper_x, self._taper_w)
        self._kernels.over("convolve.finish_w_planes", len(planes), *size, total, *tapers, scale, slot, *size, out)

    def image(self, placed: PlacedSamples, planes: np.ndarray, scale: Any, slot: Any, out: Any) -> None:
        """Dirty images: scale[p] times sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n - 1)))].

        Parameters
        ----------
        placed : PlacedSamples
        planes : int, shape (n,)
            Which of its planes; host array.
        scale : float64, shape (n,)
            1 / sum of weights, or 0 for a plane without any.
        slot : int32, shape (n,)
            Where in `out` they go.
        out : float32, shape (slots, ny, nx)
            Written.
        """
        for part, some in self._groups(planes):
            self._image("grid.grid_samples", placed, placed.vis, some, scale[part], slot[part], out)

    def psf(self, placed: PlacedSamples, planes: np.ndarray, scale: Any, slot: Any, out: Any) -> None:
        """Images of visibilities that are all 1, as `image`; w must be neglected (a source at the centre has none)."""
        if self.w_planes is not None:
            raise ValueError("the PSF is made without w")
        for part, some in self._groups(planes):
            self._image("grid.grid_ones", placed, placed.vis, some, scale[part], slot[part], out)

    def _spectrum(self, model: Any, slot: Any) -> Any:
        sizes = (self.ny, self.nx, self.fft_y, self.fft_x)
        padded = self.backend.xp.empty((self.group, *sizes[2:]), self.real)
        padded[len(slot) :] = 0
        self._kernels.over(
            "convolve.pad_image", len(slot), *sizes[2:], model, self._taper_y, self._taper_x, slot, *sizes, padded
        )
        return self.backend.rfft2(padded)

    def predict(self, placed: PlacedSamples, planes: np.ndarray, slot: Any, model: Any) -> Any:
        """Visibilities of models: sum over pixels of I exp(+2 pi i (u l + v m + w (n - 1))).

        Parameters
        ----------
        placed, planes, slot
            As `image`.
        model : float32, shape (slots, ny, nx)
            Jy/pixel.

        Returns
        -------
        complex, shape (placed.count,)
            In the order of `placed`, turned as its visibilities; 0 for samples of other planes.
        """
        predicted = self.backend.xp.zeros(placed.count, self.complex)
        for part, some in self._groups(planes):
            if self.w_planes is None:
                items = self._items(placed, some, -1)
                if len(items.tile):
                    spectrum = self._spectrum(model, slot[part])
                    self._on_items("grid.degrid_samples", 1, placed, placed.vis, items, -1, spectrum, predicted)
            else:
                self._predict_with_w(placed, some, slot[part], model, predicted)
        return predicted

    def _predict_with_w(self, placed: PlacedSamples, planes: np.ndarray, slot: Any, model: Any, predicted: Any) -> None:
        sizes = (self.ny, self.nx, self.fft_y, self.fft_x)
        tapers = (self._taper_y, self._taper_x, self._taper_w, self._height)
        for p in range(self.w_planes.count):
            items = self._items(placed, planes, p)
            if not len(items.tile):
                continue
            padded = self.backend.xp.empty((self.group, *sizes[2:]), self.complex)
            padded[len(planes) :] = 0
            w = self.w_planes.w(p)
            self._kernels.over("convolve.pad_w_plane", len(planes), *sizes[2:], model, *tapers, w, slot, *sizes, padded)
            spectrum = self.backend.fft2(padded)
            self._on_items("grid.degrid_samples", 1, placed, placed.vis, items, p, spectrum, predicted)

    def residual(self, placed: PlacedSamples, planes: np.ndarray, scale: Any, slot: Any, model: Any, out: Any) -> None:
        """Images of vis - model: one pass over the samples without w, two with.

        Parameters as `image` and `predict`.
        """
        if self.w_planes is None:
            for part, some in self._groups(planes):
                spectrum = self._spectrum(model, slot[part])
                self._image("grid.grid_residual", placed, placed.vis, some, scale[part], slot[part], out, spectrum)
            return
        predicted = self.predict(placed, planes, slot, model)
        if placed.count:
            blocks = (-(-placed.count // 256),)
            self._kernels.launch("grid.subtract_model", blocks, (256,), placed.vis, np.int64(placed.count), predicted)
        for part, some in self._groups(planes):
            self._image("grid.grid_samples", placed, predicted, some, scale[part], slot[part], out)
