"""Gaussian beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpucube.errors import GpucubeError


@dataclass(frozen=True)
class Beam:
    """A Gaussian restoring beam: full widths at half maximum in radians, position angle east of north in radians."""

    bmaj: float
    bmin: float
    bpa: float


RestoringBeam = Literal["channel", "common"] | Beam
"""What an image is restored with: each channel's own fitted beam, the smallest beam that holds all of them, or a given one."""

_ARCSEC = math.pi / 180 / 3600

_FOUR_LN2 = 4 * math.log(2)


def _position_angle(east: float, north: float) -> float:
    """Angle from north through east of an axis (not a direction), in (-pi/2, pi/2]."""
    angle = math.atan2(east, north)
    if angle <= -math.pi / 2:
        return angle + math.pi
    if angle > math.pi / 2:
        return angle - math.pi
    return angle


def beam_area_pixels(beam: Beam, cell_x: float, cell_y: float) -> float:
    """Beam's solid angle in pixels: what divides a sum in Jy/beam to give Jy."""
    return math.pi / _FOUR_LN2 * beam.bmaj * beam.bmin / (cell_x * cell_y)


def _moments(beam: Beam) -> np.ndarray:
    """Second moments (east, north) of the Gaussian, in units of FWHM squared, shape (2, 2)."""
    sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
    major, minor = beam.bmaj**2, beam.bmin**2
    cross = (major - minor) * sin * cos
    return np.array([[major * sin**2 + minor * cos**2, cross], [cross, major * cos**2 + minor * sin**2]])


def deconvolve(target: Beam, beam: Beam) -> Beam | None:
    """Gaussian that takes one beam to another.

    Parameters
    ----------
    target, beam : Beam
        The beam wanted and the beam at hand.

    Returns
    -------
    Beam or None
        The kernel whose convolution with `beam` gives `target` (its peak is not 1: keep the flux scale by the beam
        areas); an axis of zero length means no smoothing along it. None if `target` does not contain `beam`.
        An excess below 1e-8 of the target's moments counts as rounding.
    """
    moments, axes = np.linalg.eigh(_moments(target) - _moments(beam))
    rounding = 1e-8 * target.bmaj**2
    if moments[0] < -rounding:
        return None
    minor, major = (0.0 if moment <= rounding else math.sqrt(moment) for moment in moments)
    return Beam(major, minor, _position_angle(axes[0, 1], axes[1, 1]) if major > minor else 0.0)


def common_beam(beams: Sequence[Beam]) -> Beam:
    """Smallest beam to which all the given ones can be convolved.

    Parameters
    ----------
    beams : sequence of Beam
        At least one; the order does not matter.

    Returns
    -------
    Beam
        One of the given beams if it contains all others; otherwise `radio_beam.Beams.common_beam`, whose ellipse is
        within about 0.1 % of the smallest.

    Raises
    ------
    GpucubeError
        Without any beam.
    """
    distinct = sorted(set(beams), key=lambda beam: (-beam.bmaj * beam.bmin, beam.bmaj, beam.bpa))
    if not distinct:
        raise GpucubeError("no common beam: no channel has a beam")
    if _contains_all(distinct[0], distinct):
        return distinct[0]
    hull = _outermost(distinct)
    for tolerance, epsilon in ((1e-4, 5e-4), (1e-5, 5e-4), (1e-5, 2e-3), (1e-4, 1e-2)):
        candidate = _radio_beam_common(hull, tolerance, epsilon)
        if candidate is not None and _contains_all(candidate, distinct):
            return candidate
    widest = max(beam.bmaj for beam in distinct)
    return Beam(widest, widest, 0.0)


def _contains_all(candidate: Beam, beams: Sequence[Beam]) -> bool:
    return all(deconvolve(candidate, beam) is not None for beam in beams)


def _outermost(beams: Sequence[Beam]) -> list[Beam]:
    """The beams that reach furthest in some direction.

    An ellipse contains another exactly when its extent (support function) is larger in every direction, so only the
    beams that lead in one of many directions matter: a handful of them for ten thousand channels.
    """
    east_east, north_north, east_north = np.array([_moments(beam)[[0, 1, 0], [0, 1, 1]] for beam in beams]).T
    leading = set()
    for angle in np.linspace(0, math.pi, 180, endpoint=False):
        sin, cos = math.sin(angle), math.cos(angle)
        extent = east_east * sin**2 + north_north * cos**2 + 2 * east_north * sin * cos
        leading.add(int(np.argmax(extent)))
    return [beams[index] for index in sorted(leading)]


def _radio_beam_common(beams: Sequence[Beam], tolerance: float, epsilon: float) -> Beam | None:
    """`radio_beam`'s answer, or None where it does not converge."""
    import radio_beam
    from astropy import units
    from radio_beam.utils import BeamError

    if len(beams) == 1:
        return beams[0]
    # scaled to arcseconds of order one: the package's tolerances are absolute
    scale = max(beam.bmaj for beam in beams)
    table = radio_beam.Beams(
        major=[beam.bmaj / scale for beam in beams] * units.arcsec,
        minor=[beam.bmin / scale for beam in beams] * units.arcsec,
        pa=[beam.bpa for beam in beams] * units.rad,
    )
    try:
        found = table.common_beam(tolerance=tolerance, epsilon=epsilon) if len(beams) > 2 else table.common_beam()
    except (BeamError, ValueError, np.linalg.LinAlgError):
        return None
    angle = found.pa.to_value(units.rad)
    bpa = _position_angle(math.sin(angle), math.cos(angle))
    return Beam(
        float(found.major.to_value(units.arcsec)) * scale, float(found.minor.to_value(units.arcsec)) * scale, bpa
    )


def beam_to_record(beam: Beam) -> dict[str, float]:
    """The beam as `summary.json` holds it: ``bmaj_arcsec``, ``bmin_arcsec``, ``bpa_deg``."""
    return {
        "bmaj_arcsec": beam.bmaj / _ARCSEC,
        "bmin_arcsec": beam.bmin / _ARCSEC,
        "bpa_deg": math.degrees(beam.bpa),
    }


def beam_from_record(record: dict[str, float]) -> Beam:
    """The beam of a record made by `beam_to_record`."""
    return Beam(record["bmaj_arcsec"] * _ARCSEC, record["bmin_arcsec"] * _ARCSEC, math.radians(record["bpa_deg"]))
