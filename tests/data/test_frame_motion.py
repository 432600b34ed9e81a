"""Frequencies in a frame that moves: lines that are smeared over channels are warned of, with the velocity and the times."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord, get_body_barycentric_posvel
from astropy.time import Time
from casacore import tables
from jobs import altered, column, image

import gpucube
from gpucube.data.selection import select
from gpucube.schema.parameters import make_parameters

DAY = 86400.0
LIGHT_SPEED = 299792458.0
SAID = re.compile(
    r"the frequencies are (?P<frame>\w+), and the velocity of the (?P<who>\w+) towards the field changes by "
    r"(?P<velocity>[\d.]+) km/s \((?P<channels>[\d.]+) channels\) between (?P<first>\S+) and (?P<last>\S+): "
)


def said(*vis: Path, **changes: Any) -> dict[str, str] | None:
    """What the warning says, if there is one."""
    selection = select(make_parameters(vis=list(vis), imagename="unused", **changes))
    found = [match for warning in selection.warnings if (match := SAID.match(warning))]
    assert len(found) < 2
    return found[0].groupdict() if found else None


def velocities(ms: Path, observatory: bool = True) -> np.ndarray:
    """Velocity of the observatory or of the Earth towards the field at every row, m/s, by astropy."""
    each, index = np.unique(column(ms, "TIME"), return_inverse=True)
    when = Time(each / DAY, format="mjd", scale="utc")
    ra, dec = column(ms / "FIELD", "PHASE_DIR")[0, 0]
    target = SkyCoord(ra * u.rad, dec * u.rad, frame="icrs")
    if observatory:
        site = EarthLocation.from_geocentric(*column(ms / "ANTENNA", "POSITION").mean(axis=0), unit="m")
        v = target.radial_velocity_correction("barycentric", obstime=when, location=site)
    else:
        v = get_body_barycentric_posvel("earth", when)[1].dot(target.cartesian)
    return v.to_value("m/s")[index]


def check(what: dict[str, str] | None, velocity: np.ndarray, channel: float, frequency: float) -> None:
    """The numbers are written with three and two digits."""
    assert what is not None
    change = np.ptp(velocity)
    assert float(what["velocity"]) == pytest.approx(change / 1000, rel=0.006)
    assert float(what["channels"]) == pytest.approx(change / LIGHT_SPEED * frequency / channel, rel=0.06)


@pytest.fixture(scope="module")
def topo(make_ms: Any) -> Path:
    """Six hours in channels of 3.3 km/s, over which the VLA's velocity changes by 0.4 km/s: 0.12 channel."""
    return Path(make_ms(frame="TOPO", ntime=6, nchan=4, flag_channels=[]).ms)


@pytest.fixture(scope="module")
def narrow(make_ms: Any) -> Path:
    """Six hours in channels of 0.33 km/s."""
    return Path(make_ms(frame="TOPO", ntime=6, nchan=4, chan_width=1562.5, flag_channels=[]).ms)


def later(days: float) -> Callable[[tables.table], None]:
    def change(t: tables.table) -> None:
        t.putcol("TIME", t.getcol("TIME") + days * DAY)

    return change


def in_frame(code: int) -> Callable[[tables.table], None]:
    return lambda t: t.putcol("MEAS_FREQ_REF", np.full(t.nrows(), code))


def test_one_track_of_narrow_channels(narrow: Path) -> None:
    what = said(narrow)
    check(what, velocities(narrow), 1562.5, 1420.4e6)
    assert what is not None and (what["frame"], what["who"]) == ("TOPO", "observatory")
    begin, end = (str(t) for t in Time(column(narrow, "TIME")[[0, -1]] / DAY, format="mjd").isot)
    assert (what["first"], what["last"]) == (begin[:16], end[:16])


def test_two_measurement_sets_half_a_year_apart(topo: Path, tmp_path: Path) -> None:
    other = altered(topo, tmp_path, later(182.0))
    velocity = np.concatenate([velocities(topo), velocities(other)])
    for vis in ((topo, other), (other, topo)):
        check(said(*vis), velocity, 15625.0, 1420.4e6)


def test_two_dates_in_one_measurement_set(topo: Path, tmp_path: Path) -> None:
    other = altered(topo, tmp_path, later(60.0))
    both = tmp_path / "both.ms"
    shutil.copytree(topo, both)
    with tables.table(str(both), readonly=False, ack=False) as t, tables.table(str(other), ack=False) as more:
        more.copyrows(t)
    check(said(both), velocities(both), 15625.0, 1420.4e6)


