"""The CPU device: ducc0 for gridding and FFTs, compiled loops for the rest, one thread.

In: samples of planes (memory-mapped views of the store; there is nothing to upload). Out: planes that hold weights, dirty
image, PSF, residual and model as float32 arrays.

Algorithms: improved w-stacking or 2-D gridding with kernels of chosen accuracy (ducc0.wgridder: Arras et al. 2021, A&A
646, A58; Ye et al. 2021, MNRAS 510, 4110). Briggs 1995 weights per channel, as in tclean. The major cycle goes through the
visibilities, or stays in the image: where w is neglected, residual = dirty - PSF * model exactly (a Toeplitz operator), by
FFTs of twice the size. Imaging convention: see `gpucube.sky.geometry`; with ducc0's signs that is ``flip_v=True`` alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ducc0
import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import Finished, ImagingSettings, MinorCycle, Product, Restoring
from gpucube.devices.cpu import loops
from gpucube.devices.cpu.multiscale import PlaneScales, Scales
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT, SPARSE_COMPONENTS, MajorCycleCost, major_in_image
from gpucube.devices.psf_fit import fit_beam, psf_sidelobe
from gpucube.environment import provide_threads
from gpucube.sky.beam import Beam, taper_form

SINGLE_PRECISION_EPSILON = 1e-5
"""Below this accuracy ducc0 needs double precision."""

MAJOR_CYCLE = MajorCycleCost(image_fft=0.3e-9, grid_fft=0.6e-9, sample=220e-9)
"""Measured on two-core machines."""

SMALLEST_TOTAL = 1e-30
"""Where weights sum to less, as those of a taper far below the shortest baseline, 1 / sum may be too large for float32."""

NO_MASK = np.zeros((0, 0), bool)
"""What the compiled loops take as a mask that allows every pixel."""

_NO_IMAGE = np.zeros((0, 0), np.float32)


@dataclass(kw_only=True)
class CpuPlane:
    """Arrays of one plane.

    Only minor cycles write to `residual` and `model`, and only to those of this plane alone. Until the first one the residual is
    the dirty image, and all models are the device's `zeros`: so a PSF, which takes most memory, is made beside few arrays.
    """

    samples: Samples | None  # None for a plane without data
    sum_weights: float
    visibilities: int
    mask: np.ndarray  # (ny, nx) bool, or NO_MASK
    weight: np.ndarray  # (nsample,) float32, imaging weights
    dirty: np.ndarray  # (ny, nx) float32, as the next three
    residual: np.ndarray
    model: np.ndarray
    subtracted: np.ndarray  # the model that `residual` belongs to
    psf: np.ndarray = field(default_factory=lambda: _NO_IMAGE)  # (ny, nx), or once it is cleaned (2 ny, 2 nx), float32
    spectrum: np.ndarray | None = None  # (2 ny, nx + 1) float32, of the PSF, if major cycles are done in the image
    scales: PlaneScales | None = None  # once it is cleaned with several scales
    best_model: np.ndarray = field(default_factory=lambda: _NO_IMAGE)  # (ny, nx) float32
    best_residual: np.ndarray = field(default_factory=lambda: _NO_IMAGE)  # (ny, nx) float32


class CpuDevice:
    """See `gpucube.devices.base.Device`."""

    name = "cpu"
    batch = 1
    out_of_memory: type[Exception] = MemoryError

    def __init__(self, settings: ImagingSettings):
        provide_threads()
        self.settings = settings
        single = settings.epsilon >= SINGLE_PRECISION_EPSILON
        self._real = np.dtype("float32" if single else "float64")
        self._complex = np.dtype("complex64" if single else "complex128")
        ny, nx = settings.geometry.shape
        self._buffers = np.empty((2, ny * nx), np.float32)  # scratch space of `loops.noise`
        self._scales: Scales | None = None  # made for the first minor cycle
        self._zeros = np.zeros((ny, nx), np.float32)
        self.substage_seconds: dict[str, float] = {}

    @contextmanager
    def _substage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.substage_seconds[name] = self.substage_seconds.get(name, 0.0) + time.perf_counter() - begin

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[CpuPlane]:
        return [self._begin(s, m) for s, m in zip(samples, masks, strict=True)]

    def _begin(self, samples: Samples | None, mask: np.ndarray | None) -> CpuPlane:
        shape = self.settings.geometry.shape
        weight, total, inside, dirty = np.zeros(0, np.float32), 0.0, 0, self._zeros
        if samples is not None:
            with self._substage("upload"):
                samples = samples.in_order()
            with self._substage("weights"):
                weight, total, inside = imaging_weights(samples, self.settings)
            if total > 0:
                dirty = self._grid(samples, samples.vis, weight, total, shape)
        return CpuPlane(
            samples=samples,
            sum_weights=total,
            visibilities=inside,
            mask=NO_MASK if mask is None else np.ascontiguousarray(mask, bool),
            weight=weight,
            dirty=dirty,
            residual=dirty,
            model=self._zeros,
            subtracted=self._zeros,
        )

    def _grid(
        self,
        samples: Samples,
        vis: np.ndarray,
        weight: np.ndarray,
        total: float,
        shape: tuple[int, int],
        w: bool = True,
    ) -> np.ndarray:
        """Compute sum_k w_k V_k exp(-2 pi i (u l + v m + w (n - 1))) / sum_k w_k, float32 (ny, nx)."""
        result = np.empty(shape, np.float32)
        # made first, so that it lies below what is freed here: above, it would leave a hole in the heap
        image = result if self._real == result.dtype else np.empty(shape, self._real)
        if total < SMALLEST_TOTAL:
            weight, total = weight / total, 1.0
        ducc0.wgridder.vis2dirty(
            vis=vis.astype(self._complex, copy=False)[:, None],
            wgt=weight.astype(self._real, copy=False)[:, None],
            dirty=image.T,
            **self._wgridder(samples, w),
        )
        image *= 1.0 / total
        if image is not result:
            result[:] = image
        return result

    def _degrid(self, samples: Samples, model: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Compute the visibilities of a model (Jy/pixel), shape (nsample,).

        With w, samples without imaging weight get 0: a single one of them with a large w would need many planes.
        """
        dirty = model.astype(self._real, copy=False).T
        mask = (weight != 0).astype(np.uint8)[:, None] if self.settings.w_term else None
        vis: np.ndarray = ducc0.wgridder.dirty2vis(dirty=dirty, mask=mask, **self._wgridder(samples))
        return vis[:, 0]

    def _wgridder(self, samples: Samples, w: bool = True) -> dict[str, Any]:
        """Collect the arguments that gridding and degridding with ducc0 have in common."""
        return {
            "uvw": samples.uvw,
            "freq": np.array([samples.frequency]),
            "pixsize_x": self.settings.geometry.cell_x,
            "pixsize_y": self.settings.geometry.cell_y,
            "epsilon": self.settings.epsilon,
            "do_wgridding": w and self.settings.w_term,
            "divide_by_n": False,
            "flip_v": True,
            "nthreads": 1,
        }

    def set_masks(self, planes: Sequence[CpuPlane], masks: Sequence[np.ndarray]) -> None:
        for plane, mask in zip(planes, masks, strict=True):
            plane.mask = np.ascontiguousarray(mask, bool)

    def make_psf(self, planes: Sequence[CpuPlane], wide: bool | Sequence[bool]) -> None:
        # the PSF is that of the phase centre, with w neglected; a minor cycle uses it everywhere
        ny, nx = self.settings.geometry.shape
        for plane, twice in zip(planes, [wide] * len(planes) if isinstance(wide, bool) else wide, strict=True):
            shape = (2 * ny, 2 * nx) if twice else (ny, nx)
            if plane.samples is None or plane.sum_weights == 0 or plane.psf.shape == shape:
                continue
            ones = np.ones(len(plane.weight), self._complex)
            plane.psf = self._grid(plane.samples, ones, plane.weight, plane.sum_weights, shape, w=False)
            if twice and major_in_image(self.settings, plane.visibilities, MAJOR_CYCLE):
                with self._substage("fft"):
                    plane.spectrum = psf_spectrum(plane.psf)

    def measure(self, planes: Sequence[CpuPlane]) -> list[tuple[float, float]]:
        return [(loops.peak(p.residual, p.mask)[0], loops.noise(p.residual, *self._buffers)) for p in planes]

    def minor(self, planes: Sequence[CpuPlane], cycles: Sequence[MinorCycle]) -> list[int]:
        done = []
        for p, cycle in zip(planes, cycles, strict=True):
            if p.model is self._zeros:
                p.model, p.residual = p.model.copy(), p.residual.copy()
            if self.settings.scales:
                done.append(self._multiscale(p, cycle))
                continue
            arguments = (p.residual, p.psf, p.mask, p.model, cycle.gain, cycle.threshold, cycle.max_iterations)
            if self.settings.minorcycle == "textbook":
                done.append(loops.hogbom_textbook(*arguments))
            else:
                done.append(loops.hogbom_active_set(*arguments, ACTIVE_SET_CUT * cycle.threshold))
        return done

    def _multiscale(self, p: CpuPlane, cycle: MinorCycle) -> int:
        if self._scales is None:
            shape = self.settings.geometry.shape
            self._scales = Scales(
                self.settings.scales,
                self.settings.smallscalebias,
                lambda kernel: sampled_spectrum(kernel, shape),
                convolve,
            )
        if p.scales is None or p.scales.mask is not p.mask:
            spectrum = psf_spectrum(p.psf) if p.spectrum is None else p.spectrum
            p.scales = PlaneScales(self._scales, p.psf, spectrum, p.mask)
        cut = -1.0 if self.settings.minorcycle == "textbook" else ACTIVE_SET_CUT
        return p.scales.minor(p.residual, p.model, cycle, cut)

    def major(self, planes: Sequence[CpuPlane]) -> None:
        for p in planes:
            if p.spectrum is not None:
                self._convolve_model(p, p.spectrum)
            elif p.samples is not None:
                vis = p.samples.vis - self._degrid(p.samples, p.model, p.weight)
                p.residual = self._grid(p.samples, vis, p.weight, p.sum_weights, p.model.shape)
            p.subtracted = p.model.copy()

    def _convolve_model(self, p: CpuPlane, spectrum: np.ndarray) -> None:
        """Do a major cycle in the image: by FFTs, or component by component where few pixels of the model changed."""
        change = p.model - p.subtracted
        where = np.flatnonzero(change)
        if self.settings.minorcycle == "activeset" and len(where) < SPARSE_COMPONENTS:
            loops.subtract_components(p.residual, p.psf, change, where)
        else:
            with self._substage("fft"):
                p.residual = p.dirty - convolve(p.model, spectrum)

    def set_model(self, planes: Sequence[CpuPlane], models: Sequence[np.ndarray]) -> None:
        for p, model in zip(planes, models, strict=True):
            p.model, p.residual = np.array(model, np.float32), p.residual.copy()

    def keep_model(self, planes: Sequence[CpuPlane]) -> None:
        for p in planes:
            p.best_model, p.best_residual = p.model, p.residual
            if p.model is not self._zeros:
                p.best_model, p.best_residual = p.model.copy(), p.residual.copy()

    def roll_back(self, planes: Sequence[CpuPlane]) -> None:
        for p in planes:
            p.model, p.residual = p.best_model.copy(), p.best_residual.copy()
            p.subtracted = p.model.copy()

    def release(self, planes: Sequence[CpuPlane]) -> None:
        """Keep only the numbers of finished planes: they are needed until all planes of the channel are finished."""
        for p in planes:
            p.samples = p.spectrum = p.scales = None
            p.mask, p.weight = NO_MASK, np.zeros(0, np.float32)
            p.dirty = p.residual = p.model = p.subtracted = p.psf = p.best_model = p.best_residual = _NO_IMAGE

    def reset(self) -> None:
        """Nothing to do either."""

    def shrink(self) -> bool:
        return False  # one plane at a time is the smallest batch

    def beams(self, planes: Sequence[CpuPlane]) -> list[tuple[Beam, float]]:
        cells = self.settings.geometry.cell_x, self.settings.geometry.cell_y
        psfs = [self.fetch(p, "psf") for p in planes]
        return [(beam := fit_beam(psf, *cells), psf_sidelobe(psf, beam, *cells)) for psf in psfs]

    def fetch(self, plane: CpuPlane, product: Product) -> np.ndarray:
        if product != "psf":
            return {"dirty": plane.dirty, "residual": plane.residual, "model": plane.model}[product]
        ny, nx = self.settings.geometry.shape
        top, left = (plane.psf.shape[0] - ny) // 2, (plane.psf.shape[1] - nx) // 2
        return plane.psf[top : top + ny, left : left + nx]

    def finish(
        self, planes: Sequence[CpuPlane], products: Sequence[Product], restoring: Sequence[Restoring] | None
    ) -> Iterator[Finished]:
        for k, plane in enumerate(planes):
            found: dict[str, Sequence[np.ndarray]] = {name: [self.fetch(plane, name)] for name in products}
            if restoring is not None:
                found["image"] = [self.restore(plane.model, plane.residual, restoring[k])]
            yield Finished(products=found, model_flux=[float(plane.model.sum(dtype=np.float64))])

    def restore(self, model: np.ndarray, residual: np.ndarray, restoring: Restoring) -> np.ndarray:
        """Restore an image, component by component or by FFTs, whichever is cheaper."""
        geometry, components = self.settings.geometry, model
        image: np.ndarray = np.array(residual)
        if restoring.smooth is not None:
            image = convolve(image, restoring.smooth.spectrum(geometry))
            image *= restoring.scale
        kernel = restoring.beam.sampled(geometry)
        if np.count_nonzero(components) * kernel.size < 100 * components.size:
            loops.add_gaussians(image, components, kernel)
        else:
            image += convolve(components, sampled_spectrum(kernel, geometry.shape))
        return image


