"""What every device must do, through `gpucube.devices.base.Device` alone; the oracles are exact sums in float64.

Accuracy: a gridder of accuracy epsilon makes errors of about epsilon times the sum of |w V| over the sum of w, whatever
the image holds; results are float32, with relative errors of 6e-8 of the largest value that took part.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jobs import geometry, samples, with_sky
from oracles import (
    convolved,
    dft_image,
    dft_predict,
    direct_dirty,
    direct_predict,
    direction_cosines,
    gaussian,
    imaging_weights,
)

from gpucube.constants import ARCSEC
from gpucube.devices.base import DeviceKind, ImagingSettings, MinorCycle, Restoring
from gpucube.imaging.restore import how_to_restore
from gpucube.schema.quantities import parse_taper_width
from gpucube.sky.beam import Beam

SQUARE = geometry()
RECTANGLE = geometry(64, 48, 20.0, 27.0)
WIDE = geometry(64, 48, 110.0, 90.0)
"""2 degrees across: with w of 3000 wavelengths the largest neglected phase is several radians."""


def settings(g=SQUARE, **changes) -> ImagingSettings:
    """Settings for samples of up to 4000 wavelengths in w."""
    return ImagingSettings(geometry=g, **({"epsilon": 1e-6, "samples": 1000, "w_max": 4000.0} | changes))


def begin(device_kind: DeviceKind, s, mask=None, wide: bool | None = None, **changes):
    """A device with one plane; its PSF is made unless `wide` is None."""
    device = device_kind.make(settings(**changes))
    (plane,) = device.begin([s], [mask])
    if wide is not None:
        device.make_psf([plane], wide)
    return device, plane


def gridding_error(s, epsilon: float, weight=None) -> float:
    """Largest error to expect of a pixel: three times epsilon and single precision, times the mean |V|."""
    weight = s.weight if weight is None else weight
    mean = float(np.average(np.abs(s.vis), weights=weight))
    return 3 * max(epsilon, 3e-7) * mean


def some_pixels(g, n: int = 30) -> list[tuple[int, int]]:
    """The corners, the centre, the middles of two edges, and random ones."""
    rng = np.random.default_rng(9)
    nx, ny = g.nx, g.ny
    corners = [(0, 0), (nx - 1, 0), (0, ny - 1), (nx - 1, ny - 1), (nx // 2, ny // 2), (0, ny // 2), (nx // 2, 0)]
    return corners + [(int(rng.integers(nx)), int(rng.integers(ny))) for _ in range(n - len(corners))]


def at(image: np.ndarray, pixels) -> np.ndarray:
    return np.array([image[y, x] for x, y in pixels])


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize(
    ("g", "w", "w_term"),
    [(SQUARE, 0.0, False), (RECTANGLE, 2000.0, False), (WIDE, 3000.0, True), (SQUARE, 0.0, True)],
    ids=["square", "rectangle", "wide field", "w of zero"],
)
def test_the_dirty_image_is_the_direct_fourier_sum(device_kind, g, w, w_term, epsilon):
    s = samples(g, w=w)
    device, plane = begin(device_kind, s, g=g, epsilon=epsilon, w_term=w_term)
    pixels = some_pixels(g)
    expected = direct_dirty(s.uvw, s.frequency, s.vis, s.weight, g, pixels, w_term)
    for product in ("dirty", "residual"):
        image = device.fetch(plane, product)
        assert image.shape == g.shape
        assert image.dtype == np.float32
        assert at(image, pixels) == pytest.approx(expected, abs=gridding_error(s, epsilon))
    assert plane.visibilities == np.count_nonzero(s.weight)
    assert plane.sum_weights == pytest.approx(s.weight.sum(dtype=float), rel=1e-7)
    assert not device.fetch(plane, "model").any()


def test_a_wide_field_without_the_w_term_would_be_far_off():
    """The oracle itself must be sensitive to w, or the test above would prove nothing."""
    s = samples(WIDE, w=3000.0)
    corner = [(0, 0), (63, 47)]
    with_w, without = (direct_dirty(s.uvw, s.frequency, s.vis, s.weight, WIDE, corner, w) for w in (True, False))
    assert np.abs(with_w - without).max() > 100 * gridding_error(s, 1e-4)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("w_term", [False, True])
@pytest.mark.parametrize("g", [SQUARE, WIDE], ids=["square", "rectangle"])
def test_the_psf_is_the_image_of_a_unit_source_at_the_centre(device_kind, g, w_term, wide):
    s = samples(g, w=3000.0)
    device, plane = begin(device_kind, s, g=g, wide=wide, w_term=w_term)
    psf = device.fetch(plane, "psf")
    assert psf.shape == g.shape
    ones = with_sky(s, np.ones(len(s.vis)))
    # the minor cycle's PSF is the same everywhere, so it cannot depend on w
    expected = dft_image(ones, g, s.weight, ones.vis)
    assert psf == pytest.approx(expected, abs=3e-6)
    assert psf[g.ny // 2, g.nx // 2] == pytest.approx(1.0, abs=3e-6)
    assert np.unravel_index(psf.argmax(), psf.shape) == (g.ny // 2, g.nx // 2)


@pytest.mark.parametrize("robust", [None, "uniform", -2.0, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("fill", [0.3, 0.9], ids=["inside", "some beyond the uv plane"])
def test_imaging_weights_follow_the_formulae(device_kind, robust, fill):
    g = RECTANGLE
    s = samples(g, n=3000, fill=fill)
    weighting = "natural" if robust is None else robust if robust == "uniform" else "briggs"
    value = robust if weighting == "briggs" else 0.5
    device, plane = begin(device_kind, s, g=g, weighting=weighting, robust=value)
    expected = imaging_weights(s, g, weighting, value)
    assert (np.count_nonzero(expected) < np.count_nonzero(s.weight)) == (fill > 0.5)
    assert plane.visibilities == np.count_nonzero(expected)
    # float32 weights, summed in float64
    assert plane.sum_weights == pytest.approx(expected.sum(), rel=1e-6)
    image = dft_image(s, g, expected, s.vis)
    assert device.fetch(plane, "dirty") == pytest.approx(image, abs=gridding_error(s, 1e-6, expected))


def test_robust_goes_from_uniform_to_natural(device_kind):
    """This is how Briggs defines the parameter; within 1 %, because neither end is quite reached."""
    s = samples(SQUARE, n=3000)

    def psf(**weighting):
        device, plane = begin(device_kind, s, wide=False, **weighting)
        return device.fetch(plane, "psf")

    natural, uniform = psf(), psf(weighting="uniform")
    assert np.abs(natural - uniform).max() > 0.1
    assert np.abs(psf(weighting="briggs", robust=2.0) - natural).max() < 0.01
    assert np.abs(psf(weighting="briggs", robust=-2.0) - uniform).max() < 0.01


@pytest.mark.parametrize(("major", "minor", "angle"), [(60.0, 60.0, 0.0), (90.0, 60.0, 35.0), (90.0, 60.0, -60.0)])
def test_a_taper_given_on_the_sky_convolves_the_psf_with_that_gaussian(device_kind, major, minor, angle):
    """PSF * sum of weights = natural PSF * sum of weights, convolved with the Gaussian (unit integral) on the sky."""
    g = SQUARE
    s = samples(g)
    taper = (parse_taper_width(f"{major}arcsec"), parse_taper_width(f"{minor}arcsec"), angle)
    device, plane = begin(device_kind, s, g=g, wide=False, taper=taper)
    tapered = device.fetch(plane, "psf") * plane.sum_weights
    # wider than the image by more than the Gaussian reaches (4 major FWHM: 1e-19)
    margin = 18
    natural = dft_image(s, g, s.weight, np.ones(len(s.vis)), (g.ny + 2 * margin, g.nx + 2 * margin))
    natural *= s.weight.sum(dtype=float)
    offset = np.arange(-margin, margin + 1) * 20.0
    north, east = offset[:, None], -offset
    sin, cos = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    along, across = east * sin + north * cos, east * cos - north * sin
    kernel = np.exp(-4 * np.log(2) * ((along / major) ** 2 + (across / minor) ** 2))
    kernel /= np.pi * major * minor / (4 * np.log(2)) / 20.0**2
    expected = np.zeros(g.shape)
    for j in range(2 * margin + 1):
        for i in range(2 * margin + 1):
            expected += kernel[j, i] * natural[2 * margin - j :, 2 * margin - i :][: g.ny, : g.nx]
    # a Gaussian of three pixels, sampled: 1e-6 of the natural sum; gridding 3e-6
    assert tapered == pytest.approx(expected, abs=1e-5 * natural.max())


@pytest.mark.parametrize("way", ["visibility", "image", "auto"])
@pytest.mark.parametrize("w_term", [False, True])
def test_the_residual_after_a_major_cycle_agrees_with_the_visibilities(device_kind, w_term, way):
    """Whichever way is chosen: with w only one is exact."""
    g = WIDE
    s = samples(g, w=3000.0)
    components = [(20, 9, 1.0), (50, 40, -0.5), (0, 0, 0.3), (63, 24, 0.7)]
    cosines = [(*direction_cosines(g, x, y), flux) for x, y, flux in components]
    s = with_sky(s, s.vis + direct_predict(s.uvw, s.frequency, cosines, w_term))
    device, plane = begin(device_kind, s, g=g, wide=True, w_term=w_term, majorcycle=way)
    device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=60, gain=0.3)])
    device.major([plane])
    model = device.fetch(plane, "model").astype(float)
    assert np.count_nonzero(model) > 5
    y, x = np.nonzero(model)
    found = [(*direction_cosines(g, i, j), model[j, i]) for j, i in zip(y, x, strict=True)]
    left = s.vis - direct_predict(s.uvw, s.frequency, found, w_term)
    pixels = some_pixels(g)
    expected = direct_dirty(s.uvw, s.frequency, left, s.weight, g, pixels, w_term)
    assert at(device.fetch(plane, "residual"), pixels) == pytest.approx(expected, abs=2 * gridding_error(s, 1e-6))


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("g", [SQUARE, RECTANGLE], ids=["square", "rectangle"])
def test_both_ways_of_the_major_cycle_agree(device_kind, g, epsilon):
    """Without w the operator is Toeplitz, so the way through the image is exact: the two differ only by gridding errors."""
    s = samples(g, n=2000)
    residuals = []
    for way in ("visibility", "image"):
        device, plane = begin(
            device_kind, s, g=g, wide=True, epsilon=epsilon, majorcycle=way, weighting="briggs", robust=0.0
        )
        assert device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=300, gain=0.2)]) == [300]
        device.major([plane])
        model = device.fetch(plane, "model").astype(float)
        weight = imaging_weights(s, g, "briggs", 0.0)
        expected = dft_image(s, g, weight, s.vis - dft_predict(s, g, model))
        residual = device.fetch(plane, "residual")
        # errors of epsilon of the data and of every component
        scale = np.abs(model).sum() + np.average(np.abs(s.vis), weights=weight)
        assert residual == pytest.approx(expected, abs=3 * max(epsilon, 1e-6) * scale)
        residuals.append(residual)
    assert np.abs(residuals[0]).max() < np.abs(device.fetch(plane, "dirty")).max()


@pytest.mark.parametrize("w_term", [False, True])
def test_imaging_of_a_model_is_a_symmetric_operator(device_kind, w_term):
    """A = G' W G: <A a, b> = <a, A b> only if degridding is the adjoint of gridding."""
    g = WIDE
    base = samples(g, w=3000.0)
    images = []
    for seed in (1, 2):
        s = with_sky(base, samples(g, seed=seed + 10).vis)
        device, plane = begin(device_kind, s, g=g, wide=True, w_term=w_term, majorcycle="visibility")
        device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=100, gain=0.5)])
        device.major([plane])
        model = device.fetch(plane, "model").astype(float)
        images.append((model, device.fetch(plane, "dirty").astype(float) - device.fetch(plane, "residual")))
    (a, of_a), (b, of_b) = images
    left, right = (of_a * b).sum(), (a * of_b).sum()
    size = np.linalg.norm(of_a) * np.linalg.norm(b)
    assert left == pytest.approx(right, abs=1e-5 * size)  # epsilon 1e-6 on each side, float32 images
    assert (of_a * a).sum() > 0


