"""The CUDA device: many planes at once, everything from imaging weights to restored images by the kernels in `kernels/`.

In: samples of planes, as they lie in the store: one upload for all planes that are begun together. Out: planes that hold
dirty image, PSF, residual and model in slots of stacks on the device.

Algorithms: those of the CPU device, step by step (docs/cuda.md, docs/cuda-gridding.md). Results of a plane do not depend on the
batch: sums have a fixed order, and FFTs are always done in batches of the same size. Each step is a few calls whatever the
number of planes (`python -m gpucube.bench meter` counts them), and the host waits for the device only where it needs an
answer. Written against `gpucube.devices.cuda.backend.Backend`; nothing here knows whether it is a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import DeviceArray, Finished, ImagingSettings, MinorCycle, Product, Restoring
from gpucube.devices.cuda.backend import Backend, Kernels, Spec, Workspace, allocated, block_bytes, divided, packed
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.gridder import PlacedSamples, SampleBatch, Target, TileGridder
from gpucube.devices.cuda.memory import DeviceMemory, stack_specs, weighing_specs
from gpucube.devices.cuda.minor_cycle import LISTED, UNLISTED, Changes, Images, active_set, orders_of, textbook
from gpucube.devices.cuda.multiscale import Multiscale, ScaleStacks
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT
from gpucube.devices.psf_fit import FIRST_WINDOW, fit_beams, lobe_ellipse, peak_window
from gpucube.errors import DeviceLost
from gpucube.sky.beam import FOUR_LN2, Beam, taper_form

_INT = np.dtype(np.int32)

PIXELS_A_BLOCK = 4096
"""Of passes over whole images: at least so many pixels for each block."""

CELLS_A_PART = 1 << 16
"""Cells of a plane's density that one block sums, up to 64 blocks: the same for each GPU, since it decides the order of sums."""


@dataclass(kw_only=True)
class _Begun:
    """What planes that were begun together share, as long as any of them needs it."""

    placed: PlacedSamples  # in the order of tiles, for the image
    samples: SampleBatch | None  # with imaging weights but without visibilities; with w, for the PSF
    of_psf: PlacedSamples | None  # without w the same as `placed`


@dataclass(slots=True, kw_only=True)
class CudaPlane:
    """One plane: its slot, and the samples of all planes that were begun together, as long as they are needed."""

    slot: int
    number: int  # among the planes that were begun together
    sum_weights: float
    visibilities: int
    begun: _Begun | None  # until the PSF is made; longer if major cycles go through the visibilities
    wide: bool = False  # whether the PSF is of twice the image's size
    changed: int = 0  # pixels of the model that have changed since the residual was made
    crossed: bool = False  # whether its PSF is convolved with every pair of scales
    improved: bool = False  # whether model and residual are to be remembered before the next minor cycle


class Stacks:
    """What all slots hold, and the workspace. A narrow PSF lies in the first quarter of its slot's wide one."""

    def __init__(self, backend: Backend, slots: int, ny: int, nx: int, spectra: bool, scales: int, work: int):
        specs = stack_specs(slots, ny, nx, spectra, scales)
        held = block_bytes(specs)
        block = backend.xp.zeros(max(1, held + work), np.uint8)
        self.slots, self.work = slots, backend.view(block, held, (work,), np.dtype(np.uint8))
        self.dirty, self.residual, self.model, self.best_model, self.best_residual, *others = divided(
            backend, block, specs
        )
        self.psf, self.spectrum, self.masks, self.mask_of, self.counting, *changes, cross, allowed = others
        self.changes, self.scales = Changes(*changes), ScaleStacks(self.spectrum, cross, allowed)
        self.mask_of[:] = -1
        # slot s has its narrow PSF at 4 s; where a slot has a mask, it lies in the same slot
        self.narrow_psf = backend.view(self.psf, 0, (4 * slots, ny, nx), np.dtype(np.float32))


