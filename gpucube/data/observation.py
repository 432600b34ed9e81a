"""Who observed, where, when and which line: what the headers of the cubes say besides the axes.

In: the subtables OBSERVATION, SOURCE and ANTENNA, and the rows that are imaged. Out: an `Observation`, and the rest
frequency. Telescope, observer, antennas and times are those of the rows themselves, because a MeasurementSet often
holds several observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import DAY
from gpucube.data.column_keywords import unit_factors, utc_seconds
from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction
from gpucube.sky.doppler import are_dates
from gpucube.text import frequency_text

if TYPE_CHECKING:
    from casacore import tables

    from gpucube.data.measurementset import MeasurementSet
    from gpucube.sky.frames import SpectralFrame

ONE_SITE = 100e3
"""Metres. Telescopes nearer to one another have the same velocity to within 10 m/s."""

TIMES_OFF = 10.0
"""A rest frequency more than this factor above or below the data's frequency belongs to other data."""

LARGEST_REDSHIFT_FACTOR = 100.0
"""A user's rest frequency may be this many times the data's frequency: the 21 cm line of the first stars has 30."""

UVW_SCALE = 0.2
"""Part of its length by which uvw can differ from the distance of its antennas."""

LONGEST_EARTHLY = 1e10
"""Metres. Longer uvw are garbage and are left out when the rows are read."""

NEAR_BAND = 2e-3
"""A line this far beyond the edge of the band, relative to its frequency (600 km/s), may still be the one observed."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the headers of the cubes say of an observation. What is empty or None is unknown."""

    telescopes: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    begin: float | None = None  # of the first integration, UTC seconds since MJD 0
    end: float | None = None  # of the last one
    place: tuple[float, float, float] | None = None  # mean of the antennas, ITRF, metres
    pointing: Direction | None = None  # phase centre of the field
    doubts: tuple[str, ...] = ()  # what is wrong with the rows


def observation_rows(t: tables.table) -> tuple[tuple[str, str], ...]:
    """Telescope and observer of every row of OBSERVATION."""
    if not t.nrows():
        return ()
    return tuple(
        (name.strip(), who.strip()) for name, who in zip(*map(t.getcol, ("TELESCOPE_NAME", "OBSERVER")), strict=True)
    )


def rest_frequency_rows(t: tables.table) -> tuple[tuple[int, int, float], ...]:
    """SOURCE_ID, spectral window (-1 for all) and rest frequency (Hz) of every line of SOURCE whose frequency is filled in."""
    if "REST_FREQUENCY" not in t.colnames():
        return ()
    factor = unit_factors(t, "REST_FREQUENCY", "Hz")
    return tuple(
        (int(t.getcell("SOURCE_ID", row)), int(t.getcell("SPECTRAL_WINDOW_ID", row)), float(frequency))
        for row in range(t.nrows())
        if t.iscelldefined("REST_FREQUENCY", row)
        for frequency in np.ravel(t.getcell("REST_FREQUENCY", row)) * factor[0]
        if np.isfinite(frequency) and frequency > 0
    )


def antenna_positions(t: tables.table) -> np.ndarray:
    """Positions of all antennas, ITRF, metres, (nantenna, 3)."""
    return t.getcol("POSITION") * unit_factors(t, "POSITION", "m") if t.nrows() else np.empty((0, 3))


def dish_diameter(t: tables.table) -> float:
    """Median diameter of the antennas, metres; 0 if it is unknown."""
    if not t.nrows() or "DISH_DIAMETER" not in t.colnames():
        return 0.0
    diameters = t.getcol("DISH_DIAMETER") * unit_factors(t, "DISH_DIAMETER", "m")
    known = diameters[np.isfinite(diameters) & (diameters > 0)]
    return float(np.median(known)) if len(known) else 0.0