def test_the_peak_is_measured_inside_the_mask_and_the_noise_on_the_whole_image(device_kind):
    s = samples(RECTANGLE)
    mask = np.zeros(RECTANGLE.shape, bool)
    mask[10:14, 50:60] = True
    device = device_kind.make(settings(RECTANGLE))
    planes = device.begin([s, s, s], [None, mask, np.zeros_like(mask)])
    residual = device.fetch(planes[0], "residual")
    median = np.sort(residual, axis=None)[(residual.size - 1) // 2]
    noise = 1.4826 * np.sort(np.abs(residual - median), axis=None)[(residual.size - 1) // 2]
    peaks = [float(np.abs(residual).max()), float(np.abs(residual[mask]).max()), -1.0]
    # the noise is found by comparisons only, so it has the same bits; the factor is in double precision
    assert [p for p, _ in device.measure(planes)] == peaks
    assert [n for _, n in device.measure(planes)] == pytest.approx([noise] * 3, rel=1e-7)


def test_a_mask_that_is_set_anew_counts_from_then_on(device_kind):
    s = samples(RECTANGLE)
    first, second = np.zeros((2, *RECTANGLE.shape), bool)
    first[10:14, 50:60] = second[30:40, 3:9] = True
    device = device_kind.make(settings(RECTANGLE))
    planes = device.begin([s, s, s], [None, first, first])
    residual = np.abs(device.fetch(planes[0], "residual"))
    device.set_masks(planes[:2], [second, second])
    expected = [float(residual[mask].max()) for mask in (second, second, first)]
    assert [peak for peak, _ in device.measure(planes)] == expected


def clean_by_hand(residual, psf, gain: float, threshold: float, limit: int, mask=None):
    """Högbom 1974 in float64, written as plainly as possible: a list of (y, x, flux), and the residual."""
    residual = residual.astype(float).copy()
    ny, nx = residual.shape
    components = []
    while len(components) < limit:
        search = np.abs(residual) if mask is None else np.where(mask, np.abs(residual), -1)
        y, x = np.unravel_index(search.argmax(), search.shape)
        if search[y, x] <= threshold:
            break
        flux = gain * residual[y, x]
        residual -= flux * psf[ny - y : 2 * ny - y, nx - x : 2 * nx - x]
        components.append((y, x, flux))
    return components, residual


@pytest.fixture(scope="module")
def bright_sky():
    """Samples of a sky with positive and negative sources, and its PSF of twice the size in float64."""
    g = RECTANGLE
    s = samples(g, n=1500)
    sky = np.zeros(g.shape)
    sky[10, 12], sky[30, 50], sky[31, 52], sky[40, 5], sky[0, 63] = 1.0, -0.8, 0.5, 0.3, 0.4
    s = with_sky(s, dft_predict(s, g, sky))
    psf = dft_image(s, g, s.weight, np.ones(len(s.vis)), (2 * g.ny, 2 * g.nx))
    return g, s, psf, sky


@pytest.mark.parametrize("form", ["textbook", "activeset"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_minor_cycle_finds_the_components_of_a_plain_hogbom(device_kind, bright_sky, form, masked):
    g, s, psf, sky = bright_sky
    mask = None
    if masked:
        mask = np.zeros(g.shape, bool)
        mask[25:35, 45:60] = mask[0, 63] = True
    device, plane = begin(device_kind, s, mask, g=g, wide=True, minorcycle=form)
    # deep enough for some hundred iterations, and well above rounding, so that the same peaks are chosen
    components, _ = clean_by_hand(device.fetch(plane, "residual"), psf, 0.1, 0.05, 1000, mask)
    assert 50 < len(components) < 1000
    assert any(flux < 0 for _, _, flux in components)
    # the active set holds the pixels above 0.9 of the threshold, so no pixel outside it can be the peak
    # unless it grows, which the PSF of this array does not cause
    assert device.minor([plane], [MinorCycle(threshold=0.05, max_iterations=1000, gain=0.1)]) == [len(components)]
    expected = np.zeros(g.shape)
    for y, x, flux in components:
        expected[y, x] += flux
    model = device.fetch(plane, "model")
    assert np.array_equal(model != 0, expected != 0)
    # a PSF of accuracy 1e-6, added up over some hundred components
    assert model == pytest.approx(expected, abs=1e-5)
    if masked:
        assert not model[~mask].any()
        assert np.abs(expected[~mask]).max() == 0
    else:
        assert model[10, 12] == pytest.approx(sky[10, 12], abs=0.06)
        assert model[30, 50] < -0.5


@pytest.mark.parametrize("form", ["textbook", "activeset"])
def test_the_minor_cycle_stops_at_its_threshold_and_its_iterations(device_kind, bright_sky, form):
    g, s, _, _ = bright_sky
    mask = np.zeros(g.shape, bool)
    device, plane = begin(device_kind, s, g=g, wide=True, minorcycle=form)
    peak = device.measure([plane])[0][0]
    assert device.minor([plane], [MinorCycle(threshold=1.01 * peak, max_iterations=100, gain=0.1)]) == [0], (
        "nothing above the threshold"
    )
    assert device.minor([plane], [MinorCycle(threshold=0.1 * peak, max_iterations=0, gain=0.1)]) == [0], (
        "no iterations allowed"
    )
    assert not device.fetch(plane, "model").any()
    assert device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=7, gain=0.1)]) == [7], "as many as allowed"
    device.major([plane])
    flux = device.fetch(plane, "model").copy()
    assert device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=5, gain=0.1)]) == [5]
    assert np.abs(device.fetch(plane, "model") - flux).sum() > 0, "components are added to the model that is there"
    device, plane = begin(device_kind, s, mask, g=g, wide=True, minorcycle=form)
    assert device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=100, gain=0.1)]) == [0], "an empty mask"


