"""Gridding and degridding of many planes by the kernels in `kernels/`: which is launched when, with what.

In: samples of many planes one after another, and models. Out: dirty images, PSFs, visibilities and residual images,
stacks of planes. Written once against the array namespace (numpy or cupy) and a `Backend` that compiles kernels and does
FFTs, so that the same lines run on a GPU and, through the kernels' host build, in tests.

Algorithm: non-uniform FFT with the kernel of `gpucube.gridding_kernel`; samples sorted by tiles of the uv grid once
(`uv_tiles.cu`), tiles summed in shared memory and gathered in a fixed order (`grid.cu`), batched FFTs between padding and
taper passes (`convolve.cu`). With w: improved w-stacking, plane by plane. Results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.gridding_kernel import GriddingKernel, WPlanes, good_fft_size, n_minus_one

BATCH = 64
"""Samples whose taps a block holds at once: BATCH in grid.cu."""

SIDES = {"float32": 40, "float64": 28}
"""Cells of a tile with its halo, each way. 8 modulo 16 keeps rows of float2 on different banks of shared memory; both fit
the 48 KiB that a block gets without asking, twice (model and residual)."""

MAX_SAMPLES = 4096
"""Most samples of one item: crowded tiles are shared out among blocks."""


@dataclass(frozen=True)
class Backend:
    """Where kernels run.

    Attributes
    ----------
    xp : module
        numpy or cupy.
    compile : callable
        (file stem in `kernels/`, compiler options) -> object with ``get_function(name)`` as `cupy.RawModule`.
    rfft2, irfft2, fft2, ifft2 : callable
        Of a stack over its last two axes, keeping single precision; inverse ones not normalised. ``irfft2(grid, shape)``.
    """

    xp: Any
    compile: Callable[[str, Sequence[str]], Any]
    rfft2: Callable[[Any], Any]
    irfft2: Callable[[Any, tuple[int, int]], Any]
    fft2: Callable[[Any], Any]
    ifft2: Callable[[Any], Any]


def as_arguments(values: Sequence[Any]) -> tuple:
    """Kernel arguments: Python integers and floats become int and double."""
    plain = {int: np.int32, float: np.float64}
    return tuple(plain[type(v)](v) if type(v) in plain else v for v in values)


def blocks_over(planes: int, ny: int, nx: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Grid and block with a thread for every value of a stack of planes."""
    return (-(-nx // 32), -(-ny // 8), planes), (32, 8)


@dataclass(frozen=True)
class PlacedSamples:
    """Samples of a chunk in the order of tiles, without those of no weight.

    Visibilities are turned: conjugated where the sample was, and with w by exp(-2 pi i w centre). Predicted visibilities
    are turned likewise. `order[k]` is the original number of sample k.
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
        precision = (f"-DREAL={'float' if self.real == np.float32 else 'double'}",)
        width = (*precision, f"-DSUPPORT={kernel.support}")
        self._modules = {
            stem: backend.compile(stem, precision if stem == "convolve" else width)
            for stem in ("uv_tiles", "grid", "convolve")
        }
        self._coefficients = xp.asarray(kernel.coefficients, self.real)
        self._taper_x = xp.asarray(kernel.correction(nx, self.fft_x), self.real)
        self._taper_y = xp.asarray(kernel.correction(ny, self.fft_y), self.real)
        if w_planes is not None:
            height = n_minus_one(nx, ny, cell_x, cell_y)
            self._taper_w = xp.asarray(w_planes.correction(kernel, height), self.real)
            self._height = xp.asarray(height - w_planes.centre)

    def _launch(self, name: str, grid: tuple, block: tuple, *arguments: Any, shared_mem: int = 0) -> None:
        """Launch a kernel, given as ``"file.kernel"``."""
        stem, kernel = name.split(".")
        self._modules[stem].get_function(kernel)(grid, block, as_arguments(arguments), shared_mem=shared_mem)

    def _over(self, name: str, planes: int, ny: int, nx: int, *arguments: Any) -> None:
        """Launch with a thread for every value of a stack of planes."""
        self._launch(name, *blocks_over(planes, ny, nx), *arguments)

    def shared_bytes(self, squares: int) -> int:
        """Dynamic shared memory of a tile kernel that holds so many squares of side * side cells."""
        reals = BATCH * (1 + 2 * self.kernel.support) + self.kernel.coefficients.size
        cells = squares * self.side**2 + BATCH
        return cells * self.complex.itemsize + BATCH * 8 + reals * self.real.itemsize

    def memory(self, planes: int, samples: int) -> int:
        """Most bytes that `place` and one `residual` of a batch take beside what they are given and return.

        Samples in sorted order; buffers of items, as if the samples lay in as many tiles as they can; the grid, the padded
        image, and as much again as the larger of them for the FFT's own work; with w the sum of its planes.

        Parameters
        ----------
        planes, samples : int
            In the batch.
        """
        real, cell, w = self.real.itemsize, self.complex.itemsize, self.w_planes is not None
        tiles = planes * self.tiles_x * self.tiles_y
        # key, order, and one array more of each while they are sorted; first cells; fractions, visibilities, weights
        sorted_samples = samples * (4 * 8 + 8 + 2 * cell + real + (4 + real + 2 * cell if w else 0))
        items = min(samples, tiles + samples // self.max_samples)
        squares = items * (self.side**2 * cell + 16) + tiles * 48
        grid = planes * self.fft_y * self.columns * cell
        padded = planes * self.fft_y * self.fft_x * (cell if w else real)
        spectrum = 0 if w else grid  # the model's, while samples are degridded and gridded at once
        total = planes * self.ny * self.nx * real if w else 0
        return sorted_samples + squares + grid + spectrum + padded + max(grid, padded) + total

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
            self._launch("uv_tiles.sort_keys", (-(-largest // 256), planes), (256,), *where, np.int64(dropped), key)
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
            self._launch(
                "uv_tiles.place_samples", (-(-count // 256),), (256,), *given, key, order, np.int64(count), *out
            )
        return placed

    def _items(self, placed: PlacedSamples, w_plane: int) -> _Items:
        xp = self.backend.xp
        tiles = xp.arange(placed.planes * self.tiles_x * self.tiles_y + 1)
        if self.w_planes is None:
            edges = xp.searchsorted(placed.key, tiles)
            begin, end = edges[:-1], edges[1:]
        else:
            of_tile = tiles[:-1] * self.w_planes.count
            begin = xp.searchsorted(placed.key, of_tile + max(w_plane - self.kernel.support + 1, 0))
            end = xp.searchsorted(placed.key, of_tile + w_plane + 1)
        of_tile = xp.zeros(len(tiles), np.int64)
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
        self._launch(name, (len(items.tile),), (threads,), *where, *out, shared_mem=self.shared_bytes(squares))

    def _grid(self, name: str, placed: PlacedSamples, vis: Any, w_plane: int, *spectrum: Any) -> Any | None:
        """Grids (planes, fft_y, columns), or None where no sample reaches this plane of w."""
        xp, items = self.backend.xp, self._items(placed, w_plane)
        if not len(items.tile):
            return None
        buffer = xp.empty((len(items.tile), self.side, self.side), self.complex)
        self._on_items(name, 1 + len(spectrum), placed, vis, items, w_plane, *spectrum, buffer)
        grid = xp.empty((placed.planes, self.fft_y, self.columns), self.complex)
        tiles = (self.side, self.tile, self.tiles_x, self.tiles_y, self.fft_x, self.fft_y)
        self._over("grid.gather_tiles", placed.planes, *grid.shape[1:], buffer, items.of_tile, *tiles, w_plane, grid)
        return grid

    def _image(self, name: str, placed: PlacedSamples, vis: Any, scale: Any, *spectrum: Any) -> Any:
        xp, planes = self.backend.xp, placed.planes
        image = xp.zeros((planes, self.ny, self.nx), np.float32)
        scale = xp.asarray(scale, np.float64)
        sizes = (self.ny, self.nx, self.fft_y, self.fft_x)
        if self.w_planes is None:
            grid = self._grid(name, placed, vis, -1, *spectrum)
            if grid is not None:
                padded = self.backend.irfft2(grid, (self.fft_y, self.fft_x))
                self._over(
                    "convolve.crop_image",
                    planes,
                    *sizes[:2],
                    padded,
                    self._taper_y,
                    self._taper_x,
                    scale,
                    *sizes,
                    image,
                )
            return image
        total = xp.zeros(image.shape, self.real)
        for p in range(self.w_planes.count):
            grid = self._grid(name, placed, vis, p)
            if grid is not None:
                padded = self.backend.ifft2(grid)
                self._over(
                    "convolve.add_w_plane", planes, *sizes[:2], padded, self._height, self.w_planes.w(p), *sizes, total
                )
        tapers = (self._taper_y, self._taper_x, self._taper_w)
        self._over("convolve.finish_w_planes", planes, *sizes[:2], total, *tapers, scale, *sizes[:2], image)
        return image

    def image(self, placed: PlacedSamples, scale: Any) -> Any:
        """Dirty images: scale[p] times sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n - 1)))].

        Parameters
        ----------
        placed : PlacedSamples
        scale : float64, shape (planes,)
            1 / sum of weights, or 0 for a plane without any.

        Returns
        -------
        float32, shape (planes, ny, nx)
        """
        return self._image("grid.grid_samples", placed, placed.vis, scale)

    def psf(self, placed: PlacedSamples, scale: Any) -> Any:
        """Images of visibilities that are all 1, as `image`; w must be neglected (a source at the centre has none)."""
        if self.w_planes is not None:
            raise ValueError("the PSF is made without w")
        return self._image("grid.grid_ones", placed, placed.vis, scale)

    def _spectrum(self, model: Any) -> Any:
        planes, padded = len(model), self.backend.xp.empty((len(model), self.fft_y, self.fft_x), self.real)
        sizes = (self.ny, self.nx, self.fft_y, self.fft_x)
        self._over("convolve.pad_image", planes, *sizes[2:], model, self._taper_y, self._taper_x, *sizes, padded)
        return self.backend.rfft2(padded)

    def predict(self, placed: PlacedSamples, model: Any) -> Any:
        """Visibilities of models: sum over pixels of I exp(+2 pi i (u l + v m + w (n - 1))).

        Parameters
        ----------
        placed : PlacedSamples
        model : float32, shape (planes, ny, nx)
            Jy/pixel.

        Returns
        -------
        complex, shape (placed.count,)
            In the order of `placed`, turned as its visibilities.
        """
        predicted = self.backend.xp.zeros(placed.count, self.complex)
        if self.w_planes is None:
            items = self._items(placed, -1)
            if len(items.tile):
                self._on_items(
                    "grid.degrid_samples", 1, placed, placed.vis, items, -1, self._spectrum(model), predicted
                )
            return predicted
        sizes = (self.ny, self.nx, self.fft_y, self.fft_x)
        for p in range(self.w_planes.count):
            items = self._items(placed, p)
            if not len(items.tile):
                continue
            padded = self.backend.xp.empty((len(model), self.fft_y, self.fft_x), self.complex)
            tapers = (self._taper_y, self._taper_x, self._taper_w, self._height)
            self._over(
                "convolve.pad_w_plane", len(model), *sizes[2:], model, *tapers, self.w_planes.w(p), *sizes, padded
            )
            self._on_items("grid.degrid_samples", 1, placed, placed.vis, items, p, self.backend.fft2(padded), predicted)
        return predicted

    def residual(self, placed: PlacedSamples, model: Any, scale: Any) -> Any:
        """Images of vis - model: one pass over the samples without w, two with.

        Parameters and result as `image` and `predict`.
        """
        if not placed.count:
            return self._image("grid.grid_samples", placed, placed.vis, scale)
        if self.w_planes is None:
            return self._image("grid.grid_residual", placed, placed.vis, scale, self._spectrum(model))
        predicted, left = self.predict(placed, model), self.backend.xp.empty(placed.count, self.complex)
        block = (-(-placed.count // 256),)
        self._launch("grid.subtract_model", block, (256,), placed.vis, predicted, np.int64(placed.count), left)
        return self._image("grid.grid_samples", placed, left, scale)
