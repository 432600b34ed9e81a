"""Cubes in other frames than the data's: a line of known velocity lands in its channel, whatever moved meanwhile.

The line is written into TOPO data with astropy's velocity of the observatory and 20 km/s of the Sun to its apex of 1900, so
that nothing of gpucube goes into the truth.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from casacore import tables
from jobs import altered, column, ephemeris, image, planes
from oracles import LIGHT_SPEED

import gpucube
from gpucube.data.selection import select
from gpucube.schema.parameters import make_parameters
from gpucube.sky.directions import Direction
from gpucube.sky.doppler import frequency_factor

REST, CHANNEL, NCHAN = 1420.405752e6, 15625.0, 64  # 3.3 km/s
FWHM = 10.0e3  # m/s
VELOCITY = -12.0e3  # m/s, LSRK, radio
FIRST_DAY = 60371.38 + 80  # MJD

DIRTY: dict[str, Any] = {"niter": 0, "weighting": "natural", "products": ("dirty",)}
LSRK: dict[str, Any] = {
    "outframe": "LSRK",
    "start": "-40km/s",
    "width": "4km/s",
    "nchan": 16,
    "restfreq": "1420.405752MHz",
}


def lsrk_velocity(ms: Path, times: np.ndarray) -> np.ndarray:
    """Velocity in m/s by which the observatory approaches the field in LSRK, at times in seconds of MJD."""
    x, y, z = column(ms / "ANTENNA", "POSITION").mean(0)
    ra, dec = column(ms / "FIELD", "PHASE_DIR")[0, 0]
    target = SkyCoord(ra * u.rad, dec * u.rad, frame="fk5")
    place, when = EarthLocation.from_geocentric(x, y, z, unit="m"), Time(times / 86400, format="mjd")
    barycentric = target.radial_velocity_correction("barycentric", obstime=when, location=place).to_value("m/s")
    apex = SkyCoord(18 * u.hourangle, 30 * u.deg, frame="fk4", equinox="B1900").icrs
    return barycentric + 20e3 * np.cos(target.icrs.separation(apex).rad)


def spectrum(velocity: np.ndarray) -> np.ndarray:
    """1 Jy at `VELOCITY`."""
    return np.exp(-4 * np.log(2) * ((velocity - VELOCITY) / FWHM) ** 2)


def with_line(ms: Path, days: float, folder: Path, name: str) -> Path:
    """A copy of a TOPO MeasurementSet at another date, with the line at the phase centre."""
    copy = folder / name
    shutil.copytree(ms, copy)
    with tables.table(str(copy), readonly=False, ack=False) as t:
        for one in ("TIME", "TIME_CENTROID"):
            values = t.getcol(one)
            t.putcol(one, values - values.min() + 86400 * (FIRST_DAY + days))
    frequency, times = column(copy / "SPECTRAL_WINDOW", "CHAN_FREQ")[0], column(copy, "TIME")
    instants, index = np.unique(times, return_inverse=True)
    approach = lsrk_velocity(copy, instants)
    lsrk = frequency * np.sqrt((1 - approach / LIGHT_SPEED) / (1 + approach / LIGHT_SPEED))[:, None]  # (ntime, nchan)
    with tables.table(str(copy), readonly=False, ack=False) as t:
        data = t.getcol("DATA")
        data[:] = spectrum(LIGHT_SPEED * (1 - lsrk / REST))[index][:, :, None]
        t.putcol("DATA", data)
    return copy


@pytest.fixture(scope="module")
def topo(make_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same line half a year apart."""
    made = make_ms(sources=[(0, 0, 0.0)], frame="TOPO", nchan=NCHAN, noise=0.0, flag_channels=[], rest_freq=REST)
    folder = tmp_path_factory.mktemp("topo")
    return with_line(Path(made.ms), 0, folder, "spring.ms"), with_line(Path(made.ms), 182, folder, "autumn.ms")


def at_centre(result: gpucube.Result) -> np.ndarray:
    """Spectrum of the pixel at the phase centre, Jy/beam."""
    return planes(result, "dirty")[:, 32, 32]


