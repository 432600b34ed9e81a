"""The CUDA device: many planes at once, everything from imaging weights to restored images by the kernels in `kernels/`.

In: samples of planes, as they lie in the store: one upload for all planes that are begun together. Out: planes that hold
dirty image, PSF, residual and model in slots of stacks on the device.

Algorithms: as the CPU device's, step by step (docs/cuda.md, docs/cuda-gridding.md). Results of a plane do not depend on the
batch: sums have a fixed order, and FFTs are always done in groups of the same size. Written against
`gpucube.devices.backend.Backend`; nothing here knows whether it is a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import SPARSE_COMPONENTS, ImagingSettings, MinorCycle, Product
from gpucube.devices.cuda.backend import Backend, Kernels
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.gridder import PlacedSamples, TileGridder
from gpucube.devices.cuda.memory import major_in_image, make_gridders, planes_that_fit
from gpucube.devices.cuda.minor_cycle import Images, active_set, textbook
from gpucube.devices.psf_fit import FIRST_WINDOW, fit_beam_in_window, lobe_ellipse, peak_window
from gpucube.errors import DeviceLost
from gpucube.sky.beam import Beam
from gpucube.sky.gaussians import taper_form


@dataclass
class CudaPlane:
    """One plane: its slot, and its samples as long as they are needed.

    `given` until the PSF is made; `placed` as long as the plane is cleaned, if its major cycles go through the visibilities.
    """

    slot: int
    sum_weights: float
    visibilities: int
    in_image: bool
    given: _Weighed | None
    placed: PlacedSamples | None
    number: int
    wide: bool = False


@dataclass(frozen=True)
class _Uploaded:
    """Samples of planes, one plane after another: plane p has first[p] to first[p + 1], its uvw begin at first_row[p]."""

    uvw: Any
    vis: Any
    weight: Any
    first: np.ndarray
    first_row: np.ndarray
    per_metre: np.ndarray


@dataclass(frozen=True)
class _Weighed:
    """What of the samples is needed to make PSFs; `weight` are imaging weights, of sum `total`."""

    uvw: Any
    weight: Any
    first: np.ndarray
    first_row: np.ndarray
    per_metre: np.ndarray
    total: np.ndarray


@dataclass(frozen=True)
class _Stacks:
    """What all slots hold. A narrow PSF lies in the first quarter of its slot's wide one."""

    dirty: Any
    residual: Any
    model: Any
    subtracted: Any
    best_model: Any
    best_residual: Any
    psf: Any
    spectrum: Any
    masks: Any
    mask_of: Any