@pytest.mark.parametrize("way", ["visibility", "image"])
def test_rolling_back_restores_the_plane_that_was_kept(device_kind, bright_sky, way):
    g, s, _, _ = bright_sky
    device, plane = begin(device_kind, s, g=g, wide=True, majorcycle=way)
    kept = {}
    for cycle in range(3):
        device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=20, gain=0.1)])
        device.major([plane])
        if cycle == 0:
            device.keep_model([plane])
            kept = {name: device.fetch(plane, name).copy() for name in ("model", "residual")}
    assert not np.array_equal(device.fetch(plane, "model"), kept["model"])
    for _ in range(2):  # the kept plane survives a roll-back
        device.roll_back([plane])
        for name, values in kept.items():
            assert np.array_equal(device.fetch(plane, name), values)
        device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=20, gain=0.1)])
        device.major([plane])
        expected = dft_image(s, g, s.weight, s.vis - dft_predict(s, g, device.fetch(plane, "model")))
        # epsilon 1e-6 of 3 Jy of sources and of as much of components
        assert device.fetch(plane, "residual") == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("way", ["visibility", "image"])
def test_a_given_model_has_its_exact_residual_after_a_major_cycle(device_kind, bright_sky, way):
    """Components in some pixels, and a model that fills the image: both ways of an image-space major cycle."""
    g, s, _, _ = bright_sky
    rng = np.random.default_rng(5)
    sparse = np.zeros(g.shape, np.float32)
    sparse[rng.integers(0, g.ny, 9), rng.integers(0, g.nx, 9)] = 0.3
    full = (rng.random(g.shape) * 3 / sparse.size).astype(np.float32)
    for model in (sparse, full):
        device, plane = begin(device_kind, s, g=g, wide=True, majorcycle=way)
        device.set_model([plane], [model])
        device.major([plane])
        assert np.array_equal(device.fetch(plane, "model"), model)
        expected = dft_image(s, g, s.weight, s.vis - dft_predict(s, g, model))
        # epsilon 1e-6 of 3 Jy of sources and of as much of components
        assert device.fetch(plane, "residual") == pytest.approx(expected, abs=2e-5)
        before = model.sum()
        assert device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=5, gain=0.1)]) == [5]
        assert device.fetch(plane, "model").sum() != before, "components are added to it"