def imaging_weights(samples: Samples, settings: ImagingSettings) -> tuple[np.ndarray, float, int]:
    """Compute the imaging weights of a plane.

    The density G is summed per channel on the uv cells of the image itself: cell 1 / (N * pixel), index floor(u + 0.5),
    both halves of the plane. Briggs: w / (1 + G f^2), f^2 = (5 * 10^-robust)^2 / (sum G^2 / sum G) (Briggs 1995, eq. 3.19,
    as tclean does). Samples beyond the image's uv plane, whose baselines are too long for its pixels, get no weight.

    Returns the weights, float32 (nsample,), their sum, and the number of samples with weight.
    """
    geometry = settings.geometry
    half_u, half_v = geometry.nx // 2, geometry.ny // 2
    field_x, field_y = geometry.nx * geometry.cell_x, geometry.ny * geometry.cell_y
    per_metre, given = samples.frequency / LIGHT_SPEED, samples.weight
    cell, lookup = np.empty((2, len(given)), np.int32)  # (nsample,) each
    inside = loops.uv_cells(samples.uvw, per_metre, field_x, field_y, half_u, half_v, given, cell, lookup)
    density, slope, constant = np.zeros(0), 0.0, 1.0
    if settings.weighting != "natural" and inside:
        density = np.zeros((half_v + 1) * (2 * half_u + 1))  # of the half plane v >= 0, row by row
        total, squares = loops.cell_density(cell, given, density, half_u)
        slope, constant = 1.0, 0.0
        if settings.weighting == "briggs":
            slope, constant = (5.0 * 10.0**-settings.robust) ** 2 / (squares / total), 1.0
    weight, taper = np.empty(len(given), np.float32), taper_form(settings.taper) * per_metre**2
    total = loops.weigh(lookup, given, density, slope, constant, samples.uvw, taper, weight)
    return weight, total, inside


