"""Doppler factors between the rest frames of frequencies, time by time.

In: two frames, the direction of the source, the place of the observatory and times. Out: the factor by which a frequency
changes from one frame to the other at each time. Every frame moves with a known velocity relative to the barycentre of the
solar system, and each step is a relativistic Doppler shift by the component v towards the source,
sqrt((1 - v/c) / (1 + v/c)). The steps, their order and the velocities of the frames follow
casacore's measures, so that frequencies agree with tclean's to within 0.2 m/s.

The motion of the Earth is that of ERFA (epv00, pvtob; the IAU SOFA algorithms). UT1 is taken to be UTC, which changes the
velocity of the observatory by at most 0.03 m/s.
"""

from __future__ import annotations

import warnings

import numpy as np

from gpucube.constants import DAY, LIGHT_SPEED
from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction, unit_vectors

_APEX: dict[str, tuple[float, tuple[float, float, float]]] = {
    "LSRK": (20e3, (0.0145021, -0.865863, 0.500071)),
    "LSRD": (16.552945e3, (-0.0385568, -0.881138, 0.471285)),
    "LGROUP": (308e3, (0.593553979227, -0.177954636914, 0.784873124106)),
    "CMB": (369.5e3, (-0.97176985257, 0.202393953108, -0.121243727187)),
}
"""Speed of the Sun in m/s in a frame, and its direction in J2000, as in casacore (MeasTable.cc)."""

_GALACTIC_ROTATION = (220e3, (0.494109, -0.44483, 0.746982))
"""Speed of LSRD about the centre of the galaxy in m/s, and its direction in J2000."""

_MJD_ZERO = 2400000.5

_DATES = 15020 * DAY, 88069 * DAY
"""The years 1900 and 2100, seconds of MJD. Between them the motion of the Earth is known well."""


def are_dates(times: np.ndarray) -> np.ndarray:
    """Return where times in seconds of MJD lie between 1900 and 2100, bool, (ntime,). Others are not dates of observations."""
    known: np.ndarray = (times > _DATES[0]) & (times < _DATES[1])  # NaN compares as False
    return known


def frequency_factor(
    source: str, target: str, *, direction: Direction | np.ndarray, times: np.ndarray, position: np.ndarray | None
) -> np.ndarray:
    """Factor that converts frequencies from one frame to another.

    Parameters
    ----------
    source, target : str
        Names of `gpucube.sky.frames.FRAMES` other than REST.
    direction : Direction or numpy.ndarray
        Of the source; unit vectors in ICRS, shape (ntime, 3), if it moves.
    times : numpy.ndarray
        UTC, seconds of MJD, shape (ntime,), as in TIME of a MeasurementSet.
    position : numpy.ndarray or None
        Of the observatory, ITRF, metres, shape (3,). Only TOPO needs it.

    Returns
    -------
    numpy.ndarray
        Frequency in `target` over frequency in `source`, shape (ntime,).

    Raises
    ------
    GpucubeError
        TOPO without a position, or a frame that has no known velocity.

    Notes
    -----
    The steps are those of casacore's MCFrequency.

    Examples
    --------
    >>> at = {"direction": Direction(ra=3.27, dec=-0.61), "times": np.array([5059857600.0]), "position": None}
    >>> frequency_factor("GEO", "LSRK", **at).round(7)
    array([0.9999802])
    """
    if source == target:
        return np.ones(len(times))
    towards = direction
    if isinstance(towards, Direction):
        towards = unit_vectors(np.array([towards.ra]), np.array([towards.dec]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about leap seconds that are not known yet
        factor: np.ndarray = _to_barycentre(source, towards, times, position)
        ratio: np.ndarray = factor / _to_barycentre(target, towards, times, position)
    return ratio


def rest_factor(recession: np.ndarray) -> np.ndarray:
    """Frequency in the rest frame of a source over the frequency for an observer from whom it recedes, at speeds in m/s."""
    return _shift(-recession)


def _to_barycentre(frame: str, towards: np.ndarray, times: np.ndarray, position: np.ndarray | None) -> np.ndarray:
    """Frequency in BARY over frequency in `frame`, shape (ntime,); `towards` is (1, 3) or (ntime, 3)."""
    if frame in ("TOPO", "GEO"):
        earth = _earth_velocity(times)  # (ntime, 3)
        factor: np.ndarray = _shift((earth * towards).sum(1))
        if frame == "TOPO":
            if position is None:
                raise GpucubeError("the position of the observatory is not known: TOPO frequencies cannot be converted")
            apparent = towards + earth / LIGHT_SPEED  # aberration
            apparent /= np.linalg.norm(apparent, axis=1)[:, None]
            factor = factor * _shift((_observatory_velocity(times, position) * apparent).sum(1))
        return factor
    if frame == "BARY":
        return np.ones(len(times))
    if frame == "GALACTO":
        speed, apex = _GALACTIC_ROTATION
        galactic = 1 / _shift(speed * (towards @ apex))
        return np.asarray(galactic * _to_barycentre("LSRD", towards, times, position))
    if frame not in _APEX:
        raise GpucubeError(f"frequencies cannot be converted to or from the frame {frame}: its velocity is not known")
    speed, apex = _APEX[frame]
    return np.asarray(np.ones(len(times)) / _shift(speed * (towards @ apex)))


def _shift(velocity: np.ndarray) -> np.ndarray:
    """Frequency in the frame at rest over frequency for an observer who moves to the source with `velocity` in m/s."""
    beta = velocity / LIGHT_SPEED
    factor: np.ndarray = np.sqrt((1 - beta) / (1 + beta))
    return factor


def _terrestrial_days(times: np.ndarray) -> np.ndarray:
    """TT of UTC times in seconds of MJD, as days of MJD; TDB differs from it by 2 ms."""
    import erfa

    days = np.floor(times / DAY)
    tai1, tai2 = erfa.utctai(_MJD_ZERO + days, times / DAY - days)
    tt1, tt2 = erfa.taitt(tai1, tai2)
    terrestrial: np.ndarray = (tt1 - _MJD_ZERO) + tt2
    return terrestrial


def _earth_velocity(times: np.ndarray) -> np.ndarray:
    """Velocity of the centre of the Earth relative to the barycentre, m/s, equatorial, shape (ntime, 3)."""
    import erfa

    _, barycentric = erfa.epv00(_MJD_ZERO, _terrestrial_days(times))
    velocity: np.ndarray = barycentric["v"] * (erfa.DAU / erfa.DAYSEC)
    return velocity


def _observatory_velocity(times: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Velocity of the observatory relative to the centre of the Earth, m/s, equatorial of J2000, shape (ntime, 3)."""
    import erfa

    longitude, latitude, height = erfa.gc2gd(1, np.asarray(position, float))
    angle = erfa.era00(_MJD_ZERO, times / DAY)
    moving = erfa.pvtob(longitude, latitude, height, 0.0, 0.0, 0.0, angle)["v"]  # (ntime, 3), of date
    to_date = erfa.c2i00b(_MJD_ZERO, _terrestrial_days(times))  # (ntime, 3, 3)
    return np.asarray(np.einsum("tji,tj->ti", to_date, moving))
