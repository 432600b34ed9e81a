"""The phase centre of a field, at the times of its data.

In: the subtable FIELD. Out: a `Track`, which gives the direction that uvw of a row refer to. As casacore's class
MSFieldColumns reads it:

* PHASE_DIR is a polynomial in time of order NUM_POLY, and counts from TIME of its row.
* If EPHEMERIS_ID is 0 or more and NUM_POLY is 0, PHASE_DIR is an offset from an ephemeris in FIELD/EPHEM<id>_*.tab. Its
  positions (MJD in UTC, RA, DEC, Rho) are interpolated linearly in space, and its radial velocities (RadVel) in time. These
  refer to the centre of the Earth, or to the place of the keywords GeoLong, GeoLat and GeoDist if GeoDist is above 1 m.
* The frame is that of PHASE_DIR (the same for all rows, or one per row) or of the ephemeris (keyword posrefsys). Frames
  that move against the stars are refused.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpucube.constants import DAY
from gpucube.data.column_keywords import reference_word, unit_factors, utc_seconds
from gpucube.data.measurementset import first_line, open_table, reading
from gpucube.errors import GpucubeError
from gpucube.sky.directions import (
    B1950_VLA_YEAR,
    CELESTIAL_FRAMES,
    DIRECTION_CODES,
    Direction,
    frame_rotation,
    unit_vectors,
    uvw_axes,
)
from gpucube.sky.doppler import frequency_factor, rest_factor

if TYPE_CHECKING:
    from casacore import tables

LARGEST_OFFSET = 1.0
"""Degrees from an ephemeris to the phase centre. The Sun has a radius of 0.27; a larger offset is a direction by itself."""


_ICRS = Direction(ra=0.0, dec=0.0, frame="ICRS")

METRES_A_SECOND = 149_597_870_700 / DAY
"""Of a velocity of 1 AU/d."""


@dataclass(frozen=True, kw_only=True)
class Ephemeris:
    """The positions of an object."""

    label: str  # how messages name it
    mjd: np.ndarray  # (n,) days UTC, ascending
    position: np.ndarray  # (n, 3) AU, in its frame
    recession: np.ndarray | None = None  # (n,) radial velocity away from the observer, m/s; None if there is no RadVel
    observer: Literal["GEO", "TOPO"] = "GEO"  # the frame of `recession`

    def at(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return longitude and latitude in radians, (ntime,) each, at times in seconds UTC since MJD 0."""
        mjd = time / DAY
        if outside := [t for t in (mjd.min(), mjd.max()) if not self.mjd[0] <= t <= self.mjd[-1]]:
            raise GpucubeError(
                f"{self.label} covers MJD {self.mjd[0]:.10g} to {self.mjd[-1]:.10g}, and there are data at MJD"
                f" {outside[0]:.10g}: attach an ephemeris that covers the data"
            )
        x, y, z = (np.interp(mjd, self.mjd, axis) for axis in self.position.T)
        return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))

    def recession_at(self, time: np.ndarray) -> np.ndarray:
        """Return `recession` at times, m/s, (ntime,)."""
        if self.recession is None:
            raise GpucubeError(f"{self.label} has no radial velocities (column RadVel): use `specmode='cube'`")
        recession: np.ndarray = np.interp(time / DAY, self.mjd, self.recession)
        return recession


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where the phase centre of a field is. Times are in seconds UTC since MJD 0."""

    label: str  # how messages name the field
    frame: str  # casacore's word, a key of CELESTIAL_FRAMES
    polynomial: np.ndarray  # (nterm, 2) longitude and latitude in rad, rad/s, rad/s^2, ...
    origin: float  # time that the polynomial counts from
    ephemeris: Ephemeris | None  # `polynomial` is then an offset from it, of one term

    @property
    def moves(self) -> bool:
        """True if the direction depends on time."""
        return self.ephemeris is not None or bool(np.any(self.polynomial[1:]))

    @property
    def knows_recession(self) -> bool:
        """True if the radial velocity of the object is known."""
        return self.ephemeris is not None and self.ephemeris.recession is not None

    def check_offset(self) -> None:
        """Raise an error if an offset from an ephemeris is so long that it must be a direction."""
        offset = float(np.degrees(np.hypot(*self.polynomial[0])))
        if self.ephemeris is not None and offset > LARGEST_OFFSET:
            raise GpucubeError(
                f"{self.label} follows an ephemeris, and its PHASE_DIR, an offset from it, is {offset:.4g} degrees long: "
                f"expected at most {LARGEST_OFFSET:g}; set PHASE_DIR to 0, or EPHEMERIS_ID to -1 if PHASE_DIR is where it is"
            )

    def at(self, time: float) -> Direction:
        """Return the direction at a time."""
        ra, dec = self._positions(np.array([time]))
        year = B1950_VLA_YEAR if self.frame == "B1950_VLA" else 2000.0 + (time / DAY - 51544.5) / 365.25
        frame = CELESTIAL_FRAMES[self.frame]
        return Direction(ra=float(ra[0]), dec=float(dec[0]), frame=frame, year=year if frame == "FK4" else 2000.0)

    def rotations(self, time: np.ndarray, centre: Direction, *, follow: bool = False) -> np.ndarray:
        """Return `uvw_rotation` to a phase centre at all times, (ntime, 3, 3).

        With `follow` the phase centre moves with the field, and uvw are only rotated to the frame of `centre`.
        """
        axes = uvw_axes(*self._positions(time)) @ frame_rotation(self.at(time[0]), centre).T
        there = uvw_axes(*_angles(axes[:, 2])) if follow else uvw_axes(centre.ra, centre.dec)
        rotations: np.ndarray = there @ axes.transpose(0, 2, 1)
        return rotations

    def frequency_factor(self, source: str, target: str, times: np.ndarray, position: np.ndarray | None) -> np.ndarray:
        """Return the factor between two frames for the field, as `gpucube.sky.doppler.frequency_factor`, (ntime,).

        The target REST is the rest frame of the object whose ephemeris the field follows.
        """
        if target == "REST":
            if self.ephemeris is None:
                raise GpucubeError(
                    f"{self.label} follows no ephemeris, so that the velocity of the object is not known: use "
                    "`specmode='cube'`"
                )
            to_observer = self.frequency_factor(source, self.ephemeris.observer, times, position)
            factor: np.ndarray = to_observer * rest_factor(self.ephemeris.recession_at(times))
            return factor
        towards = unit_vectors(*self._positions(times)) @ frame_rotation(self.at(times[0]), _ICRS).T
        return frequency_factor(source, target, direction=towards, times=times, position=position)

    def _positions(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude in radians, (ntime,) each."""
        powers = (time - self.origin)[:, None] ** np.arange(len(self.polynomial))  # (ntime, nterm)
        ra, dec = (powers @ self.polynomial).T
        if self.ephemeris is not None:
            there, height = self.ephemeris.at(time)
            # as casacore's MVDirection::shift: along the meridian first, then along the great circle across it
            axes = uvw_axes(there, height + dec)
            ra, dec = _angles((np.cos(ra) * axes[:, 2].T + np.sin(ra) * axes[:, 0].T).T)
        if not np.isfinite((ra, dec)).all():
            raise GpucubeError(f"{self.label}: its direction PHASE_DIR is not finite")
        if np.abs(dec).max(initial=0.0) > np.pi / 2 + 1e-9:
            raise GpucubeError(
                f"{self.label}: the declination of its PHASE_DIR is {np.degrees(np.abs(dec).max()):.6g} degrees: expected at "
                "most 90; check the unit of PHASE_DIR"
            )
        return ra, dec


