"""Beams: their pixels, spectrum and area; deconvolution; common beams that contain every beam.

Oracles: radio_beam's own algebra, FFTs, and Gaussians from `oracles`.
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import radio_beam
from astropy import units
from scipy import signal

from gpucube.constants import ARCSEC
from gpucube.errors import GpucubeError
from gpucube.sky.beam import Beam, common_beam
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry


def geometry(nx: int, ny: int, cell_x: float = ARCSEC, cell_y: float = ARCSEC) -> ImageGeometry:
    return ImageGeometry(nx=nx, ny=ny, cell_x=cell_x, cell_y=cell_y, centre=Direction(ra=0.0, dec=0.0))


def gaussian(beam: Beam, cell_x: float, cell_y: float, ny: int, nx: int) -> np.ndarray:
    """Peak 1 at pixel (ny//2, nx//2), float32."""
    return oracles.gaussian(geometry(nx, ny, cell_x, cell_y), beam).astype(np.float32)


def angle_difference(one: float, other: float) -> float:
    """Between two axes: position angles are equal modulo pi."""
    return abs((one - other + math.pi / 2) % math.pi - math.pi / 2)


def test_area_is_the_sum_of_the_gaussian():
    """A well-sampled Gaussian's sum is its integral to float32 accuracy."""
    beam = Beam(bmaj=9 * ARCSEC, bmin=6 * ARCSEC, bpa=0.4)
    total = gaussian(beam, ARCSEC, 1.2 * ARCSEC, 128, 128).astype(float).sum()
    assert beam.area(geometry(128, 128, ARCSEC, 1.2 * ARCSEC)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("degrees", [0, 35, -70, 90])
def test_sampled_beam_is_the_gaussian_as_far_as_float32_sees_it(degrees):
    """Within the samples to rounding of the exponent (up to 16); outside them the Gaussian is below 1.2e-7."""
    beam = Beam(bmaj=9 * ARCSEC, bmin=4 * ARCSEC, bpa=math.radians(degrees))
    table = beam.sampled(geometry(80, 100, ARCSEC, 1.3 * ARCSEC))
    half_y, half_x = table.shape[0] // 2, table.shape[1] // 2
    whole = gaussian(beam, ARCSEC, 1.3 * ARCSEC, 201, 201)
    inside = (slice(100 - half_y, 101 + half_y), slice(100 - half_x, 101 + half_x))
    assert table.dtype == np.float32
    assert table == pytest.approx(whole[inside], rel=2e-6, abs=1e-12)
    whole[inside] = 0
    assert whole.max() < 1.2e-7


def test_sampled_beam_reaches_no_further_than_the_image():
    assert Beam(bmaj=500 * ARCSEC, bmin=90 * ARCSEC, bpa=0.2).sampled(geometry(32, 24)).shape == (49, 65)


def test_spectrum_convolves_as_the_pixels_do():
    """By FFT with the analytic spectrum, against the sampled Gaussian of unit sum in real space.

    1e-6: float32 samples, and a Gaussian of 5 pixels has 1e-12 of its power beyond the Nyquist frequency.
    """
    beam, g = Beam(bmaj=7 * ARCSEC, bmin=5 * ARCSEC, bpa=-0.5), geometry(48, 64)
    image = np.zeros(g.shape)
    image[20, 30], image[40, 8] = 1.0, -0.5
    spectrum = beam.spectrum(g)
    assert spectrum.shape == (128, 49) and spectrum.dtype == np.float32
    padded = np.fft.rfft2(image, (128, 96)) * spectrum
    smooth = np.fft.irfft2(padded, (128, 96), norm="forward")[:64, :48]
    kernel = gaussian(beam, ARCSEC, ARCSEC, 65, 65).astype(float)
    assert smooth == pytest.approx(
        signal.fftconvolve(image, kernel / kernel.sum(), mode="same"), abs=1e-6 * kernel.max()
    )


def test_kernel_takes_one_beam_to_the_other():
    """Convolved by FFT on a fine grid; 1e-6 is the rounding of the float32 Gaussians."""
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)
    target = Beam(bmaj=10 * ARCSEC, bmin=8 * ARCSEC, bpa=-0.6)
    kernel = target.deconvolve(beam)
    images = (gaussian(part, ARCSEC, ARCSEC, 129, 129).astype(float) for part in (beam, kernel))
    convolved = signal.fftconvolve(*images, mode="same")
    assert convolved / convolved.max() == pytest.approx(gaussian(target, ARCSEC, ARCSEC, 129, 129), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_deconvolution_agrees_with_radio_beam(seed):
    rng = np.random.default_rng(seed)

    def random_beam(scale):
        axes = np.sort(scale * (1 + rng.random(2)))
        return Beam(bmaj=axes[1] * ARCSEC, bmin=axes[0] * ARCSEC, bpa=rng.uniform(-1.5, 1.5))

    def package(beam):
        return radio_beam.Beam(beam.bmaj * units.rad, beam.bmin * units.rad, beam.bpa * units.rad)

    target, beam = random_beam(1.4), random_beam(1.0)
    kernel = target.deconvolve(beam)
    expected = package(target).deconvolve(package(beam), failure_returns_pointlike=True)
    if expected.major == 0:
        assert kernel is None
    else:
        assert kernel.bmaj == pytest.approx(expected.major.to_value(units.rad), rel=1e-6)
        assert kernel.bmin == pytest.approx(expected.minor.to_value(units.rad), rel=1e-6)
        assert angle_difference(kernel.bpa, expected.pa.to_value(units.rad)) < 1e-6


def test_deconvolution_of_equal_and_larger_beams():
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)
    assert beam.deconvolve(beam) == Beam(bmaj=0.0, bmin=0.0, bpa=0.0)
    assert beam.deconvolve(Beam(bmaj=6.01 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)) is None
    assert beam.deconvolve(Beam(bmaj=5 * ARCSEC, bmin=4.01 * ARCSEC, bpa=0.3)) is None


def test_common_beam_of_equal_beams_is_that_beam():
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)
    assert common_beam([beam] * 500) == beam


