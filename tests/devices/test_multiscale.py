"""Multiscale minor cycles against a plain form of Cornwell's algorithm, and against Högbom's where they are the same."""

from __future__ import annotations

from dataclasses import replace

import jobs
import numpy as np
import pytest
from hosts.host_backend import host_backend
from hosts.kernel_runs import needs_compiler
from oracles import dft_image, dft_predict

from gpucube.devices.base import ImagingSettings, MinorCycle
from gpucube.devices.cpu.device import CpuDevice, CpuPlane
from gpucube.devices.cuda.device import CudaDevice
from gpucube.devices.scales import automatic_scales, scale_bias, scale_kernel

NY, NX = 40, 48
CELL = 20.0  # arcsec


def psf(ny: int = NY, nx: int = NX) -> np.ndarray:
    """An elliptical beam with a ring of sidelobes of a tenth, on twice the image, even about its centre."""
    y, x = np.arange(-ny, ny)[:, None], np.arange(-nx, nx)
    r2 = (x / 2.2) ** 2 + (y / 1.8) ** 2 + 0.1 * x * y
    return (np.exp(-r2 / 2) + 0.1 * np.cos(np.sqrt(x**2 + y**2)) * np.exp(-(x**2 + y**2) / 400)).astype(
        np.float32
    ) / 1.1


def dirty_of(sky: np.ndarray) -> np.ndarray:
    """The dirty image of a sky (Jy/pixel) by a plain double sum."""
    image, beam = np.zeros((NY, NX)), psf().astype(float)
    for y, x in zip(*np.nonzero(sky), strict=True):
        image += sky[y, x] * beam[NY - y : 2 * NY - y, NX - x : 2 * NX - x]
    return image.astype(np.float32)


def extended_sky() -> np.ndarray:
    """A disc, a wider and fainter one, and two points."""
    y, x = np.mgrid[:NY, :NX]
    sky = np.where(np.hypot(y - 20, x - 25) < 5, 1.0, 0.0) + np.where(np.hypot(y - 18, x - 20) < 9, 0.3, 0.0)
    sky[10, 12], sky[30, 40] = 4.0, -3.0
    return sky


def plane_of(dirty: np.ndarray, mask: np.ndarray | None = None) -> CpuPlane:
    return CpuPlane(
        samples=None,
        sum_weights=1.0,
        visibilities=1,
        mask=np.zeros((0, 0), bool) if mask is None else mask,
        weight=np.zeros(0, np.float32),
        dirty=dirty,
        residual=dirty.copy(),
        model=np.zeros_like(dirty),
        subtracted=np.zeros_like(dirty),
        psf=psf(),
    )


def device(scales: tuple[float, ...], bias: float = 0.0, minorcycle: str = "activeset") -> CpuDevice:
    geometry = jobs.geometry(NX, NY, CELL)
    return CpuDevice(ImagingSettings(geometry=geometry, scales=scales, smallscalebias=bias, minorcycle=minorcycle))