def _angles(towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of vectors (n, 3), radians, (n,) each."""
    x, y, z = towards.T
    return np.arctan2(y, x) % (2 * np.pi), np.arctan2(z, np.hypot(x, y))


def read_track(path: str, field_id: int) -> Track:
    """Read where a field of a MeasurementSet is.

    Raises
    ------
    GpucubeError
        A frame that rotates relative to the stars, a unit that is not one of angles, no ephemeris, or a subtable that cannot be
        read.
    """
    try:
        with open_table(f"{path}::FIELD") as t:
            label = f"{path} field {field_id} ({t.getcell('NAME', field_id)})"
            track = _read_track(t, field_id, label)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise GpucubeError(f"{path} field {field_id} cannot be read: {first_line(error)}") from None
    if track.frame not in CELESTIAL_FRAMES:
        known = track.frame in DIRECTION_CODES.values() or track.frame.startswith("AZEL")
        where = "PHASE_DIR" if track.ephemeris is None else track.ephemeris.label
        raise GpucubeError(
            f"{label}: {where} is in the frame {track.frame}, which {'is not fixed on the sky' if known else 'is not known'}:"
            f" convert it to one of {', '.join(CELESTIAL_FRAMES)}"
        )
    return track


def _read_track(t: tables.table, field_id: int, label: str) -> Track:
    """Read the track of a row of FIELD. Its frame is not checked."""
    columns = t.colnames()
    order = int(t.getcell("NUM_POLY", field_id)) if "NUM_POLY" in columns else 0
    terms = np.reshape(t.getcell("PHASE_DIR", field_id), (-1, 2))
    if len(terms) <= order:
        raise GpucubeError(f"{label}: PHASE_DIR has {len(terms)} terms, but NUM_POLY is {order}")
    number = int(t.getcell("EPHEMERIS_ID", field_id)) if "EPHEMERIS_ID" in columns and order <= 0 else -1
    ephemeris = None
    if number < 0:
        frame = reference_word(t, "PHASE_DIR", field_id, DIRECTION_CODES, "J2000")
    else:
        ephemeris, frame = _read_ephemeris(t.name(), number, label)
    return Track(
        label=label,
        frame=frame,
        polynomial=terms[: max(order, 0) + 1] * unit_factors(t, "PHASE_DIR", "rad"),
        origin=float(utc_seconds(t, "TIME", np.array([t.getcell("TIME", field_id)]))[0]) if order > 0 else 0.0,
        ephemeris=ephemeris,
    )


def _read_ephemeris(folder: str, number: int, label: str) -> tuple[Ephemeris, str]:
    """The ephemeris with a number in the folder of FIELD, and casacore's word for its frame."""
    pattern = f"EPHEM{number}_*.tab"
    found = glob.glob(f"{glob.escape(folder)}/{pattern}")
    if len(found) != 1:
        raise GpucubeError(
            f"{label} follows ephemeris {number}, for which there are {len(found)} tables FIELD/{pattern}, not one"
        )
    with reading(found[0]) as t:
        mjd, ra, dec, distance = (
            t.getcol(name) * unit_factors(t, name, unit)
            for name, unit in (("MJD", "d"), ("RA", "deg"), ("DEC", "deg"), ("Rho", "AU"))
        )
        recession = None
        if "RadVel" in t.colnames():
            recession = t.getcol("RadVel") * unit_factors(t, "RadVel", "AU/d") * METRES_A_SECOND
        far = "GeoDist" in t.keywordnames() and float(t.getkeyword("GeoDist")) > 1e-3  # km
        written = str(t.getkeyword("posrefsys")).upper() if "posrefsys" in t.keywordnames() else "APP"
    if not len(mjd):
        raise GpucubeError(f"{label} follows the ephemeris {found[0]}, which is empty")
    if (distance <= 0).any():
        raise GpucubeError(f"{label} follows the ephemeris {found[0]}, in which some distances Rho are not above 0")
    order = np.argsort(mjd)
    position = distance[:, None] * unit_vectors(np.radians(ra), np.radians(dec))
    ephemeris = Ephemeris(
        label=f"its ephemeris {found[0]}",
        mjd=mjd[order],
        position=position[order],
        recession=None if recession is None else recession[order],
        observer="TOPO" if far else "GEO",
    )
    return ephemeris, next((word for word in ("J2000", "B1950", "APP", "ICRS", "TOPO") if word in written), written)
