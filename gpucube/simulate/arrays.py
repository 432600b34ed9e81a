"""Antenna layouts, and the UVW tracks that they sweep while the Earth turns.

In: the name of an array, the phase centre and the times. Out: ITRF antenna positions, and their coordinates along u, v, w,
in metres; a baseline is pos(ANTENNA1) - pos(ANTENNA2). Positions turn with the full IAU 2006/2000A celestial-to-terrestrial
matrix (`erfa.c2t06a` with UT1 = UTC, no polar motion and no aberration). CASA's `fixvis` agrees to 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import erfa
import numpy as np

from gpucube.sky.directions import uvw_axes

SIDEREAL_DAY = 86164.0905
"""Seconds."""

TT_MINUS_UTC = 69.184
"""Seconds, since 2017."""

GOLDEN_ANGLE = 2.399963
"""Radians: the turn from one pad of a spiral to the next."""

TRANSIT_DAY = 60371.0
"""MJD of the day whose transit is observed."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where an array stands: longitude and latitude in degrees, height in metres."""

    longitude: float
    latitude: float
    height: float


@dataclass(frozen=True, kw_only=True)
class ArrayKind:
    """A telescope in one configuration, and what is usually observed with it.

    Attributes
    ----------
    site : Site
        Where it stands.
    telescope : str
        Its name in CASA.
    antennas : int
        How many antennas it has.
    dish : float
        Diameter of an antenna, metres.
    extent : float
        Distance of the outermost antenna from the centre, metres.
    feeds : str
        ``"circular"`` or ``"linear"``.
    dec, rest_freq, chan_width : float
        Defaults of a simulated observation: degrees, Hz, Hz.
    """

    site: Site
    telescope: str
    antennas: int
    dish: float
    extent: float
    feeds: str
    dec: float
    rest_freq: float
    chan_width: float


HI_LINE = 1420.405752e6
"""Rest frequency of neutral hydrogen, Hz."""

_VLA_SITE = Site(longitude=-107.618283, latitude=34.078749, height=2114.8)


def _vla(extent: float) -> ArrayKind:
    return ArrayKind(
        site=_VLA_SITE,
        telescope="EVLA",
        antennas=27,
        dish=25.0,
        extent=extent,
        feeds="circular",
        dec=30.0,
        rest_freq=HI_LINE,
        chan_width=15.625e3,
    )


ARRAYS = {
    "vla-a": _vla(21000.0),
    "vla-b": _vla(6400.0),
    "vla-c": _vla(1950.0),
    "vla-d": _vla(592.0),
    "alma": ArrayKind(
        site=Site(longitude=-67.754929, latitude=-23.022886, height=5056.8),
        telescope="ALMA",
        antennas=43,
        dish=12.0,
        extent=264.0,
        feeds="linear",
        dec=-35.0,
        rest_freq=86.243e9,
        chan_width=122.07e3,
    ),
    "meerkat": ArrayKind(
        site=Site(longitude=21.4439, latitude=-30.7111, height=1038.0),
        telescope="MeerKAT",
        antennas=64,
        dish=13.5,
        extent=4000.0,
        feeds="linear",
        dec=-35.0,
        rest_freq=HI_LINE,
        chan_width=26.123e3,
    ),
}


def _vla_pads(extent: float) -> tuple[np.ndarray, list[str]]:
    """Pads of a Y with nine antennas an arm whose distances follow a power law: east, north, up (m) and station names."""
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
    """Pads of a loose spiral, no two closer than 15 m: east, north, up (m) and station names."""
    rng = np.random.default_rng(43)
    enu: list[np.ndarray] = []
    k = 0
    while len(enu) < antennas:
        radius = 14.0 + (extent - 14.0) * (k / 60.0) ** 0.9 * (1.0 + 0.1 * rng.standard_normal())
        angle = GOLDEN_ANGLE * k + 0.25 * rng.standard_normal()
        pad = np.array([radius * np.cos(angle), radius * np.sin(angle), 0.0])
        pad[2] = 0.01 * pad[0] + 0.6 * rng.standard_normal()
        if all(np.hypot(*(pad - other)[:2]) > 15.0 for other in enu):
            enu.append(pad)
        k = k + 1 if k < 60 else 5
    return np.array(enu), [f"DA{i + 1:02d}" for i in range(antennas)]


