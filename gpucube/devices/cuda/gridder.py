"""Gridding and degridding of many planes by the kernels in `kernels/`: which is launched when, with what.

In: samples of many planes one after another, and models. Out: dirty images, PSFs, visibilities and residual images, each
plane in its slot of a stack. Written against a `gpucube.devices.cuda.backend.Backend`.

Algorithm: non-uniform FFT with the kernel of `gpucube.devices.cuda.gridding_kernel`. Samples are sorted by tiles of the uv
grid once and divided into items (`uv_tiles.cu`); without w the same order serves the image, and PSFs of its size and of twice
that. Tiles are summed in shared memory and gathered in a fixed order (`grid.cu`). FFTs are batched, between passes that pad,
crop and correct for the taper (`convolve.cu`). With w: improved w-stacking. Results repeat bit for bit.

A call works on as many planes at once as the workspace holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda.backend import (
    Backend,
    Kernels,
    Spec,
    Workspace,
    allocated,
    block_bytes,
    fft_group,
    fft_planes,
    packed,
)
from gpucube.devices.cuda.uv_grid import UvGrid
from gpucube.sky.geometry import n_minus_one

INT, LONG = np.int32, np.int64


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Samples of many planes on the device, one plane after another.

    Plane p has the samples first[p] to first[p + 1], and the rows of `uvw` from first_row[p] on. Planes may share rows.
    """

    uvw: DeviceArray  # (nrow, 3) float64, metres
    vis: DeviceArray | None  # (nsample,) complex64, or None if only PSFs are made of them
    weight: DeviceArray  # (nsample,) float32; samples of weight 0 are dropped, whatever they hold
    first: DeviceArray  # (nplane + 1,) int64
    first_row: DeviceArray  # (nplane,) int64
    per_metre: DeviceArray  # (nplane,) float64: frequency / c
    most: int  # samples of the plane that has most