def test_the_orbit_of_the_earth_moves_geocentric_frequencies_too(topo: Path, tmp_path: Path) -> None:
    first = altered(topo, tmp_path, in_frame(4), "SPECTRAL_WINDOW")
    second = altered(first, tmp_path / "later", later(91.0))
    what = said(first, second)
    check(what, np.concatenate([velocities(ms, observatory=False) for ms in (first, second)]), 15625.0, 1420.4e6)
    assert what is not None and what["who"] == "Earth"
    assert said(first) is None  # 0.04 km/s


@pytest.mark.parametrize("code", [0, 1, 2, 3, 6, 7, 8])
def test_frames_that_do_not_depend_on_the_time_are_no_matter(topo: Path, tmp_path: Path, code: int) -> None:
    first = altered(topo, tmp_path, in_frame(code), "SPECTRAL_WINDOW")
    assert said(first, altered(first, tmp_path / "later", later(182.0))) is None


def test_a_tenth_of_a_channel_is_the_limit(topo: Path) -> None:
    """The channels of the cube count: averaging makes them wider."""
    assert 0.1 < np.ptp(velocities(topo)) / LIGHT_SPEED * 1420.4e6 / 15625.0 < 0.2
    assert said(topo) is not None
    assert said(topo, width=2) is None


@pytest.mark.parametrize(
    "axis",
    [
        {"start": "0km/s", "width": "0.33km/s", "nchan": 2, "outframe": "TOPO"},
        {"width": "1600Hz"},
        {"outframe": "TOPO", "width": "1600Hz"},
    ],
)
def test_the_frame_of_the_cube_counts_however_its_axis_is_given(narrow: Path, axis: dict[str, Any]) -> None:
    what = said(narrow, **axis)
    assert what is not None and what["frame"] == "TOPO"


@pytest.mark.parametrize(
    ("axis", "frame"),
    [
        ({"start": "14km/s"}, "LSRK"),
        ({"start": "0km/s", "outframe": "TOPO"}, "TOPO"),
        ({"start": "0km/s", "specmode": "cubedata"}, "TOPO"),
        ({"start": "1420.405MHz"}, "TOPO"),
        ({"width": "1km/s"}, "TOPO"),
    ],
)
def test_a_velocity_to_start_at_is_one_in_lsrk(topo: Path, axis: dict[str, Any], frame: str) -> None:
    """tclean's frame. Against the observatory the line would be tens of km/s away."""
    chosen = select(make_parameters(vis=topo, imagename="unused", nchan=1, **axis))
    assert chosen.axis.frame.name == frame
    said = [line for line in chosen.warnings if "the cube is in LSRK, because `start` is a velocity" in line]
    assert len(said) == (frame == "LSRK")


def test_data_in_a_frame_at_rest_are_smeared_in_a_cube_that_moves(narrow: Path, tmp_path: Path) -> None:
    at_rest = altered(narrow, tmp_path, in_frame(1), "SPECTRAL_WINDOW")
    assert said(at_rest) is None
    assert said(narrow, outframe="LSRK") is None
    what = said(at_rest, outframe="TOPO")
    assert what is not None and what["frame"] == "TOPO"


def test_only_rows_that_are_imaged_count(narrow: Path, tmp_path: Path) -> None:
    """The flag of the row is set in the second half."""
    time = column(narrow, "TIME")
    late = time > time.mean()
    half = altered(narrow, tmp_path, lambda t: t.putcol("FLAG_ROW", t.getcol("FLAG_ROW") | late))
    check(said(half), velocities(narrow)[~late], 1562.5, 1420.4e6)


def test_times_that_are_no_dates_do_not_count(topo: Path, tmp_path: Path) -> None:
    def change(t: tables.table) -> None:
        t.putcol("TIME", np.zeros(t.nrows()))

    assert said(topo, altered(topo, tmp_path, change)) == said(topo)


def test_positions_that_are_nowhere_leave_the_motion_of_the_earth(narrow: Path, tmp_path: Path) -> None:
    there = altered(narrow, tmp_path, lambda t: t.putcol("POSITION", np.zeros((t.nrows(), 3))), "ANTENNA")
    other = altered(there, tmp_path / "later", later(182.0))
    velocity = np.concatenate([velocities(narrow, observatory=False), velocities(other, observatory=False)])
    check(said(there, other), velocity, 1562.5, 1420.4e6)


def test_the_warning_is_given_once_and_is_in_plan_and_summary(topo: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the frequencies are TOPO") as given:
        result = image(topo, tmp_path / "cube", niter=0, products="image")
    assert sum("TOPO" in str(w.message) for w in given) == 1
    assert sum(bool(SAID.match(text)) for text in result.summary["warnings"]) == 1
    plan = gpucube.plan_cube(topo, imagename=tmp_path / "other", imsize=64, cell="20arcsec")
    assert "warning    the frequencies are TOPO" in str(plan)
