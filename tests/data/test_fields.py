"""The phase centre of a field: frames, polynomials and ephemerides, as casacore reads them, or refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import column, ephemeris, read
from oracles import LIGHT_SPEED, direct_predict

from gpucube.constants import ARCSEC
from gpucube.data.fields import read_track
from gpucube.data.selection import Selection, select
from gpucube.data.store import PlaneKey
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters
from gpucube.sky.doppler import frequency_factor

DAY = 86400.0
START = 60371.294372644945  # first and last TIME of `tiny_ms`, MJD
END = 60371.45270597828

Change = Callable[[tables.table], None]


@pytest.fixture
def ms(tiny_ms: Any, tmp_path: Path) -> Path:
    """A copy of `tiny_ms`, to be changed."""
    return Path(shutil.copytree(tiny_ms.ms, tmp_path / "copy.ms"))


def change(ms: Path, subtable: str, work: Change) -> None:
    with tables.table(str(ms / subtable), readonly=False, ack=False) as t:
        work(t)


def chosen(ms: Path, **parameters: Any) -> Selection:
    return select(make_parameters(vis=ms, imagename="unused", cell="20arcsec", **parameters))


def centre_degrees(ms: Path, **parameters: Any) -> tuple[float, float, str]:
    centre = chosen(ms, **parameters).geometry.centre
    return float(np.degrees(centre.ra)), float(np.degrees(centre.dec)), centre.frame


# Frames


def measure(t: tables.table, **keywords: Any) -> None:
    t.putcolkeyword("PHASE_DIR", "MEASINFO", {"type": "direction", **keywords})


def per_row(value: int | str, types: tuple[str, ...] = (), codes: tuple[int, ...] = ()) -> Change:
    """Let a column PhaseDir_Ref say the frame of every row, with a table of its codes or without."""

    def work(t: tables.table) -> None:
        t.addcols(tables.maketabdesc(tables.makescacoldesc("PhaseDir_Ref", value)))
        for row in range(t.nrows()):
            t.putcell("PhaseDir_Ref", row, value)
        table = {"TabRefTypes": list(types), "TabRefCodes": np.array(codes, np.uint32)} if types else {}
        measure(t, VarRefCol="PhaseDir_Ref", **table)

    return work


@pytest.mark.parametrize(
    ("work", "frame"),
    [
        (lambda t: measure(t, Ref="J2000"), "FK5"),
        (lambda t: measure(t, Ref="icrs"), "ICRS"),
        (lambda t: measure(t, Ref="B1950"), "FK4"),
        (lambda t: measure(t), "FK5"),
        (lambda t: t.removecolkeyword("PHASE_DIR", "MEASINFO"), "FK5"),
        (per_row(21), "ICRS"),
        (per_row(0), "FK5"),
        (per_row(5), "FK4"),
        (per_row(7, types=("ICRS", "J2000"), codes=(7, 3)), "ICRS"),
        (per_row(3, types=("ICRS", "J2000"), codes=(7, 3)), "FK5"),
        (per_row("ICRS"), "ICRS"),
        (per_row("B1950_VLA"), "FK4"),
    ],
    ids=[
        "one word for all rows",
        "in lower case",
        "B1950",
        "no word",
        "no keyword at all",
        "casacore's code",
        "casacore's code 0",
        "casacore's code of B1950_VLA",
        "a code of the table's own",
        "another code of the table's own",
        "a word per row",
        "another word per row",
    ],
)
def test_the_frame_of_a_field_is_read_however_it_is_written(ms: Path, work: Change, frame: str) -> None:
    change(ms, "FIELD", work)
    ra, dec, found = centre_degrees(ms)
    assert (ra, dec, found) == (pytest.approx(187.5), pytest.approx(30.0), frame)
    (source,) = chosen(ms).sources
    assert source.rotation is None  # uvw refer to the phase centre already


def test_a_table_of_codes_that_lacks_some_is_refused(ms: Path) -> None:
    change(ms, "FIELD", per_row(7, types=("ICRS", "J2000"), codes=(7,)))
    with pytest.raises(
        GpucubeError, match=r"FIELD: column PHASE_DIR has 2 TabRefTypes and 1 TabRefCodes: expected as many$"
    ):
        centre_degrees(ms)


@pytest.mark.parametrize("word", ["GALACTIC", "SUPERGAL", "ECLIPTIC"])
def test_longitudes_and_latitudes_become_j2000_and_uvw_turn_with_them(ms: Path, word: str) -> None:
    """casatools 6.7: where (187.5, 30) lies, and the position angle of its north; see `test_directions`."""
    where = {
        "GALACTIC": (2.133815708483, 0.593158123264, 75.77204285740855),
        "SUPERGAL": (4.571930454714, -0.711695492119, 24.382821988137575),
        "ECLIPTIC": (3.48042819694, 0.426598664785, 25.670685998048114),
    }
    ra, dec, angle = where[word]
    change(ms, "FIELD", lambda t: measure(t, Ref=word))
    selection = chosen(ms)
    centre, (source,) = selection.geometry.centre, selection.sources
    # casacore's matrices have ten digits
    assert (centre.ra, centre.dec, centre.frame) == (pytest.approx(ra, abs=1e-9), pytest.approx(dec, abs=1e-9), "FK5")
    assert source.rotation is not None
    north = [np.sin(np.radians(angle)), np.cos(np.radians(angle)), 0]
    assert source.rotation @ [0, 1, 0] == pytest.approx(north, abs=1e-8)


@pytest.mark.parametrize(
    "word",
    ["APP", "JMEAN", "JTRUE", "BMEAN", "MECLIPTIC", "TOPO", "HADEC", "AZELGEO", "AZELNE", "ITRF", "SUN", "COMET"],
)
def test_frames_that_move_against_the_stars_are_refused_by_name(ms: Path, word: str) -> None:
    change(ms, "FIELD", lambda t: measure(t, Ref=word))
    with pytest.raises(
        GpucubeError, match=rf"field 0 \(SIMLINE\): PHASE_DIR is in the frame {word}, which is not fixed"
    ):
        chosen(ms)


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (per_row(77), "the frame CODE 77, which is not known"),
        (per_row(21, types=("J2000",), codes=(0,)), "the frame CODE 21, which is not known"),
        (lambda t: measure(t, Ref="FK6"), "the frame FK6, which is not known"),
        (lambda t: measure(t, VarRefCol="PhaseDir_Ref"), "a column PhaseDir_Ref, which is not there"),
        (lambda t: measure(t, Ref="J2000", RefOffMsr={"m0": 0.1}), r"counts from an offset \(RefOffMsr\)"),
    ],
    ids=["a number", "a number that its table lacks", "a word", "no column", "an offset"],
)
def test_frames_that_cannot_be_read_are_refused_in_one_line(ms: Path, work: Change, text: str) -> None:
    change(ms, "FIELD", work)
    with pytest.raises(GpucubeError, match=text) as refused:
        chosen(ms)
    assert "\n" not in str(refused.value)


def test_each_field_has_its_own_frame_and_only_that_of_the_selected_one_counts(ms: Path) -> None:
    def work(t: tables.table) -> None:
        t.addrows(2)
        for name in set(t.colnames()) - {"FLAG_ROW"}:
            for row in (1, 2):
                t.putcell(name, row, t.getcell(name, 0))
        per_row(0)(t)
        for row, code in enumerate((12, 21, 4)):  # AZELGEO, ICRS, B1950
            t.putcell("PhaseDir_Ref", row, code)
            t.putcell("NAME", row, f"F{row}")
        t.putcell("PHASE_DIR", 2, np.radians([[10.0, -20.0]]))

    change(ms, "FIELD", work)
    change(ms, "", lambda t: t.putcol("FIELD_ID", np.arange(t.nrows(), dtype=np.int32) % 3))
    assert centre_degrees(ms, field="1") == (pytest.approx(187.5), pytest.approx(30.0), "ICRS")
    assert centre_degrees(ms, field="F2") == (pytest.approx(10.0), pytest.approx(-20.0), "FK4")
    with pytest.raises(GpucubeError, match=r"field 0 \(F0\): PHASE_DIR is in the frame AZELGEO"):
        chosen(ms, field="0")


def test_each_measurementset_has_its_own_frame(ms: Path, tiny_ms: Any) -> None:
    """The numbers are the same in both, so the second field lies 20 mas from the first, the phase centre of the cube."""
    change(ms, "FIELD", lambda t: measure(t, Ref="ICRS"))
    selection = select(make_parameters(vis=[tiny_ms.ms, ms], imagename="unused", cell="20arcsec"))
    assert selection.geometry.centre.frame == "FK5"
    first, second = selection.sources
    assert first.rotation is None and second.rotation is not None
    # where casatools 6.7 sees ICRS (187.5, 30) in J2000
    east, north = (3.272492405419 - np.radians(187.5)) * np.cos(np.radians(30)), 0.523598859787 - np.radians(30)
    assert second.rotation[:2, 2] == pytest.approx([east, north], abs=1e-6 * ARCSEC)


def test_a_declination_beyond_the_pole_is_refused(ms: Path) -> None:
    change(ms, "FIELD", lambda t: t.putcell("PHASE_DIR", 0, np.array([[0.1, 2.0]])))
    with pytest.raises(GpucubeError, match=r"field 0 .*declination of its PHASE_DIR is 114.592 degrees"):
        chosen(ms)


def test_a_direction_that_is_no_number_is_refused(ms: Path) -> None:
    change(ms, "FIELD", lambda t: t.putcell("PHASE_DIR", 0, np.array([[np.nan, 0.5]])))
    with pytest.raises(GpucubeError, match=r"field 0 .*PHASE_DIR is not finite"):
        chosen(ms)


# Units


@pytest.mark.parametrize(
    ("keyword", "written", "cell"),
    [
        ("QuantumUnits", ["deg", "deg"], (187.5, 30.0)),
        ("QuantumUnits", ["deg", "arcsec"], (187.5, 108000.0)),
        ("UNIT", "arcmin", (11250.0, 1800.0)),
    ],
)
def test_units_of_directions_are_honoured(ms: Path, keyword: str, written: Any, cell: tuple[float, float]) -> None:
    def work(t: tables.table) -> None:
        t.removecolkeyword("PHASE_DIR", "QuantumUnits")
        t.putcolkeyword("PHASE_DIR", keyword, written)
        t.putcell("PHASE_DIR", 0, np.array([cell]))

    change(ms, "FIELD", work)
    assert centre_degrees(ms) == (pytest.approx(187.5, rel=1e-14), pytest.approx(30.0, rel=1e-14), "FK5")


def test_units_of_frequencies_and_times_are_honoured(ms: Path, tiny_ms: Any) -> None:
    def gigahertz(t: tables.table) -> None:
        for name, factor, unit in (("CHAN_FREQ", 1e-9, "GHz"), ("CHAN_WIDTH", 1e-3, "kHz")):
            t.putcol(name, t.getcol(name) * factor)
            t.putcolkeyword(name, "QuantumUnits", [unit])

    def days(t: tables.table) -> None:
        t.putcol("TIME", t.getcol("TIME") / DAY)
        t.putcolkeyword("TIME", "QuantumUnits", ["d"])

    change(ms, "SPECTRAL_WINDOW", gigahertz)
    change(ms, "", days)
    found, plain = chosen(ms), chosen(tiny_ms.ms)
    assert found.axis.frequency == pytest.approx(plain.axis.frequency, rel=1e-15)
    assert found.axis.width == pytest.approx(plain.axis.width, rel=1e-15)
    # 15 digits of 5e9 seconds
    assert found.sources[0].rows.time == pytest.approx(plain.sources[0].rows.time, abs=1e-5)


@pytest.mark.parametrize(
    ("subtable", "column", "keyword", "text"),
    [
        ("FIELD", "PHASE_DIR", ("QuantumUnits", ["m", "m"]), "PHASE_DIR is in m; expected rad"),
        ("FIELD", "PHASE_DIR", ("VariableUnits", "Unit"), "PHASE_DIR has units that change from row to row"),
        ("SPECTRAL_WINDOW", "CHAN_FREQ", ("QuantumUnits", ["furlong"]), "CHAN_FREQ is in furlong; expected Hz"),
        ("", "UVW", ("QuantumUnits", ["km", "km", "km"]), "UVW is not in metres"),
        ("", "TIME", ("QuantumUnits", ["m"]), "TIME is in m; expected s"),
    ],
)
def test_other_units_are_refused_in_one_line(
    ms: Path, subtable: str, column: str, keyword: tuple[str, Any], text: str
) -> None:
    change(ms, subtable, lambda t: t.putcolkeyword(column, *keyword))
    with pytest.raises(GpucubeError, match=text) as refused:
        chosen(ms)
    assert "\n" not in str(refused.value)


# Fields that move


def polynomial(*terms: tuple[float, float], since: float = START, order: int | None = None) -> Change:
    """PHASE_DIR as a polynomial: terms in degrees, degrees per day, ..."""

    def work(t: tables.table) -> None:
        t.putcell("PHASE_DIR", 0, np.radians(terms) / DAY ** np.arange(len(terms))[:, None])
        t.putcell("NUM_POLY", 0, len(terms) - 1 if order is None else order)
        t.putcell("TIME", 0, since * DAY)

    return work


CURVED = (
    (60370.0, 359.0, 60.0, 0.5),
    (60371.0, 1.5, 60.5, 0.45),
    (60372.0, 3.0, 62.0, 0.44),
    (60373.0, 6.0, 62.0, 0.5),
)
"""An object that moves fast, near the pole and across 0 h, at a distance that changes."""


@pytest.mark.parametrize(
    ("offset", "frame", "mjd", "expected"),
    [
        ((0.0, 0.0), "ICRF/ICRS", 60371.38, (0.03569889895368264, 1.0657677435894608, "ICRS")),
        ((0.02, -0.01), "ICRF/ICRS", 60371.38, (0.07628622515471299, 1.055414495803514, "ICRS")),
        ((0.02, -0.01), "ICRF/J2000.0", 60370.25, (0.031941957431672593, 1.0389437243983817, "FK5")),
        ((-0.3, 0.2), "B1950", 60372.75, (-0.7341697700451217 + 2 * np.pi, 1.157567292061509, "FK4")),
    ],
)
def test_a_field_follows_its_ephemeris_as_casacore_does(
    ms: Path, offset: tuple[float, float], frame: str, mjd: float, expected: tuple[float, float, str]
) -> None:
    """Expected: casatools 6.7, `msmetadata().phasecenter(0)` with TIME of FIELD at `mjd` and the same tables."""
    ephemeris(ms, *CURVED, offset=offset, frame=frame)
    found = read_track(str(ms), 0).at(mjd * DAY)
    assert (found.ra, found.dec) == pytest.approx(expected[:2], abs=1e-14)
    assert found.frame == expected[2]


def test_an_ephemeris_in_other_units_and_in_any_order_is_the_same(ms: Path) -> None:
    radians = [(day * 1440.0, np.radians(ra), dec * 60, rho * 149597870.7) for day, ra, dec, rho in reversed(CURVED)]
    ephemeris(ms, *radians, units=("min", "rad", "arcmin", "km"))
    found = read_track(str(ms), 0).at(60371.38 * DAY)
    # the MJD of the file has 15 digits, which is 0.1 microseconds
    assert (found.ra, found.dec) == pytest.approx((0.03569889895368264, 1.0657677435894608), abs=1e-12)


def test_a_polynomial_counts_from_the_time_of_the_field(ms: Path) -> None:
    change(ms, "FIELD", polynomial((187.0, 30.0), (0.5, -0.2), (0.1, 0.3), since=60370.0))
    found = read_track(str(ms), 0).at(60372.0 * DAY)
    assert np.degrees((found.ra, found.dec)) == pytest.approx((187.0 + 1.0 + 0.4, 30.0 - 0.4 + 1.2), abs=1e-12)
    change(ms, "FIELD", polynomial((187.0, 30.0), (0.5, -0.2), since=60370.0, order=0))
    found = read_track(str(ms), 0).at(60372.0 * DAY)
    assert np.degrees((found.ra, found.dec)) == pytest.approx((187.0, 30.0), abs=1e-12)


def test_a_field_with_a_polynomial_follows_no_ephemeris(ms: Path) -> None:
    """As in casacore, where NUM_POLY is looked at first."""
    ephemeris(ms, *CURVED)
    change(ms, "FIELD", polynomial((187.5, 30.0), (1.0, 0.0), since=(START + END) / 2))
    assert centre_degrees(ms) == (pytest.approx(187.5), pytest.approx(30.0), "FK5")


def test_an_ephemeris_of_number_minus_one_is_none(ms: Path) -> None:
    ephemeris(ms, *CURVED, offset=(0.1, 0.2), number=-1)
    assert centre_degrees(ms) == (pytest.approx(np.degrees(0.1)), pytest.approx(np.degrees(0.2)), "FK5")


@pytest.mark.parametrize("how", ["polynomial", "ephemeris"])
def test_a_field_that_moves_is_imaged_where_it_is_at_every_time(make_ms: Any, tmp_path: Path, how: str) -> None:
    """The source in the data stands where the field is, which is not fixed by 0.5 degrees; the cube stays."""
    made = make_ms(noise=0.0, sources=[(0.0, 0.0, 1.0)], nchan=2)
    middle, rate = (START + END) / 2, (3.0, -1.0)
    if how == "polynomial":
        change(made.ms, "FIELD", polynomial((187.5, 30.0), rate, since=middle))
    else:
        # rows as near as this: between them the path in space is as good as straight
        days = START - 0.01 + 0.001 * np.arange(200)
        positions = [(d, 187.5 + rate[0] * (d - middle), 30.0 + rate[1] * (d - middle), 5.0) for d in days]
        ephemeris(made.ms, *positions, frame="J2000")
    with ExitStack() as stores:
        store, geometry, _ = read(made.ms, tmp_path, stores)
        assert np.degrees((geometry.centre.ra, geometry.centre.dec)) == pytest.approx((187.5, 30.0), abs=1e-7)
        samples = store.samples(PlaneKey(channel=1, stokes=0)).in_order()
        back = np.argsort(store.partitions[0].array("order"))  # to the order of the rows
    rows = np.flatnonzero(~column(made.ms, "FLAG_ROW"))
    uvw, vis, good = samples.uvw[back], samples.vis[back], samples.weight[back] > 0
    lengths = np.linalg.norm(column(made.ms, "UVW")[rows], axis=1)
    assert np.linalg.norm(uvw, axis=1)[good] == pytest.approx(lengths[good], rel=1e-9)
    days = column(made.ms, "TIME")[rows] / DAY - middle
    ra, dec = np.radians(187.5 + rate[0] * days), np.radians(30.0 + rate[1] * days)
    # direction cosines from (187.5, 30): Thompson, Moran & Swenson 2017, section 3.1
    ra0, dec0 = np.radians((187.5, 30.0))
    l = np.cos(dec) * np.sin(ra - ra0)
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    assert np.ptp(l) > np.radians(0.3)
    expected = np.array(
        [direct_predict(uvw[k, None], samples.frequency, [(l[k], m[k], 1.0)])[0] for k in np.flatnonzero(good)]
    )
    # float32 visibilities of thousands of turns, and nanoradians of the path of an ephemeris
    assert vis[good] == pytest.approx(expected, abs=1e-4)


def test_an_ephemeris_is_taken_at_the_time_in_utc_whatever_the_scale_of_the_data(ms: Path) -> None:
    """TAI was 37 s ahead of UTC in 2024 (IERS Bulletin C)."""
    ephemeris(ms, *CURVED)
    at_utc = chosen(ms).geometry.centre

    def tai(t: tables.table) -> None:
        t.putcol("TIME", t.getcol("TIME") + 37.0)
        t.putcolkeyword("TIME", "MEASINFO", {"type": "epoch", "Ref": "TAI"})

    change(ms, "", tai)
    at_tai = chosen(ms).geometry.centre
    # times of 5e9 seconds have microseconds, in which the object moves by 1e-12 radians
    assert (at_tai.ra, at_tai.dec) == pytest.approx((at_utc.ra, at_utc.dec), abs=1e-11)


def test_a_warning_says_how_far_a_field_moves(ms: Path) -> None:
    days = END - START
    change(ms, "FIELD", polynomial((187.5, 0.0), (0.0, 10 / 3600 / days)))
    (warning,) = chosen(ms).warnings
    assert "field SIMLINE moves by 10 arcsec (0.5 pixels) while it is observed" in warning
    change(ms, "FIELD", polynomial((187.5, 0.0), (0.0, 1.9 / 3600 / days)))
    assert chosen(ms).warnings == ()


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda ms: ephemeris(ms, *CURVED[:1]), r"covers MJD 60370 to 60370, and there are data at MJD 60371.3"),
        (lambda ms: ephemeris(ms, *CURVED[2:]), r"covers MJD 60372 to 60373, and there are data at MJD 60371.3"),
        (lambda ms: ephemeris(ms, *CURVED, name="EPHEM4_X.tab"), r"ephemeris 3, for which there are 0 tables"),
        (lambda ms: [ephemeris(ms, *CURVED, name=f"EPHEM3_{x}.tab") for x in "XY"], r"there are 2 tables"),
        (lambda ms: ephemeris(ms, *CURVED, frame=""), r"its ephemeris .*tab is in the frame APP, which is not fixed"),
        (
            lambda ms: ephemeris(ms, *CURVED, frame="TOPO"),
            r"its ephemeris .*tab is in the frame TOPO, which is not fixed",
        ),
        (lambda ms: ephemeris(ms, *CURVED, units=("d", "m", "m", "AU")), r"column RA is in m; expected deg"),
        (
            lambda ms: ephemeris(ms, *CURVED[:2], (60372.0, 3.0, 62.0, 0.0), *CURVED[3:]),
            r"field 0 \(SIMLINE\) follows the ephemeris .*, in which some distances Rho are not above 0",
        ),
        (lambda ms: ephemeris(ms), r"field 0 \(SIMLINE\) follows the ephemeris .*, which is empty"),
        (
            lambda ms: change(ms, "FIELD", polynomial((187.5, 30.0), order=1)),
            r"PHASE_DIR has 1 terms, but NUM_POLY is 1",
        ),
    ],
    ids=[
        "one row",
        "later than the data",
        "another number",
        "two tables",
        "no frame",
        "TOPO",
        "metres",
        "no distance",
        "no rows",
        "too short a polynomial",
    ],
)
def test_a_track_that_cannot_be_followed_is_refused_in_one_line(
    ms: Path, work: Callable[[Path], Any], text: str
) -> None:
    work(ms)
    with pytest.raises(GpucubeError, match=text) as refused:
        chosen(ms)
    assert "\n" not in str(refused.value)


# Velocities of an ephemeris

COMET = tuple(
    (58565.5 + 0.25 * k, 187.5 + 0.225 * k, -35.0 + 0.125 * k, 0.5 + 0.001 * k, v)
    for k, v in enumerate((-7.0, -3.257791122, 0.438276628, 4.044916280))
)
"""MJD, RA, DEC, Rho and RadVel in km/s; the direction changes by a degree a day."""

VELOCITY_UNITS = ("d", "deg", "deg", "AU", "km/s")
ALMA = np.array([2225172.997, -5440299.083, -2481021.421])


def test_the_rest_frame_of_an_object_is_tcleans(ms: Path) -> None:
    """tclean 6.7 with `specmode="cubesource"`: channel 0 at 230.510278698606 GHz is at 230.512927740587 GHz in the cube."""
    ephemeris(ms, *COMET, units=VELOCITY_UNITS)
    found = read_track(str(ms), 0).frequency_factor("TOPO", "REST", np.array([58566.208333333336 * DAY]), ALMA)[0]
    # 0.2 m/s, as for every frame: the motion of the Earth is another series than casacore's
    assert found == pytest.approx(230512927740.5868 / 230510278698.60562, abs=0.2 / LIGHT_SPEED)


@pytest.mark.parametrize(
    ("distance", "frame"), [(0.0, "GEO"), (1.0, "TOPO")], ids=["from the Earth's centre", "from an observatory"]
)
def test_radial_velocities_are_those_for_the_observer_of_the_ephemeris(ms: Path, distance: float, frame: str) -> None:
    ephemeris(ms, *COMET, units=VELOCITY_UNITS, keywords={"GeoDist": distance})
    time = np.array([58565.875 * DAY])
    beta = np.mean([COMET[1][4], COMET[2][4]]) * 1e3 / LIGHT_SPEED  # half way between two rows
    found = read_track(str(ms), 0).frequency_factor(frame, "REST", time, ALMA)[0]
    assert found == pytest.approx(np.sqrt((1 + beta) / (1 - beta)), abs=1e-12)


def test_radial_velocities_without_a_unit_are_in_au_a_day(ms: Path) -> None:
    rows = [(*row[:4], row[4] * 86400 / 149597870.7) for row in COMET]
    ephemeris(ms, *rows, units=("d", "deg", "deg", "AU", ""))
    track = read_track(str(ms), 0)
    assert track.ephemeris is not None
    assert track.ephemeris.recession_at(np.array([58565.75 * DAY])) == pytest.approx([-3257.791122], abs=1e-6)


def test_the_doppler_factor_of_a_moving_field_is_that_of_its_direction_at_each_time(ms: Path) -> None:
    ephemeris(ms, *COMET, units=VELOCITY_UNITS)
    track, times = read_track(str(ms), 0), np.array([58565.6, 58566.2]) * DAY
    found = track.frequency_factor("TOPO", "LSRK", times, ALMA)
    for time, one in zip(times, found, strict=True):
        fixed = frequency_factor("TOPO", "LSRK", direction=track.at(time), times=np.array([time]), position=ALMA)
        assert one == pytest.approx(fixed[0], abs=1e-14)


def test_phase_centres_in_icrs_and_j2000_are_where_casacore_sees_them(ms: Path) -> None:
    """casatools 6.7 converts (187.5, 30) from ICRS to (3.272492405419, 0.523598859787) rad in J2000, 20 mas away.

    tclean shows the source of such a field there with `phasecenter="J2000 187.5deg 30deg"`.
    """
    change(ms, "FIELD", lambda t: measure(t, Ref="ICRS"))
    (source,) = chosen(ms, phasecenter="J2000 187.5deg 30deg").sources
    assert source.rotation is not None
    east, north = (3.272492405419 - np.radians(187.5)) * np.cos(np.radians(30)), 0.523598859787 - np.radians(30)
    # the third column of the rotation is the direction (l, m, n) of the field; 0.001 mas of twelve digits
    assert source.rotation[:2, 2] == pytest.approx([east, north], abs=1e-6 * ARCSEC)


def test_a_direction_beside_an_ephemeris_is_not_taken_as_an_offset(ms: Path) -> None:
    rows = [(60370.0 + day, 187.5, 30.0, 1.0) for day in range(3)]
    ephemeris(ms, *rows, offset=(float(np.radians(187.5)), float(np.radians(30.0))))
    with pytest.raises(GpucubeError, match=r"is 189.9 degrees long: expected at most 1; set PHASE_DIR to 0, or EPHEM"):
        chosen(ms)
    shutil.rmtree(ms / "FIELD" / "EPHEM3_X_60371.0.tab")
    ephemeris(ms, *rows, offset=(0.0, float(np.radians(0.9))))
    assert centre_degrees(ms)[1] == pytest.approx(30.9)


def test_an_ephemeris_lies_beside_the_subtable_field_wherever_that_is(ms: Path, tmp_path: Path) -> None:
    """A selection that casacore saves holds references to rows and subtables of the MeasurementSet it was made of."""
    ephemeris(ms, *CURVED)
    with tables.table(str(ms), ack=False) as t:
        t.query("ANTENNA1 < 5").copy(str(tmp_path / "reference.ms"), deep=False).close()
    found, expected = (read_track(str(path), 0).at(60371.38 * DAY) for path in (tmp_path / "reference.ms", ms))
    assert found == expected