def test_common_beam_is_the_largest_where_it_contains_the_others():
    """Beams that shrink with frequency: the lowest channel's, untouched."""
    beams = [Beam(bmaj=6 * ARCSEC / (1 + 1e-4 * c), bmin=4 * ARCSEC / (1 + 1e-4 * c), bpa=0.3) for c in range(3000)]
    assert common_beam(beams[::-1]) == beams[0]


@pytest.mark.parametrize(
    ("count", "spread"), [(2, 0.2), (3, 0.2), (30, 0.05), (117, 0.005), (117, 0.5), (20_000, 0.05)]
)
def test_common_beam_contains_all_and_is_hardly_larger_than_needed(count, spread):
    """Every beam can be taken to it; shrunk by 1 % (radio_beam's epsilon and tolerance) it no longer holds them all."""
    rng = np.random.default_rng(count)
    beams = [
        Beam(
            bmaj=6 * ARCSEC * (1 + spread * rng.random()),
            bmin=4 * ARCSEC * (1 + spread * rng.random()),
            bpa=spread * rng.normal(),
        )
        for _ in range(count)
    ]
    common = common_beam(beams)
    assert all(common.deconvolve(beam) is not None for beam in beams)
    assert -math.pi / 2 < common.bpa <= math.pi / 2
    smaller = Beam(bmaj=0.99 * common.bmaj, bmin=0.99 * common.bmin, bpa=common.bpa)
    assert any(smaller.deconvolve(beam) is None for beam in beams)


def test_common_beam_of_crossed_beams_is_round():
    """Two equal ellipses at right angles: the smallest ellipse around both is the circle around them."""
    common = common_beam(
        [Beam(bmaj=6 * ARCSEC, bmin=2 * ARCSEC, bpa=0.0), Beam(bmaj=6 * ARCSEC, bmin=2 * ARCSEC, bpa=math.pi / 2)]
    )
    assert common.bmaj == pytest.approx(6 * ARCSEC, rel=2e-3)
    assert common.bmin == pytest.approx(6 * ARCSEC, rel=2e-3)


def test_common_beam_is_the_same_at_every_scale():
    """Micro-arcsecond beams (EHT) as well as degrees; 1e-6 is far below radio_beam's own tolerance."""

    def common(scale):
        return common_beam([Beam(bmaj=20 * scale, bmin=15 * scale, bpa=angle) for angle in (0.0, 0.2, 0.4)])

    reference = common(ARCSEC)
    for scale in (1e-6 * ARCSEC, 360 * ARCSEC):
        found = common(scale)
        assert found.bmaj / scale == pytest.approx(reference.bmaj / ARCSEC, rel=1e-6)
        assert found.bmin / scale == pytest.approx(reference.bmin / ARCSEC, rel=1e-6)
        assert angle_difference(found.bpa, reference.bpa) < 1e-6


def test_common_beam_of_nothing_is_refused():
    with pytest.raises(GpucubeError, match="no channel has a beam"):
        common_beam([])


def test_record_holds_the_beam_in_the_units_of_the_summary():
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=math.radians(-30))
    assert beam.to_record() == pytest.approx({"bmaj_arcsec": 6, "bmin_arcsec": 4, "bpa_deg": -30})
    back = Beam.from_record(beam.to_record())
    assert (back.bmaj, back.bmin, back.bpa) == pytest.approx((beam.bmaj, beam.bmin, beam.bpa), rel=1e-14)