def _meerkat_pads(antennas: int, extent: float) -> tuple[np.ndarray, list[str]]:
    """Pads of a core with three quarters of the antennas, and of a spiral around it: east, north, up (m) and station names.

    The core has a dispersion of 300 m, and no two of its pads are closer than 29 m.
    """
    rng = np.random.default_rng(64)
    enu: list[np.ndarray] = []
    core = 3 * antennas // 4
    while len(enu) < core:
        pad = np.append(rng.normal(0.0, 300.0, 2), rng.normal(0.0, 1.0))
        if all(np.hypot(*(pad - other)[:2]) > 29.0 for other in enu):
            enu.append(pad)
    for k in range(antennas - core):
        radius, angle = 700.0 * (extent / 700.0) ** (k / (antennas - core - 1)), GOLDEN_ANGLE * k
        enu.append(np.array([radius * np.cos(angle), radius * np.sin(angle), 0.003 * radius * np.cos(2.0 * angle)]))
    return np.array(enu), [f"m{i:03d}" for i in range(antennas)]


def antenna_positions(name: str, antennas: int) -> tuple[np.ndarray, list[str]]:
    """Positions and station names of some antennas of an array, spread evenly over its layout.

    Parameters
    ----------
    name : str
        Key of `ARRAYS`.
    antennas : int
        How many antennas to use; all of them give the full array.

    Returns
    -------
    positions : numpy.ndarray
        ITRF, metres, shape (antennas, 3).
    stations : list of str
        Station names.
    """
    kind = ARRAYS[name]
    if kind.site is _VLA_SITE:
        enu, stations = _vla_pads(kind.extent)
    else:
        enu, stations = {"alma": _alma_pads, "meerkat": _meerkat_pads}[name](kind.antennas, kind.extent)
    chosen = np.linspace(0, kind.antennas - 1, antennas).round().astype(int)
    lon, lat = np.deg2rad(kind.site.longitude), np.deg2rad(kind.site.latitude)
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    up = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    positions = erfa.gd2gc(1, lon, lat, kind.site.height) + enu[chosen] @ np.array([east, north, up])
    return positions, [stations[i] for i in chosen]


def track_times(site: Site, ra: float, ntime: int, integration: float, track_hours: float) -> np.ndarray:
    """Centres of the integrations, spread evenly over a track about transit.

    Parameters
    ----------
    site : Site
        Where the array stands.
    ra : float
        Right ascension of the field, radians.
    ntime : int
        Number of integrations.
    integration : float
        Length of one, seconds. The track is never shorter than all integrations together.
    track_hours : float
        Length of the track, hours.

    Returns
    -------
    numpy.ndarray
        UTC seconds since MJD 0, shape (ntime,).
    """
    sidereal_time = erfa.gst06a(2400000.5, TRANSIT_DAY, 2400000.5, TRANSIT_DAY)
    hour_angle = sidereal_time + np.deg2rad(site.longitude) - ra
    transit = TRANSIT_DAY * 86400.0 - ((hour_angle + np.pi) % (2 * np.pi) - np.pi) / (2 * np.pi) * SIDEREAL_DAY
    span = max(track_hours * 3600.0, ntime * integration)
    times: np.ndarray = transit + (np.arange(ntime) + 0.5) * (span / ntime) - span / 2.0
    return times


def antenna_uvw(positions: np.ndarray, times: np.ndarray, ra: float, dec: float) -> np.ndarray:
    """Antenna coordinates along u, v, w, relative to the centre of the array.

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
        Metres, shape (ntime, nant, 3).
    """
    mjd = times / 86400.0
    terrestrial = erfa.c2t06a(2400000.5, mjd + TT_MINUS_UTC / 86400.0, 2400000.5, mjd, 0.0, 0.0)  # (ntime, 3, 3)
    celestial = np.einsum("tji,aj->tai", terrestrial, positions - positions.mean(0))
    uvw: np.ndarray = celestial @ uvw_axes(ra, dec).T
    return uvw
