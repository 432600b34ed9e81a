"""Antenna layouts, and their UVW tracks as the Earth rotates.

In: the name of an array, the phase centre and the times. Out: ITRF antenna positions, and their coordinates along u, v, w,
in metres; a baseline is pos(ANTENNA1) - pos(ANTENNA2). Positions turn with the full IAU 2006/2000A celestial-to-terrestrial
matrix (`erfa.c2t06a` with UT1 = UTC, no polar motion and no aberration). CASA's `fixvis` agrees to 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import erfa
import numpy as np

from gpucube.sky.directions import uvw_axes

SIDEREAL_DAY = 86164.0905  # seconds
TT_MINUS_UTC = 69.184  # seconds, since 2017
GOLDEN_ANGLE = 2.399963  # radians: the turn from one pad of a spiral to the next
TRANSIT_DAY = 60371.0  # MJD of the day whose transit is observed
HI_LINE = 1420.405752e6  # rest frequency of neutral hydrogen, Hz


@dataclass(frozen=True, kw_only=True)
class ArrayKind:
    """A telescope in one configuration, and the defaults of a simulated observation with it."""

    telescope: str  # its name in CASA
    longitude: float  # degrees
    latitude: float  # degrees
    height: float  # metres
    antennas: int
    dish: float  # diameter of an antenna, metres
    extent: float  # distance of the outermost antenna from the centre, metres
    feeds: str  # "circular" or "linear"
    dec: float  # degrees
    rest_freq: float  # Hz
    chan_width: float  # Hz


VLA_D = ArrayKind(
    telescope="EVLA",
    longitude=-107.618283,
    latitude=34.078749,
    height=2114.8,
    antennas=27,
    dish=25.0,
    extent=592.0,
    feeds="circular",
    dec=30.0,
    rest_freq=HI_LINE,
    chan_width=15.625e3,
)

ARRAYS = {
    "vla-a": replace(VLA_D, extent=21000.0),
    "vla-b": replace(VLA_D, extent=6400.0),
    "vla-c": replace(VLA_D, extent=1950.0),
    "vla-d": VLA_D,
    "alma": ArrayKind(
        telescope="ALMA",
        longitude=-67.754929,
        latitude=-23.022886,
        height=5056.8,
        antennas=43,
        dish=12.0,
        extent=264.0,
        feeds="linear",
        dec=-35.0,
        rest_freq=86.243e9,
        chan_width=122.07e3,
    ),
    "meerkat": ArrayKind(
        telescope="MeerKAT",
        longitude=21.4439,
        latitude=-30.7111,
        height=1038.0,
        antennas=64,
        dish=13.5,
        extent=4000.0,
        feeds="linear",
        dec=-35.0,
        rest_freq=HI_LINE,
        chan_width=26.123e3,
    ),
}


def _vla_pads(antennas: int, extent: float) -> tuple[np.ndarray, list[str]]:
    """Lay out a Y whose pads follow a power law along an arm. Every layout gives east, north, up (m) and station names."""
    enu, names, per_arm = [], [], antennas // 3
    for arm, azimuth in (("W", 236.0), ("E", 115.0), ("N", 355.0)):
        for k in range(1, per_arm + 1):
            radius = extent * (k / per_arm) ** 1.716
            if arm == "N" and k == 1:
                radius *= 1.35  # the northern arm starts off the centre
            angle = np.deg2rad(azimuth + 0.15 * np.sin(3.1 * k))
            enu.append((radius * np.sin(angle), radius * np.cos(angle), 0.3 * np.sin(0.7 * k + len(arm))))
            names.append(f"{arm}{k:02d}")
    return np.array(enu), names


def _alma_pads(antennas: int, extent: float) -> tuple[np.ndarray, list[str]]:
    """Lay out a loose spiral, with no two pads closer than 15 m."""
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
    """Lay out a core of three quarters of the antennas, no two closer than 29 m, and a spiral around it."""
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
    """Spread antennas evenly over the layout of an array: ITRF positions (antennas, 3) in metres, and station names."""
    kind = ARRAYS[name]
    pads = {"EVLA": _vla_pads, "ALMA": _alma_pads, "MeerKAT": _meerkat_pads}[kind.telescope]
    enu, stations = pads(kind.antennas, kind.extent)
    chosen = np.linspace(0, kind.antennas - 1, antennas).round().astype(int)
    lon, lat = np.deg2rad(kind.longitude), np.deg2rad(kind.latitude)
    positions = erfa.gd2gc(1, lon, lat, kind.height) + enu[chosen] @ uvw_axes(lon, lat)  # east, north, up
    return positions, [stations[i] for i in chosen]


def track_times(kind: ArrayKind, ra: float, ntime: int, integration: float, track_hours: float) -> np.ndarray:
    """Spread the integrations evenly over a track about transit: their centres in UTC seconds since MJD 0, (ntime,).

    `ra` is in radians and `integration` in seconds. The track is never shorter than all integrations together.
    """
    sidereal_time = erfa.gst06a(2400000.5, TRANSIT_DAY, 2400000.5, TRANSIT_DAY)
    hour_angle = sidereal_time + np.deg2rad(kind.longitude) - ra
    transit = TRANSIT_DAY * 86400.0 - ((hour_angle + np.pi) % (2 * np.pi) - np.pi) / (2 * np.pi) * SIDEREAL_DAY
    span = max(track_hours * 3600.0, ntime * integration)
    times: np.ndarray = transit + (np.arange(ntime) + 0.5) * (span / ntime) - span / 2.0
    return times


def antenna_uvw(positions: np.ndarray, times: np.ndarray, ra: float, dec: float) -> np.ndarray:
    """Project antennas on u, v, w, relative to the centre of the array: metres, (ntime, nant, 3).

    `positions` are ITRF (nant, 3) in metres, `times` UTC seconds since MJD 0, and `ra`, `dec` the phase centre in radians.
    """
    mjd = times / 86400.0
    terrestrial = erfa.c2t06a(2400000.5, mjd + TT_MINUS_UTC / 86400.0, 2400000.5, mjd, 0.0, 0.0)  # (ntime, 3, 3)
    celestial = np.einsum("tji,aj->tai", terrestrial, positions - positions.mean(0))
    uvw: np.ndarray = celestial @ uvw_axes(ra, dec).T
    return uvw