@np.errstate(over="ignore", invalid="ignore")  # of garbage in rows or positions, which is left out
def observe(ms: MeasurementSet, main: tables.table, rows: np.ndarray, centre: Direction) -> Observation:
    """Describe the observations that some rows of the main table belong to; `centre` is the phase centre of their field.

    Raises
    ------
    GpucubeError
        Their times are in a scale that gives no date.
    """
    cells = main.selectrows(rows)
    ids = np.unique(cells.getcol("OBSERVATION_ID")) if "OBSERVATION_ID" in ms.columns else np.zeros(1, int)
    known = [ms.observations[i] for i in ids if 0 <= i < len(ms.observations)]
    begin, end = _time_span(ms, main, cells)
    return Observation(
        telescopes=tuple(sorted({telescope for telescope, _ in known if telescope})),
        observers=tuple(sorted({observer for _, observer in known if observer})),
        begin=begin,
        end=end,
        place=_place(ms.antenna_positions, cells, centre),
        pointing=centre,
        doubts=_uvw_doubts(ms.path, ms.antenna_positions, cells) + _feed_doubts(ms, cells),
    )


def _time_span(ms: MeasurementSet, main: tables.table, cells: tables.table) -> tuple[float | None, float | None]:
    """Begin and end of the integrations, UTC seconds since MJD 0."""
    if "TIME" not in ms.columns:
        return None, None
    time = cells.getcol("TIME")
    half = np.zeros(len(time))
    if "INTERVAL" in ms.columns:
        half = cells.getcol("INTERVAL") * unit_factors(main, "INTERVAL", "s")[0] / 2
    filled = are_dates(time * unit_factors(main, "TIME", "s")[0])  # in whatever scale
    if not filled.any():
        return None, None
    time, half = utc_seconds(main, "TIME", time[filled]), np.where((half > 0) & (half < DAY), half, 0.0)[filled]
    return float((time - half).min()), float((time + half).max())