@dataclass(kw_only=True)
class PlacedSamples:
    """Samples of a chunk in the order of tiles, those of no weight last, and their division into items.

    Visibilities are turned: conjugated where the sample was, and with w by exp(-2 pi i w centre). Predicted visibilities
    are turned likewise. Without w, `cell_w` and `z_w` have one element, which is not used. The items of one layer of one plane
    are a row of the arrays `item_...`; `kernels/uv_tiles.cu` explains them.
    """

    planes: int
    count: int  # samples, with those of no weight
    position: DeviceArray  # (count,) complex128: x + i y in widths of the grid
    cell_w: DeviceArray  # (count,) int32
    z_w: DeviceArray  # (count,) real
    vis: DeviceArray  # (count,) complex
    weight: DeviceArray  # (count,) real
    item_tile: DeviceArray  # (nplane, layers, room) int32
    item_first: DeviceArray  # the same, int64
    item_count: DeviceArray  # the same, int32
    first_item: DeviceArray  # (nplane, layers, stride) int32
    item_numbers: DeviceArray  # (nplane, layers) int32, in the workspace: to be read before the next step
    items: np.ndarray  # the same on the host


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which planes are imaged, and where their images go. All but the images lies on the host."""

    planes: np.ndarray  # (n,) int: numbers in the `PlacedSamples`
    scale: np.ndarray  # (n,) float64: 1 / sum of weights, or 0 for a plane without weight
    slot: np.ndarray  # (n,) int: places in `images`
    images: DeviceArray  # (nslot, ny, nx) float32, written
    copy: DeviceArray | None = None  # the same: a second copy
    cleared: DeviceArray | None = None  # the same: set to 0; given where `copy` is


@dataclass(frozen=True, kw_only=True)
class _Round:
    """What one round works on; arrays on the device."""

    count: int  # planes
    most: np.ndarray  # (layers,) on the host: items of the plane that has most
    planes: DeviceArray
    items: DeviceArray  # (n, layers)
    square_of: DeviceArray
    scale: DeviceArray
    slot: DeviceArray
    squares: DeviceArray
    gridded: DeviceArray
    padded: DeviceArray
    spectrum: DeviceArray
    total: DeviceArray


@dataclass(frozen=True, kw_only=True)
class WideImages:
    """The images of one round as one stack, and room for their transforms: what `Convolver.spectrum` takes."""

    count: int
    stack: DeviceArray
    transform: DeviceArray
    slot: DeviceArray


def placed_specs(grid: UvGrid, planes: int, count: int, most: int, with_vis: bool = True) -> list[Spec]:
    """Arrays of `PlacedSamples`, in their order, where no plane has more than `most` samples."""
    real, cell, layers = grid.real, grid.complex, grid.layers
    room, stride = _room(grid, most), _tiles(grid) + 1
    of_w = count if grid.w_planes else 1
    rows = (planes, layers, room)
    samples: list[Spec] = [
        ((count,), np.complex128),
        ((of_w,), INT),
        ((of_w,), real),
        ((count if with_vis else 1,), cell),
    ]
    items: list[Spec] = [(rows, INT), (rows, LONG), (rows, INT), ((planes, layers, stride), INT)]
    return [*samples, ((count,), real), *items]


def key_type(grid: UvGrid, planes: int) -> np.dtype:
    """Type of the sort keys of so many planes: 32 bits where they suffice."""
    return np.dtype(np.uint32 if planes * keys_a_plane(grid) < 2**32 - 1 else np.uint64)


def keys_a_plane(grid: UvGrid) -> int:
    """Number of different sort keys of a plane."""
    return grid.tiles[0] * grid.tiles[1] * (grid.w_planes.count if grid.w_planes else 4)


def _tiles(grid: UvGrid) -> int:
    """Most tiles of a layer."""
    return grid.tiles[0] * grid.tiles[1] * (1 if grid.w_planes else 4)


def _room(grid: UvGrid, most: int) -> int:
    """Most items that so many samples can have: a tile of n samples has n / max_samples, rounded up."""
    return max(1, min(most, _tiles(grid) + most // grid.max_samples))


def work_of_placing(grid: UvGrid, planes: int, count: int) -> list[Spec]:
    """Arrays of the workspace that placing so many samples takes: keys before and after the sort, numbers of items."""
    kind = key_type(grid, planes)
    return [((count,), kind), ((count,), kind), ((planes, grid.layers), INT)]


def work_specs(grid: UvGrid, planes: int, squares: int, *, residual: bool = False, wide: bool = False) -> list[Spec]:
    """Arrays of the workspace for a round of so many planes and items, in the order of `_Round`."""
    count, (fft_y, fft_x), w = fft_planes(planes, grid.group), grid.fft, grid.w_planes is not None
    spectra = ((count, fft_y, grid.columns), grid.complex)
    none: Spec = ((1,), grid.real)
    images: list[Spec] = []
    if wide:
        whole = fft_planes(planes, fft_group_of(grid))
        images = [((whole, grid.ny, grid.nx), np.float32), ((whole, grid.ny, grid.nx // 2 + 1), np.complex64)]
    return [
        ((squares, grid.side, grid.side), grid.complex),
        spectra,
        none if w else ((count, fft_y, fft_x), grid.real),
        spectra if residual and not w else none,
        ((planes, grid.ny, grid.nx), grid.real) if w else none,
        *images,
    ]


def fft_group_of(grid: UvGrid) -> int:
    """Batch of FFTs of the grid's images themselves."""
    return fft_group(grid.ny * grid.nx)