def velocities(result: gpucube.Result) -> np.ndarray:
    """Radio velocity of each channel, m/s."""
    return LIGHT_SPEED * (1 - np.array([channel.frequency_hz for channel in result.channels]) / REST)


def centroid(result: gpucube.Result) -> float:
    values = at_centre(result)
    return float((values * velocities(result)).sum() / values.sum())


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["spring", "autumn", "both"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "nearest"])
def test_a_line_lies_at_its_velocity_whatever_the_date(
    topo: tuple[Path, Path], tmp_path: Path, which: tuple[int, ...], interpolation: str
) -> None:
    result = image([topo[k] for k in which], tmp_path / "cube", **DIRTY, **LSRK, interpolation=interpolation)
    np.testing.assert_allclose(velocities(result), -40e3 + 4e3 * np.arange(16), atol=0.1)
    # nearest puts each channel of 3.3 km/s as a whole into one of 4 km/s
    assert centroid(result) == pytest.approx(VELOCITY, abs=1500 if interpolation == "nearest" else 40)
    if interpolation == "cubic":  # a line of three channels is nearly a polynomial of third order
        np.testing.assert_allclose(at_centre(result), spectrum(velocities(result)), atol=0.03)
    assert result.summary["warnings"] == []


def test_linear_interpolation_gives_what_numpy_gives_for_each_row(topo: tuple[Path, Path], tmp_path: Path) -> None:
    """All visibilities of a source in the centre are equal, so its pixel is the weighted mean of the rows."""
    result = image(topo[0], tmp_path / "cube", **DIRTY, **LSRK)
    frequency, data = column(topo[0] / "SPECTRAL_WINDOW", "CHAN_FREQ")[0], column(topo[0], "DATA").real[:, :, 0]
    weight = column(topo[0], "WEIGHT")[:, 0]
    approach = lsrk_velocity(topo[0], column(topo[0], "TIME"))
    factor = np.sqrt((1 - approach / LIGHT_SPEED) / (1 + approach / LIGHT_SPEED))
    expected = np.array(
        [
            np.average(
                [np.interp(channel.frequency_hz / f, frequency, row) for f, row in zip(factor, data, strict=True)],
                weights=weight,
            )
            for channel in result.channels
        ]
    )
    # flagged samples take part in the mean above, but all rows of one time are equal; the frame moves by 0.1 channel
    np.testing.assert_allclose(at_centre(result), expected, atol=3e-3)


@pytest.mark.parametrize("frame", ["BARY", "GEO", "LSRD", "GALACTO", "CMB"])
def test_every_frame_shows_the_same_line_at_its_own_velocity(
    topo: tuple[Path, Path], tmp_path: Path, frame: str
) -> None:
    """From TOPO to the frame is as far as from TOPO to LSRK, which astropy knows, and on to the frame."""
    result = image(topo[0], tmp_path / "cube", **DIRTY, outframe=frame, width=2)
    values = at_centre(result)
    frequency = np.array([channel.frequency_hz for channel in result.channels])
    found = float((values * frequency).sum() / values.sum())
    times, (ra, dec) = column(topo[0], "TIME"), column(topo[0] / "FIELD", "PHASE_DIR")[0, 0]
    at = {"direction": Direction(ra=ra, dec=dec), "times": times.mean(keepdims=True), "position": None}
    line = REST * (1 - VELOCITY / LIGHT_SPEED) * frequency_factor("LSRK", frame, **at)[0]
    assert found == pytest.approx(line, abs=0.05 * CHANNEL)


def test_velocities_may_be_given_for_data_that_are_in_the_frame_already(tiny_ms: Any, tmp_path: Path) -> None:
    plain = image(tiny_ms.ms, tmp_path / "plain", **DIRTY)
    frequency = np.array([channel.frequency_hz for channel in plain.channels])
    start, step = float(LIGHT_SPEED * (1 - frequency[0] / REST)), -LIGHT_SPEED * CHANNEL / REST
    result = image(tiny_ms.ms, tmp_path / "cube", **DIRTY, start=f"{start!r}m/s", width=f"{step!r}m/s", restfreq=REST)
    np.testing.assert_allclose(planes(result, "dirty"), planes(plain, "dirty"), atol=1e-6)
    assert [c.visibilities for c in result.channels] == [c.visibilities for c in plain.channels]