def psf_spectrum(psf: np.ndarray) -> np.ndarray:
    """Compute the spectrum, for `convolve`, of a PSF (2 ny, 2 nx) with its peak at (ny, nx)."""
    transform = ducc0.fft.r2c(psf, axes=(0, 1), nthreads=1)
    spectrum = np.empty(transform.shape, np.float32)
    loops.psf_spectrum(transform, spectrum)
    return spectrum


def sampled_spectrum(kernel: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Compute the spectrum, for `convolve`, of the small kernel that `loops.add_gaussians` adds, given by its pixels.

    It is not the Gaussian's own spectrum: a beam of two pixels is undersampled, and the two differ by 1e-3 of the peak.
    """
    ny, nx = shape
    half_y, half_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    whole = np.zeros((2 * ny, 2 * nx), np.float32)  # with the kernel's centre at (0, 0)
    whole[np.arange(-half_y, half_y + 1)[:, None], np.arange(-half_x, half_x + 1)] = kernel
    transform: np.ndarray = ducc0.fft.r2c(whole, axes=(0, 1), nthreads=1)
    return transform.real * np.float32(1.0 / (4 * ny * nx))


def convolve(image: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Convolve an image, float32 (ny, nx), linearly with a kernel given by its real spectrum on twice the image.

    The spectrum, float32 (2 ny, nx + 1), includes the normalisation 1 / (4 ny nx). The image is zero-padded to
    (2 ny, 2 nx). Neither the rows of padding nor the discarded rows of the result are transformed along x.
    """
    ny, nx = image.shape
    padded = np.zeros((ny, 2 * nx), np.float32)
    padded[:, :nx] = image
    work = np.zeros((2 * ny, nx + 1), np.complex64)
    ducc0.fft.r2c(padded, axes=(1,), nthreads=1, out=work[:ny])
    ducc0.fft.c2c(work, axes=(0,), nthreads=1, out=work)
    np.multiply(work, spectrum, out=work)
    ducc0.fft.c2c(work, axes=(0,), forward=False, nthreads=1, out=work)
    ducc0.fft.c2r(work[:ny], axes=(1,), lastsize=2 * nx, forward=False, nthreads=1, out=padded)
    return np.ascontiguousarray(padded[:, :nx])