class TileGridder:
    """Gridding and degridding on one grid, and PSFs on one of twice its size."""

    def __init__(self, backend: Backend, work: Workspace, grid: UvGrid, wide: UvGrid | None = None):
        self.backend, self.grid, self._work = backend, grid, work
        self._layers = [_Layer(backend, g) for g in (grid, wide) if g is not None]
        real, kernel = grid.real, grid.kernel
        precision = (f"-DREAL={'float' if real == np.float32 else 'double'}",)
        width = (*precision, f"-DSUPPORT={kernel.support}")
        self._kernels = Kernels(backend, {"grid": width, "convolve": precision})
        self._coefficients: DeviceArray = backend.xp.asarray(kernel.coefficients, real)
        types = {np.dtype(np.uint32): "unsigned", np.dtype(np.uint64): "unsigned long long"}
        self._sorting = {k: Kernels(backend, {"uv_tiles": (*width, f"-DKEY={t}")}) for k, t in types.items()}

    @cached_property
    def _heights(self) -> tuple[DeviceArray, DeviceArray]:
        """The taper of w, real, and n - 1 - centre, float64: (ny, nx) each."""
        grid, w = self.grid, self.grid.w_planes
        assert w is not None
        height = n_minus_one(grid.nx, grid.ny, grid.cell_x, grid.cell_y)
        asarray = self.backend.xp.asarray
        return asarray(w.correction(grid.kernel, height), grid.real), asarray(height - w.centre, np.float64)

    def place(self, samples: SampleBatch, planes: int, numbers: DeviceArray | None = None) -> PlacedSamples:
        """Sort the samples of a chunk by tiles and divide them into items.

        `numbers` (planes, layers) int32 takes the numbers of items. `look` must read them before samples are gridded.
        """
        grid, w, count, with_vis = self.grid, self.grid.w_planes, len(samples.weight), samples.vis is not None
        (fft_y, fft_x), (tiles_y, tiles_x), kind = grid.fft, grid.tiles, key_type(grid, planes)
        launch = self._sorting[kind].launch
        key, sorted_key, *own = self._work.take(*work_of_placing(grid, planes, count))
        numbers = own[0] if numbers is None else numbers
        given = (samples.first, samples.first_row, samples.per_metre)
        w_range = (w.count, w.first, w.spacing) if w else (0, 0.0, 1.0)
        positions, dropped = (grid.cell_x, grid.cell_y, *w_range), kind.type(planes * keys_a_plane(grid))
        order, seen = key, samples.vis
        if seen is None:
            seen = self.backend.view(samples.weight, 0, (0,), np.dtype(np.complex64))
        if count:
            blocks, tiling = (-(-samples.most // 256), planes), (fft_x, fft_y, grid.tile, tiles_x, tiles_y, dropped)
            arrays = (samples.uvw, samples.weight, *given)
            launch("uv_tiles.sort_keys", blocks, (256,), *arrays, *positions, *tiling, key)
            order = self.backend.sort(key)  # takes memory of its own, so what is placed comes after it
        placed = allocated(self.backend, *placed_specs(grid, planes, count, samples.most, with_vis))
        if count:
            launch(
                *("uv_tiles.place_samples", (-(-count // 256),), (256,)),
                *(samples.uvw, seen, samples.weight, *given, *positions),
                *(w.centre if w else 0.0, keys_a_plane(grid), dropped, int(with_vis), key, order, LONG(count)),
                *(sorted_key, *placed[:5]),
            )
        room, stride = _room(grid, samples.most), _tiles(grid) + 1
        shape = (w.count if w else 0, tiles_x, tiles_y, grid.max_samples, room, stride)
        rows = (planes, grid.layers)
        launch("uv_tiles.make_items", rows, (256,), sorted_key, LONG(count), *shape, numbers, *placed[5:])
        names = ("position", "cell_w", "z_w", "vis", "weight", "item_tile", "item_first", "item_count", "first_item")
        return PlacedSamples(
            **dict(zip(names, placed, strict=True)),
            planes=planes,
            count=count,
            item_numbers=numbers,
            items=np.zeros((0, 0), INT),
        )

    def look(self, placed: PlacedSamples) -> None:
        """Read the numbers of items, which the host must know."""
        placed.items = self.backend.download(placed.item_numbers)

    def image(self, placed: PlacedSamples, to: Target) -> None:
        """Make dirty images: scale[p] times sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n - 1)))]."""
        for some in self._rounds(placed, to, 0):
            self._image("grid.grid_samples", placed, to, some, 0)

    def psf(self, placed: PlacedSamples, to: Target, *, wide: bool = False) -> Iterator[WideImages]:
        """Make images of visibilities that are all 1. The grid must neglect w: a source at the centre has none.

        Wide ones have twice the size. They come in rounds, which the caller must go through; narrow ones come in none.
        """
        if self.grid.w_planes is not None:
            raise ValueError("the PSF is made without w")
        layer = int(wide)
        for some in self._rounds(placed, to, layer, wide=wide):
            stack = self._image("grid.grid_ones", placed, to, some, layer, wide)
            if stack is not None:
                yield stack

    def predict(self, placed: PlacedSamples, planes: np.ndarray, slot: np.ndarray, model: DeviceArray) -> DeviceArray:
        """Compute the visibilities of models: sum over pixels of I exp(+2 pi i (u l + v m + w (n - 1))).

        The models of `planes` lie in the slots of `model`, float32 (slots, ny, nx), Jy/pixel. Returns complex
        (placed.count,), turned as the visibilities of `placed`; samples of other planes get 0.
        """
        (predicted,) = allocated(self.backend, ((placed.count,), self.grid.complex))
        self.backend.clear(predicted)
        w = self.grid.w_planes
        to = Target(planes=planes, scale=np.zeros(len(planes)), slot=slot, images=model)
        for some in self._rounds(placed, to, 0, residual=True):
            for p in range(w.count) if w else (-1,):  # each plane of w adds its part
                layer = max(p, 0)
                if some.most[layer]:
                    spectrum = self._spectrum(model, some, p)
                    self._on_items("grid.degrid_samples", 1, placed, some, layer, p, spectrum, predicted)
        return predicted

    def residual(self, placed: PlacedSamples, model: DeviceArray, to: Target) -> None:
        """Make images of vis - model: one pass over the samples without w, two with w. Models lie in the images' slots."""
        if self.grid.w_planes is None:
            for some in self._rounds(placed, to, 0, residual=True):
                self._image("grid.grid_residual", placed, to, some, 0, False, self._spectrum(model, some))
            return
        predicted = self.predict(placed, to.planes, to.slot, model)
        if placed.count:
            blocks = (-(-placed.count // 256),)
            self._kernels.launch("grid.subtract_model", blocks, (256,), placed.vis, LONG(placed.count), predicted)
        vis, placed.vis = placed.vis, predicted
        try:
            self.image(placed, to)
        finally:
            placed.vis = vis

    def _rounds(
        self, placed: PlacedSamples, to: Target, layer: int, *, residual: bool = False, wide: bool = False
    ) -> Iterator[_Round]:
        """Divide planes into as few rounds as the workspace allows, and take what each needs of it."""
        grid, w = self._layers[layer].grid, self.grid.w_planes is not None
        items = np.ascontiguousarray(placed.items[to.planes])  # (n, layers)
        squares = items.max(axis=1) if w else items[:, layer]
        end = np.concatenate([[0], np.cumsum(squares)])
        start = 0
        while start < len(to.planes):
            stop = len(to.planes)
            while stop > start + 1 and self._work.nbytes < block_bytes(
                work_specs(grid, stop - start, int(end[stop] - end[start]), residual=residual, wide=wide)
            ):
                stop = start + (stop - start + 1) // 2
            part, count = slice(start, stop), int(end[stop] - end[start])
            small = (
                to.planes[part].astype(INT),
                items[part],
                (end[start:stop] - end[start]).astype(INT),
                to.scale[part],
                to.slot[part].astype(INT),
            )
            on_device = packed(self.backend, *small)
            self._work.start()
            yield _Round(
                **dict(zip(("planes", "items", "square_of", "scale", "slot"), on_device, strict=True)),
                count=stop - start,
                most=items[part].max(axis=0),
                **dict(
                    zip(
                        ("squares", "gridded", "padded", "spectrum", "total"),
                        self._work.take(*work_specs(grid, stop - start, count, residual=residual)),
                        strict=True,
                    )
                ),
            )
            start = stop

    def _on_items(
        self,
        name: str,
        squares: int,
        placed: PlacedSamples,
        some: _Round,
        layer: int,
        w_plane: int,
        *arrays: DeviceArray,
    ) -> None:
        """Launch a kernel of `grid.cu` that holds so many squares; `arrays` are its spectrum, if any, and its output."""
        grid = self.grid if w_plane >= 0 else self._layers[layer].grid
        (fft_y, fft_x), (tiles_y, tiles_x) = grid.fft, grid.tiles
        samples = (placed.position, placed.cell_w, placed.z_w, placed.vis, placed.weight, self._coefficients)
        items = (some.items, placed.item_tile, placed.item_first, placed.item_count, some.planes, some.square_of)
        rows = (grid.layers if w_plane >= 0 else 2, layer, placed.item_tile.shape[2])
        sizes = (grid.side, grid.tile, tiles_x, tiles_y, fft_x, fft_y, w_plane)
        blocks, threads = (int(some.most[layer]), some.count), 256 if grid.kernel.support > 8 else 64
        shared = grid.shared_bytes(squares)
        self._kernels.launch(name, blocks, (threads,), *samples, *items, *rows, *sizes, *arrays, shared_mem=shared)

    def _gridded(
        self, name: str, placed: PlacedSamples, some: _Round, layer: int, w_plane: int, *spectrum: DeviceArray
    ) -> None:
        """Make the grids of one round."""
        grid = self.grid if w_plane >= 0 else self._layers[layer].grid
        if some.most[layer]:
            self._on_items(name, 1 + len(spectrum), placed, some, layer, w_plane, *spectrum, some.squares)
        (fft_y, fft_x), (tiles_y, tiles_x) = grid.fft, grid.tiles
        sizes = (grid.side, grid.tile, tiles_x, tiles_y, fft_x, fft_y, w_plane)
        rows = (some.planes, some.square_of, grid.layers if w_plane >= 0 else 2, layer, placed.first_item.shape[2])
        over = (some.count, fft_y, grid.columns)
        self._kernels.over("grid.gather_tiles", *over, some.squares, placed.first_item, *rows, *sizes, some.gridded)

    def _image(
        self,
        name: str,
        placed: PlacedSamples,
        to: Target,
        some: _Round,
        layer: int,
        wide: bool = False,
        *spectrum: DeviceArray,
    ) -> WideImages | None:
        """Make the images of one round."""
        of, w = self._layers[0 if self.grid.w_planes else layer], self.grid.w_planes
        grid, over = of.grid, (some.count, of.grid.ny, of.grid.nx)
        sizes, where = (grid.ny, grid.nx, *grid.fft), (some.scale, some.slot)
        tapers = (of.taper_y, of.taper_x)
        out: tuple[object, ...] = (to.images, 0, to.images, to.images)
        images = None
        if wide:
            stack, transform = self._work.take(*work_specs(grid, some.count, 0, wide=True)[-2:])
            images = WideImages(count=some.count, stack=stack, transform=transform, slot=some.slot)
            out = (to.images, 2, stack, to.images)
        elif to.copy is not None:
            out = (to.images, 1, to.copy, to.cleared)
        if w is None:
            self._gridded(name, placed, some, layer, -1, *spectrum)
            self.backend.irfft2(some.gridded, some.padded, grid.group)
            self._kernels.over("convolve.crop_image", *over, some.padded, *tapers, *where, *sizes, *out)
            return images
        taper_w, height = self._heights
        fresh = 1
        for p in range(w.count):
            if some.most[p] or (fresh and p == w.count - 1):
                self._gridded(name, placed, some, p, p)
                self.backend.ifft2(some.gridded, some.gridded, grid.group)
                turned = (some.gridded, height, w.w(p), *sizes, fresh, some.total)
                self._kernels.over("convolve.add_w_plane", *over, *turned)
                fresh = 0
        self._kernels.over(
            "convolve.finish_w_planes", *over, some.total, *tapers, taper_w, *where, grid.ny, grid.nx, *out
        )
        return images

    def _spectrum(self, model: DeviceArray, some: _Round, w_plane: int = -1) -> DeviceArray:
        """Compute spectra of the models of one round, with w those on one plane of w."""
        grid, of, over = self.grid, self._layers[0], (some.count, *self.grid.fft)
        given, sizes = (model, of.taper_y, of.taper_x), (some.slot, grid.ny, grid.nx, *grid.fft)
        if grid.w_planes is None:
            self._kernels.over("convolve.pad_image", *over, *given, *sizes, some.padded)
            self.backend.rfft2(some.padded, some.spectrum, grid.group)
            return some.spectrum
        turned = (*self._heights, grid.w_planes.w(w_plane))
        self._kernels.over("convolve.pad_w_plane", *over, *given, *turned, *sizes, some.gridded)
        self.backend.fft2(some.gridded, some.gridded, grid.group)
        return some.gridded


class _Layer:
    """A grid, and the tapers of its images on the device."""

    def __init__(self, backend: Backend, grid: UvGrid):
        self.grid, fft = grid, grid.fft
        correction, asarray = grid.kernel.correction, backend.xp.asarray
        self.taper_x: DeviceArray = asarray(correction(grid.nx, fft[1]), grid.real)  # (nx,)
        self.taper_y: DeviceArray = asarray(correction(grid.ny, fft[0]), grid.real)  # (ny,)
