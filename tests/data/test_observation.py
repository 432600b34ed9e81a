"""Headers say who observed, where, when and which line, from the rows that are imaged.

Oracles: the numbers that the tests write into the tables, astropy's times and velocities, and the sites of telescopes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from casacore import tables
from jobs import SETTINGS, altered, column, image

from gpucube.data.selection import Selection, select
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters

HI, CO, OH = 1420.405752e6, 115.271202e9, 1667.359e6
CHANNEL = 15625.0
VLA = np.array([-1601185.4, -5041977.5, 3554875.9])
NO_LINE = "the MeasurementSet gives no rest frequency"

Change = Callable[[tables.table], None]


def selected(vis: Path | list[Path], **changes: Any) -> Selection:
    return select(make_parameters(vis=vis, imagename="unused", **(SETTINGS | changes)))


def subtable(main: tables.table, name: str) -> tables.table:
    return tables.table(f"{main.name()}::{name}", readonly=False, ack=False)


def lines(*rows: list[float], window: int = 0, unit: str = "Hz") -> Change:
    """Make SOURCE have these rows, each with its rest frequencies."""

    def change(main: tables.table) -> None:
        with subtable(main, "SOURCE") as source:
            for row, frequencies in enumerate(rows):
                if row:
                    source.copyrows(source, 0, -1, 1)
                source.putcell("REST_FREQUENCY", row, np.array(frequencies, float))
                source.putcell("NUM_LINES", row, len(frequencies))
            source.putcol("SPECTRAL_WINDOW_ID", np.full(source.nrows(), window))
            source.putcolkeyword("REST_FREQUENCY", "QuantumUnits", [unit])

    return change


def of_no_source(main: tables.table) -> None:
    with subtable(main, "FIELD") as field:
        field.putcol("SOURCE_ID", np.full(field.nrows(), -1))


def without_the_column(main: tables.table) -> None:
    with subtable(main, "SOURCE") as source:
        source.removecols("REST_FREQUENCY")


@pytest.mark.parametrize(
    ("change", "restfreq", "warning"),
    [
        pytest.param(lines([HI]), HI, None, id="one line"),
        pytest.param(lines([0.0], [HI]), HI, None, id="the first row holds 0"),
        pytest.param(lines([], [HI]), HI, None, id="the first row holds none"),
        pytest.param(lines([HI], [0.0]), HI, None, id="the second row holds 0"),
        pytest.param(lines([0.0, HI]), HI, None, id="the first line is 0"),
        pytest.param(lines([np.nan, HI]), HI, None, id="the first line is NaN"),
        pytest.param(lines([CO, HI]), HI, None, id="the second line is in the band"),
        pytest.param(lines([CO], [HI]), HI, None, id="the line of the second row is in the band"),
        pytest.param(lines([OH, HI]), HI, None, id="a line near the band, and one in it"),
        pytest.param(lines([OH, HI + 20 * CHANNEL]), HI + 20 * CHANNEL, None, id="a line 50 km/s beyond the edge"),
        pytest.param(lines([OH]), OH, None, id="a redshifted line"),
        pytest.param(lines([OH, 1.612231e9]), OH, "several rest frequencies", id="two redshifted lines"),
        pytest.param(lines([HI], window=-1), HI, None, id="a line for all windows"),
        pytest.param(lines([HI / 1e9], unit="GHz"), HI, None, id="in GHz"),
        pytest.param(lines([CO]), None, f"{NO_LINE} (only 115.271202GHz, which is far", id="a line of other data"),
        pytest.param(lines([0.0]), None, NO_LINE, id="0"),
        pytest.param(lines([HI], window=3), None, NO_LINE, id="another window's line"),
        pytest.param(of_no_source, None, NO_LINE, id="a field without source"),
        pytest.param(without_the_column, None, NO_LINE, id="no column"),
    ],
)
def test_the_rest_frequency_is_that_of_the_line_in_the_band(
    change: Change, restfreq: float | None, warning: str | None, tiny_ms: Any, tmp_path: Path
) -> None:
    selection = selected(altered(tiny_ms.ms, tmp_path, change))
    assert selection.axis.restfreq == (None if restfreq is None else pytest.approx(restfreq, rel=1e-15))
    assert len(selection.warnings) == (warning is not None)
    assert warning is None or warning in selection.warnings[0]


def test_the_band_is_that_of_the_channels_that_are_imaged(make_ms: Any, tmp_path: Path) -> None:
    """Two lines 1200 km/s apart in one window of 1.2 GHz."""
    wide = make_ms(chan_width=1e8, rest_freq=HI).ms
    other = HI + 4e8
    ms = altered(wide, tmp_path, lines([HI, other]))
    frequency = selected(ms).axis.frequency
    assert selected(ms, start=int(np.argmin(abs(frequency - HI))), nchan=1).axis.restfreq == HI
    assert selected(ms, start=int(np.argmin(abs(frequency - other))), nchan=1).axis.restfreq == other


def test_another_measurement_set_may_give_the_rest_frequency(tiny_ms: Any, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    silent = altered(tiny_ms.ms, tmp_path, lines([0.0]))
    for other in (HI, HI + 1000.0, OH):
        speaks = altered(tiny_ms.ms, tmp_path / "b", lines([other]))
        selection = selected([silent, speaks])
        assert (selection.axis.restfreq, selection.warnings) == (other, ())
        tables.tabledelete(str(speaks), ack=False)


def test_different_rest_frequencies_give_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    selection = selected([tiny_ms.ms, altered(tiny_ms.ms, tmp_path, lines([OH]))])
    assert selection.axis.restfreq == HI
    assert len(selection.warnings) == 1
    assert "different rest frequencies (1420.405752MHz, 1667.359MHz)" in selection.warnings[0]
    # the line in the band goes first, whatever the order
    assert selected([tmp_path / "altered.ms", tiny_ms.ms]).axis.restfreq == HI


@pytest.mark.parametrize(
    ("restfreq", "refused"),
    [
        (1420.405752, "did you mean '1420.405752MHz'"),
        ("1420.405752GHz", "did you mean '1420.405752MHz'"),
        ("1.420405752MHz", "did you mean '1420.405752MHz'"),
        ("1.420405752Hz", "did you mean '1420.405752MHz'"),
        ("100MHz", "far from the data's frequencies"),
    ],
)
def test_a_rest_frequency_with_the_wrong_unit_is_refused(restfreq: Any, refused: str, tiny_ms: Any) -> None:
    with pytest.raises(GpucubeError, match=refused):
        selected(tiny_ms.ms, restfreq=restfreq)


def test_a_large_redshift_gives_a_warning_and_a_small_one_does_not(tiny_ms: Any) -> None:
    assert selected(tiny_ms.ms, restfreq="14GHz").warnings == ()
    (warning,) = selected(tiny_ms.ms, restfreq="28.4GHz").warnings
    assert warning.endswith("which would be a redshift of 19")


# Who and when


def two_observations(main: tables.table) -> None:
    """Row 0 of OBSERVATION is a year earlier, by somebody else with another telescope; the rows belong to row 1."""
    with subtable(main, "OBSERVATION") as t:
        t.copyrows(t, 0, -1, 1)
        t.putcell("TIME_RANGE", 0, t.getcell("TIME_RANGE", 0) - 365 * 86400)
        t.putcell("TELESCOPE_NAME", 0, "ALMA")
        t.putcell("OBSERVER", 0, "somebody else")
    main.putcol("OBSERVATION_ID", np.ones(main.nrows(), np.int32))


def both_observations(main: tables.table) -> None:
    two_observations(main)
    main.putcol("OBSERVATION_ID", np.arange(main.nrows(), dtype=np.int32) % 2)


def the_first_one_is_flagged(main: tables.table) -> None:
    both_observations(main)
    main.putcol("FLAG_ROW", main.getcol("OBSERVATION_ID") == 0)


def no_observation(main: tables.table) -> None:
    with subtable(main, "OBSERVATION") as t:
        t.removerows(0)


def an_unknown_observation(main: tables.table) -> None:
    main.putcol("OBSERVATION_ID", np.full(main.nrows(), 7, np.int32))


@pytest.mark.parametrize(
    ("change", "telescopes", "observers"),
    [
        (two_observations, ("EVLA",), ("simulated",)),
        (both_observations, ("ALMA", "EVLA"), ("simulated", "somebody else")),
        (the_first_one_is_flagged, ("EVLA",), ("simulated",)),
        (no_observation, (), ()),
        (an_unknown_observation, (), ()),
    ],
)
def test_telescope_observer_and_date_are_those_of_the_rows(
    change: Change, telescopes: tuple[str, ...], observers: tuple[str, ...], tiny_ms: Any, tmp_path: Path
) -> None:
    found = selected(altered(tiny_ms.ms, tmp_path, change)).observation
    time, half = column(tiny_ms.ms, "TIME"), column(tiny_ms.ms, "INTERVAL")[0] / 2
    assert (found.telescopes, found.observers) == (telescopes, observers)
    assert (found.begin, found.end) == (time.min() - half, time.max() + half)


@pytest.mark.parametrize("seconds", [1e300, 1e17, 1e6, np.nan, -1e300])
def test_one_garbage_interval_does_not_change_the_date(seconds: float, tiny_ms: Any, tmp_path: Path) -> None:
    def change(main: tables.table) -> None:
        main.putcell("INTERVAL", 100, seconds)

    usual, found = selected(tiny_ms.ms).observation, selected(altered(tiny_ms.ms, tmp_path, change)).observation
    assert (found.begin, found.end) == (usual.begin, usual.end)


@pytest.mark.parametrize(("name", "garbage"), [("UVW", 1e300), ("TIME", np.inf), ("TIME", 1e300)])
def test_garbage_in_a_row_gives_no_warnings_of_numpy(name: str, garbage: float, tiny_ms: Any, tmp_path: Path) -> None:
    def change(main: tables.table) -> None:
        values = main.getcol(name)
        values[100] = garbage
        main.putcol(name, values)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        selected(altered(tiny_ms.ms, tmp_path, change))


def in_scale(scale: str) -> Change:
    return lambda main: main.putcolkeyword("TIME", "MEASINFO", {"type": "epoch", "Ref": scale})


def in_days(main: tables.table) -> None:
    main.putcol("TIME", main.getcol("TIME") / 86400)
    main.putcolkeyword("TIME", "QuantumUnits", ["d"])


def without_some_times(main: tables.table) -> None:
    time = main.getcol("TIME")
    time[::2], time[1] = 0.0, np.nan
    time[-1] = main.getcell("TIME", 0)
    main.putcol("TIME", time)


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        pytest.param(in_scale("UTC"), 0.0, id="UTC"),
        pytest.param(in_scale("TAI"), -37.0, id="TAI, 37 s ahead of UTC since 2017"),
        pytest.param(in_scale("TDT"), -69.184, id="TT, 32.184 s ahead of TAI"),
        pytest.param(in_days, 0.0, id="days"),
        pytest.param(without_some_times, 0.0, id="some rows without time"),
    ],
)
def test_times_come_out_in_utc(change: Change, seconds: float, tiny_ms: Any, tmp_path: Path) -> None:
    found = selected(altered(tiny_ms.ms, tmp_path, change)).observation
    # a double resolves such a date to a microsecond
    assert found.begin == pytest.approx(selected(tiny_ms.ms).observation.begin + seconds, abs=5e-6)


def test_sidereal_time_is_refused(tiny_ms: Any, tmp_path: Path) -> None:
    with pytest.raises(GpucubeError, match="TIME is in the scale LAST; expected UTC"):
        selected(altered(tiny_ms.ms, tmp_path, in_scale("LAST")))


def test_the_earliest_measurement_set_gives_the_date_in_any_order(tiny_ms: Any, tmp_path: Path) -> None:
    earlier = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("TIME", t.getcol("TIME") - 30 * 86400))
    begins = [selected(vis).observation.begin for vis in ([earlier, tiny_ms.ms], [tiny_ms.ms, earlier], earlier)]
    assert len(set(begins)) == 1


# Where


def mirrored(main: tables.table) -> None:
    """East and west exchanged, as in MeasurementSets that were converted from UVFITS."""
    with subtable(main, "ANTENNA") as t:
        t.putcol("POSITION", t.getcol("POSITION") * (1, -1, 1))


def in_kilometres(main: tables.table) -> None:
    with subtable(main, "ANTENNA") as t:
        t.putcol("POSITION", t.getcol("POSITION") / 1000)
        t.putcolkeyword("POSITION", "QuantumUnits", ["km"] * 3)


def with_an_antenna_elsewhere(main: tables.table) -> None:
    """Antenna 9 is on the other side of the Earth, and every row of it is flagged."""
    with subtable(main, "ANTENNA") as t:
        t.putcell("POSITION", 9, -t.getcell("POSITION", 9))
    main.putcol("FLAG_ROW", (main.getcol("ANTENNA1") == 9) | (main.getcol("ANTENNA2") == 9))


def with_an_empty_antenna(main: tables.table) -> None:
    with subtable(main, "ANTENNA") as t:
        t.putcell("POSITION", 3, np.zeros(3))


@pytest.mark.parametrize(
    "change", [lambda main: None, mirrored, in_kilometres, with_an_antenna_elsewhere, with_an_empty_antenna]
)
def test_the_place_is_the_mean_of_the_antennas_in_use(change: Change, tiny_ms: Any, tmp_path: Path) -> None:
    place = selected(altered(tiny_ms.ms, tmp_path, change)).observation.place
    # the arms of the D configuration are 0.6 km long
    assert place is not None and np.linalg.norm(np.array(place) - VLA) < 600


@pytest.mark.parametrize(
    ("name", "longitude"), [("hd142527_band9_cont_alma", -67.755), ("hd142527_hcop43_alma", -67.755)]
)
def test_real_positions_with_east_and_west_exchanged_are_understood(
    name: str, longitude: float, real_data: Any
) -> None:
    place = selected(real_data(name), spw="0").observation.place
    assert place is not None
    assert EarthLocation.from_geocentric(*place, unit="m").lon.deg == pytest.approx(longitude, abs=0.02)


def at_the_origin(main: tables.table) -> None:
    with subtable(main, "ANTENNA") as t:
        t.putcol("POSITION", t.getcol("POSITION") - t.getcell("POSITION", 0))


def without_times(main: tables.table) -> None:
    main.putcol("TIME", np.zeros(main.nrows()))


@pytest.fixture(scope="module")
def topo_ms(make_ms: Any) -> Path:
    return make_ms(frame="TOPO").ms


@pytest.mark.parametrize(
    ("change", "absent"), [(at_the_origin, "where the antennas stand"), (without_times, "when the data were taken")]
)
def test_a_warning_names_what_a_conversion_from_topo_lacks(
    change: Change, absent: str, tiny_ms: Any, topo_ms: Path, tmp_path: Path
) -> None:
    (warning,) = selected(altered(topo_ms, tmp_path, change)).warnings
    assert absent in warning
    tables.tabledelete(str(tmp_path / "altered.ms"), ack=False)
    # frequencies in LSRK need neither
    assert selected(altered(tiny_ms.ms, tmp_path, change)).warnings == ()


def test_two_sites_in_topo_give_a_warning(topo_ms: Path, make_ms: Any, tmp_path: Path) -> None:
    same_channels = {"rest_freq": 1420.405752e6, "chan_width": 15625.0}
    alma = make_ms(frame="TOPO", array="alma", antennas=10, dec=30.0, **same_channels).ms
    selection = selected([topo_ms, alma])
    assert selection.observation.telescopes == ("ALMA", "EVLA")
    assert sum("several places (ALMA, EVLA)" in warning for warning in selection.warnings) == 1


def test_astropy_takes_a_topo_cube_to_lsrk_within_10_metres_per_second(topo_ms: Path, tmp_path: Path) -> None:
    """The oracle is the velocity of the VLA about the barycentre, and 20 km/s of the Sun to its apex of 1900."""
    header = fits.getheader(image(topo_ms, tmp_path / "cube", niter=0, products="image").products["image"])
    topo = WCS(header).pixel_to_world(32, 32, 0, 0)[1]
    found = (topo.with_observer_stationary_relative_to("lsrk") - topo).to_value(u.Hz)
    target, when = SkyCoord(187.5 * u.deg, 30 * u.deg, frame="fk5"), Time(header["DATE-OBS"])
    site = EarthLocation.from_geocentric(*VLA, unit="m")
    velocity = target.radial_velocity_correction("barycentric", obstime=when, location=site).to_value("m/s")
    apex = SkyCoord(18 * u.hourangle, 30 * u.deg, frame="fk4", equinox="B1900").icrs
    velocity += 20e3 * np.cos(target.icrs.separation(apex).rad)
    assert found == pytest.approx(-velocity / 299792458.0 * header["CRVAL3"], abs=10 / 299792458.0 * header["CRVAL3"])


def test_leap_seconds_to_come_are_no_reason_to_warn(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("TIME", t.getcol("TIME") % 86400 + 69800 * 86400))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = image(ms, tmp_path / "cube", niter=0, products="image")
    assert fits.getheader(result.products["image"])["DATE-OBS"].startswith("2049-")


def test_the_header_says_what_casa_says(tiny_ms: Any, tmp_path: Path) -> None:
    settings = {"niter": 0, "products": "image", "phasecenter": "J2000 12h29m58s +30d00m10s", "overwrite": True}
    header, again = (
        fits.getheader(image(tiny_ms.ms, tmp_path / "cube", **settings).products["image"]) for _ in range(2)
    )
    assert (header["TELESCOP"], header["INSTRUME"]) == ("EVLA", "EVLA")
    # the field's centre, not the image's
    assert (header["OBSRA"], header["OBSDEC"]) == pytest.approx((187.5, 30.0), abs=1e-12)
    velocity = (header["CRVAL3"] * u.Hz).to_value("m/s", u.doppler_radio(header["RESTFRQ"] * u.Hz))
    assert (header["ALTRVAL"], header["ALTRPIX"]) == (pytest.approx(velocity, rel=1e-9), header["CRPIX3"])
    time, half = column(tiny_ms.ms, "TIME"), column(tiny_ms.ms, "INTERVAL")[0] / 2
    for name, moment in (("DATE-OBS", time.min() - half), ("DATE", time.max() + half)):
        assert Time(header[name]).mjd * 86400 == pytest.approx(moment, abs=1e-3)
    assert header["MJD-OBS"] == Time(header["DATE-OBS"]).mjd
    # in the frame of the image: ICRS lies off casacore's J2000 by up to 23 mas
    settings |= {"phasecenter": "ICRS 187.5deg 30deg"}
    icrs = fits.getheader(image(tiny_ms.ms, tmp_path / "cube", **settings).products["image"])
    apart = np.hypot((icrs["OBSRA"] - 187.5) * np.cos(np.radians(30)), icrs["OBSDEC"] - 30) * 3600e3
    assert 5 < apart < 25
    # the time of the run is nowhere, so a second run writes the same header
    assert header.tostring() == again.tostring()


@pytest.mark.parametrize(("scale", "said"), [(1 / 299792458.0, True), (4.74, True), (1.15, False), (-1.0, False)])
def test_uvw_in_another_unit_do_not_fit_the_antennas(scale: float, said: bool, tiny_ms: Any, tmp_path: Path) -> None:
    """Seconds, as in UVFITS, or wavelengths: whatever the frames, uvw are as long as the antennas are apart."""
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("UVW", scale * t.getcol("UVW")))
    warnings = selected(ms).warnings
    assert [f"uvw are {abs(scale):.4g} times as long as the distances of the antennas" in w for w in warnings] == [
        True
    ] * said


def test_times_that_are_no_dates_are_passed_over(tiny_ms: Any, tmp_path: Path) -> None:
    """Julian dates in seconds in place of modified ones lie in the year 8575."""
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("TIME", t.getcol("TIME") + 2400000.5 * 86400))
    assert selected(ms).observation.begin is None


@pytest.mark.parametrize("feeds", [[0, 1, 2], [3]], ids=str)
def test_several_beams_of_a_phased_array_feed_give_a_warning(feeds: list[int], tiny_ms: Any, tmp_path: Path) -> None:
    """One field and one phase centre, but directions that differ by FEED1."""
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("FEED1", np.resize(feeds, t.nrows()).astype(np.int32)))
    told = [
        "rows of 3 feeds (FEED1 0 to 2) are imaged together: if these are beams" in w for w in selected(ms).warnings
    ]
    assert told == [True] * (len(feeds) > 1)
