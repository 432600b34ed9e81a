"""The CUDA device: many planes at once, everything from imaging weights to restored images by the kernels in `kernels/`.

In: samples of planes, as they lie in the store: one upload for all planes that are begun together. Out: planes that hold
dirty image, PSF, residual and model in slots of stacks on the device.

Algorithms: those of the CPU device, step by step (docs/cuda.md, docs/cuda-gridding.md). Results of a plane do not depend on the
batch: sums have a fixed order, and FFTs are always done in groups of the same size. Written against
`gpucube.devices.cuda.backend.Backend`; nothing here knows whether it is a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import DeviceArray, ImagingSettings, MinorCycle, Product
from gpucube.devices.cuda.backend import Backend, Kernels
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.gridder import PlacedSamples, SampleBatch, Target, TileGridder
from gpucube.devices.cuda.memory import DeviceMemory
from gpucube.devices.cuda.minor_cycle import LISTED, UNLISTED, Changes, Images, active_set, textbook
from gpucube.devices.psf_fit import FIRST_WINDOW, fit_beam_in_window, lobe_ellipse, peak_window
from gpucube.errors import DeviceLost
from gpucube.sky.beam import Beam, taper_form

PIXELS_A_BLOCK = 4096
"""Of passes over whole images: at least so many for each block. A plane has at most two blocks for each multiprocessor."""

CELLS_A_PART = 1 << 16
"""Cells of a plane's density that one block sums, up to 64 blocks: the same for each GPU, since it decides the order of sums."""

COUNTING_WORDS = 2048 + 6
"""What `kernels/statistics.cu` needs to measure a plane: 32-bit words that are zero before and after."""


@dataclass(kw_only=True)
class CudaPlane:
    """One plane: its slot, and the samples of all planes that were begun together, as long as they are needed."""

    slot: int
    number: int  # among the planes that were begun together
    sum_weights: float
    visibilities: int
    begun: SampleBatch | None  # with imaging weights but without visibilities, until the PSF is made
    placed: PlacedSamples | None  # in the order of tiles, for major cycles through the visibilities
    wide: bool = False  # whether the PSF is of twice the image's size
    changed: int = 0  # pixels of the model that have changed since the residual was made


class _Stacks:
    """What all slots hold. A narrow PSF lies in the first quarter of its slot's wide one."""

    def __init__(self, backend: Backend, slots: int, ny: int, nx: int, spectra: bool):
        xp = backend.xp
        self.slots = slots

        def images() -> DeviceArray:
            return xp.zeros((slots, ny, nx), np.float32)  # type: ignore[no-any-return]  # numpy or cupy

        self.dirty, self.residual, self.model = (images() for _ in range(3))
        self.best_model, self.best_residual = images(), images()
        self.psf: DeviceArray = xp.zeros((slots, 2 * ny, 2 * nx), np.float32)
        self.narrow_psf: DeviceArray = xp.reshape(self.psf, (4 * slots, ny, nx))  # slot s has its own at 4 s
        self.spectrum: DeviceArray = xp.zeros((slots if spectra else 0, 2 * ny, nx + 1), np.float32)
        self.masks: DeviceArray = xp.zeros((slots, ny, nx), np.uint8)
        self.mask_of: DeviceArray = xp.full(slots, -1, np.int32)  # a slot's mask lies in the same slot; -1: no mask
        self.counting: DeviceArray = xp.zeros((slots, COUNTING_WORDS), np.uint32)  # see kernels/statistics.cu
        where, change = xp.empty((slots, LISTED), np.int32), xp.empty((slots, LISTED), np.float32)
        self.changes = Changes(where, change, xp.empty(slots, np.int32))