def _uvw_doubts(path: str, positions: np.ndarray, cells: tables.table) -> tuple[str, ...]:
    """Warn if uvw are not as long as the distances of the antennas, whatever the frame of either."""
    sample = cells.selectrows(np.arange(0, cells.nrows(), max(1, cells.nrows() // 500)))
    first, second = sample.getcol("ANTENNA1"), sample.getcol("ANTENNA2")
    try:
        length = np.linalg.norm(sample.getcol("UVW"), axis=1)
    except (RuntimeError, ValueError):  # reported when the rows are read
        return ()
    good = (np.minimum(first, second) >= 0) & (np.maximum(first, second) < len(positions)) & (length > 0)
    good &= length < LONGEST_EARTHLY
    apart = np.linalg.norm(positions[second[good]] - positions[first[good]], axis=1)
    known = np.isfinite(apart) & (apart > 0)
    if not known.any():
        return ()
    low, scale, high = np.percentile(length[good][known] / apart[known], [25, 50, 75]).tolist()
    if abs(scale - 1) <= UVW_SCALE or high - low > UVW_SCALE * scale:  # another unit is one factor for all rows
        return ()
    return (
        f"{path}: uvw are {scale:.4g} times as long as the distances of the antennas: expected metres; check UVW, and POSITION "
        "in ANTENNA",
    )


def _feed_doubts(ms: MeasurementSet, cells: tables.table) -> tuple[str, ...]:
    """Warn of several feeds, which are the beams of a phased-array feed that look in different directions."""
    feeds = np.unique(cells.getcol("FEED1")) if "FEED1" in ms.columns else np.zeros(1)
    if len(feeds) < 2:
        return ()
    return (
        f"{ms.path}: rows of {len(feeds)} feeds (FEED1 {feeds[0]} to {feeds[-1]}) are imaged together: if these are beams in "
        "different directions, make a MeasurementSet of each one, e.g. with CASA's split(feed='0')",
    )


def _place(positions: np.ndarray, cells: tables.table, centre: Direction) -> tuple[float, float, float] | None:
    """Mean of the antennas of some rows, ITRF, metres; None if their positions are not on the Earth."""
    first, second = cells.getcol("ANTENNA1"), cells.getcol("ANTENNA2")
    used = np.union1d(first, second)
    used = used[(used >= 0) & (used < len(positions))]
    radius = np.linalg.norm(positions[used], axis=1)
    on_earth = positions[used[(radius > 6.3e6) & (radius < 6.45e6)]]
    if not len(on_earth):
        return None
    x, y, z = (round(float(mean), 3) for mean in on_earth.mean(axis=0))
    sample = np.arange(0, len(first), max(1, len(first) // 500))
    return (x, -y, z) if _mirrored(positions, cells.selectrows(sample), centre) else (x, y, z)


def _mirrored(positions: np.ndarray, cells: tables.table, centre: Direction) -> bool:
    """Return True if the uvw of some rows follow from the antennas' positions only with the sign of y reversed.

    MeasurementSets that were converted from UVFITS often have such positions, east and west exchanged, because AIPS
    counts y to the west. The baseline is turned by the hour angle at Greenwich (Thompson, Moran & Swenson 2017, eq. 4.1),
    which is right to a third of a degree, as precession is left out.
    """
    first, second = cells.getcol("ANTENNA1"), cells.getcol("ANTENNA2")
    try:
        uvw = cells.getcol("UVW")
    except RuntimeError:  # reported when the rows are read
        return False
    good = (np.minimum(first, second) >= 0) & (np.maximum(first, second) < len(positions))
    good &= (np.abs(uvw) < 1e10).all(axis=1) & uvw.any(axis=1)
    uvw, days = uvw[good], cells.getcol("TIME")[good] / DAY - 51544.5
    baseline, length = positions[second[good]] - positions[first[good]], np.linalg.norm(uvw, axis=1)
    # mean sidereal time (Aoki et al. 1982)
    hour_angle = np.radians(280.46061837 + 360.98564736629 * days) - centre.ra
    sin, cos, sin_dec, cos_dec = np.sin(hour_angle), np.cos(hour_angle), math.sin(centre.dec), math.cos(centre.dec)

    def error(sign: float) -> float:
        """Median difference from the uvw that the positions give, relative to the baseline; antennas may be exchanged."""
        x, y, z = (baseline * (1.0, sign, 1.0)).T
        meridian = x * cos - y * sin
        given = np.stack(
            [x * sin + y * cos, z * cos_dec - meridian * sin_dec, z * sin_dec + meridian * cos_dec], axis=1
        )
        return min(float(np.median(np.linalg.norm(uvw - way * given, axis=1) / length)) for way in (1, -1))

    return bool(good.any()) and error(-1.0) < 0.1 and error(1.0) > 0.3


def merged(observations: Sequence[Observation], frame: SpectralFrame) -> tuple[Observation, tuple[str, ...]]:
    """Describe several observations as one, the earliest of which gives the place, and say what the header cannot tell."""
    first = min(observations, key=lambda o: math.inf if o.begin is None else o.begin)
    together = Observation(
        telescopes=tuple(sorted({name for o in observations for name in o.telescopes})),
        observers=tuple(sorted({name for o in observations for name in o.observers})),
        begin=first.begin,
        end=max((o.end for o in observations if o.end is not None), default=None),
        place=first.place,
        pointing=observations[0].pointing,
    )
    warnings = [doubt for observation in observations for doubt in observation.doubts]
    if frame.name != "TOPO":
        return together, tuple(warnings)
    absent = [
        what
        for what, value in (("when the data were taken", first.begin), ("where the antennas stand", first.place))
        if value is None
    ]
    if absent:
        warnings.append(
            f"the MeasurementSet does not say {' nor '.join(absent)}, so that no program can convert the cube's frequencies "
            "from TOPO to another frame"
        )
    places = [np.array(o.place) for o in observations if o.place]
    if first.place and max((float(np.linalg.norm(p - first.place)) for p in places), default=0.0) > ONE_SITE:
        warnings.append(
            f"the data were taken at several places ({', '.join(together.telescopes)}): OBSGEO-X, -Y and -Z are those of the "
            "first observation, and a conversion of the cube's TOPO frequencies to another frame holds for that one alone"
        )
    return together, tuple(warnings)


@dataclass(frozen=True, kw_only=True)
class Band:
    """What is imaged of one spectral window, and the rest frequencies that its MeasurementSet gives for it."""

    label: str  # how messages name the window
    low: float  # Hz
    high: float
    rest_frequencies: Sequence[float]  # Hz, the likelier ones first


def choose_rest_frequency(bands: Sequence[Band]) -> tuple[float | None, tuple[str, ...]]:
    """Choose the rest frequency of a cube from what its MeasurementSets say, and say where there is doubt.

    In each band it is the first line inside (or a little beyond), else the first one at all. A band whose line lies
    inside goes before others.
    """
    warnings: list[str] = []
    chosen: list[tuple[bool, float, str]] = []
    far: list[float] = []
    for band in bands:
        lines = [f for f in band.rest_frequencies if band.low / TIMES_OFF <= f <= band.high * TIMES_OFF]
        far += [f for f in band.rest_frequencies if f not in lines]
        if lines:
            beyond = [max(band.low - f, f - band.high, 0.0) / f for f in lines]
            inside = min(beyond) <= NEAR_BAND
            line = lines[int(np.argmin(beyond))] if inside else lines[0]
            chosen.append((not inside, line, band.label))
            if not inside and _distinct(lines):
                warnings.append(
                    f"{band.label} has several rest frequencies ({_listed(lines)}), none of them in the band: the first one "
                    "is written to the cubes; choose another with `restfreq`"
                )
    if not chosen:
        given = f" (only {_listed(far)}, which is far from the data's frequencies)" if far else ""
        return None, (
            f"the MeasurementSet gives no rest frequency{given}: the cubes have no velocities; give `restfreq`",
        )
    _, rest, label = min(chosen, key=lambda item: item[0])
    others = [f for _, f, _ in chosen]
    if _distinct(others):
        warnings.append(
            f"the spectral windows have different rest frequencies ({_listed(others)}): the cubes have that of {label}, "
            f"{frequency_text(rest)}; choose another with `restfreq`"
        )
    return rest, tuple(dict.fromkeys(warnings))


def _distinct(frequencies: Sequence[float]) -> bool:
    """Return True if some differ by more than 1e-6, which is 0.3 km/s."""
    return max(frequencies) - min(frequencies) > 1e-6 * max(frequencies)


def _listed(frequencies: Sequence[float]) -> str:
    texts = list(dict.fromkeys(map(frequency_text, frequencies)))
    return ", ".join(texts[:4]) + (", ..." if len(texts) > 4 else "")


def check_rest_frequency(rest: float, low: float, high: float) -> tuple[str, ...]:
    """Check a user's rest frequency against the band of the cube, all in Hz; return what to warn of.

    Raises
    ------
    GpucubeError
        It is so far off that its unit must be wrong.
    """
    if low / TIMES_OFF <= rest <= high * TIMES_OFF:
        return ()
    data = frequency_text(low) if low == high else f"{frequency_text(low)} to {frequency_text(high)}"
    far = f"`restfreq={frequency_text(rest)!r}` is far from the data's frequencies, {data}"
    meant = [
        rest * scale for scale in (1e3, 1e6, 1e9, 1e-3, 1e-6) if low / TIMES_OFF <= rest * scale <= high * TIMES_OFF
    ]
    question = f": did you mean {frequency_text(meant[0])!r}?" if meant else ""
    if high < rest <= high * LARGEST_REDSHIFT_FACTOR:
        return (f"{far}, which would be a redshift of {rest / high - 1:.3g}{question}",)
    raise GpucubeError(far + (question or "; expected the frequency of the line at rest"))
