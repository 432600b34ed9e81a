"""Directions on the sky, their reference frames, and the (u, v, w) axes of a phase centre.

In: longitude and latitude in a celestial frame. Out: the same direction in another frame, the (u, v, w) axes of a phase
centre, and the rotation that takes uvw from one phase centre to another (Thompson, Moran & Swenson 2017, section 4.1).

Frames are casacore's. Its J2000 is the mean equator and equinox of J2000.0, which lies off ICRS by the frame bias of IAU
2006 (23 mas). FITS calls it FK5, but astropy's FK5 is the system of the FK5 catalogue and lies up to 29 mas away from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_FRAMES = (
    "J2000 JMEAN JTRUE APP B1950 B1950_VLA BMEAN BTRUE GALACTIC HADEC AZEL AZELSW AZELGEO AZELSWGEO JNAT ECLIPTIC"
    " MECLIPTIC TECLIPTIC SUPERGAL ITRF TOPO ICRS"
)
_BODIES = "MERCURY VENUS MARS JUPITER SATURN URANUS NEPTUNE PLUTO SUN MOON COMET"
DIRECTION_CODES = dict(enumerate(_FRAMES.split())) | dict(enumerate(_BODIES.split(), 32))
"""casacore's numbers and words for the frames of directions (class MDirection)."""

CELESTIAL_FRAMES = {
    "J2000": "FK5",
    "ICRS": "ICRS",
    "B1950": "FK4",
    "B1950_VLA": "FK4",
    "GALACTIC": "GALACTIC",
    "SUPERGAL": "SUPERGALACTIC",
    "ECLIPTIC": "ECLIPTIC",
}
"""casacore's frames that do not move against the stars -> `Direction.frame`, which for FK5, FK4 and ICRS is RADESYS."""

EQUINOX = {"FK5": 2000.0, "FK4": 1950.0, "ICRS": None}
"""Frames of right ascension and declination, which a cube can have -> equinox, year."""

B1950_VLA_YEAR = 1979.9
"""The year for which the VLA turned J2000 into B1950, whatever the date of an observation."""

_GALACTIC = (
    (-0.0548777621, +0.4941083214, -0.8676666398),
    (-0.8734369591, -0.4448308610, -0.1980741871),
    (-0.4838350026, +0.7469822433, +0.4559837919),
)
"""Galactic to J2000 in casacore (MeasData::GALtoJ2000). Hipparcos and astropy have another pole, 0.5 arcsec away."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction on the sky: longitude and latitude in radians, in a celestial frame."""

    ra: float  # or another longitude
    dec: float
    frame: str = "FK5"  # a value of CELESTIAL_FRAMES
    year: float = field(default=2000.0, compare=False)  # of the data; FK4 turns against the stars, by 5 mas a year

    def to(self, frame: str) -> Direction:
        """Return the same direction in another frame, but not in FK4."""
        if self.frame == frame:
            return self
        x, y, z = frame_rotation(self, Direction(ra=0.0, dec=0.0, frame=frame)) @ uvw_axes(self.ra, self.dec)[2]
        return Direction(ra=math.atan2(y, x) % (2 * math.pi), dec=math.atan2(z, math.hypot(x, y)), frame=frame)


def frame_rotation(origin: Direction, target: Direction) -> np.ndarray:
    """Rotation that converts unit vectors in the frame of `origin` to that of `target`; shape (3, 3).

    It is valid for the whole sky, except with FK4. Its aberration depends on the direction, so the rotation is that
    at the two directions.
    """
    if origin.frame == target.frame:
        return np.eye(3)
    rotation: np.ndarray = _to_j2000(target).T @ _to_j2000(origin)
    return rotation


def _to_j2000(origin: Direction) -> np.ndarray:
    match origin.frame:
        case "FK5":
            return np.eye(3)
        case "ICRS":
            import erfa  # as late as astropy below: reading parameters and help need neither

            bias: np.ndarray = erfa.bp06(2400000.5, 51544.5)[0]
            return bias
        case "GALACTIC":
            return np.array(_GALACTIC)
        case "SUPERGALACTIC":
            to_galactic = uvw_axes(math.radians(47.37), math.radians(6.32)).T  # from its pole (de Vaucouleurs)
            j2000: np.ndarray = np.array(_GALACTIC) @ to_galactic
            return j2000
        case "ECLIPTIC":
            sin, cos = math.sin(math.radians(84381.448 / 3600)), math.cos(math.radians(84381.448 / 3600))
            return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
        case "FK4":
            return _fk4_to_j2000(origin)
    raise ValueError(origin.frame)


def _fk4_to_j2000(origin: Direction) -> np.ndarray:
    """Find the rotation from FK4 to J2000 near a direction.

    It is made from the J2000 positions of that direction and of a point to the north of it."""
    # imported only here because it takes half a second
    from astropy.coordinates import FK4, FK5, CartesianRepresentation
    from astropy.time import Time

    axes = uvw_axes(origin.ra, origin.dec)
    points = np.stack([axes[2], axes[2] + 1e-4 * axes[1]], axis=1)  # (3, 2)
    fk4 = FK4(CartesianRepresentation(points), equinox="B1950", obstime=Time(origin.year, format="jyear"))
    w, north = fk4.transform_to(FK5()).cartesian.xyz.value.T
    w /= np.linalg.norm(w)
    v = north - (north @ w) * w
    v /= np.linalg.norm(v)
    rotation: np.ndarray = np.array([np.cross(v, w), v, w]).T @ axes
    return rotation


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors of directions, shape (n, 3)."""
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def uvw_axes(ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
    """Unit vectors of u (east), v (north) and w (towards the phase centre) in equatorial coordinates.

    There is one vector per row: the shape is (3, 3), or (n, 3, 3) for n directions.
    """
    sr, cr, sd, cd = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    rows = ([-sr, cr, np.zeros_like(sr)], [-sd * cr, -sd * sr, cd], [cd * cr, cd * sr, sd])
    axes: np.ndarray = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return axes


def uvw_rotation(origin: Direction, target: Direction) -> np.ndarray | None:
    """Matrix, to be multiplied from the left, that takes uvw for the phase centre `origin` to that for `target`.

    It is axes(target) rotation axes(origin)^T, shape (3, 3); None if both are the same direction. The axes of uvw are
    those of the frame of the phase centre, as the definition of the MeasurementSet says.
    """
    if origin == target:
        return None
    axes = uvw_axes(origin.ra, origin.dec)
    if origin.frame != target.frame:
        axes = axes @ frame_rotation(origin, target).T
    rotation: np.ndarray = uvw_axes(target.ra, target.dec) @ axes.T
    return rotation