def smooth(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Linear convolution with a kernel of odd sides, pixel by pixel."""
    half = kernel.shape[0] // 2
    padded = np.pad(image.astype(float), half)
    ny, nx = image.shape
    return sum(
        kernel[j, i] * padded[2 * half - j : 2 * half - j + ny, 2 * half - i : 2 * half - i + nx]
        for j in range(kernel.shape[0])
        for i in range(kernel.shape[1])
    )


def cornwell(
    residual: np.ndarray,
    mask: np.ndarray,
    scales: tuple[float, ...],
    bias: float,
    cycle: MinorCycle,
    beam: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Every image updated everywhere, in double precision. The model, and the number of iterations."""
    kernels = [scale_kernel(s) for s in scales]
    pairs = [(a, b) for a in range(len(scales)) for b in range(len(scales))]
    beam, (ny, nx) = psf() if beam is None else beam, residual.shape
    response = {(a, b): smooth(smooth(beam, kernels[a]), kernels[b]) for a, b in pairs}
    own = [response[s, s][ny, nx] for s in range(len(scales))]
    weight = scale_bias(scales, bias)
    images = [smooth(residual, kernel) for kernel in kernels]
    allowed = [smooth(mask, kernel) > 0.9 for kernel in kernels]
    components = [np.zeros((ny, nx)) for _ in scales]
    iteration = 0
    while iteration < cycle.max_iterations:
        # signal to noise: a residual convolved twice with a scale has the noise of its peak's root
        ratio = [np.where(ok, np.abs(i) / np.sqrt(p), 0) for i, p, ok in zip(images, own, allowed, strict=True)]
        merit = [np.where(r > cycle.threshold, r * w, 0) for r, w in zip(ratio, weight, strict=True)]
        best = int(np.argmax([m.max() for m in merit]))
        if merit[best].max() == 0:
            break
        y, x = np.unravel_index(merit[best].argmax(), (ny, nx))
        flux = cycle.gain * images[best][y, x] / own[best]
        components[best][y, x] += flux
        for other in range(len(scales)):
            images[other] -= flux * response[best, other][ny - y : 2 * ny - y, nx - x : 2 * nx - x]
        iteration += 1
    return sum(smooth(c, kernel) for c, kernel in zip(components, kernels, strict=True)), iteration


@pytest.mark.parametrize("minorcycle", ["textbook", "activeset"])
@pytest.mark.parametrize("bias", [0.0, 0.6])
@pytest.mark.parametrize("masked", [False, True])
def test_components_are_those_of_cornwells_algorithm(minorcycle, bias, masked):
    scales = (0.0, 3.0, 7.0)
    dirty = dirty_of(extended_sky())
    y, x = np.mgrid[:NY, :NX]
    mask = np.hypot(y - 20, x - 25) < 16 if masked else None
    plane = plane_of(dirty, mask)
    # down to a third of the peak, where no pixel outside the active set has grown to be the peak
    cycle = MinorCycle(threshold=float(np.abs(dirty).max()) / 3, max_iterations=400, gain=0.2)
    everywhere = np.ones((NY, NX))
    # beyond the image there is no mask: a convolved mask of all is below 0.9 along the edges, unlike no mask
    expected, iterations = cornwell(dirty, everywhere * 1e9 if mask is None else mask, scales, bias, cycle)
    done = device(scales, bias, minorcycle).minor([plane], [cycle])
    assert done == [iterations]
    assert iterations > 10
    # float32 images and FFTs, over some hundred subtractions of numbers up to the peak
    assert plane.model == pytest.approx(expected, abs=2e-5 * float(np.abs(expected).max()))
    assert np.array_equal(plane.residual, dirty), "the next major cycle recomputes the residual"


@pytest.mark.parametrize("way", ["image", "visibility"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_device_finds_them_in_visibilities(device_kind, masked, way):
    """Two planes at once, of which one is faint: PSFs, masks, a minor cycle and the major cycle after it."""
    g, scales = jobs.geometry(64, 48, CELL), (0.0, 3.0, 7.0)
    s = jobs.samples(g, n=1500)
    y, x = np.mgrid[: g.ny, : g.nx]
    sky = np.where(np.hypot(y - 22, x - 30) < 6, 0.05, 0.0)
    sky[12, 40], sky[30, 15] = 1.0, -0.6
    s = jobs.with_sky(s, dft_predict(s, g, sky))
    beam = dft_image(s, g, s.weight, np.ones(len(s.vis)), (2 * g.ny, 2 * g.nx))
    mask = np.hypot(y - 22, x - 30) < 14 if masked else None
    settings = ImagingSettings(geometry=g, scales=scales, epsilon=1e-6, samples=1500, majorcycle=way)
    device = device_kind.make(settings)
    faint = replace(s, vis=(1e-3 * s.vis).astype(np.complex64))
    planes = device.begin([faint, s], [None, mask])
    device.make_psf(planes, True)
    dirty = device.fetch(planes[1], "residual").copy()
    cycle = MinorCycle(threshold=float(np.abs(dirty).max()) / 3, max_iterations=400, gain=0.2)
    allowed = np.full(g.shape, 1e9) if mask is None else mask
    expected, iterations = cornwell(dirty, allowed, scales, 0.0, cycle, beam)
    assert device.minor(planes, [cycle] * 2) == [0, iterations]
    assert iterations > 10
    # PSFs of accuracy 1e-6, and float32 images and FFTs
    model = device.fetch(planes[1], "model").copy()
    assert model == pytest.approx(expected, abs=2e-5 * float(np.abs(expected).max()))
    assert not device.fetch(planes[0], "model").any()
    by_itself = device_kind.make(settings)
    alone = by_itself.begin([s], [mask])
    by_itself.make_psf(alone, True)
    by_itself.minor(alone, [cycle])
    assert by_itself.fetch(alone[0], "model").tobytes() == model.tobytes(), "its neighbour in the batch changes no bit"
    device.major(planes)
    left = dft_image(s, g, s.weight, s.vis - dft_predict(s, g, model))
    assert device.fetch(planes[1], "residual") == pytest.approx(left, abs=2e-5 * float(np.abs(dirty).max()))
    # a mask of its own, and the next cycle adds to the model: nothing beyond the reach of the scales from the mask
    corner = (y > 40) & (x > 56)
    device.set_masks([planes[1]], [corner])
    deeper = MinorCycle(threshold=0.0, max_iterations=20, gain=0.2)
    assert device.minor([planes[1]], [deeper]) == [20]
    added = np.abs(device.fetch(planes[1], "model") - model)
    assert added[corner].max() > 100 * added[:32].max()


@needs_compiler
def test_how_a_gpu_divides_the_work_changes_no_bit():
    """Active pixels in shared memory, in global memory, and spread over blocks with a launch for each iteration."""
    g = jobs.geometry(NX, NY, CELL)
    settings = ImagingSettings(geometry=g, scales=(0.0, 3.0, 7.0), samples=700)
    cycle = MinorCycle(threshold=0.0, max_iterations=25, gain=0.2)
    models = []
    for shared_bytes, processors in ((227 << 10, 2), (6 << 10, 1), (6 << 10, 9)):
        device = CudaDevice(settings, replace(host_backend(shared_bytes=shared_bytes), processors=processors))
        planes = device.begin([jobs.samples(g), jobs.samples(g, seed=2)], [None, None])
        device.make_psf(planes, True)
        assert device.minor(planes, [cycle] * 2) == [25, 25]
        models.append([device.fetch(p, "model").tobytes() for p in planes])
    assert models[0] == models[1] == models[2]


def test_one_scale_of_points_is_hogbom():
    dirty = dirty_of(extended_sky())
    cycle = MinorCycle(threshold=float(np.abs(dirty).max()) / 4, max_iterations=1000, gain=0.1)
    points, hogbom = plane_of(dirty), plane_of(dirty)
    assert device((0.0,)).minor([points], [cycle]) == device(()).minor([hogbom], [cycle])
    assert points.model == pytest.approx(hogbom.model, abs=1e-5 * float(np.abs(hogbom.model).max()))


def test_extended_emission_is_cleaned_deeper_with_fewer_components():
    """What multiscale is for: points leave a smooth source as a plateau that many small components share."""
    sky = np.exp(-(np.hypot(*(np.mgrid[:NY, :NX] - np.array([20, 24])[:, None, None])) ** 2) / (2 * 6.0**2))
    dirty = dirty_of(sky)
    cycle = MinorCycle(threshold=0.1 * float(dirty.max()), max_iterations=10_000, gain=0.1)
    several, points = plane_of(dirty), plane_of(dirty)
    (with_scales,) = device((0.0, 4.0, 12.0)).minor([several], [cycle])
    (without,) = device(()).minor([points], [cycle])
    assert with_scales < without
    # the truth is smooth, and so is the model of scales; that of points is a field of spikes
    error = {name: float(np.abs(plane.model - sky).max()) for name, plane in (("scales", several), ("points", points))}
    assert error["scales"] < 0.2 * float(sky.max()) < error["points"]


def test_a_component_stays_within_the_mask():
    """As in tclean: nine tenths of a component's flux lie inside the mask."""
    mask = np.zeros((NY, NX), bool)
    mask[14:27, 18:33] = True
    plane = plane_of(dirty_of(extended_sky()), mask)
    device((0.0, 3.0, 6.0)).minor([plane], [MinorCycle(threshold=0.5, max_iterations=500, gain=0.2)])
    inside = np.abs(plane.model[mask]).sum()
    assert inside > 0
    assert np.abs(plane.model).sum() - inside < 0.1 * inside


def test_a_scale_that_the_array_does_not_see_is_left_out():
    """Without short spacings a PSF lies in a bowl, and the response to a wide disc may even be negative."""
    with_scale, without = plane_of(dirty_of(extended_sky())), plane_of(dirty_of(extended_sky()))
    with_scale.psf = without.psf = psf() - np.float32(0.1)
    cycle = MinorCycle(threshold=1.0, max_iterations=300, gain=0.1)
    assert device((0.0, 15.0)).minor([with_scale], [cycle]) == device((0.0,)).minor([without], [cycle])
    assert np.array_equal(with_scale.model, without.model)


def test_a_minor_cycle_that_diverges_is_ended():
    """With a PSF that is deeper beside its peak than at it, every component raises the next one."""
    plane = plane_of(dirty_of(extended_sky()))
    plane.psf = -1.5 * plane.psf
    plane.psf[NY, NX] = 1.0
    assert device((0.0,)).minor([plane], [MinorCycle(threshold=1e-3, max_iterations=10_000, gain=0.3)])[0] < 1000
    assert np.isfinite(plane.model).all()


def test_a_scale_is_a_smooth_disc_of_unit_sum():
    for size in (1.5, 4, 10, 27.3):
        kernel = scale_kernel(size)
        middle = kernel.shape[0] // 2
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        assert np.array_equal(kernel, kernel.T)
        assert np.array_equal(kernel, kernel[::-1, ::-1])
        assert np.all(np.diff(kernel[middle, middle:]) <= 0)
        y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - middle
        assert np.all(kernel[np.hypot(y, x) >= size] == 0)


def test_scales_are_chosen_from_the_beam_and_the_image():
    assert automatic_scales(4.3, 512) == (0, 4, 12, 36)
    assert automatic_scales(0.3, 32) == (0, 1, 3)
    assert automatic_scales(50, 100) == (0,)


def test_convolving_with_a_scale_keeps_flux():
    """A check of the spectra: a point becomes the kernel, at its place."""
    one = device((0.0, 5.0))
    plane = plane_of(dirty_of(extended_sky()))
    one.minor([plane], [MinorCycle(threshold=1e9, max_iterations=1, gain=0.1)])
    point = np.zeros((NY, NX), np.float32)
    point[12, 30] = 2.0
    assert one._scales.smoothed(point, 1) == pytest.approx(smooth(point, scale_kernel(5.0)), abs=1e-6)
