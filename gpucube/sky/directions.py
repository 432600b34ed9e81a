"""Directions on the sky and the change of phase centre."""

from __future__ import annotations

import numpy as np


def uvw_rotation(origin: tuple[float, float, str], target: tuple[float, float, str]) -> np.ndarray | None:
    """Matrix that takes uvw for phase centre `origin` to `target`, both (ra, dec, radesys) in radians.

    With e(ra, dec) the rows (east, north, up) of the uvw frame in equatorial coordinates: M = e(target) e(origin)^T
    (Thompson, Moran & Swenson 2017, section 4.1). None if both are the same point.
    """
    if origin == target:
        return None
    positions = []
    for ra, dec, radesys in (origin, target):
        if origin[2] != target[2]:
            from astropy import units
            from astropy.coordinates import SkyCoord

            icrs = SkyCoord(ra * units.rad, dec * units.rad, frame=radesys.lower()).icrs
            ra, dec = icrs.ra.rad, icrs.dec.rad
        positions.append(_uvw_frame(ra, dec))
    return positions[1] @ positions[0].T


def _uvw_frame(ra: float, dec: float) -> np.ndarray:
    sr, cr, sd, cd = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    return np.array([[-sr, cr, 0.0], [-sd * cr, -sd * sr, cd], [cd * cr, cd * sr, sd]])