class CudaDevice:
    """See `gpucube.devices.base.Device`."""

    name = "cuda"

    def __init__(self, settings: ImagingSettings, backend: Backend):
        geometry, memory = settings.geometry, DeviceMemory(settings, backend.fft_memory)
        self.settings, self._backend, self.out_of_memory = settings, backend, backend.out_of_memory
        self.batch = memory.planes_that_fit(backend.memory)
        self._in_image, grids = memory.in_image, memory.grids
        self._narrow, self._wide = TileGridder(backend, grids.narrow), TileGridder(backend, grids.wide)
        self._gridder = self._narrow if grids.image is grids.narrow else TileGridder(backend, grids.image)
        self._convolver = Convolver(backend, geometry.nx, geometry.ny)
        stems = ("weights", "statistics", "beam", "hogbom", "components", "restore")
        self._kernels = Kernels(backend, dict.fromkeys(stems, ()))
        self.substage_seconds: dict[str, float] = {}
        self._make_stacks(0)

    def _make_stacks(self, slots: int) -> None:
        self._stacks = _Stacks(self._backend, slots, *self.settings.geometry.shape, self._in_image)
        self._free = list(range(slots))[::-1]

    @contextmanager
    def _substage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._backend.synchronise()
        self.substage_seconds[name] = self.substage_seconds.get(name, 0.0) + time.perf_counter() - begin

    def _slots(self, planes: Iterable[CudaPlane]) -> DeviceArray:
        slots: DeviceArray = self._backend.xp.asarray(np.array([p.slot for p in planes], np.int32))
        return slots

    def _blocks(self, planes: int) -> tuple[int, int]:
        """Grid of a pass over whole images."""
        pixels = self.settings.geometry.nx * self.settings.geometry.ny
        return max(1, min(2 * self._backend.processors, -(-pixels // PIXELS_A_BLOCK))), planes

    def _reserve(self, planes: int) -> None:
        """Make room for so many more planes."""
        if len(self._free) >= planes:
            return
        if len(self._free) < self._stacks.slots:
            raise ValueError(f"{planes} planes are begun where {len(self._free)} have room")
        del self._stacks  # its memory must be free before the new ones take theirs
        self._make_stacks(planes)

    def release(self, planes: Sequence[CudaPlane]) -> None:
        for p in planes:
            p.begun = p.placed = None
            self._free.append(p.slot)

    def reset(self) -> None:
        try:
            self._make_stacks(0)
            self._backend.synchronise()
        except Exception as error:  # an error of a kernel stays with the process
            raise DeviceLost(f"the GPU stopped working: {' '.join(str(error).split())}") from None
        self._backend.free()

    def shrink(self) -> bool:
        self.batch, could = max(1, self.batch // 2), self.batch > 1
        return could

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[CudaPlane]:
        xp, backend = self._backend.xp, self._backend
        self._reserve(len(samples))
        stacks, slots = self._stacks, [self._free.pop() for _ in samples]
        on_device = xp.asarray(np.array(slots, np.int32))
        with self._substage("upload"):
            self._put_masks(slots, masks)
            uploaded = self._upload(samples)
        with self._substage("weights"):
            weight, total, inside = self._weigh(uploaded)
            sum_weights, visibilities = backend.download(total), backend.download(inside)
        # visibilities are needed no longer than they are gridded
        begun = replace(uploaded, weight=weight, vis=xp.zeros(0, np.complex64))
        placed = self._gridder.place(replace(uploaded, weight=weight))
        del uploaded
        scale = xp.asarray(np.array([1.0 / s if s > 0 else 0.0 for s in sum_weights]))
        self._gridder.image(
            placed, Target(planes=np.arange(len(samples)), scale=scale, slot=on_device, images=stacks.dirty)
        )
        stacks.residual[on_device] = stacks.dirty[on_device]
        stacks.model[on_device] = 0
        backend.synchronise()
        return [
            CudaPlane(
                slot=slot,
                number=k,
                sum_weights=float(sum_weights[k]),
                visibilities=int(visibilities[k]) if sum_weights[k] > 0 else 0,
                begun=begun,
                placed=None if self._in_image else placed,
            )
            for k, slot in enumerate(slots)
        ]

    def _upload(self, samples: Sequence[Samples | None]) -> SampleBatch:
        """Upload samples one plane after another, rows that planes share once, in the order of the visibilities."""
        xp, upload = self._backend.xp, self._backend.upload
        present = [s for s in samples if s is not None]
        row_of: dict[object, int] = {}
        uvw, order, first_row, rows = [], [], np.zeros(len(samples), np.int64), 0
        for k, s in enumerate(samples):
            if s is None:
                continue
            if (name := s.rows or k) not in row_of:
                row_of[name] = rows
                uvw.append(s.uvw)
                order.append((np.arange(len(s.uvw)) if s.order is None else s.order) + rows)
                rows += len(s.uvw)
            first_row[k] = row_of[name]
        in_order = xp.empty((rows, 3), np.float64)
        in_order[upload(order, np.int64)] = xp.reshape(upload([a.reshape(-1) for a in uvw], np.float64), (-1, 3))
        counts = [0 if s is None else len(s.weight) for s in samples]
        return SampleBatch(
            uvw=in_order,
            vis=upload([s.vis for s in present], np.complex64),
            weight=upload([s.weight for s in present], np.float32),
            first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            first_row=first_row,
            per_metre=np.array([1.0 if s is None else s.frequency / LIGHT_SPEED for s in samples]),
        )

    def _weigh(self, samples: SampleBatch) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """Compute imaging weights as `gpucube.devices.cpu.device.imaging_weights` does.

        Returns the weights (nsample,) float32, and of each plane (nplane,) their sum, float64, and the number of samples
        that have any, int32.
        """
        xp, s, planes, count = self._backend.xp, self.settings, len(samples.per_metre), len(samples.weight)
        g, launch = s.geometry, self._kernels.launch
        half_u, half_v = g.nx // 2, g.ny // 2
        grid, block = (max(1, min(256, -(-samples.most_samples() // 1024))), planes), (256,)
        first, first_row, per_metre = (xp.asarray(a) for a in (samples.first, samples.first_row, samples.per_metre))

        cell, lookup = xp.empty(count, np.int32), xp.empty(count, np.int32)
        inside, largest = xp.zeros(planes, np.int32), xp.zeros(planes, np.uint32)
        given, uv_cells = (samples.uvw, samples.weight, first, first_row, per_metre), (g.nx * g.cell_x, g.ny * g.cell_y)
        launch("weights.uv_cells", grid, block, *given, *uv_cells, half_u, half_v, cell, lookup, inside, largest)

        cells, origin = (half_v + 1) * (2 * half_u + 1), half_u
        parts, density, robust = max(1, min(64, cells // CELLS_A_PART)), xp.zeros((0, cells), np.uint64), -1.0
        sums = xp.empty((planes, parts, 2), np.float64)
        if s.weighting != "natural":
            density = xp.zeros((planes, cells), np.uint64)  # on the half plane v >= 0
            launch("weights.sum_density", grid, block, cell, samples.weight, first, inside, largest, cells, density)
            robust = 0.0 if s.weighting == "uniform" else (5.0 * 10.0**-s.robust) ** 2
            launch("weights.sum_cells", (parts, planes), (1024,), inside, largest, cells, origin, density, sums)

        taper = xp.asarray(taper_form(s.taper) * samples.per_metre[:, None] ** 2)  # (nplane, 3)
        weight, total = xp.empty(count, np.float32), xp.zeros(planes)
        found = (samples.uvw, lookup, samples.weight, first, first_row, inside, largest)
        launch("weights.weigh", grid, block, *found, cells, density, robust, sums, parts, taper, weight)
        launch("weights.sum_weights", (planes,), (1024,), weight, first, total)
        return weight, total, inside

    def set_masks(self, planes: Sequence[CudaPlane], masks: Sequence[np.ndarray]) -> None:
        self._put_masks([p.slot for p in planes], masks)

    def _put_masks(self, slots: Sequence[int], masks: Sequence[np.ndarray | None]) -> None:
        xp, stacks = self._backend.xp, self._stacks
        for slot, mask in zip(slots, masks, strict=True):
            if mask is not None:
                stacks.masks[slot] = xp.asarray(np.ascontiguousarray(mask).view(np.uint8))
        mask_of = [-1 if mask is None else slot for slot, mask in zip(slots, masks, strict=True)]
        stacks.mask_of[xp.asarray(np.array(slots, np.int32))] = xp.asarray(np.array(mask_of, np.int32))

    def make_psf(self, planes: Sequence[CudaPlane], wide: bool) -> None:
        # the PSF is that of the phase centre, with w neglected
        gridder = self._wide if wide else self._narrow
        todo = [p for p in planes if p.sum_weights > 0 and p.begun is not None]
        for begun in {id(p.begun): p.begun for p in todo if p.begun is not None}.values():
            together = [p for p in todo if p.begun is begun]
            for start in range(0, len(together), gridder.grid.group):
                self._make_psf(gridder, begun, together[start : start + gridder.grid.group], wide)
        for p in todo:
            p.begun, p.wide = None, wide
        if wide and todo and self._in_image:
            with self._substage("fft"):
                self._convolver.spectrum(self._stacks.psf, self._slots(todo), self._stacks.spectrum)
        self._backend.synchronise()

    def _make_psf(self, gridder: TileGridder, begun: SampleBatch, planes: Sequence[CudaPlane], wide: bool) -> None:
        """Make the PSFs of one group of planes that were begun together."""
        xp, numbers = self._backend.xp, [p.number for p in planes]
        runs = [slice(int(begun.first[k]), int(begun.first[k + 1])) for k in numbers]
        weight = xp.concatenate([begun.weight[run] for run in runs])
        some = SampleBatch(
            uvw=begun.uvw,
            vis=xp.zeros(len(weight), np.complex64),  # not looked at: all visibilities are taken to be 1
            weight=weight,
            first=np.concatenate([[0], np.cumsum([run.stop - run.start for run in runs])]).astype(np.int64),
            first_row=begun.first_row[numbers],
            per_metre=begun.per_metre[numbers],
        )
        scale, slots = xp.asarray(np.array([1.0 / p.sum_weights for p in planes])), self._slots(planes)
        psf, where = self._psf_places(slots, wide)
        gridder.psf(gridder.place(some), Target(planes=np.arange(len(planes)), scale=scale, slot=where, images=psf))

    def _psf_places(self, slots: DeviceArray, wide: bool) -> tuple[DeviceArray, DeviceArray]:
        """Find the stack that holds the PSFs of some slots, and their places in it."""
        return (self._stacks.psf, slots) if wide else (self._stacks.narrow_psf, self._backend.xp.multiply(slots, 4))

    def beams(self, planes: Sequence[CudaPlane]) -> list[tuple[Beam, float]]:
        """Fit a beam to each PSF, on the host from its centre alone, and find its largest sidelobe, on the device."""
        if not planes:
            return []
        beams = self._fit_beams(planes)
        xp, g = self._backend.xp, self.settings.geometry
        ellipses = xp.asarray(np.array([lobe_ellipse(beam, g.cell_x, g.cell_y) for beam in beams]))  # (nplane, 6)
        largest = xp.zeros(len(planes), np.uint32)
        for wide in {p.wide for p in planes}:
            some = [k for k, p in enumerate(planes) if p.wide == wide]
            psf = self._psf_places(self._slots([planes[k] for k in some]), wide)
            found, which = xp.zeros(len(some), np.uint32), xp.asarray(some)
            scale, lobes = 2 if wide else 1, (ellipses[which], g.cell_x, g.cell_y)
            sizes = (scale * g.ny, scale * g.nx, g.ny, g.nx)
            self._kernels.launch("beam.sidelobe", self._blocks(len(some)), (256,), *psf, *sizes, *lobes, found)
            largest[which] = found
        sidelobes = self._backend.download(largest).view(np.float32)
        return [(beam, float(sidelobe)) for beam, sidelobe in zip(beams, sidelobes, strict=True)]

    def _fit_beams(self, planes: Sequence[CudaPlane]) -> list[Beam]:
        """Fit beams in windows that grow until they contain the main lobe."""
        xp, g = self._backend.xp, self.settings.geometry
        beams: dict[int, Beam] = {}
        half = FIRST_WINDOW
        while missing := [k for k in range(len(planes)) if k not in beams]:
            window = peak_window(g.shape, half)
            windows = xp.stack([self.resident(planes[k], "psf")[window] for k in missing])
            for k, level in zip(missing, self._backend.download(windows), strict=True):
                if (beam := fit_beam_in_window(level, g.shape, g.cell_x, g.cell_y)) is not None:
                    beams[k] = beam
            half *= 2
        return [beams[k] for k in range(len(planes))]

    def measure(self, planes: Sequence[CudaPlane]) -> list[tuple[float, float]]:
        """Measure the peak inside the mask, and the noise of the whole residual: exact order statistics by radix select."""
        if not planes:
            return []
        stacks, pixels = self._stacks, self.settings.geometry.nx * self.settings.geometry.ny
        images = (stacks.residual, self._slots(planes), stacks.masks, stacks.mask_of, pixels)
        out = self._backend.xp.empty((len(planes), 2), np.uint64)
        for stage in range(6):
            arguments = (*images, stage, stacks.counting, out)
            self._kernels.launch("statistics.measure", self._blocks(len(planes)), (512,), *arguments)
        found = self._backend.download(out)
        keys, noises = found[:, 0], found.view(np.float64)[:, 1]
        peaks = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
        return [(float(p) if k else -1.0, float(n)) for k, p, n in zip(keys, peaks, noises, strict=True)]

    def minor(self, planes: Sequence[CudaPlane], cycles: Sequence[MinorCycle]) -> list[int]:
        if not planes:
            return []
        s, slots = self._stacks, self._slots(planes)
        images = Images(s.residual, s.psf, s.model, s.masks, s.mask_of)
        if self.settings.minorcycle == "activeset":
            iterations, changed = active_set(self._backend, self._kernels, images, s.changes, slots, cycles)
        else:
            iterations, changed = textbook(self._backend, self._kernels, images, slots, cycles)
        for p, n in zip(planes, changed, strict=True):
            p.changed = n if p.changed == 0 else UNLISTED
        return iterations

    def major(self, planes: Sequence[CudaPlane]) -> None:
        if self._in_image:
            self._in_the_image(planes)
        elif planes:
            self._through_visibilities(planes)
        for p in planes:
            p.changed = 0
        self._backend.synchronise()

    def _in_the_image(self, planes: Sequence[CudaPlane]) -> None:
        """Convolve models with PSFs. Where a model changed in few pixels, subtract them one by one."""
        stacks, (ny, nx) = self._stacks, self.settings.geometry.shape
        few = [p for p in planes if 0 < p.changed <= LISTED]
        many = [p for p in planes if p.changed > LISTED]
        if few:
            grid = (max(1, min(512, -(-ny * nx // 1024))), len(few))
            images = (stacks.residual, stacks.psf, self._slots(few), ny, nx, LISTED)
            self._kernels.launch("components.subtract_components", grid, (256,), *images, *stacks.changes)
        if many:
            with self._substage("fft"):
                self._convolver.residual(
                    stacks.dirty, stacks.model, stacks.spectrum, self._slots(many), stacks.residual
                )

    def _through_visibilities(self, planes: Sequence[CudaPlane]) -> None:
        """Degrid, subtract and grid; planes that were begun together in one go."""
        stacks = self._stacks
        for placed in {id(p.placed): p.placed for p in planes if p.placed is not None}.values():
            together = [p for p in planes if p.placed is placed]
            numbers = np.array([p.number for p in together])
            scale = self._backend.xp.asarray(np.array([1.0 / p.sum_weights for p in together]))
            to = Target(planes=numbers, scale=scale, slot=self._slots(together), images=stacks.residual)
            self._gridder.residual(placed, stacks.model, to)

    def set_model(self, planes: Sequence[CudaPlane], models: Sequence[np.ndarray]) -> None:
        for p, model in zip(planes, models, strict=True):
            self._stacks.model[p.slot] = self._backend.xp.asarray(np.ascontiguousarray(model, np.float32))
            p.changed = model.size  # so that the major cycle takes the whole model

    def keep_model(self, planes: Sequence[CudaPlane]) -> None:
        slots, stacks = self._slots(planes), self._stacks
        if planes:
            stacks.best_model[slots] = stacks.model[slots]
            stacks.best_residual[slots] = stacks.residual[slots]

    def roll_back(self, planes: Sequence[CudaPlane]) -> None:
        slots, stacks = self._slots(planes), self._stacks
        if planes:
            stacks.model[slots] = stacks.best_model[slots]
            stacks.residual[slots] = stacks.best_residual[slots]
        for p in planes:
            p.changed = 0

    def resident(self, plane: CudaPlane, product: Product) -> DeviceArray:
        stacks, (ny, nx) = self._stacks, self.settings.geometry.shape
        image: DeviceArray
        if product != "psf":
            image = {"dirty": stacks.dirty, "residual": stacks.residual, "model": stacks.model}[product][plane.slot]
        elif plane.wide:
            top, left = ny - ny // 2, nx - nx // 2
            image = stacks.psf[plane.slot, top : top + ny, left : left + nx]
        else:
            image = stacks.narrow_psf[4 * plane.slot]
        return image

    def fetch(self, plane: CudaPlane, product: Product) -> np.ndarray:
        return self._backend.download(self.resident(plane, product))

    def restore(
        self,
        model: np.ndarray | DeviceArray,
        residual: np.ndarray | DeviceArray,
        beam: Beam,
        smooth: Beam | None,
        scale: float,
    ) -> np.ndarray:
        """Restore an image; components are added one by one however many there are."""
        xp, g = self._backend.xp, self.settings.geometry
        image = xp.array(residual, np.float32)
        if smooth is not None:
            image = xp.multiply(self._convolver.convolve(image, smooth.spectrum(g, xp)), np.float32(scale))
        table = beam.sampled(g)  # (2 half_y + 1, 2 half_x + 1)
        half_y, half_x = (xp.asarray(np.array([side // 2], np.int32)) for side in table.shape)
        only, grid, block = xp.zeros(1, np.int32), (-(-g.nx // 32), -(-g.ny // 32), 1), (32, 8)
        gaussian = (xp.asarray(table), xp.zeros(1, np.int64), half_y, half_x)
        components = (xp.asarray(model, np.float32), only, g.ny, g.nx)
        self._kernels.launch("restore.add_gaussians", grid, block, image, *components, *gaussian)
        return self._backend.download(image)
