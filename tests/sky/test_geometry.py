"""The image plane: n - 1 without cancellation, and pixels where astropy's SIN projection puts them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry, n_minus_one


def test_n_minus_one_of_every_pixel():
    nx, ny, cell = 40, 30, 0.01
    height = n_minus_one(nx, ny, cell, 1.5 * cell)
    assert height.shape == (ny, nx)
    assert height[15, 20] == 0
    l, m = -(7 - 20) * cell, (25 - 15) * 1.5 * cell
    assert height[25, 7] == pytest.approx(np.sqrt(1 - l * l - m * m) - 1, abs=1e-15)
    # without cancellation: 1e-12 rad^2 / 2, which 1 - sqrt(1 - r^2) would know to 4 digits only
    assert n_minus_one(2, 2, 1e-6, 1e-6)[0, 1] == pytest.approx(-5e-13, rel=1e-9)
    with pytest.raises(GpucubeError, match="horizon"):
        n_minus_one(400, 300, cell, cell)


def test_sky_positions_are_those_of_astropy():
    """Wide field near the pole, where approximations show; 1e-12 rad is rounding."""
    geometry = ImageGeometry(
        nx=64,
        ny=64,
        cell_x=math.radians(0.2),
        cell_y=math.radians(0.1),
        centre=Direction(ra=math.radians(200), dec=math.radians(80)),
    )
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.latpole = ["RA---SIN", "DEC--SIN"], [200.0, 80.0], 80.0
    wcs.wcs.cdelt, wcs.wcs.crpix = [-0.2, 0.1], [33.0, 33.0]
    y, x = np.mgrid[:64:9, :64:9]
    ra, dec = geometry.sky_position(x, y)
    expected_ra, expected_dec = wcs.wcs_pix2world(x, y, 0)
    ours = SkyCoord(ra, dec, unit="rad")
    assert ours.separation(SkyCoord(expected_ra, expected_dec, unit="deg")).rad.max() < 1e-12


@pytest.mark.parametrize("cells", [(1e-5, 1e-5), (1e-3, 2e-3), (0.02, 0.1)])
def test_largest_w_phase_is_that_of_a_corner(cells):
    """1 - n in extended precision; beyond the horizon n is 0."""
    geometry = ImageGeometry(nx=64, ny=32, cell_x=cells[0], cell_y=cells[1], centre=Direction(ra=0.0, dec=0.0))
    r2 = np.longdouble(32 * cells[0]) ** 2 + np.longdouble(16 * cells[1]) ** 2
    one_minus_n = 1 - np.sqrt(1 - r2) if r2 < 1 else 1
    # 1e-12 is what the oracle's own cancellation leaves of 64 bits at 1 - n = 5e-8
    assert geometry.w_phase(1000.0) == pytest.approx(float(2000 * np.pi * one_minus_n), rel=1e-11)
