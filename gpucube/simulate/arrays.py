"""Antenna layouts and the UVW tracks that they sweep while the Earth turns.

In: the name of an array, the phase centre and the times. Out: ITRF positions and baselines in the frame of the phase
centre, metres, as UVW = pos(ANTENNA1) - pos(ANTENNA2). Positions turn with the full IAU 2006/2000A
celestial-to-terrestrial matrix (erfa `c2t06a`; UT1 = UTC, no polar motion, no aberration); CASA's `fixvis` computes
the same to 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import erfa
import numpy as np

from gpucube.sky.directions import uvw_axes

SIDEREAL_DAY = 86164.0905
TT_MINUS_UTC = 69.184
"""Seconds, since 2017."""

SITES = {
    "vla": (np.deg2rad(-107.618283), np.deg2rad(34.078749), 2114.8),
    "alma": (np.deg2rad(-67.754929), np.deg2rad(-23.022886), 5056.8),
    "meerkat": (np.deg2rad(21.4439), np.deg2rad(-30.7111), 1038.0),
}
"""Longitude and latitude in radians, height in metres."""


@dataclass(frozen=True)
class ArrayKind:
    """A telescope in one configuration, and what one usually observes with it.

    Attributes
    ----------
    site, telescope : str
        Key of `SITES`; name as CASA knows it.
    antennas : int
        How many there are.
    dish : float
        Diameter, metres.
    extent : float
        Distance of the outermost antenna from the centre, metres.
    feeds : str
        ``"circular"`` or ``"linear"``.
    dec, rest_freq, chan_width : float
        Defaults of a simulated observation: degrees, Hz, Hz.
    """

    site: str
    telescope: str
    antennas: int
    dish: float
    extent: float
    feeds: str
    dec: float
    rest_freq: float
    chan_width: float


def _vla(extent: float) -> ArrayKind:
    return ArrayKind("vla", "EVLA", 27, 25.0, extent, "circular", 30.0, 1420.405752e6, 15.625e3)


ARRAYS = {
    "vla-a": _vla(21000.0),
    "vla-b": _vla(6400.0),
    "vla-c": _vla(1950.0),
    "vla-d": _vla(592.0),
    "alma": ArrayKind("alma", "ALMA", 43, 12.0, 264.0, "linear", -35.0, 86.243e9, 122.07e3),
    "meerkat": ArrayKind("meerkat", "MeerKAT", 64, 13.5, 4000.0, "linear", -35.0, 1420.405752e6, 26.123e3),
}


def _vla_pads(extent: float) -> tuple[np.ndarray, list[str]]:
    """East, north, up (m) and station names of a Y with nine antennas an arm, their distances a power law."""
    enu, names = [], []
    for arm, azimuth in (("W", 236.0), ("E", 115.0), ("N", 355.0)):
        for k in range(1, 10):
            radius = extent * (k / 9.0) ** 1.716
            if arm == "N" and k == 1:
                radius *= 1.35  # the northern arm starts off the centre
            angle = np.deg2rad(azimuth + 0.15 * np.sin(3.1 * k))
            enu.append((radius * np.sin(angle), radius * np.cos(angle), 0.3 * np.sin(0.7 * k + len(arm))))
            names.append(f"{arm}{k:02d}")
    return np.array(enu), names


def _alma_pads(antennas: int, extent: float) -> tuple[np.ndarray, list[str]]:
    """East, north, up (m) and station names of a loose spiral with no two pads closer than 15 m."""
    rng = np.random.default_rng(43)
    enu: list[np.ndarray] = []
    k = 0
    while len(enu) < antennas:
        radius = 14.0 + (extent - 14.0) * (k / 60.0) ** 0.9 * (1.0 + 0.1 * rng.standard_normal())
        angle = 2.399963 * k + 0.25 * rng.standard_normal()  # the golden angle
        pad = np.array([radius * np.cos(angle), radius * np.sin(angle), 0.0])
        pad[2] = 0.01 * pad[0] + 0.6 * rng.standard_normal()
        if all(np.hypot(*(pad - other)[:2]) > 15.0 for other in enu):
            enu.append(pad)
        k += 1
        if k > 60:
            k = 5
    return np.array(enu), [f"DA{i + 1:02d}" for i in range(antennas)]


def _meerkat_pads(antennas: int, extent: float) -> tuple[np.ndarray, list[str]]:
    """East, north, up (m) and station names of a core, 300 m in dispersion, with three quarters of the antennas, and a
    spiral around it; no two pads closer than 29 m."""
    rng = np.random.default_rng(64)
    enu: list[np.ndarray] = []
    core = 3 * antennas // 4
    while len(enu) < antennas:
        k = len(enu) - core
        if k < 0:
            pad = np.append(rng.normal(0.0, 300.0, 2), rng.normal(0.0, 1.0))
        else:
            radius, angle = 700.0 * (extent / 700.0) ** (k / (antennas - core - 1)), 2.399963 * k
            pad = np.array([radius * np.cos(angle), radius * np.sin(angle), 0.003 * radius * np.cos(2.0 * angle)])
        if k >= 0 or all(np.hypot(*(pad - other)[:2]) > 29.0 for other in enu):
            enu.append(pad)
    return np.array(enu), [f"m{i:03d}" for i in range(antennas)]


def antenna_positions(name: str, antennas: int) -> tuple[np.ndarray, list[str]]:
    """Positions and station names of an array, or of an even spread over it.

    Parameters
    ----------
    name : str
        Key of `ARRAYS`.
    antennas : int
        How many to use.

    Returns
    -------
    positions : numpy.ndarray
        ITRF, metres, shape (antennas, 3).
    stations : list of str
        Their names.
    """
    kind = ARRAYS[name]
    if kind.site == "vla":
        enu, stations = _vla_pads(kind.extent)
    else:
        enu, stations = {"alma": _alma_pads, "meerkat": _meerkat_pads}[kind.site](kind.antennas, kind.extent)
    chosen = np.linspace(0, kind.antennas - 1, antennas).round().astype(int)
    lon, lat, height = SITES[kind.site]
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    up = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    positions = erfa.gd2gc(1, lon, lat, height) + enu[chosen] @ np.array([east, north, up])
    return positions, [stations[i] for i in chosen]


def track_times(site: str, ra: float, ntime: int, integration: float, track_hours: float) -> np.ndarray:
    """Centres of the integrations, spread evenly over a track about transit.

    Parameters
    ----------
    site : str
        Key of `SITES`.
    ra : float
        Radians.
    ntime : int
        Number of integrations.
    integration : float
        Seconds; the track is never shorter than all integrations together.
    track_hours : float
        Length of the track, hours.

    Returns
    -------
    numpy.ndarray
        UTC seconds since MJD 0, shape (ntime,).
    """
    mjd = 60371.0
    hour_angle = erfa.gst06a(2400000.5, mjd, 2400000.5, mjd) + SITES[site][0] - ra
    transit = mjd * 86400.0 - ((hour_angle + np.pi) % (2 * np.pi) - np.pi) / (2 * np.pi) * SIDEREAL_DAY
    span = max(track_hours * 3600.0, ntime * integration)
    return transit + (np.arange(ntime) + 0.5) * (span / ntime) - span / 2.0


def antenna_uvw(positions: np.ndarray, times: np.ndarray, ra: float, dec: float) -> np.ndarray:
    """Antenna coordinates along u, v, w; a baseline is the difference of two.

    Parameters
    ----------
    positions : numpy.ndarray
        ITRF, metres, shape (nant, 3).
    times : numpy.ndarray
        UTC seconds since MJD 0, shape (ntime,).
    ra, dec : float
        Phase centre, radians.

    Returns
    -------
    numpy.ndarray
        Metres, shape (ntime, nant, 3), relative to the array's centre.
    """
    mjd = times / 86400.0
    terrestrial = erfa.c2t06a(2400000.5, mjd + TT_MINUS_UTC / 86400.0, 2400000.5, mjd, 0.0, 0.0)
    celestial = np.einsum("tji,aj->tai", terrestrial, positions - positions.mean(0))
    return celestial @ uvw_axes(ra, dec).T
