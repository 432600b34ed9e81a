"""Directions on the sky and the axes that belong to them.

In: right ascension and declination in a celestial frame. Out: the (u, v, w) axes of a phase centre, and the rotation
that takes uvw from one phase centre to another (Thompson, Moran & Swenson 2017, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction on the sky: right ascension and declination in radians, in a celestial frame."""

    ra: float
    dec: float
    frame: str = "FK5"  # FITS name: "FK5" (J2000) or "ICRS"

    def icrs(self) -> Direction:
        """Return the same direction in ICRS."""
        # imported only here because it takes half a second
        from astropy import units
        from astropy.coordinates import SkyCoord

        icrs = SkyCoord(self.ra * units.rad, self.dec * units.rad, frame=self.frame.lower()).icrs
        return Direction(ra=icrs.ra.rad, dec=icrs.dec.rad, frame="ICRS")


def uvw_axes(ra: float, dec: float) -> np.ndarray:
    """Unit vectors of u (east), v (north) and w (towards the phase centre) in equatorial coordinates, one per row."""
    sr, cr, sd, cd = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    return np.array([[-sr, cr, 0.0], [-sd * cr, -sd * sr, cd], [cd * cr, cd * sr, sd]])


def uvw_rotation(origin: Direction, target: Direction) -> np.ndarray | None:
    """Matrix, to be multiplied from the left, that takes uvw for the phase centre `origin` to that for `target`.

    It is axes(target) axes(origin)^T, shape (3, 3); None if both are the same direction.
    """
    if origin == target:
        return None
    if origin.frame != target.frame:
        origin, target = origin.icrs(), target.icrs()
    rotation: np.ndarray = uvw_axes(target.ra, target.dec) @ uvw_axes(origin.ra, origin.dec).T
    return rotation