def test_a_plane_does_not_depend_on_its_neighbours_in_the_batch(device_kind):
    each = [samples(RECTANGLE, seed=seed, n=500 + 100 * seed) for seed in range(4)]

    def life(device, planes):
        device.make_psf(planes, True)
        device.minor(planes, [MinorCycle(threshold=0.05, max_iterations=200, gain=0.1)] * len(planes))
        device.major(planes)
        device.measure(planes)
        products = [[device.fetch(p, name).tobytes() for name in ("psf", "model", "residual")] for p in planes]
        device.release(planes)
        return products

    device = device_kind.make(settings(RECTANGLE))
    begun = device.begin([*each, None], [None] * 5)
    together = life(device, begun[:4])
    device.release(begun[4:])
    alone = [life(device, device.begin([s], [None]))[0] for s in each[::-1]][::-1]
    assert together == alone


def test_a_plane_without_samples_has_no_data(device_kind):
    s = samples(SQUARE)
    blank = replace(s, weight=np.zeros_like(s.weight))
    far = replace(s, uvw=s.uvw + 1e7)  # beyond the image's uv plane altogether
    device = device_kind.make(settings(weighting="briggs"))
    for plane in device.begin([None, blank, far], [None] * 3):
        assert (plane.sum_weights, plane.visibilities) == (0, 0)
        assert not device.fetch(plane, "dirty").any()