@pytest.mark.parametrize(
    "settings", [{"chunksize": 1}, {"chunksize": 5, "workers": 2}, {"chunksize": -1, "workers": 2}], ids=str
)
def test_bits_do_not_depend_on_workers_or_chunk_size(
    topo: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    one = image(topo, tmp_path / "one", **DIRTY, **LSRK, workers=1)
    other = image(topo, tmp_path / "other", **DIRTY, **LSRK, **settings)
    np.testing.assert_array_equal(planes(other, "dirty"), planes(one, "dirty"))
    assert other.summary["ms_bytes_read"] == other.summary["ms_bytes_selected"]


def test_windows_of_several_widths_meet_on_one_axis(topo: tuple[Path, Path], make_ms: Any, tmp_path: Path) -> None:
    made = make_ms(
        sources=[(0, 0, 0.0)],
        frame="TOPO",
        nchan=NCHAN // 2,
        chan_width=2 * CHANNEL,
        noise=0.0,
        flag_channels=[],
        rest_freq=REST,
    )
    wide = with_line(Path(made.ms), 20, tmp_path, "wide.ms")
    with pytest.raises(gpucube.GpucubeError, match=r"different width .* give `outframe` to interpolate"):
        image([topo[0], wide], tmp_path / "cube", **DIRTY)
    result = image([topo[0], wide], tmp_path / "cube", **DIRTY, **(LSRK | {"width": "7km/s", "nchan": 9}))
    assert centroid(result) == pytest.approx(VELOCITY, abs=100)


def test_data_outside_the_cube_leave_channels_blank(topo: tuple[Path, Path], tmp_path: Path) -> None:
    result = image(
        topo[0], tmp_path / "cube", **DIRTY, **(LSRK | {"start": "-400km/s", "width": "20km/s", "nchan": 30})
    )
    blank = [channel.sum_weights == 0 for channel in result.channels]
    assert any(blank) and not all(blank)
    with pytest.raises(gpucube.GpucubeError, match=r"no channel with data: it goes from .* in LSRK"):
        image(topo[0], tmp_path / "none", **DIRTY, **(LSRK | {"start": "4000km/s"}))


@pytest.mark.parametrize(
    ("interpolation", "words"), [("linear", "are interpolated from the same data"), ("nearest", "and are blank")]
)
def test_channels_much_finer_than_those_of_the_data_give_a_warning(
    topo: tuple[Path, Path], interpolation: str, words: str
) -> None:
    wanted = LSRK | {"width": "1km/s", "interpolation": interpolation}
    (warning,) = select(make_parameters(vis=topo[0], imagename="unused", **wanted)).warnings
    assert re.search(rf"4737.96 Hz wide and those of the data 15625 Hz: .* {words}; check `width`", warning)


def test_without_dates_the_frame_can_only_be_kept(topo: tuple[Path, Path], tmp_path: Path) -> None:
    undated = tmp_path / "undated.ms"
    shutil.copytree(topo[0], undated)
    with tables.table(str(undated), readonly=False, ack=False) as t:
        t.putcol("TIME", np.zeros(t.nrows()))
    with pytest.raises(
        gpucube.GpucubeError, match=r"TIME of some rows is no date.*`specmode='cubedata'` keeps the frame"
    ):
        image(undated, tmp_path / "cube", **DIRTY, **LSRK)
    assert len(image(undated, tmp_path / "kept", **DIRTY).channels) == NCHAN


def test_rows_are_those_that_every_selection_allows(topo: tuple[Path, Path], tmp_path: Path) -> None:
    """The oracle is counting unflagged samples in the table."""
    ms = topo[0]
    first, second, times = column(ms, "ANTENNA1"), column(ms, "ANTENNA2"), column(ms, "TIME")
    distance = np.hypot(*column(ms, "UVW")[:, :2].T)
    good = ~column(ms, "FLAG_ROW") & ~column(ms, "FLAG")[:, 5].any(1) & (first != second)
    late = Time(np.sort(np.unique(times))[10] / 86400, format="mjd").strftime("%Y/%m/%d/%H:%M:%S.0")
    after = (Time(late.replace("/", "-", 2).replace("/", "T")).mjd * 86400) <= times
    cases = [
        ({"antenna": "0&"}, np.zeros(len(first), bool)),
        ({"antenna": "!0"}, (first != 0) & (second != 0)),
        ({"uvrange": "<500m"}, distance <= 500),
        ({"timerange": f">{late}"}, after),
        ({"uvrange": ">300m", "antenna": "0~4&", "timerange": f">{late}"}, (distance > 300) & (second <= 4) & after),
    ]
    for selection, rows in cases:
        if not rows.any():
            with pytest.raises(gpucube.GpucubeError, match="no rows are left after selection: check `antenna='0&'`"):
                image(ms, tmp_path / "cube", **DIRTY, **selection)
            continue
        result = image(ms, tmp_path / "cube", **DIRTY, **selection, overwrite=True)
        assert result.channels[5].visibilities == (rows & good).sum(), selection


# Objects with an ephemeris

RATE = 1.0  # degrees a day, on the sky
RECESSION = 15.0, 12.0  # km/s in the beginning, and what is added a day


def comet(made: Path, days: float, folder: Path, name: str) -> Path:
    """A copy of a TOPO MeasurementSet at another date whose field follows a comet, with a line at `VELOCITY` in its frame.

    The velocity of the observatory about the centre of the Earth is astropy's.
    """
    copy = with_line(made, days, folder, name)
    frequency, times = column(copy / "SPECTRAL_WINDOW", "CHAN_FREQ")[0], column(copy, "TIME")
    ra, dec = np.degrees(column(copy / "FIELD", "PHASE_DIR")[0, 0])
    mjd = FIRST_DAY - 1 + 0.25 * np.arange(24)
    since = mjd - FIRST_DAY
    rows = np.stack([mjd, ra + RATE * since, dec + 0 * mjd, 1 + 0 * mjd, RECESSION[0] + RECESSION[1] * since], axis=1)
    ephemeris(copy, *map(tuple, rows), units=("d", "deg", "deg", "AU", "km/s"))
    place = EarthLocation.from_geocentric(*column(copy / "ANTENNA", "POSITION").mean(0), unit="m")
    instants, index = np.unique(times, return_inverse=True)
    when = Time(instants / 86400, format="mjd")
    towards = SkyCoord((ra + RATE * (when.mjd - FIRST_DAY)) * u.deg, dec * u.deg).cartesian.xyz.value
    approach = (place.get_gcrs_posvel(when)[1].xyz.to_value("m/s") * towards).sum(0)
    away = (RECESSION[0] + RECESSION[1] * (when.mjd - FIRST_DAY)) * 1e3 - approach
    rest = frequency * np.sqrt((1 + away / LIGHT_SPEED) / (1 - away / LIGHT_SPEED))[:, None]  # (ntime, nchan)
    with tables.table(str(copy), readonly=False, ack=False) as t:
        data = t.getcol("DATA")
        data[:] = spectrum(LIGHT_SPEED * (1 - rest / REST))[index][:, :, None]
        t.putcol("DATA", data)
    return copy


@pytest.fixture(scope="module")
def comets(make_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same comet on two days, a degree apart."""
    made = Path(
        make_ms(sources=[(0, 0, 0.0)], frame="TOPO", nchan=NCHAN, noise=0.0, flag_channels=[], rest_freq=REST).ms
    )
    folder = tmp_path_factory.mktemp("comet")
    return comet(made, 0, folder, "first.ms"), comet(made, 1, folder, "second.ms")


SOURCE: dict[str, Any] = {"specmode": "cubesource", "start": "-40km/s", "width": "4km/s", "nchan": 16}


def test_an_object_with_an_ephemeris_lies_on_the_centre_pixel_at_its_velocity(
    comets: tuple[Path, Path], tmp_path: Path
) -> None:
    result = image(comets, tmp_path / "cube", **DIRTY, **SOURCE)
    brightest = np.unravel_index(planes(result, "dirty").argmax(), planes(result, "dirty").shape)
    assert tuple(brightest[1:]) == (32, 32)
    # astropy leaves out aberration and the order of the Doppler shifts: some m/s
    assert centroid(result) == pytest.approx(VELOCITY, abs=40)
    assert at_centre(result).max() == pytest.approx(1.0, abs=0.05)
    assert result.summary["spectral_axis"]["frame"] == "REST" and result.summary["warnings"] == []
    with fits.open(result.products["dirty"]) as file:
        assert file[0].header["SPECSYS"] == "SOURCE"


def test_a_cube_in_lsrk_warns_that_the_object_moves(comets: tuple[Path, Path], tmp_path: Path) -> None:
    moving = r"LSRK, and the velocity of SIMLINE changes by 1[0-9.]+ km/s .* with `specmode='cubesource'`"
    with pytest.warns(UserWarning, match=moving):
        image(comets, tmp_path / "cube", **DIRTY, **(LSRK | {"start": "-80km/s"}), phasecenter="TRACKFIELD")


def test_a_tracked_field_is_imaged_as_if_it_stood_still(comets: tuple[Path, Path], tmp_path: Path) -> None:
    """In the frame of the data nothing but the phase centre differs from a field that is fixed."""
    fixed = tmp_path / "fixed.ms"
    shutil.copytree(comets[0], fixed)
    with tables.table(str(fixed / "FIELD"), readonly=False, ack=False) as t:
        t.putcell("EPHEMERIS_ID", 0, -1)
        t.putcell("PHASE_DIR", 0, np.radians([[187.5, 30.0]]))
    with pytest.warns(UserWarning, match="velocity of"):
        tracked = image(comets[0], tmp_path / "tracked", **DIRTY, phasecenter="trackfield")
        still = image(fixed, tmp_path / "still", **DIRTY)
    np.testing.assert_array_equal(planes(tracked, "dirty"), planes(still, "dirty"))
    with pytest.warns(UserWarning, match="field SIMLINE moves by .* `phasecenter='TRACKFIELD'` follows it"):
        image(comets[0], tmp_path / "smeared", **DIRTY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"specmode": "cubesource"}, r"follows no ephemeris.*use `specmode='cube'`"),
        (
            {"specmode": "cubesource", "phasecenter": "J2000 187.5deg 30deg"},
            r"follows no ephemeris.*use `specmode='cube'`",
        ),
        ({"phasecenter": "TRACKFIELD"}, r"field 0 \(SIMLINE\) does not move: leave out `phasecenter='TRACKFIELD'`"),
        (
            {"outframe": "REST"},
            r"is in TOPO, which cannot be converted to REST.*`specmode='cubesource'` follows an object",
        ),
    ],
)
def test_what_only_an_object_with_an_ephemeris_has_is_refused_for_others(
    topo: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(gpucube.GpucubeError, match=message):
        image(topo[0], tmp_path / "cube", **DIRTY, **changes)


def test_data_in_the_rest_frame_stay_there(make_ms: Any, tmp_path: Path) -> None:
    ms = altered(make_ms(nchan=8).ms, tmp_path, lambda t: t.putcell("MEAS_FREQ_REF", 0, 0), "SPECTRAL_WINDOW")
    same = [image(ms, tmp_path / f"cube{name}", **DIRTY, outframe=name) for name in ("", "REST")]
    np.testing.assert_array_equal(planes(same[0], "dirty"), planes(same[1], "dirty"))
    with pytest.raises(gpucube.GpucubeError, match=r"is in REST, which cannot be converted to LSRK"):
        image(ms, tmp_path / "none", **DIRTY, outframe="LSRK")