class CudaDevice:
    """See `gpucube.devices.base.Device`."""

    name = "cuda"

    def __init__(self, settings: ImagingSettings, backend: Backend):
        geometry, memory = settings.geometry, DeviceMemory(settings, backend.fft_memory, backend.memory)
        self.settings, self._backend, self.out_of_memory = settings, backend, backend.out_of_memory
        self.batch, self._memory = memory.planes_that_fit(), memory
        self._in_image, grids = memory.in_image, memory.grids
        self._work = Workspace(backend, 0)
        self._psfs = TileGridder(backend, self._work, grids.narrow, grids.wide)
        self._gridder = self._psfs if grids.image is grids.narrow else TileGridder(backend, self._work, grids.image)
        self._convolver = Convolver(backend, self._work, geometry.nx, geometry.ny)
        stems = ("weights", "statistics", "beam", "hogbom", "components", "restore", "planes")
        self._kernels = Kernels(backend, dict.fromkeys(stems, ()))
        self._multiscale: Multiscale | None = None
        if settings.scales:
            cut = ACTIVE_SET_CUT if settings.minorcycle == "activeset" else -1.0
            given = (self._convolver, geometry.shape, settings.scales, settings.smallscalebias, cut)
            self._multiscale = Multiscale(backend, self._work, *given)
        self.substage_seconds: dict[str, float] = {}
        self._make_stacks(0)

    def _make_stacks(self, slots: int) -> None:
        work = self._memory.work(slots) if slots else 0
        form = (*self.settings.geometry.shape, self._memory.spectra, len(self.settings.scales))
        self._stacks = Stacks(self._backend, slots, *form, work)
        self._work.use(self._stacks.work)
        self._free = list(range(slots))[::-1]
        self._masked: set[int] = set()  # slots that have a mask
        self._remasked: set[int] = set()  # and that have not been cleaned with it
        self._slots: tuple[list[int], DeviceArray | None] = ([], None)  # those uploaded last

    @contextmanager
    def _substage(self, name: str) -> Iterator[None]:
        """Charge what the host does meanwhile; what the device does is charged where the host waits for it."""
        begin = time.perf_counter()
        yield
        self.substage_seconds[name] = self.substage_seconds.get(name, 0.0) + time.perf_counter() - begin

    def _slots_of(self, planes: Sequence[CudaPlane]) -> DeviceArray:
        """Slots of planes on the device, (n,) int32; uploaded if they are not those of the last call."""
        slots = [p.slot for p in planes]
        if self._slots[1] is None or self._slots[0] != slots:
            self._slots = slots, packed(self._backend, np.array(slots, _INT))[0]
        there = self._slots[1]
        assert there is not None
        return there

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
        if self._stacks.slots:
            self._make_stacks(0)  # their memory must be free before the new ones take theirs
        self._make_stacks(planes)

    def release(self, planes: Sequence[CudaPlane]) -> None:
        for p in planes:
            p.begun = None
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
        self._reserve(len(samples))
        stacks, work, planes = self._stacks, self._work, len(samples)
        slots = [self._free.pop() for _ in samples]
        work.start()
        found: list[Spec] = [((planes,), float), ((planes,), _INT), ((planes, self._gridder.grid.layers), _INT)]
        with self._substage("upload"):
            self._put_masks(slots, masks)
            uploaded, weight, taper = self._upload(samples)
        with self._substage("weights"):
            answers = self._weigh(uploaded, taper, found, weight)
        items = divided(self._backend, answers, found)[2]
        weighed = SampleBatch(**(vars(uploaded) | {"weight": weight}))
        placed = self._gridder.place(weighed, planes, items)
        kept = SampleBatch(**(vars(weighed) | {"vis": None})) if self.settings.w_term else None
        del uploaded, weighed, weight
        host = self._backend.download(answers)
        sum_weights, visibilities, placed.items = _parts(host, found)
        with np.errstate(divide="ignore"):
            scale = np.where(sum_weights > 0, 1.0 / sum_weights, 0.0)
        to = Target(
            planes=np.arange(planes),
            scale=scale,
            slot=np.array(slots),
            images=stacks.dirty,
            copy=stacks.residual,
            cleared=stacks.model,
        )
        self._gridder.image(placed, to)
        begun = _Begun(placed=placed, samples=kept, of_psf=None if self.settings.w_term else placed)
        of_planes = zip(slots, sum_weights.tolist(), visibilities.tolist(), strict=True)
        return [
            CudaPlane(
                slot=slot,
                number=k,
                sum_weights=weight_of_plane,
                visibilities=inside if weight_of_plane > 0 else 0,
                begun=begun,
            )
            for k, (slot, weight_of_plane, inside) in enumerate(of_planes)
        ]

    def _put_masks(self, slots: Sequence[int], masks: Sequence[np.ndarray | None]) -> None:
        """Give slots their masks; nothing is done where none has one and none had."""
        if all(m is None for m in masks) and self._masked.isdisjoint(slots):
            return
        different = {id(m): m for m in masks if m is not None}
        numbers = {name: k for k, name in enumerate(different)}
        which = np.array([-1 if m is None else numbers[id(m)] for m in masks], np.int32)
        given = self._backend.upload([np.ascontiguousarray(m).view(np.uint8) for m in different.values()], np.uint8)
        there, pixels = packed(self._backend, which, np.array(slots, np.int32)), math.prod(self.settings.geometry.shape)
        put = (self._stacks.masks, self._stacks.mask_of)
        self._kernels.launch("planes.put_masks", self._blocks(len(slots)), (256,), given, *there, pixels, *put)
        self._masked.difference_update(slots)
        self._masked.update(slot for slot, m in zip(slots, masks, strict=True) if m is not None)
        self._remasked = self._remasked.union(slots) & self._masked

    def _upload(self, samples: Sequence[Samples | None]) -> tuple[SampleBatch, DeviceArray, DeviceArray]:
        """Upload samples one plane after another, rows that planes share once, in the order of the visibilities.

        Returns them, room for imaging weights, and the taper of each plane, (nplane, 3).
        """
        backend, upload = self._backend, self._backend.upload
        present = [s for s in samples if s is not None]
        row_of: dict[object, int] = {}
        uvw: list[np.ndarray] = []
        order: list[np.ndarray] = []
        rows, orders, of_planes = [0], [], []
        for k, s in enumerate(samples):
            if s is None:
                of_planes.append((0, 0, LIGHT_SPEED))
                continue
            name = s.rows or k
            if name not in row_of:
                row_of[name] = rows[-1]
                uvw.append(s.uvw)
                orders.append(-1 if s.order is None else sum(len(o) for o in order))
                if s.order is not None:
                    order.append(s.order)
                rows.append(rows[-1] + len(s.uvw))
            of_planes.append((row_of[name], len(s.weight), s.frequency))
        first_row, counts, frequency = (np.array(values) for values in zip(*of_planes, strict=True))
        per_metre = frequency / LIGHT_SPEED
        first = np.concatenate([[0], np.cumsum(counts)])
        taper = taper_form(self.settings.taper) * per_metre[:, None] ** 2
        in_sets = order[0] if len(order) == 1 else np.concatenate([np.zeros(0, np.int32), *order])
        sets = (np.array(rows, np.int64), np.array(orders, np.int64), in_sets)
        on_device = packed(backend, first, first_row, per_metre, taper, *sets)
        raw = coordinates = upload([a.reshape(-1) for a in uvw], np.float64)
        room = (((int(first[-1]),), np.float32), ((rows[-1] if order else 0, 3), np.float64))
        weight, in_order = allocated(backend, *room)
        if order:
            coordinates = in_order
            grid = (max(1, min(1024, -(-max(map(len, uvw)) // 256))), len(uvw))
            first_of_sets, orders_of_sets, there = on_device[4:]
            self._kernels.launch(
                "planes.order_rows", grid, (256,), raw, there, first_of_sets, orders_of_sets, coordinates
            )
        batch = SampleBatch(
            uvw=coordinates,
            vis=upload([s.vis for s in present], np.complex64),
            weight=upload([s.weight for s in present], np.float32),
            first=on_device[0],
            first_row=on_device[1],
            per_metre=on_device[2],
            most=int(counts.max()),
        )
        return batch, weight, on_device[3]

    def _weigh(
        self,
        samples: SampleBatch,
        taper: DeviceArray,
        found: Sequence[Spec],
        weight: DeviceArray,
    ) -> DeviceArray:
        """Compute imaging weights (nsample,) as `gpucube.devices.cpu.device.imaging_weights` does.

        Returns a block of bytes of the arrays `found`. The first two are of each plane the sum of its weights, and the number of
        samples that have any.
        """
        s, planes, count = self.settings, len(samples.per_metre), len(samples.weight)
        g, launch, backend = s.geometry, self._kernels.launch, self._backend
        half_u, half_v = g.nx // 2, g.ny // 2
        cells, origin = (half_v + 1) * (2 * half_u + 1), half_u
        grid, block = (max(1, min(256, -(-samples.most // 1024))), planes), (256,)
        specs = weighing_specs(planes, count, 0 if s.weighting == "natural" else cells)
        zero, of_samples = self._work.take(((block_bytes([*found, *specs[1:]]),), np.uint8), specs[0])
        answers = backend.view(zero, 0, (block_bytes(found),), np.dtype(np.uint8))
        total, inside = divided(backend, answers, found)[:2]
        largest, density = divided(backend, zero, specs[1:], block_bytes(found))
        parts, robust = max(1, min(64, cells // CELLS_A_PART)), -1.0
        (sums,) = self._work.take(((planes, parts, 2), np.float64))
        cell, lookup = (backend.view(of_samples, 4 * k * count, (count,), np.dtype(np.int32)) for k in (0, 1))
        backend.clear(zero)
        given = (samples.uvw, samples.weight, samples.first, samples.first_row, samples.per_metre)
        uv_cells = (g.nx * g.cell_x, g.ny * g.cell_y)
        launch("weights.uv_cells", grid, block, *given, *uv_cells, half_u, half_v, cell, lookup, inside, largest)
        if s.weighting != "natural":  # on the half plane v >= 0
            density_of = (cell, samples.weight, samples.first, inside, largest, cells, density)
            launch("weights.sum_density", grid, block, *density_of)
            robust = 0.0 if s.weighting == "uniform" else (5.0 * 10.0**-s.robust) ** 2
            launch("weights.sum_cells", (parts, planes), (1024,), inside, largest, cells, origin, density, sums)
        known = (samples.uvw, lookup, samples.weight, samples.first, samples.first_row, inside, largest)
        launch("weights.weigh", grid, block, *known, cells, density, robust, sums, parts, taper, weight)
        launch("weights.sum_weights", (planes,), (1024,), weight, samples.first, total)
        return answers

    def set_masks(self, planes: Sequence[CudaPlane], masks: Sequence[np.ndarray]) -> None:
        self._put_masks([p.slot for p in planes], masks)

    def make_psf(self, planes: Sequence[CudaPlane], wide: bool | Sequence[bool]) -> None:
        # the PSF is that of the phase centre, with w neglected
        sizes = [wide] * len(planes) if isinstance(wide, bool) else wide
        together: dict[tuple[int, bool], list[CudaPlane]] = {}
        for p, w in zip(planes, sizes, strict=True):
            if p.sum_weights > 0 and p.begun is not None:
                p.wide = w
                together.setdefault((id(p.begun), w), []).append(p)
        for (_, size), some in sorted(together.items()):
            self._make_psf(some, size)
        if self._in_image:
            for p in planes:
                p.begun = None

    def _make_psf(self, planes: Sequence[CudaPlane], wide: bool) -> None:
        """Make the PSFs of planes that were begun together."""
        stacks, begun = self._stacks, planes[0].begun
        assert begun is not None
        if begun.of_psf is None:
            assert begun.samples is not None
            self._work.start()
            begun.of_psf = self._psfs.place(begun.samples, begun.placed.planes)
            self._psfs.look(begun.of_psf)
        placed, to = begun.of_psf, _target(planes, stacks.psf if wide else stacks.narrow_psf, 1 if wide else 4)
        for found in self._psfs.psf(placed, to, wide=wide):
            if self._memory.spectra:
                self._convolver.spectrum(found.stack, found.count, found.transform, found.slot, stacks.spectrum)

    def _places(self, planes: Sequence[CudaPlane], half: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the first pixel of each plane's PSF in its stack, and the distance of rows; `half` is that of a window of it."""
        ny, nx = self.settings.geometry.shape
        top, left = (0, 0) if half is None else (s.start for s in peak_window((ny, nx), half))
        wide = (ny - ny // 2 + top) * 2 * nx + nx - nx // 2 + left
        slots, is_wide = _slots(planes).astype(np.int64), np.array([p.wide for p in planes], bool)
        first = slots * (4 * ny * nx) + np.where(is_wide, wide, top * nx + left)
        return first, np.where(is_wide, _INT.type(2 * nx), _INT.type(nx))

    def beams(self, planes: Sequence[CudaPlane]) -> list[tuple[Beam, float]]:
        """Fit a beam to each PSF, on the host from its centre alone, and find its largest sidelobe, on the device."""
        if not planes:
            return []
        beams, g = self._fit_beams(planes), self.settings.geometry
        ellipses = np.array([lobe_ellipse(beam, g.cell_x, g.cell_y) for beam in beams])  # (nplane, 6)
        small = (*self._places(planes), ellipses, np.zeros(len(planes), np.uint32))
        first, pitch, lobes, largest = packed(self._backend, *small)
        images = (self._stacks.psf, first, pitch, g.ny, g.nx)
        launch, grid = self._kernels.launch, self._blocks(len(planes))
        launch("beam.sidelobe", grid, (256,), *images, lobes, g.cell_x, g.cell_y, largest)
        sidelobes = self._backend.download(largest).view(np.float32)
        return list(zip(beams, sidelobes.tolist(), strict=True))

    def _fit_beams(self, planes: Sequence[CudaPlane]) -> list[Beam]:
        """Fit beams in windows that grow until they contain the main lobe."""
        g = self.settings.geometry
        beams: dict[int, Beam] = {}
        half, missing = FIRST_WINDOW, list(range(len(planes)))
        while missing:
            rows, columns = (s.stop - s.start for s in peak_window(g.shape, half))
            first, pitch = packed(self._backend, *self._places([planes[k] for k in missing], half))
            self._work.start()
            (windows,) = self._work.take(((len(missing), rows, columns), np.float32))
            over = (len(missing), rows, columns)
            self._kernels.over("planes.cut_planes", *over, self._stacks.psf, first, pitch, rows, columns, windows)
            fitted = fit_beams(self._backend.download(windows), g.shape, g.cell_x, g.cell_y)
            beams |= {k: beam for k, beam in zip(missing, fitted, strict=True) if beam is not None}
            half, missing = 2 * half, [k for k in missing if k not in beams]
        return [beams[k] for k in range(len(planes))]

    def measure(self, planes: Sequence[CudaPlane]) -> list[tuple[float, float]]:
        """Measure the peak inside the mask, and the noise of the whole residual: exact order statistics by radix select."""
        if not planes:
            return []
        stacks, pixels = self._stacks, math.prod(self.settings.geometry.shape)
        images = (stacks.residual, self._slots_of(planes), stacks.masks, stacks.mask_of, pixels)
        self._work.start()
        (out,) = self._work.take(((len(planes), 2), np.uint64))
        grid = self._blocks(len(planes))
        for stage in range(6):
            self._kernels.launch("statistics.measure", grid, (512,), *images, stage, stacks.counting, out)
        found = np.array(self._backend.download(out))  # peaks' keys and noises; the upper half of a key is the peak
        keys, peaks, noises = (
            found[:, 0].tolist(),
            found.view(np.float32)[:, 1].tolist(),
            found.view(float)[:, 1].tolist(),
        )
        return [(peak if key else -1.0, noise) for key, peak, noise in zip(keys, peaks, noises, strict=True)]

    def minor(self, planes: Sequence[CudaPlane], cycles: Sequence[MinorCycle]) -> list[int]:
        if not planes:
            return []
        s, orders, backend = self._stacks, orders_of(cycles), self._backend
        slots, improved = _slots(planes), [p for p in planes if p.improved]
        where, how_far, kept = packed(backend, slots, orders, _slots(improved))
        self._slots = slots.tolist(), where
        if improved:
            self._copy_pairs(kept, s.model, s.residual, s.best_model, s.best_residual)
        images = Images(s.residual, s.psf, s.model, s.masks, s.mask_of)
        self._work.start()
        if self._multiscale is not None:
            fresh = _slots([p for p in planes if not p.crossed])
            remasked = _slots([p for p in planes if p.slot in self._remasked])
            iterations = self._multiscale.clean(images, s.scales, where, orders, how_far, fresh, remasked)
            self._remasked.difference_update(remasked.tolist())
            changed = [UNLISTED if n else 0 for n in iterations]
        elif self.settings.minorcycle == "activeset":
            given = (self._kernels, images, s.changes, self._work, slots, where, orders, how_far)
            iterations, changed = active_set(backend, *given)
        else:
            iterations, changed = textbook(backend, self._kernels, images, where, orders, how_far)
        for p, n in zip(planes, changed, strict=True):
            p.changed, p.improved, p.crossed = n if p.changed == 0 else UNLISTED, False, True
        return iterations

    def major(self, planes: Sequence[CudaPlane]) -> None:
        if self._in_image:
            self._in_the_image(planes)
        elif planes:
            self._through_visibilities(planes)
        for p in planes:
            p.changed = 0

    def _in_the_image(self, planes: Sequence[CudaPlane]) -> None:
        """Convolve models with PSFs. Where a model changed in few pixels, subtract them one by one."""
        stacks, (ny, nx), convolver = self._stacks, self.settings.geometry.shape, self._convolver
        changed = [p.changed for p in planes]
        if not any(changed):
            return
        many = [k for k, n in enumerate(changed) if n > LISTED]
        place = np.array([-1 if 0 < n <= LISTED else -2 for n in changed], np.int32)
        slots, together = self._slots_of(planes), convolver.fitting(self._work.nbytes)
        for start in range(0, max(1, len(many)), together):
            some = many[start : start + together]
            place[some] = np.arange(len(some))
            chosen, places = packed(self._backend, _slots([planes[k] for k in some]), place)
            self._work.start()
            convolved = convolver.convolve(stacks.model, stacks.spectrum, chosen) if some else stacks.model
            grid = (max(1, min(512, -(-ny * nx // 1024))), len(planes))
            listed = (stacks.residual, stacks.psf, slots, ny, nx, LISTED, *stacks.changes)
            self._kernels.launch("components.renew_residuals", grid, (256,), *listed, stacks.dirty, convolved, places)
            place[:] = -2

    def _some_slots(self, planes: Sequence[CudaPlane]) -> DeviceArray:
        """Slots of some of the planes of a cycle; those of all remain what `_slots_of` knows."""
        (slots,) = packed(self._backend, _slots(planes))
        return slots

    def _through_visibilities(self, planes: Sequence[CudaPlane]) -> None:
        """Degrid, subtract and grid; planes that were begun together in one go."""
        stacks = self._stacks
        for begun in {id(p.begun): p.begun for p in planes if p.begun is not None}.values():
            together = [p for p in planes if p.begun is begun]
            self._gridder.residual(begun.placed, stacks.model, _target(together, stacks.residual))

    def _copy_pairs(self, slots: DeviceArray, *images: DeviceArray) -> None:
        """Copy two images of each slot, one and other to one and other."""
        pixels = math.prod(self.settings.geometry.shape)
        one, other, to_one, to_other = images
        grid = self._blocks(len(slots))
        self._kernels.launch("planes.copy_pairs", grid, (256,), one, other, slots, pixels, to_one, to_other)

    def set_model(self, planes: Sequence[CudaPlane], models: Sequence[np.ndarray]) -> None:
        for p, model in zip(planes, models, strict=True):
            self._stacks.model[p.slot] = self._backend.xp.asarray(np.ascontiguousarray(model, np.float32))
            p.changed = model.size  # so that the major cycle takes the whole model

    def keep_model(self, planes: Sequence[CudaPlane]) -> None:
        # model and residual do not change before the next minor cycle, which copies them first
        for p in planes:
            p.improved = True

    def roll_back(self, planes: Sequence[CudaPlane]) -> None:
        stacks = self._stacks
        if rolling := [p for p in planes if not p.improved]:
            slots = self._some_slots(rolling)
            self._copy_pairs(slots, stacks.best_model, stacks.best_residual, stacks.model, stacks.residual)
        for p in planes:
            p.changed = 0

    def finish(
        self, planes: Sequence[CudaPlane], products: Sequence[Product], restoring: Sequence[Restoring] | None
    ) -> Iterator[Finished]:
        ny, nx = self.settings.geometry.shape
        images = len(products) + (restoring is not None)
        together = max(1, self._work.nbytes // (ny * nx * 4 * (images + 1)))
        for start in range(0, len(planes), together):
            part = slice(start, start + together)
            yield self._finish(planes[part], products, None if restoring is None else restoring[part])

    def _finish(
        self, planes: Sequence[CudaPlane], products: Sequence[Product], restoring: Sequence[Restoring] | None
    ) -> Finished:
        stacks, (ny, nx), count = self._stacks, self.settings.geometry.shape, len(planes)
        slots = _slots(planes)
        same = (slots.astype(np.int64) * (ny * nx), np.full(count, nx, np.int32))
        there = packed(self._backend, slots, *same, *self._places(planes))
        stack_of = {"dirty": stacks.dirty, "residual": stacks.residual, "model": stacks.model, "psf": stacks.psf}
        self._work.start()
        wanted = len(products) + (restoring is not None)
        found: list[Spec] = [((count,), np.float64), *[((count, ny, nx), np.float32)] * wanted]
        (out,) = self._work.take(((block_bytes(found),), np.uint8))
        flux, *copies = divided(self._backend, out, found)
        self._kernels.launch("planes.sum_planes", (count,), (1024,), stacks.model, there[0], ny * nx, flux)
        for product, copy in zip(products, copies, strict=False):
            place = there[3:5] if product == "psf" else there[1:3]
            self._kernels.over("planes.cut_planes", count, ny, nx, stack_of[product], *place, ny, nx, copy)
        if restoring is not None:
            self._restore(stacks.residual, there[1], there[2], stacks.model, there[0], restoring, copies[-1])
        model_flux, *images = _parts(self._backend.download(out), found)
        names = [*products, *(["image"] if restoring is not None else [])]
        return Finished(products=dict(zip(names, images, strict=True)), model_flux=model_flux.tolist())

    def _restore(
        self,
        residual: DeviceArray,
        first: DeviceArray,
        pitch: DeviceArray,
        model: DeviceArray,
        slots: DeviceArray,
        restoring: Sequence[Restoring],
        out: DeviceArray,
    ) -> None:
        """Make restored images, (n, ny, nx), component by component however many there are.

        `first` and `pitch` are the first pixel of each plane in the stack `residual`, and the distance of its rows.
        """
        g, backend, count = self.settings.geometry, self._backend, len(restoring)
        (ny, nx), launch, over = g.shape, self._kernels.launch, self._kernels.over
        forms, *halves = (np.array(each) for each in zip(*[r.beam.sampling(g) for r in restoring], strict=True))
        half_y, half_x = (each.astype(np.int32) for each in halves)
        sizes = (2 * halves[0] + 1) * (2 * halves[1] + 1)
        tables = np.cumsum(sizes) - sizes
        smoothed = any(r.smooth is not None for r in restoring)
        shapes = np.array([_spectrum_shape(r, g.cell_x, g.cell_y) for r in restoring]) if smoothed else np.zeros(0)
        small = packed(backend, forms, tables, half_y, half_x, shapes, np.arange(count, dtype=np.int32))
        over("planes.cut_planes", count, ny, nx, residual, first, pitch, ny, nx, out)
        if smoothed:
            (spectra,) = self._work.take(((count, 2 * ny, nx + 1), np.float32))
            twice = (count, 2 * ny, nx + 1)
            over("restore.gaussian_spectra", *twice, small[4], g.cell_y / g.cell_x, ny, nx, spectra)
            convolved = self._convolver.convolve(out, spectra, small[5])
            over("restore.take_smoothed", count, ny, nx, convolved, small[4], ny, nx, out)
        (table,) = self._work.take(((int(sizes.sum()),), np.float32))
        blocks = (max(1, min(64, int(sizes.max()) // 1024)), count)
        launch("restore.sample_gaussians", blocks, (256,), small[0], small[1], small[2], small[3], table)
        tiles = (-(-nx // 32), -(-ny // 32), count)
        launch("restore.add_gaussians", tiles, (32, 8), out, model, slots, ny, nx, table, small[1], small[2], small[3])

    def fetch(self, plane: CudaPlane, product: Product) -> np.ndarray:
        (found,) = self.finish([plane], [product], None)
        return found.products[product][0]

    def restore(self, model: np.ndarray, residual: np.ndarray, restoring: Restoring) -> np.ndarray:
        (ny, nx), upload = self.settings.geometry.shape, self._backend.upload
        there, given = upload([model], np.float32), upload([residual], np.float32)
        first, pitch, slot = packed(self._backend, np.zeros(1, np.int64), np.full(1, nx, _INT), np.zeros(1, _INT))
        self._work.start()
        (out,) = self._work.take(((1, ny, nx), np.float32))
        self._restore(given, first, pitch, there, slot, [restoring], out)
        image: np.ndarray = self._backend.download(out)[0]
        return image


def _slots(planes: Sequence[CudaPlane]) -> np.ndarray:
    """Slots of planes, (n,) int32."""
    return np.array([p.slot for p in planes], _INT)


def _target(planes: Sequence[CudaPlane], images: DeviceArray, step: int = 1) -> Target:
    """Where images of planes that were begun together go, in a stack that has `step` images for each slot."""
    return Target(
        planes=np.array([p.number for p in planes]),
        scale=1.0 / np.array([p.sum_weights for p in planes]),
        slot=step * _slots(planes),
        images=images,
    )


def _parts(block: np.ndarray, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Find arrays in a block of bytes on the host, laid out as by `divided`."""
    arrays, at = [], 0
    for shape, dtype in specs:
        arrays.append(np.ndarray(shape, dtype, buffer=block, offset=at))
        at += block_bytes([(shape, dtype)])
    return arrays


def _spectrum_shape(restoring: Restoring, cell_x: float, cell_y: float) -> list[float]:
    """Find what `gaussian_spectra` takes; a factor of 0 leaves the plane as it is."""
    beam = restoring.smooth
    if beam is None:
        return [0.0, 1.0, 0.0, 0.0, 0.0]
    unit = math.pi / math.sqrt(FOUR_LN2) / cell_y
    return [math.sin(beam.bpa), math.cos(beam.bpa), beam.bmaj * unit, beam.bmin * unit, restoring.scale]