class CudaDevice:
    """See `gpucube.devices.base.Device`.

    Parameters
    ----------
    settings : ImagingSettings
    backend : Backend

    Raises
    ------
    GpucubeError
        Not even one plane fits the device's memory.
    """

    name = "cuda"

    def __init__(self, settings: ImagingSettings, backend: Backend):
        geometry = settings.geometry
        self.settings, self._backend, self.out_of_memory = settings, backend, backend.out_of_memory
        self._gridders = make_gridders(settings, backend)
        self._convolver = Convolver(backend, geometry.nx, geometry.ny)
        self._kernels = Kernels(
            backend, {stem: () for stem in ("weights", "statistics", "beam", "hogbom", "components", "restore")}
        )
        self.substage_seconds: dict[str, float] = {}
        self._stacks: _Stacks | None = None
        self._free: list[int] = []
        self._mask_of = np.zeros(0, np.int32)
        self.batch = planes_that_fit(settings, self._gridders, self._convolver, backend.memory())

    @contextmanager
    def _substage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._backend.synchronise()
        self.substage_seconds[name] = self.substage_seconds.get(name, 0.0) + time.perf_counter() - begin

    def _slots(self, planes: Iterable[CudaPlane]) -> Any:
        return self._backend.xp.asarray(np.array([p.slot for p in planes], np.int32))

    def _reserve(self, planes: int) -> None:
        """Make room for so many more planes."""
        if self._stacks is not None and len(self._free) >= planes:
            return
        if not self.idle():
            raise ValueError(f"{planes} planes are begun where {len(self._free)} have room")
        xp, (ny, nx) = self._backend.xp, self.settings.geometry.shape
        self._stacks = None
        one = [xp.zeros((planes, ny, nx), np.float32) for _ in range(6)]
        psf = xp.zeros((planes, 2 * ny, 2 * nx), np.float32)
        spectra = planes if major_in_image(self.settings) else 0
        self._mask_of = np.full(planes, -1, np.int32)
        self._stacks = _Stacks(
            *one,
            psf,
            xp.zeros((spectra, 2 * ny, nx + 1), np.float32),
            xp.zeros((planes, ny, nx), np.uint8),
            xp.asarray(self._mask_of),
        )
        self._free = list(range(planes))[::-1]

    def idle(self) -> bool:
        """Whether no plane is held."""
        return len(self._free) == len(self._mask_of)

    def release(self, planes: Sequence[CudaPlane]) -> None:
        """Give their slots to whoever comes next."""
        for p in planes:
            p.given = p.placed = None
            self._free.append(p.slot)

    def reset(self) -> None:
        """Give back all slots, and their memory.

        Raises
        ------
        DeviceLost
            The device does nothing any more: an error of a kernel stays with the process.
        """
        self._stacks, self._free, self._mask_of = None, [], np.zeros(0, np.int32)
        try:
            self._backend.synchronise()
        except Exception as error:
            raise DeviceLost(f"the GPU stopped working: {' '.join(str(error).split())}") from None
        self._backend.free()

    def shrink(self) -> bool:
        """Halve the batch."""
        self.batch, could = max(1, self.batch // 2), self.batch > 1
        return could

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[CudaPlane]:
        """Upload, weigh, sort and grid."""
        xp = self._backend.xp
        self._reserve(len(samples))
        slots = [self._free.pop() for _ in samples]
        on_device = xp.asarray(np.array(slots, np.int32))
        stacks = self._stacks
        with self._substage("upload"):
            for slot, mask in zip(slots, masks, strict=True):
                self._mask_of[slot] = -1 if mask is None else slot
                if mask is not None:
                    stacks.masks[slot] = xp.asarray(np.ascontiguousarray(mask).view(np.uint8))
            stacks.mask_of[:] = xp.asarray(self._mask_of)
            given = self._upload(samples)
        with self._substage("weights"):
            weight, total, inside = self._weigh(given)
            total_on_host, inside_on_host = self._backend.download(total), self._backend.download(inside)
        scale = xp.where(total > 0, 1.0 / xp.where(total > 0, total, 1.0), 0.0)
        gridder, numbers = self._gridders.image, np.arange(len(samples))
        placed = gridder.place(given.uvw, given.vis, weight, given.first, given.first_row, given.per_metre)
        gridder.image(placed, numbers, scale, on_device, stacks.dirty)
        stacks.residual[on_device] = stacks.dirty[on_device]
        stacks.model[on_device] = stacks.subtracted[on_device] = 0
        weighed = _Weighed(given.uvw, weight, given.first, given.first_row, given.per_metre, total_on_host)
        in_image = major_in_image(self.settings)
        self._backend.synchronise()
        return [
            CudaPlane(
                slot,
                float(total_on_host[k]),
                int(inside_on_host[k]) if total_on_host[k] > 0 else 0,
                in_image,
                weighed,
                None if in_image else placed,
                k,
            )
            for k, slot in enumerate(slots)
        ]

    def _upload(self, samples: Sequence[Samples | None]) -> _Uploaded:
        xp, upload = self._backend.xp, self._backend.upload
        there = [s for s in samples if s is not None]
        row_of: dict[Any, int] = {}
        uvw, order, rows = [], [], 0
        for k, s in enumerate(there):
            name = s.rows or k
            if name not in row_of:
                row_of[name] = rows
                uvw.append(s.uvw)
                order.append((np.arange(len(s.uvw)) if s.order is None else s.order) + rows)
                rows += len(s.uvw)
        in_place = xp.empty((rows, 3), np.float64)
        in_place[upload(order, np.int64)] = upload([a.reshape(-1) for a in uvw], np.float64).reshape(-1, 3)
        names = iter([row_of[s.rows or k] for k, s in enumerate(there)])
        return _Uploaded(
            in_place,
            upload([s.vis for s in there], np.complex64),
            upload([s.weight for s in there], np.float32),
            np.concatenate([[0], np.cumsum([0 if s is None else len(s.weight) for s in samples])]).astype(np.int64),
            np.array([0 if s is None else next(names) for s in samples], np.int64),
            np.array([1.0 if s is None else s.frequency / LIGHT_SPEED for s in samples]),
        )

    def _weigh(self, given: _Uploaded) -> tuple[Any, Any, Any]:
        """Imaging weights, their sums and the numbers of samples that have any; as `gpucube.devices.cpu.imaging_weights`."""
        xp, s, planes = self._backend.xp, self.settings, len(given.per_metre)
        g, launch = s.geometry, self._kernels.launch
        half_u, half_v = g.nx // 2, g.ny // 2
        first, first_row, per_metre = (xp.asarray(a) for a in (given.first, given.first_row, given.per_metre))
        count = len(given.weight)
        cell, lookup = xp.empty(count, np.int32), xp.empty(count, np.int32)
        inside, largest = xp.zeros(planes, np.int32), xp.zeros(planes, np.uint32)
        many = (max(1, min(256, -(-int(np.diff(given.first).max(initial=0)) // 1024))), planes)
        sky = (g.nx * g.cell_x, g.ny * g.cell_y, half_u, half_v)
        launch(
            *("weights.uv_cells", many, (256,), given.uvw, given.weight, first, first_row, per_metre),
            *(*sky, cell, lookup, inside, largest),
        )
        row = 2 * half_u + 1
        cells, origin = (half_v + 1) * row, half_u
        slope, constant, density = xp.zeros(planes), xp.ones(planes), xp.zeros((0, cells), np.uint64)
        if s.weighting != "natural":
            density = xp.zeros((planes, cells), np.uint64)
            launch("weights.sum_density", many, (256,), cell, given.weight, first, inside, largest, cells, density)
            factor = (5.0 * 10.0**-s.robust) ** 2
            launch(
                *("weights.robust_slope", (planes,), (1024,), inside, largest, cells, origin),
                *(int(s.weighting == "uniform"), factor, density, slope, constant),
            )
        taper = xp.asarray(taper_form(s.taper) * given.per_metre[:, None] ** 2)
        weight, total = xp.empty(count, np.float32), xp.zeros(planes)
        launch(
            *("weights.weigh", many, (256,), given.uvw, lookup, given.weight, first, first_row, inside, largest),
            *(cells, density, slope, constant, taper, weight),
        )
        launch("weights.sum_weights", (planes,), (1024,), weight, first, total)
        return weight, total, inside

    def make_psf(self, planes: Sequence[CudaPlane], wide: bool) -> None:
        """PSF at the phase centre, w neglected; and its spectrum, if major cycles are done in the image."""
        gridder = self._gridders.wide if wide else self._gridders.narrow
        todo = [p for p in planes if p.sum_weights > 0 and p.given is not None]
        for given in {id(p.given): p.given for p in todo}.values():
            together = [p for p in todo if p.given is given]
            for start in range(0, len(together), gridder.group):
                self._make_psf(gridder, given, together[start : start + gridder.group], wide)
        for p in todo:
            p.given, p.wide = None, wide
        if wide and todo and todo[0].in_image:
            with self._substage("fft"):
                self._convolver.spectrum(self._stacks.psf, self._slots(todo), self._stacks.spectrum)
        self._backend.synchronise()

    def _make_psf(self, gridder: TileGridder, given: _Weighed, planes: Sequence[CudaPlane], wide: bool) -> None:
        xp, numbers = self._backend.xp, [p.number for p in planes]
        runs = [slice(int(given.first[k]), int(given.first[k + 1])) for k in numbers]
        weight = xp.concatenate([given.weight[run] for run in runs])
        first = np.concatenate([[0], np.cumsum([run.stop - run.start for run in runs])]).astype(np.int64)
        # visibilities are all taken to be 1: what is given here is not looked at
        vis = xp.zeros(len(weight), np.complex64)
        placed = gridder.place(given.uvw, vis, weight, first, given.first_row[numbers], given.per_metre[numbers])
        scale = xp.asarray(1.0 / given.total[numbers])
        slots = self._slots(planes)
        ny, nx = self.settings.geometry.shape
        psf = self._stacks.psf if wide else self._stacks.psf.reshape(-1, ny, nx)
        gridder.psf(placed, np.arange(len(planes)), scale, slots if wide else 4 * slots, psf)

    def beams(self, planes: Sequence[CudaPlane]) -> list[tuple[Beam, float]]:
        """Beam fitted to each PSF, on the host from its centre alone, and its largest sidelobe, on the device."""
        if not planes:
            return []
        beams = self._fit_beams(planes)
        xp, g = self._backend.xp, self.settings.geometry
        ellipses = xp.asarray(np.array([lobe_ellipse(beam, g.cell_x, g.cell_y) for beam in beams]))
        largest = xp.zeros(len(planes), np.uint32)
        blocks = max(1, min(64, -(-g.nx * g.ny // 4096)))
        for wide in (False, True):
            some = [k for k, p in enumerate(planes) if p.wide == wide]
            if not some:
                continue
            slots, scale = self._slots([planes[k] for k in some]), 2 if wide else 1
            psf = (self._stacks.psf, slots) if wide else (self._stacks.psf, 4 * slots)
            found = xp.zeros(len(some), np.uint32)
            self._kernels.launch(
                *("beam.sidelobe", (blocks, len(some)), (256,), *psf, scale * g.ny, scale * g.nx, g.ny, g.nx),
                *(ellipses[xp.asarray(some)], g.cell_x, g.cell_y, found),
            )
            largest[xp.asarray(some)] = found
        sidelobes = self._backend.download(largest).view(np.float32)
        return [(beam, float(sidelobe)) for beam, sidelobe in zip(beams, sidelobes, strict=True)]

    def _fit_beams(self, planes: Sequence[CudaPlane]) -> list[Beam]:
        """From windows that grow until they hold the main lobe."""
        xp, g = self._backend.xp, self.settings.geometry
        beams: list[Beam | None] = [None] * len(planes)
        half = FIRST_WINDOW
        while missing := [k for k, beam in enumerate(beams) if beam is None]:
            rows, columns = peak_window(g.shape, half)
            windows = xp.stack([self.resident(planes[k], "psf")[rows, columns] for k in missing])
            for k, window in zip(missing, self._backend.download(windows), strict=True):
                beams[k] = fit_beam_in_window(window, g.shape, g.cell_x, g.cell_y)
            half *= 2
        return beams

    def measure(self, planes: Sequence[CudaPlane]) -> list[tuple[float, float]]:
        """Peak inside the mask, and noise of the whole residual: exact order statistics by radix select."""
        if not planes:
            return []
        xp, launch, stacks, count = self._backend.xp, self._kernels.launch, self._stacks, len(planes)
        slots, pixels = self._slots(planes), self.settings.geometry.nx * self.settings.geometry.ny
        blocks = (max(1, min(64, -(-pixels // 4096))), count)
        key = xp.zeros(count, np.uint64)
        launch("statistics.peak", blocks, (256,), stacks.residual, slots, stacks.masks, stacks.mask_of, pixels, key)
        counts, prefix = xp.zeros((count, 2048), np.uint32), xp.zeros(count, np.uint32)
        rank = xp.full(count, (pixels - 1) // 2, np.uint32)
        median, noise = xp.zeros(count, np.float32), xp.zeros(count)
        for stage in range(6):
            launch(
                "statistics.histogram", blocks, (512,), stacks.residual, slots, pixels, stage, prefix, median, counts
            )
            launch("statistics.choose", (count,), (256,), pixels, stage, counts, prefix, rank, median, noise)
        keys, noises = self._backend.download(key), self._backend.download(noise)
        peaks = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
        return [(float(p) if k else -1.0, float(n)) for k, p, n in zip(keys, peaks, noises, strict=True)]

    def minor(self, planes: Sequence[CudaPlane], cycles: Sequence[MinorCycle]) -> list[int]:
        """Högbom on all planes together."""
        if not planes:
            return []
        stacks = self._stacks
        images = Images(stacks.residual, stacks.psf, stacks.model, stacks.masks, stacks.mask_of)
        clean = active_set if self.settings.minorcycle == "activeset" else textbook
        return clean(self._backend, self._kernels, images, self._slots(planes), cycles)

    def major(self, planes: Sequence[CudaPlane]) -> None:
        """Exact residual of each plane's model."""
        stacks = self._stacks
        in_image = [p for p in planes if p.in_image]
        if in_image:
            dense = self._subtract_sparse(in_image)
            with self._substage("fft"):
                slots = self._slots(dense)
                self._convolver.residual(stacks.dirty, stacks.model, stacks.spectrum, slots, stacks.residual)
        through = [p for p in planes if not p.in_image]
        for placed in {id(p.placed): p.placed for p in through}.values():
            together = [p for p in through if p.placed is placed]
            scale = self._backend.xp.asarray(np.array([1.0 / p.sum_weights for p in together]))
            numbers = np.array([p.number for p in together])
            self._gridders.image.residual(placed, numbers, scale, self._slots(together), stacks.model, stacks.residual)
        slots = self._slots(planes)
        stacks.subtracted[slots] = stacks.model[slots]
        self._backend.synchronise()

    def _subtract_sparse(self, planes: Sequence[CudaPlane]) -> list[CudaPlane]:
        """Subtract models that changed in few pixels component by component; returns the planes that need FFTs."""
        if self.settings.minorcycle != "activeset":
            return list(planes)
        xp, launch, stacks, count = self._backend.xp, self._kernels.launch, self._stacks, len(planes)
        ny, nx = self.settings.geometry.shape
        slots, room = self._slots(planes), SPARSE_COMPONENTS - 1
        where, flux = xp.zeros((count, room), np.int32), xp.zeros((count, room), np.float32)
        changed = xp.zeros(count, np.int32)
        lists = (where, flux, changed)
        launch(
            *("components.changed_pixels", (count,), (1024,), stacks.model, stacks.subtracted, slots, ny * nx, room),
            *lists,
        )
        blocks = max(1, min(512, -(-ny * nx // 1024)))
        launch(
            *("components.subtract_components", (blocks, count), (256,), stacks.residual, stacks.psf, slots),
            *(ny, nx, room, *lists),
        )
        counts = self._backend.download(changed)
        return [p for p, n in zip(planes, counts, strict=True) if n > room]

    def keep_model(self, planes: Sequence[CudaPlane]) -> None:
        """Remember model and residual."""
        slots, stacks = self._slots(planes), self._stacks
        if planes:
            stacks.best_model[slots] = stacks.model[slots]
            stacks.best_residual[slots] = stacks.residual[slots]

    def roll_back(self, planes: Sequence[CudaPlane]) -> None:
        """Return to what was remembered."""
        slots, stacks = self._slots(planes), self._stacks
        if planes:
            stacks.model[slots] = stacks.subtracted[slots] = stacks.best_model[slots]
            stacks.residual[slots] = stacks.best_residual[slots]

    def resident(self, plane: CudaPlane, product: Product) -> Any:
        """The plane's part of the stack; of a PSF the part of the image's size."""
        if product != "psf":
            return getattr(self._stacks, product)[plane.slot]
        ny, nx = self.settings.geometry.shape
        if plane.wide:
            return self._stacks.psf[plane.slot, ny - ny // 2 : 2 * ny - ny // 2, nx - nx // 2 : 2 * nx - nx // 2]
        return self._stacks.psf.reshape(-1, ny, nx)[4 * plane.slot]

    def fetch(self, plane: CudaPlane, product: Product) -> np.ndarray:
        """Copy to the host."""
        return self._backend.download(self.resident(plane, product))

    def restore(self, model: Any, residual: Any, beam: Beam, smooth: Beam | None, scale: float) -> np.ndarray:
        """Restored image; components are added one by one however many there are."""
        xp, g = self._backend.xp, self.settings.geometry
        residual = xp.asarray(residual, np.float32)
        if smooth is None:
            image = residual.copy()
        else:
            image = self._convolver.convolve(residual, smooth.spectrum(g, xp))
            image *= np.float32(scale)
        table = beam.sampled(g)
        half_y, half_x = table.shape[0] // 2, table.shape[1] // 2
        only = xp.zeros(1, np.int32)
        halves = (xp.asarray(np.array([half_y], np.int32)), xp.asarray(np.array([half_x], np.int32)))
        grid = (-(-g.nx // 32), -(-g.ny // 32), 1)
        self._kernels.launch(
            *("restore.add_gaussians", grid, (32, 8), image, xp.asarray(model, np.float32), only, g.ny, g.nx),
            *(xp.asarray(table), xp.zeros(1, np.int64), *halves),
        )
        return self._backend.download(image)
