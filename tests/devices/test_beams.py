"""The fit of a beam to a PSF recovers known Gaussians, and angles run from north through east; sidelobes of a PSF.

Oracles: radio_beam's own kernels, scipy's least squares, and Gaussians from `oracles`.
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import radio_beam
from astropy import units
from scipy import ndimage, optimize

from gpucube.constants import ARCSEC
from gpucube.devices.psf_fit import FIRST_WINDOW, fit_beam, fit_beams, peak_window, psf_sidelobe
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry


def gaussian(beam: Beam, cell_x: float, cell_y: float, ny: int, nx: int) -> np.ndarray:
    """Peak 1 at pixel (ny//2, nx//2), float32 as a PSF."""
    return oracles.gaussian(
        ImageGeometry(nx=nx, ny=ny, cell_x=cell_x, cell_y=cell_y, centre=Direction(ra=0.0, dec=0.0)), beam
    ).astype(np.float32)


def angle_difference(one: float, other: float) -> float:
    """Between two axes: position angles are equal modulo pi."""
    return abs((one - other + math.pi / 2) % math.pi - math.pi / 2)


@pytest.mark.parametrize(
    "axes", [(1.2, 1.2), (1.5, 1.1), (2.5, 2.0), (4.0, 1.6), (6.0, 5.9), (25.0, 6.0), (60.0, 45.0)]
)
@pytest.mark.parametrize("degrees", [-89, -60, -45, -10, 0, 17, 45, 80, 90])
@pytest.mark.parametrize("cells", [(1.0, 1.0), (1.0, 0.8)], ids=["square", "rectangular"])
def test_the_fit_recovers_a_gaussian(axes, degrees, cells):
    """Within 1e-4: the data are float32 with errors of 6e-8; the angle of a round beam is free."""
    cell_x, cell_y = (cell * ARCSEC for cell in cells)
    beam = Beam(bmaj=axes[0] * ARCSEC, bmin=axes[1] * ARCSEC, bpa=math.radians(degrees))
    fitted = fit_beam(gaussian(beam, cell_x, cell_y, 190, 220), cell_x, cell_y)
    assert fitted.bmaj == pytest.approx(beam.bmaj, rel=1e-4)
    assert fitted.bmin == pytest.approx(beam.bmin, rel=1e-4)
    assert fitted.bmaj >= fitted.bmin
    assert -math.pi / 2 < fitted.bpa <= math.pi / 2
    if axes[0] > axes[1]:
        assert angle_difference(fitted.bpa, beam.bpa) < 1e-4 / (axes[0] / axes[1] - 1)


@pytest.mark.parametrize("degrees", [-70, -20, 30, 75])
def test_the_position_angle_agrees_with_radio_beam(degrees):
    """radio_beam draws its kernel for images whose x grows to the west."""
    package_beam = radio_beam.Beam(9 * units.arcsec, 5 * units.arcsec, degrees * units.deg)
    kernel = package_beam.as_kernel(1 * units.arcsec, x_size=65, y_size=65).array
    fitted = fit_beam((kernel / kernel.max()).astype(np.float32), ARCSEC, ARCSEC)
    # 1 %: astropy's kernel may be averaged over pixels
    assert fitted.bmaj == pytest.approx(9 * ARCSEC, rel=0.01)
    assert fitted.bmin == pytest.approx(5 * ARCSEC, rel=0.01)
    assert math.degrees(fitted.bpa) == pytest.approx(degrees, abs=0.5)


def test_a_positive_angle_turns_from_north_to_east():
    """A streak drawn by hand from the lower right (south-west) to the upper left (north-east) has a bpa near +45 degrees."""
    psf = np.zeros((33, 33), dtype=np.float32)
    for step in range(-4, 5):
        psf[16 + step, 16 - step] = math.exp(-((step / 4) ** 2))
    assert math.degrees(fit_beam(psf, ARCSEC, ARCSEC).bpa) == pytest.approx(45, abs=1)


def simulated_psf(rng: np.random.Generator, n: int, tracks: int) -> np.ndarray:
    """PSF of elliptical uv tracks, by a direct Fourier sum; longest baseline 0.35 cycles per pixel."""
    length = 0.35 * np.sqrt(rng.random(tracks))
    turn = rng.random(tracks) * math.pi
    hours = np.linspace(-0.8, 0.8, 30)
    u = (length[:, None] * np.cos(turn[:, None] + hours)).ravel()
    v = (0.6 * length[:, None] * np.sin(turn[:, None] + hours)).ravel()
    offset = np.arange(n) - n // 2
    east = np.exp(2j * np.pi * np.outer(u, -offset))
    north = np.exp(2j * np.pi * np.outer(v, offset))
    return ((north.T @ east).real / u.size).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_to_a_real_psf_is_the_least_squares_solution(seed):
    """scipy's least squares on the same pixels, with axes and angle as unknowns; 1e-4 is the optimiser's accuracy."""
    psf = simulated_psf(np.random.default_rng(seed), 96, 40)
    labels, _ = ndimage.label(psf > 0.35, structure=np.ones((3, 3)))
    lobe = labels == labels[48, 48]
    lobe[47:50, 47:50] = True

    def misfit(parameters):
        beam = Beam(bmaj=abs(parameters[0]) * ARCSEC, bmin=abs(parameters[1]) * ARCSEC, bpa=parameters[2])
        return (gaussian(beam, ARCSEC, ARCSEC, 96, 96) - psf)[lobe].astype(float)

    starts = ((3, 2, angle) for angle in (0.0, 0.8, 1.6, 2.4))
    # float32 Gaussians: a step far above their rounding for the derivative
    best = min((optimize.least_squares(misfit, start, diff_step=1e-3) for start in starts), key=lambda r: r.cost)
    fitted = fit_beam(psf, ARCSEC, ARCSEC)
    axes = np.abs(best.x[:2])
    assert fitted.bmaj / ARCSEC == pytest.approx(axes.max(), rel=1e-4)
    assert fitted.bmin / ARCSEC == pytest.approx(axes.min(), rel=1e-4)
    angle = best.x[2] + (math.pi / 2 if axes[0] < axes[1] else 0.0)
    assert angle_difference(fitted.bpa, angle) < 1e-3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tracks", [1, 3, 40])
def test_the_fit_ends_where_the_sum_of_squares_is_least(tracks, seed):
    """A full Newton step from the fit, in the form's coefficients, is below 1e-8 of them.

    The fit stops when its own steps are below 1e-10. They shorten more slowly the less the PSF resembles a Gaussian: 1e-9 was
    measured over 60 seeds for one track.
    """
    psf = simulated_psf(np.random.default_rng(seed), 96, tracks).astype(float)
    beam = fit_beam(psf, ARCSEC, ARCSEC)
    assert 1.01 * ARCSEC < beam.bmin <= beam.bmaj < 95 * ARCSEC, "cut to the limits, where the fit does not end"
    sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
    major, minor = (4 * math.log(2) / (axis / ARCSEC) ** 2 for axis in (beam.bmaj, beam.bmin))
    form = np.array([major * sin**2 + minor * cos**2, (major - minor) * sin * cos, major * cos**2 + minor * sin**2])
    labels, _ = ndimage.label(psf > 0.35, structure=np.ones((3, 3)))
    lobe = labels == labels[48, 48]
    lobe[47:50, 47:50] = True
    rows, columns = np.nonzero(lobe)
    east, north = 48 - columns, rows - 48
    terms = np.array([east**2, 2 * east * north, north**2], dtype=float)
    model = np.exp(-form @ terms)
    gradient = terms @ (model * (psf[lobe] - model))
    hessian = (terms * model * (2 * model - psf[lobe])) @ terms.T
    assert np.abs(np.linalg.solve(hessian, gradient)).max() < 1e-8 * np.abs(form).max()


def test_a_lobe_larger_than_the_first_window_is_fitted_whole():
    beam = Beam(bmaj=150 * ARCSEC, bmin=40 * ARCSEC, bpa=0.7)
    fitted = fit_beam(gaussian(beam, ARCSEC, ARCSEC, 300, 300), ARCSEC, ARCSEC)
    assert (fitted.bmaj, fitted.bmin, fitted.bpa) == pytest.approx((beam.bmaj, beam.bmin, beam.bpa), rel=1e-4)


@pytest.mark.parametrize("shape", [(301, 300), (300, 92), (24, 300)])
@pytest.mark.parametrize("axes", [(3, 2), (14, 4), (40, 11), (150, 40)])
def test_a_window_around_the_lobe_gives_the_beam_of_the_whole_psf(axes, shape):
    """Any window that holds the lobe gives a bit-identical beam. A smaller window gives none."""
    psf = gaussian(Beam(bmaj=axes[0] * ARCSEC, bmin=axes[1] * ARCSEC, bpa=0.7), ARCSEC, ARCSEC, *shape)
    (whole,) = fit_beams(psf[None], shape, ARCSEC, ARCSEC)
    assert fit_beam(psf, ARCSEC, ARCSEC) == whole
    rows, columns = np.nonzero(psf > 0.35)
    needed = [max(abs(rows - shape[0] // 2)), max(abs(columns - shape[1] // 2))]
    for half in (1, 2, 7, FIRST_WINDOW, 23, 64, 149, 150, 200):
        window = psf[peak_window(shape, half)]
        # the lobe is cut off where it reaches the last row or column of a window and the image continues
        held = all(half > need or have == n for need, have, n in zip(needed, window.shape, shape, strict=True))
        assert fit_beams(window[None], shape, ARCSEC, ARCSEC) == [whole if held else None], f"half {half}"


def test_beams_fitted_together_are_those_fitted_alone():
    """Bit for bit, beside a lobe that is cut off, one pixel alone, and values that are not finite."""
    axes = [(5, 3), (90, 20), (1, 1), (12, 4)]
    psfs = np.array(
        [gaussian(Beam(bmaj=a * ARCSEC, bmin=b * ARCSEC, bpa=0.7), ARCSEC, ARCSEC, 64, 64) for a, b in axes]
    )
    psfs[3, 20, 20], psfs[3, 33, 34] = np.nan, np.inf
    windows = psfs[:, *peak_window((64, 64), FIRST_WINDOW)]
    alone = [fit_beams(window[None], (64, 64), ARCSEC, ARCSEC)[0] for window in windows]
    assert fit_beams(windows, (64, 64), ARCSEC, ARCSEC) == alone
    assert [beam is None for beam in alone] == [False, True, False, False]


@pytest.mark.parametrize("shape", [(64, 65), (7, 200), (2, 1)])
@pytest.mark.parametrize("half", [1, 3, 31, 32, 33, 1000])
def test_a_window_holds_the_pixels_within_its_half_width_of_the_peak(shape, half):
    y, x = np.mgrid[: shape[0], : shape[1]]
    near = (abs(y - shape[0] // 2) <= half) & (abs(x - shape[1] // 2) <= half)
    window = np.zeros(shape, bool)
    window[peak_window(shape, half)] = True
    assert np.array_equal(window, near)


def test_pixels_that_are_not_finite_count_as_zero():
    beam = Beam(bmaj=9 * ARCSEC, bmin=6 * ARCSEC, bpa=0.5)
    holes, zeros = (gaussian(beam, ARCSEC, ARCSEC, 64, 64) for _ in range(2))
    bad = [(31, 30), (35, 35), (5, 50), (40, 31)]
    for (y, x), value in zip(bad, (np.nan, np.inf, -np.inf, np.nan), strict=True):
        holes[y, x], zeros[y, x] = value, 0
    assert fit_beam(holes, ARCSEC, ARCSEC) == fit_beam(zeros, ARCSEC, ARCSEC)


def test_sidelobes_apart_from_the_main_lobe_do_not_count():
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.5)
    psf = gaussian(beam, ARCSEC, ARCSEC, 128, 128)
    psf[20:26, 30:36] = 0.9
    fitted = fit_beam(psf, ARCSEC, ARCSEC)
    assert (fitted.bmaj, fitted.bmin, fitted.bpa) == pytest.approx((beam.bmaj, beam.bmin, beam.bpa), rel=1e-4)


def ridge(u: float, v: float) -> np.ndarray:
    y, x = np.mgrid[:128, :128] - 64
    return np.cos(2 * np.pi * (v * y - u * x)).astype(np.float32)


delta = np.zeros((64, 64), dtype=np.float32)
delta[32, 32] = 1


@pytest.mark.parametrize(
    "psf",
    [
        ridge(0.02, 0.01),
        ridge(0.4, 0.0),
        ridge(0.0, 0.5),
        np.ones((64, 64), dtype=np.float32),
        delta,
        np.zeros((64, 64), dtype=np.float32),
        np.full((64, 64), np.nan, dtype=np.float32),
        np.ones((2, 2), dtype=np.float32),
        np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32),
        (2 * delta - 1).astype(np.float32),
        1e30 * gaussian(Beam(bmaj=5 * ARCSEC, bmin=4 * ARCSEC, bpa=0.0), ARCSEC, ARCSEC, 64, 64),
    ],
    ids=["ridge", "steep", "Nyquist", "flat", "delta", "zero", "NaN", "tiny", "noise", "negative", "unnormalised"],
)
def test_no_psf_breaks_the_fit(psf):
    beam = fit_beam(psf, ARCSEC, ARCSEC)
    assert ARCSEC * 0.999 <= beam.bmin <= beam.bmaj <= max(psf.shape) * ARCSEC * 1.001
    assert -math.pi / 2 < beam.bpa <= math.pi / 2


def test_a_single_baseline_gives_a_beam_as_long_as_the_field_along_its_fringes():
    """Fringe cos(2 pi (u l + v m)): the ridge lies along the line u l + v m = 0 (l east, m north)."""
    beam = fit_beam(ridge(0.02, 0.01), ARCSEC, ARCSEC)
    assert beam.bmaj == pytest.approx(128 * ARCSEC)
    assert math.degrees(beam.bpa) == pytest.approx(math.degrees(math.atan2(-0.01, 0.02)), abs=0.5)


@pytest.mark.parametrize("degrees", [0, 35, -50, 90])
def test_the_sidelobe_is_the_largest_value_outside_the_lobe(degrees):
    """Compared with a mask over the whole image, with sidelobes of either sign near and far."""
    beam = Beam(bmaj=8 * ARCSEC, bmin=3 * ARCSEC, bpa=math.radians(degrees))
    rng = np.random.default_rng(degrees + 100)
    for _ in range(20):
        psf = gaussian(beam, ARCSEC, 1.1 * ARCSEC, 80, 100) + 0.01 * rng.standard_normal((80, 100)).astype(np.float32)
        psf[rng.integers(80), rng.integers(100)] = rng.choice([-0.4, 0.4])
        lobe = Beam(bmaj=2 * 1.25 * beam.bmaj, bmin=2 * 1.25 * beam.bmin, bpa=beam.bpa)
        outside = gaussian(lobe, ARCSEC, 1.1 * ARCSEC, 80, 100) < 0.5  # half maximum: semi-axes of 1.25 FWHM
        assert psf_sidelobe(psf, beam, ARCSEC, 1.1 * ARCSEC) == np.abs(psf[outside]).max()


def test_the_sidelobe_does_not_depend_on_the_layout_of_the_psf_in_memory():
    """Cut out of a larger array, transposed, strided, mirrored, or a single column or row: the same as for a plain copy."""
    rng = np.random.default_rng(11)
    large, beam = rng.standard_normal((90, 80)).astype(np.float32), Beam(bmaj=6 * ARCSEC, bmin=3 * ARCSEC, bpa=0.4)
    views = [large[20:61, 10:60], large.T, large[::2, ::3], large[::-1, :50], large[:, ::-1], large[:, 3:4], large[5:6]]
    for psf in (*views, np.asfortranarray(large[:, :1]), np.broadcast_to(large[3], (70, 80))):
        y, x = (index - n // 2 for index, n in zip(np.indices(psf.shape), psf.shape, strict=True))
        sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
        outside = ((y * cos - x * sin) / (1.25 * 6)) ** 2 + ((x * cos + y * sin) / (1.25 * 3)) ** 2 > 1
        assert psf_sidelobe(psf, beam, ARCSEC, ARCSEC) == np.abs(psf[outside]).max()


def test_sidelobes_of_a_small_beam_begin_two_pixels_out():
    psf = delta.copy()
    psf[32, 34], psf[32, 35] = 0.5, -0.2
    assert psf_sidelobe(psf, Beam(bmaj=ARCSEC, bmin=ARCSEC, bpa=0.0), ARCSEC, ARCSEC) == pytest.approx(0.2)


@pytest.mark.parametrize("place", [(32, 37), (2, 60), (32, 1), (63, 63)])
def test_the_sidelobe_of_a_psf_with_a_nan_is_nan_unless_the_nan_lies_in_the_lobe(place):
    psf, beam = delta.copy(), Beam(bmaj=2 * ARCSEC, bmin=ARCSEC, bpa=0.0)
    psf[33, 32] = np.nan
    assert psf_sidelobe(psf, beam, ARCSEC, ARCSEC) == 0
    psf[place] = np.nan
    assert math.isnan(psf_sidelobe(psf, beam, ARCSEC, ARCSEC))


def test_a_beam_that_covers_the_field_has_no_sidelobe():
    assert (
        psf_sidelobe(np.ones((64, 64), np.float32), Beam(bmaj=100 * ARCSEC, bmin=100 * ARCSEC, bpa=0.0), ARCSEC, ARCSEC)
        == 0
    )


def test_users_fit_and_combine_beams_and_no_minor_axis_is_longer() -> None:
    """Nearly round beams, whose axes float32 cannot tell apart."""
    from gpucube.beams import common_beam, fit_beam

    y, x = np.mgrid[-32:32, -32:32]
    beams: list[Beam] = []
    for width in np.linspace(2, 6, 20):
        for ratio in (1, 1 + 1e-8, 1 - 1e-8, 1 + 1e-7, 1 + 1e-3):
            psf = np.exp(-4 * math.log(2) * ((x / width) ** 2 + (y / (width * ratio)) ** 2))
            beams.append(fit_beam(psf, 1e-4, 1e-4))
    assert all(np.float32(beam.bmin) <= np.float32(beam.bmaj) for beam in [*beams, common_beam(beams)])
