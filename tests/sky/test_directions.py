"""Directions: the axes of uvw and the rotation from one phase centre to another."""

from __future__ import annotations

import numpy as np
import pytest

from gpucube.sky.directions import Direction, uvw_axes, uvw_rotation


def test_the_rotation_takes_one_centre_to_the_other_and_back():
    a, b = Direction(ra=0.3, dec=-0.5), Direction(ra=0.31, dec=-0.47)
    there, back = uvw_rotation(a, b), uvw_rotation(b, a)
    assert there @ back == pytest.approx(np.eye(3), abs=1e-15)
    assert np.linalg.det(there) == pytest.approx(1.0, abs=1e-15)
    assert there @ uvw_axes(a.ra, a.dec) == pytest.approx(uvw_axes(b.ra, b.dec), abs=1e-15)
    assert uvw_rotation(a, a) is None


def test_w_points_at_the_phase_centre_and_u_to_the_east():
    """From the definition of right ascension and declination, and by stepping a little to the east and to the north."""
    ra, dec, step = 2.1, -0.7, 1e-6

    def unit(ra: float, dec: float) -> np.ndarray:
        return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])

    u, v, w = uvw_axes(ra, dec)
    assert w == pytest.approx(unit(ra, dec), abs=1e-15)
    # a difference over 1e-6 is right to 1e-6 squared and its rounding to 1e-16 / 1e-6
    assert u * np.cos(dec) == pytest.approx((unit(ra + step, dec) - unit(ra - step, dec)) / (2 * step), abs=1e-9)
    assert v == pytest.approx((unit(ra, dec + step) - unit(ra, dec - step)) / (2 * step), abs=1e-9)