@pytest.mark.parametrize("weighting", ["natural", "uniform", "briggs"])
def test_one_visibility_is_enough(device_kind, weighting):
    s = samples(SQUARE)
    one = replace(s, uvw=s.uvw[1:2], vis=s.vis[1:2], weight=s.weight[1:2])
    device, plane = begin(device_kind, one, wide=True, weighting=weighting)
    assert plane.visibilities == 1
    expected = dft_image(one, SQUARE, one.weight, one.vis)
    assert device.fetch(plane, "dirty") == pytest.approx(expected, abs=gridding_error(one, 1e-6))
    assert device.fetch(plane, "psf")[32, 32] == pytest.approx(1.0, abs=3e-6)
    # every crest of a single fringe is a peak, and cleaning must still end
    device.minor([plane], [MinorCycle(threshold=0.0, max_iterations=10, gain=0.1)])
    device.major([plane])
    assert np.isfinite(device.fetch(plane, "residual")).all()


def test_weights_may_be_as_small_as_float32_allows(device_kind):
    """A taper far below the shortest baseline leaves such weights, rounded here to 1e-4 of themselves."""
    s = samples(SQUARE)
    tiny = replace(s, weight=s.weight * np.float32(1e-41))
    images = []
    for one in (s, tiny):
        device, plane = begin(device_kind, one, wide=False)
        assert plane.sum_weights > 0
        images.append([device.fetch(plane, name) for name in ("dirty", "psf")])
    (dirty, psf), (of_tiny, psf_of_tiny) = images
    assert psf_of_tiny == pytest.approx(psf, abs=1e-3)
    assert of_tiny == pytest.approx(dirty, abs=1e-3 * float(np.abs(s.vis).max()))


BEAMS = [
    Beam(bmaj=80 * ARCSEC, bmin=80 * ARCSEC, bpa=0.0),
    Beam(bmaj=150 * ARCSEC, bmin=70 * ARCSEC, bpa=0.6),
    Beam(bmaj=120 * ARCSEC, bmin=60 * ARCSEC, bpa=-1.2),
]


@pytest.mark.parametrize("beam", BEAMS)
@pytest.mark.parametrize("dense", [False, True], ids=["few components", "every pixel"])
def test_the_restored_image_is_the_sum_of_gaussians_and_the_residual(device_kind, beam, dense):
    """A model with something in every pixel is convolved by FFT, one with few components is written pixel by pixel."""
    g = RECTANGLE
    rng = np.random.default_rng(3)
    residual = rng.normal(0, 0.01, g.shape).astype(np.float32)
    model = np.zeros(g.shape, np.float32)
    if dense:
        model += np.float32(1e-12)
    for x, y, flux in ((0, 0, 1.0), (63, 47, -0.5), (30, 20, 2.0), (31, 20, 0.25)):
        model[y, x] += flux
    expected = residual + convolved(model, g, beam)
    image = device_kind.make(settings(g)).restore(model, residual, Restoring(beam=beam))
    # Gaussians end at 1e-7 of their peak, float32 FFTs at 1e-6 of the flux
    assert image == pytest.approx(expected, abs=5e-6)
    assert model[20, 30] == 2.0, "what was given is left as it was"


@pytest.mark.parametrize("fitted", BEAMS)
def test_smoothing_the_residual_to_a_larger_beam_conserves_flux(device_kind, fitted):
    """A point source left in the residual, 1 Jy per fitted beam, becomes one of 1 Jy per target beam."""
    g, target = RECTANGLE, Beam(bmaj=200 * ARCSEC, bmin=160 * ARCSEC, bpa=0.3)
    residual = gaussian(g, fitted, 30, 22).astype(np.float32)
    device = device_kind.make(settings(g))
    image = device.restore(np.zeros(g.shape, np.float32), residual, how_to_restore(g, fitted, target))
    assert image == pytest.approx(gaussian(g, target, 30, 22), abs=1e-4)  # a beam of 3 pixels is sampled to that
    before, after = (values.sum(dtype=float) / beam.area(g) for values, beam in ((residual, fitted), (image, target)))
    assert after == pytest.approx(before, rel=1e-4)


def test_a_residual_is_left_alone_where_the_target_is_no_larger(device_kind):
    g = RECTANGLE
    residual = np.random.default_rng(1).normal(size=g.shape).astype(np.float32)
    model = np.zeros(g.shape, np.float32)
    device = device_kind.make(settings(g))
    for target in (BEAMS[1], BEAMS[0]):  # the same, and one narrower along the fitted beam
        assert np.array_equal(device.restore(model, residual, how_to_restore(g, BEAMS[1], target)), residual)
