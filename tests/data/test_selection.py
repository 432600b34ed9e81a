"""From parameters to the sources and axes of a cube."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import altered, column, image, planes

from gpucube.constants import ARCSEC
from gpucube.data.selection import Selection, select
from gpucube.data.stokes import Rule
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters


def test_the_axes_of_the_cube_come_from_parameters_and_measurementset(tiny_ms: Any) -> None:
    selection = select(
        make_parameters(vis=tiny_ms.ms, imagename="unused", imsize=[64, 32], cell="2arcsec", spw="0:2~9", stokes="IV")
    )
    geometry, axis = selection.geometry, selection.axis
    assert geometry.shape == (32, 64)
    assert (geometry.cell_x, geometry.cell_y) == pytest.approx((2 * ARCSEC, 2 * ARCSEC), rel=1e-15)
    phase_dir = column(Path(f"{tiny_ms.ms}/FIELD"), "PHASE_DIR")[0, 0]
    assert (geometry.centre.ra, geometry.centre.dec) == tuple(phase_dir)
    assert np.array_equal(axis.frequency, column(Path(f"{tiny_ms.ms}/SPECTRAL_WINDOW"), "CHAN_FREQ")[0, 2:10])
    assert axis.restfreq == column(Path(f"{tiny_ms.ms}/SOURCE"), "REST_FREQUENCY")[0, 0]
    assert selection.shape == (1, 2, 8)


def test_a_source_of_some_channels_reads_only_their_range(tiny_ms: Any) -> None:
    def channel_range(spw: str) -> tuple[int, int] | None:
        (source,) = select(make_parameters(vis=tiny_ms.ms, imagename="unused", spw=spw)).sources
        return source.channel_range

    assert channel_range("0") is None
    assert channel_range("0:0~11") is None
    assert channel_range("0:7;3~4") == (3, 7)


def test_parts_of_a_source_hold_its_rows_once(tiny_ms: Any) -> None:
    (source,) = select(make_parameters(vis=tiny_ms.ms, imagename="unused")).sources
    parts = [source.part(first, 400) for first in range(0, source.nrow, 400)]
    assert [part.nrow for part in parts] == [400, 400, 100]
    assert np.array_equal(np.concatenate([part.rows.number for part in parts]), np.arange(900))
    assert sum(part.bytes_selected() for part in parts) == source.bytes_selected()


def specsys(ms: Path, folder: Path, change: Callable[[tables.table], None]) -> str:
    """SPECSYS of the cube that would be made of a copy whose SPECTRAL_WINDOW is changed."""
    shutil.copytree(ms, folder / "altered.ms")
    with tables.table(f"{folder}/altered.ms/SPECTRAL_WINDOW", readonly=False, ack=False) as windows:
        change(windows)
    return select(make_parameters(vis=folder / "altered.ms", imagename="unused")).axis.frame.specsys


@pytest.mark.parametrize(
    ("code", "name"),
    # the words of WCS paper III, table 3, for casacore's codes
    [
        (0, "SOURCE"),
        (1, "LSRK"),
        (2, "LSRD"),
        (3, "BARYCENT"),
        (4, "GEOCENTR"),
        (5, "TOPOCENT"),
        (6, "GALACTOC"),
        (7, "LOCALGRP"),
        (8, "CMBDIPOL"),
    ],
)
def test_every_frequency_frame_has_its_name_of_the_standard(tiny_ms: Any, tmp_path: Path, code: int, name: str) -> None:
    assert specsys(tiny_ms.ms, tmp_path, lambda t: t.putcell("MEAS_FREQ_REF", 0, code)) == name


@pytest.mark.parametrize("code", [64, 9, -1, 255])
def test_an_unknown_frequency_frame_is_refused(tiny_ms: Any, tmp_path: Path, code: int) -> None:
    with pytest.raises(GpucubeError, match=rf"window 0 has no known frequency frame \(MEAS_FREQ_REF is {code}\): set"):
        specsys(tiny_ms.ms, tmp_path, lambda t: t.putcell("MEAS_FREQ_REF", 0, code))


def without_codes(measure: dict[str, Any]) -> Callable[[tables.table], None]:
    """Remove MEAS_FREQ_REF, and let CHAN_FREQ alone say its frame."""

    def change(windows: tables.table) -> None:
        windows.removecols("MEAS_FREQ_REF")
        windows.putcolkeyword("CHAN_FREQ", "MEASINFO", measure)

    return change


@pytest.mark.parametrize(("word", "name"), [("LSRK", "LSRK"), ("BARY", "BARYCENT"), ("lgroup", "LOCALGRP")])
def test_without_codes_the_frame_is_that_of_the_frequencies(tiny_ms: Any, tmp_path: Path, word: str, name: str) -> None:
    assert specsys(tiny_ms.ms, tmp_path, without_codes({"type": "frequency", "Ref": word})) == name


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ({}, r"window 0 has no known frequency frame \(.*CHAN_FREQ"),
        ({"Ref": "Undefined"}, r"window 0 has no known frequency frame \(.*CHAN_FREQ"),
        ({"VarRefCol": "MEAS_FREQ_REF"}, "frames of CHAN_FREQ are in a column MEAS_FREQ_REF, which is not there"),
    ],
    ids=["no word", "undefined", "a column that is not there"],
)
def test_frequencies_that_name_no_frame_are_refused(
    tiny_ms: Any, tmp_path: Path, measure: dict[str, Any], text: str
) -> None:
    with pytest.raises(GpucubeError, match=text):
        specsys(tiny_ms.ms, tmp_path, without_codes({"type": "frequency", **measure}))


@pytest.mark.parametrize("table", [{}, {"TabRefTypes": ["GEO", "BARY"], "TabRefCodes": np.array([3, 7], np.uint32)}])
def test_without_codes_the_frame_may_have_another_column(tiny_ms: Any, tmp_path: Path, table: dict[str, Any]) -> None:
    def change(windows: tables.table) -> None:
        without_codes({"type": "frequency", "VarRefCol": "FrameOfRow", **table})(windows)
        windows.addcols(tables.maketabdesc(tables.makescacoldesc("FrameOfRow", 0)))
        windows.putcell("FrameOfRow", 0, 7 if table else 3)

    assert specsys(tiny_ms.ms, tmp_path, change) == "BARYCENT"


def test_codes_count_more_than_what_the_frequencies_say(tiny_ms: Any, tmp_path: Path) -> None:
    """As in tclean."""

    def change(windows: tables.table) -> None:
        windows.putcell("MEAS_FREQ_REF", 0, 1)
        windows.putcolkeyword("CHAN_FREQ", "MEASINFO", {"type": "frequency", "Ref": "BARY"})

    assert specsys(tiny_ms.ms, tmp_path, change) == "LSRK"


# A selection for each MeasurementSet


def selected(*vis: Path, **changes: Any) -> Selection:
    return select(make_parameters(vis=list(vis), imagename="unused", **changes))


def second_window(windows: tables.table) -> None:
    """Make window 0 another band, 50 MHz above, and window 1 the old one."""
    windows.copyrows(windows, 0, -1, 1)
    windows.putcell("CHAN_FREQ", 0, windows.getcell("CHAN_FREQ", 0) + 50e6)


def second_description(descriptions: tables.table) -> None:
    descriptions.copyrows(descriptions, 0, -1, 1)
    descriptions.putcell("SPECTRAL_WINDOW_ID", 1, 1)


def all_rows_twice(main: tables.table) -> None:
    """Give every row again, in data description 1."""
    n = main.nrows()
    main.copyrows(main)
    main.putcol("DATA_DESC_ID", np.full(n, 1, np.int32), n)


def change(ms: Path, subtable: str, how: Callable[[tables.table], None]) -> None:
    with tables.table(str(ms / subtable), readonly=False, ack=False) as t:
        how(t)


@pytest.fixture(scope="module")
def two_bands(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_ms` as window 1, and the same rows in window 0, 50 MHz above."""
    ms = altered(tiny_ms.ms, tmp_path_factory.mktemp("bands"), all_rows_twice)
    change(ms, "SPECTRAL_WINDOW", second_window)
    change(ms, "DATA_DESCRIPTION", second_description)
    return ms


@pytest.mark.parametrize("spw", [["0", "1"], [0, 1], ("0", "1:0~11"), "['0', '1']", np.array([0, 1])], ids=repr)
def test_spw_may_name_other_windows_in_every_measurement_set(tiny_ms: Any, two_bands: Path, spw: Any) -> None:
    selection = selected(tiny_ms.ms, two_bands, spw=spw)
    assert np.array_equal(selection.axis.frequency, selected(tiny_ms.ms).axis.frequency)
    assert [source.nrow for source in selection.sources] == [900, 900]
    assert len(selected(tiny_ms.ms, two_bands, spw=["0:3~5", "1:4~7"]).axis.frequency) == 5


def test_one_spw_for_all_that_means_other_bands_gives_a_warning(tiny_ms: Any, two_bands: Path) -> None:
    selection = selected(tiny_ms.ms, two_bands, spw="0")
    assert selection.axis.nchan == 3212
    assert sum("3188 of 3212 channels are blank" in warning for warning in selection.warnings) == 1


@pytest.mark.parametrize(("name", "value"), [("spw", ["0", "1", "0"]), ("field", ["0", "0", "SIMLINE"])])
def test_a_list_of_another_length_is_refused(tiny_ms: Any, two_bands: Path, name: str, value: list[str]) -> None:
    words = rf"`{name}=.*` has 3 entries for 2 MeasurementSets: give one text for all, such as '0,1', or one for each"
    with pytest.raises(GpucubeError, match=words):
        selected(tiny_ms.ms, two_bands, **{name: value})
    with pytest.raises(GpucubeError, match="has 2 entries for 1 MeasurementSet:"):
        selected(tiny_ms.ms, **{name: value[:2]})
    assert len(selected(tiny_ms.ms, two_bands, **{name: value[:1]}).sources) == (3 if name == "field" else 2)


def test_field_may_be_another_number_in_every_measurement_set(tiny_ms: Any, tmp_path: Path) -> None:
    def second_field(t: tables.table) -> None:
        t.copyrows(t, 0, -1, 1)
        t.putcell("NAME", 0, "CALIBRATOR")

    other = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("FIELD_ID", np.ones(t.nrows(), np.int32)))
    change(other, "FIELD", second_field)
    for field in (["0", "1"], [0, 1], ["SIMLINE", 1], "SIMLINE"):
        assert [source.nrow for source in selected(tiny_ms.ms, other, field=field).sources] == [900, 900]
    with pytest.raises(GpucubeError, match="no field matches; the only field is 0"):
        selected(tiny_ms.ms, other, field=["1", "0"])


def test_a_measurement_set_that_adds_nothing_is_named(tiny_ms: Any, two_bands: Path) -> None:
    selection = selected(tiny_ms.ms, two_bands, spw=["0", "0"], start=0, nchan=12)
    assert len(selection.sources) == 1
    (warning,) = (w for w in selection.warnings if "is not imaged" in w)
    assert warning.startswith(
        f"{two_bands} is not imaged: its channels lie outside the axis of the cube, which `start`"
    )


def test_windows_of_autocorrelations_alone_have_no_say_in_the_axis(two_bands: Path, tmp_path: Path) -> None:
    """Window 0 in channels of 1 GHz, as those of a water-vapour radiometer."""

    def radiometer(t: tables.table) -> None:
        t.putcell("CHAN_WIDTH", 0, np.full(12, 1e9))
        t.putcell("CHAN_FREQ", 0, 183e9 + 1e9 * np.arange(12))

    ms = altered(two_bands, tmp_path, radiometer, "SPECTRAL_WINDOW")
    with pytest.raises(GpucubeError, match="channels of different width"):
        selected(ms)

    def autocorrelations(t: tables.table) -> None:
        radiometers = t.getcol("DATA_DESC_ID") == 0
        t.putcol("ANTENNA2", np.where(radiometers, t.getcol("ANTENNA1"), t.getcol("ANTENNA2")))

    change(ms, "", autocorrelations)
    assert np.array_equal(selected(ms).axis.frequency, selected(two_bands, spw="1").axis.frequency)


# The same field more than once


def split_field(ms: Path, folder: Path, offset_arcsec: float = 0.0, name: str = "SIMLINE") -> Path:
    """A copy whose later rows belong to a second field of the same name, perhaps a little to the north."""

    def second(t: tables.table) -> None:
        t.copyrows(t, 0, -1, 1)
        t.putcell("PHASE_DIR", 1, t.getcell("PHASE_DIR", 0) + np.array([[0.0, offset_arcsec * ARCSEC]]))
        t.putcell("NAME", 1, name)

    copy = altered(ms, folder, lambda t: t.putcol("FIELD_ID", (np.arange(t.nrows()) >= 400).astype(np.int32)))
    change(copy, "FIELD", second)
    return copy


@pytest.mark.parametrize("field", ["SIMLINE", "", "*", "0,1", "0~1", "1, 0", ["0~1"]], ids=repr)
@pytest.mark.parametrize("offset", [0.0, 0.001])
def test_a_field_that_comes_twice_is_one_field(tiny_ms: Any, tmp_path: Path, field: Any, offset: float) -> None:
    selection = selected(split_field(tiny_ms.ms, tmp_path, offset), field=field)
    assert [source.nrow for source in selection.sources] == [400, 500]
    assert np.array_equal(np.concatenate([source.rows.number for source in selection.sources]), np.arange(900))
    # uvw of the second are turned to the phase centre of the first, however near it is
    turned = selection.sources[1].rotation
    if offset == 0.0:
        assert turned is None
    else:
        assert turned is not None
        assert turned[1, 2] == pytest.approx(offset * ARCSEC, rel=1e-6)


def test_one_of_two_equal_fields_can_be_selected_by_its_number(tiny_ms: Any, tmp_path: Path) -> None:
    ms = split_field(tiny_ms.ms, tmp_path)
    assert [selected(ms, field=number).sources[0].nrow for number in (0, 1)] == [400, 500]


@pytest.mark.parametrize("field", ["SIMLINE", "", "*", "0,1", "0~1"])
def test_fields_of_one_name_in_different_directions_are_refused(tiny_ms: Any, tmp_path: Path, field: str) -> None:
    ms = split_field(tiny_ms.ms, tmp_path, 90.0)
    with pytest.raises(GpucubeError) as caught:
        selected(ms, field=field)
    assert str(caught.value) == (
        f"{ms}: 2 fields fit `field={field!r}` (0: SIMLINE, 1: SIMLINE) and lie up to 1.5 arcmin apart:"
        " select one by its number"
    )


@pytest.mark.parametrize(
    ("name", "both_move", "refused"),
    [("SIMLINE", True, False), ("OTHER", True, True), ("SIMLINE", False, True)],
)
def test_fields_that_move_are_one_if_they_have_one_name(
    tiny_ms: Any, tmp_path: Path, name: str, both_move: bool, refused: bool
) -> None:
    """As an object that was followed in two nights, each with a direction of its own."""
    ms = split_field(tiny_ms.ms, tmp_path, 90.0, name)

    def move(t: tables.table) -> None:
        for row in (0, 1) if both_move else (0,):
            t.putcell("PHASE_DIR", row, np.vstack([t.getcell("PHASE_DIR", row), [[0.0, 1e-9]]]))
            t.putcell("NUM_POLY", row, 1)
            t.putcell("TIME", row, 5.2e9)

    change(ms, "FIELD", move)
    if refused:
        with pytest.raises(GpucubeError, match=r"2 fields fit `field='0,1'` .* and do not move together: select one"):
            selected(ms, field="0,1")
    else:
        assert [source.nrow for source in selected(ms, field="0,1").sources] == [400, 500]


def test_fields_without_rows_do_not_matter(tiny_ms: Any, tmp_path: Path) -> None:
    ms = split_field(tiny_ms.ms, tmp_path, 90.0)
    change(ms, "", lambda t: t.putcol("FIELD_ID", np.zeros(t.nrows(), np.int32)))
    for field in ("SIMLINE", "", "0~1"):
        assert [source.nrow for source in selected(ms, field=field).sources] == [900]


def test_two_names_for_one_direction_are_one_field_unless_one_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    ms = split_field(tiny_ms.ms, tmp_path, name="J1230+3000")
    assert [source.nrow for source in selected(ms).sources] == [400, 500]
    assert [source.nrow for source in selected(ms, field="J1230+3000").sources] == [500]


# Several data descriptions and correlations


def hands(ms: Path, *kinds: tuple[int, ...]) -> None:
    """Let data description k have the correlations `kinds[k]`, all of the only window."""

    def polarizations(t: tables.table) -> None:
        for row, kind in enumerate(kinds):
            if row:
                t.copyrows(t, 0, -1, 1)
            t.putcell("CORR_TYPE", row, np.array(kind, np.int32))

    def descriptions(t: tables.table) -> None:
        for row in range(1, len(kinds)):
            t.copyrows(t, 0, -1, 1)
            t.putcell("POLARIZATION_ID", row, row)

    change(ms, "POLARIZATION", polarizations)
    change(ms, "DATA_DESCRIPTION", descriptions)


RR, RL, LR, LL, XX, YY = 5, 6, 7, 8, 9, 12


@pytest.mark.parametrize("stokes", ["I", "pseudoI", "V", "IV"])
def test_descriptions_without_the_parallel_hands_are_left_out(tiny_ms: Any, tmp_path: Path, stokes: str) -> None:
    ms = altered(tiny_ms.ms, tmp_path, all_rows_twice)
    hands(ms, (RR, LL), (RL, LR))
    selection = selected(ms, stokes=stokes)
    assert [source.nrow for source in selection.sources] == [900]
    assert not any("stokes" in warning for warning in selection.warnings)


def test_every_description_serves_the_parameters_that_it_can_make(tiny_ms: Any, tmp_path: Path) -> None:
    """As from correlators that write parallel and cross hands in rows of their own."""
    ms = altered(tiny_ms.ms, tmp_path, all_rows_twice)
    hands(ms, (RR, LL), (RL, LR))
    selection = selected(ms, stokes="IQUV")
    made = [[c.rule != Rule.NONE for c in source.combinations] for source in selection.sources]
    assert made == [[True, False, False, True], [False, True, True, False]]
    assert not any("stokes" in warning for warning in selection.warnings)


def test_a_parameter_that_nothing_can_make_is_refused(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, all_rows_twice)
    hands(ms, (RL, LR), (RL, LR))
    with pytest.raises(GpucubeError, match=r"stokes I cannot be made from .* window 0: it has correlations RL, LR"):
        selected(ms)
    with pytest.raises(GpucubeError, match="stokes V cannot be made"):
        selected(ms, stokes="QV")


def test_a_measurement_set_that_lacks_a_parameter_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    linear = altered(tiny_ms.ms, tmp_path, lambda t: None)
    hands(linear, (XX, YY))
    selection = selected(tiny_ms.ms, linear, stokes="IV")
    assert [source.nrow for source in selection.sources] == [900, 900]
    (warning,) = [w for w in selection.warnings if "stokes" in w]
    assert warning == f"stokes V is made without {linear} spectral window 0: it has correlations XX, YY"


def test_windows_in_different_frames_are_refused_by_name(tiny_ms: Any, tmp_path: Path) -> None:
    topo = altered(tiny_ms.ms, tmp_path, lambda t: t.putcell("MEAS_FREQ_REF", 0, 5), "SPECTRAL_WINDOW")
    with pytest.raises(GpucubeError) as caught:
        selected(tiny_ms.ms, topo)
    for words in (f"{tiny_ms.ms} spectral window 0", f"{topo} spectral window 0", "(LSRK and TOPO)"):
        assert words in str(caught.value)


def test_channels_stored_out_of_order_are_interpolated_in_order(make_ms: Any, tmp_path: Path) -> None:
    """The same data with the halves of the window swapped, channels and frequencies alike."""
    ms = Path(make_ms(nchan=8, noise=0.0, flag_channels=[]).ms)
    order = [4, 5, 6, 7, 0, 1, 2, 3]

    def swap(*names: str) -> Callable[[tables.table], None]:
        def change(t: tables.table) -> None:
            for name in names:
                values = t.getcol(name)
                t.putcol(name, values[:, order])

        return change

    (tmp_path / "both").mkdir()
    data_swapped = altered(ms, tmp_path, swap("DATA", "FLAG"))
    swapped = altered(data_swapped, tmp_path / "both", swap("CHAN_FREQ"), "SPECTRAL_WINDOW")
    for method in ("linear", "nearest"):
        found, expected = (
            planes(
                image(
                    vis,
                    tmp_path / f"{name}-{method}",
                    outframe="BARY",
                    start="1420.36MHz",
                    width="15.625kHz",
                    nchan=6,
                    interpolation=method,
                    niter=0,
                    nsigma=0,
                ),
                "residual",
            )
            for vis, name in ((swapped, "swapped"), (ms, "ordered"))
        )
        assert np.isfinite(expected).any(axis=(1, 2)).sum() > 3
        np.testing.assert_array_equal(found, expected)


def test_the_order_of_rows_does_not_move_an_axis_in_another_frame(make_ms: Any, tmp_path: Path) -> None:
    ms = Path(make_ms(frame="TOPO", ntime=6, nchan=8, chan_width=1000.0, flag_channels=[]).ms)
    backwards = tmp_path / "backwards.ms"
    with tables.table(str(ms), ack=False) as t:
        turned = t.selectrows(list(range(t.nrows()))[::-1])
        turned.copy(str(backwards), deep=True).close()
        turned.close()
    first, second = (select(make_parameters(vis=vis, imagename="unused", outframe="LSRK")) for vis in (ms, backwards))
    np.testing.assert_allclose(first.axis.frequency, second.axis.frequency, rtol=1e-15)


# Rows that belong nowhere, subtables that lack rows


@pytest.mark.parametrize(
    ("column_name", "value", "first"),
    [
        ("FIELD_ID", 7, "7 and 0"),
        ("FIELD_ID", -1, "-1 and 0"),
        ("DATA_DESC_ID", 3, "0 and 3"),
        ("DATA_DESC_ID", -1, "0 and -1"),
    ],
)
def test_rows_whose_numbers_point_nowhere_are_left_out_and_counted(
    column_name: str, value: int, first: str, tiny_ms: Any, tmp_path: Path
) -> None:
    def work(t: tables.table) -> None:
        numbers = t.getcol(column_name)
        numbers[::100] = value
        t.putcol(column_name, numbers)

    lost = int((~column(tiny_ms.ms, "FLAG_ROW"))[::100].sum())
    ms = altered(tiny_ms.ms, tmp_path, work)
    selection = selected(ms)
    (warning,) = selection.warnings
    assert warning.startswith(f"{ms}: {lost} rows left out, because FIELD_ID or DATA_DESC_ID (first in row ")
    assert f": {first}) has no field" in warning
    assert sum(source.nrow for source in selection.sources) == 891


@pytest.mark.parametrize(
    ("name", "value"), [("POLARIZATION_ID", -1), ("POLARIZATION_ID", 4), ("SPECTRAL_WINDOW_ID", 9)]
)
def test_a_data_description_of_nothing_is_not_used(name: str, value: int, tiny_ms: Any, tmp_path: Path) -> None:
    """The first correlations or window are not the last ones, as -1 would be in Python."""
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcell(name, 0, value), "DATA_DESCRIPTION")
    with pytest.raises(
        GpucubeError, match=r"no rows are left .* has no field, spectral window or correlations in the sub"
    ):
        selected(ms)


def test_an_empty_polarization_table_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.removerows([0]), "POLARIZATION")
    with pytest.raises(
        GpucubeError, match=r"altered.ms is not a complete MeasurementSet: subtable POLARIZATION has no rows"
    ):
        selected(ms)


@pytest.mark.parametrize("name", ["SOURCE", "OBSERVATION", "ANTENNA"])
def test_subtables_that_only_headers_need_may_be_absent(name: str, tiny_ms: Any, tmp_path: Path) -> None:
    ms = shutil.copytree(tiny_ms.ms, tmp_path / "copy.ms")
    shutil.rmtree(ms / name)
    assert selected(ms).axis.nchan == 12


def test_data_of_a_single_dish_are_refused_by_name(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.renamecol("DATA", "FLOAT_DATA"))
    with pytest.raises(GpucubeError, match="has no column DATA, but FLOAT_DATA: it is of a single dish"):
        selected(ms)


@pytest.mark.parametrize(
    ("name", "text", "absent"),
    [
        ("scan", "1,7", "7"),
        ("scan", "0~3,5~9,12", "5~9, 12"),
        ("observation", "0,4", "4"),
        ("timerange", "2024/03/02~2024/03/03,2019/01/01", "2019/01/01"),
    ],
)
def test_parts_of_a_selection_without_rows_give_a_warning(name: str, text: str, absent: str, tiny_ms: Any) -> None:
    """CASA ignores them, too."""
    selection = selected(tiny_ms.ms, **{name: text})
    assert selection.warnings == (f"`{name}={text!r}`: {absent} selects no row",)
    assert [source.nrow for source in selection.sources] == [900]


def with_second_window(ms: str, folder: Path, channels: float) -> Path:
    """A copy in which every second row belongs to another window, so many channels above the first."""

    def move(t: tables.table) -> None:
        t.putcol("DATA_DESC_ID", np.arange(t.nrows(), dtype=np.int32) % 2)

    copy = altered(ms, folder, move)
    for name in ("SPECTRAL_WINDOW", "DATA_DESCRIPTION"):
        with tables.table(str(copy / name), readonly=False, ack=False) as t:
            t.selectrows([0]).copyrows(t)
            if name == "SPECTRAL_WINDOW":
                t.putcell("CHAN_FREQ", 1, t.getcell("CHAN_FREQ", 0) + channels * 15625.0)
            else:
                t.putcell("SPECTRAL_WINDOW_ID", 1, 1)
    return copy


@pytest.mark.parametrize("outframe", ["", "BARY"], ids=["as they are", "converted"])
@pytest.mark.parametrize(
    ("apart", "spw", "start", "channel"),
    [
        (0, "0,1", 5, 5),  # the same window twice
        (0.05, "0,1", 5, 5),  # nearly the same
        (12, "0,1", 13, 13),  # side by side
        (20, "0,1", 13, 21),  # the gap does not count
        (-20, "0,1", 13, 1),  # the second window lies below
        (12, "0:4~9,1:2~5", 4, 4),  # channels that spw leaves out count, too
        (12, "0:4~9,1:2~5", 15, 15),
    ],
)
def test_start_counts_along_the_channels_of_all_windows_as_tclean_does(
    tiny_ms: Any, tmp_path: Path, apart: float, spw: str, start: int, channel: int, outframe: str
) -> None:
    """`channel` counts from the first channel of the first window. tclean 6.7 does the same with ALMA windows of 64 channels."""
    ms = with_second_window(tiny_ms.ms, tmp_path, apart)
    plain, axis = (selected(ms, spw=s, start=n, nchan=1, outframe=outframe).axis for s, n in (("0", 0), (spw, start)))
    assert (axis.frequency[0] - plain.frequency[0]) / axis.width[0] == pytest.approx(channel, abs=0.06)


@pytest.mark.parametrize("outframe", ["", "BARY"], ids=["as they are", "converted"])
@pytest.mark.parametrize(
    ("start", "message"),
    [(2, r"`start=2` is not among the channels that `spw` selects"), (24, r"`start=24` is out of range")],
)
def test_start_must_be_a_selected_channel(
    tiny_ms: Any, tmp_path: Path, start: int, message: str, outframe: str
) -> None:
    ms = with_second_window(tiny_ms.ms, tmp_path, 12)
    with pytest.raises(GpucubeError, match=message):
        selected(ms, spw="0:4~9,1:2~5", start=start, nchan=1, outframe=outframe)


# Windows and columns


@pytest.fixture
def with_an_unused_window(tiny_ms: Any, tmp_path: Path) -> Path:
    return altered(tiny_ms.ms, tmp_path, lambda t: t.copyrows(t, 0, -1, 1), "SPECTRAL_WINDOW")


@pytest.mark.parametrize("value", [0.0, np.nan, -1.4e9, None], ids=["zero", "NaN", "negative", "not written"])
def test_a_window_that_is_not_used_may_say_anything(value: float | None, with_an_unused_window: Path) -> None:
    """Only the window of the rows matters; the same value there is refused."""

    def spoil(row: int) -> Callable[[tables.table], None]:
        return lambda t: t.putcell("CHAN_FREQ", row, np.full(12, value))

    ms = with_an_unused_window
    change(ms, "SPECTRAL_WINDOW", (lambda t: t.addrows(1)) if value is None else spoil(1))
    change(ms, "POLARIZATION", lambda t: t.addrows(1))
    frequency = column(ms / "SPECTRAL_WINDOW", "CHAN_FREQ")[0] if value is not None else None
    axis = selected(ms).axis
    assert frequency is None or np.array_equal(axis.frequency, frequency)
    assert axis.nchan == 12
    if value is not None:
        change(ms, "SPECTRAL_WINDOW", spoil(0))
        with pytest.raises(
            GpucubeError, match="spectral window 0: a channel's frequency or width is not a number above 0"
        ):
            selected(ms)


def test_windows_that_contradict_themselves_are_refused(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcell("CHAN_WIDTH", 0, np.array([15625.0])), "SPECTRAL_WINDOW")
    with pytest.raises(GpucubeError, match="spectral window 0: CHAN_FREQ has 12 channels and CHAN_WIDTH 1"):
        selected(ms)


def test_frequencies_in_megahertz_without_a_unit_are_refused(tiny_ms: Any, tmp_path: Path) -> None:
    def work(t: tables.table) -> None:
        t.putcell("CHAN_FREQ", 0, t.getcell("CHAN_FREQ", 0) / 1e6)

    with pytest.raises(GpucubeError, match=r"the frequencies go up to 1420.48 Hz: expected Hz"):
        selected(altered(tiny_ms.ms, tmp_path, work, "SPECTRAL_WINDOW"))


@pytest.mark.parametrize("outframe", ["", "BARY"])
def test_channel_widths_of_zero_are_the_distances_of_the_channels(outframe: str, tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcell("CHAN_WIDTH", 0, np.zeros(12)), "SPECTRAL_WINDOW")
    expected, found = selected(tiny_ms.ms, outframe=outframe).axis, selected(ms, outframe=outframe).axis
    assert found.width == pytest.approx(expected.width, rel=1e-9)
    assert found.frequency == pytest.approx(expected.frequency, rel=1e-12)


@pytest.mark.parametrize(
    ("parameter", "text", "name"),
    [("scan", "1", "SCAN_NUMBER"), ("observation", "0", "OBSERVATION_ID"), ("intent", "*TARGET*", "STATE_ID")],
)
def test_a_column_that_a_selection_needs_is_named(
    parameter: str, text: str, name: str, tiny_ms: Any, tmp_path: Path
) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.renamecol(name, "OTHER"))
    with pytest.raises(GpucubeError, match=f"altered.ms has no column {name}, by which `{parameter}` selects"):
        selected(ms, **{parameter: text})


def test_uvrange_in_wavelengths_needs_no_reference_frequency(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcell("REF_FREQUENCY", 0, 0.0), "SPECTRAL_WINDOW")
    (source,) = selected(ms, uvrange=">0.5klambda").sources
    middle = column(ms / "SPECTRAL_WINDOW", "CHAN_FREQ")[0][[0, -1]].mean()
    distance = np.hypot(*column(ms, "UVW")[:, :2].T) * middle / 299792458.0
    assert source.nrow == np.count_nonzero(distance >= 500)


@pytest.mark.parametrize("version", [1.0, 3.0])
def test_another_version_of_the_measurement_set_is_refused(version: float, tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putkeyword("MS_VERSION", version))
    with pytest.raises(GpucubeError, match=f"is a MeasurementSet of version {version:g}: gpucube reads version 2"):
        selected(ms)


def test_the_unit_of_the_data_is_janskys(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcolkeyword("DATA", "UNIT", "K"))
    (warning,) = selected(ms).warnings
    assert "column DATA is in K" in warning and "imaged as if they were in Jy" in warning
    for unit, refused in (("Jy", False), ("mJy", True)):
        with tables.table(str(ms), readonly=False, ack=False) as t:
            t.putcolkeyword("DATA", "UNIT", unit)
        if refused:
            with pytest.raises(GpucubeError, match="column DATA is in a multiple of Jy: expected Jy"):
                selected(ms)
        else:
            assert selected(ms).warnings == ()


def test_the_error_names_the_task_that_converts_other_formats(tiny_ms: Any, tmp_path: Path) -> None:
    (tmp_path / "a.uvfits").write_bytes(b"SIMPLE")
    (tmp_path / "asdm").mkdir()
    (tmp_path / "asdm" / "ASDM.xml").touch()
    for name, tool in (("a.uvfits", "importuvfits"), ("asdm", "importasdm")):
        with pytest.raises(GpucubeError, match=f"is not a MeasurementSet .*: convert it with CASA's {tool}"):
            selected(tmp_path / name)


@pytest.mark.parametrize("factor", [2.0, 1e-3])
def test_channels_that_are_not_as_wide_as_they_are_apart_give_a_warning(
    factor: float, tiny_ms: Any, tmp_path: Path
) -> None:
    """The axis has the distances; only a cube in another frame has channels of CHAN_WIDTH by default."""

    def work(t: tables.table) -> None:
        t.putcol("CHAN_WIDTH", factor * t.getcol("CHAN_WIDTH"))

    ms = altered(tiny_ms.ms, tmp_path, work, "SPECTRAL_WINDOW")
    selection = selected(ms)
    (warning,) = selection.warnings
    wide = "31.2 kHz" if factor == 2 else "15.6 Hz"
    assert f"the channels are {wide} wide by CHAN_WIDTH, but 15.6 kHz apart by CHAN_FREQ" in warning
    assert np.array_equal(selection.axis.frequency, selected(tiny_ms.ms).axis.frequency)


def test_times_are_selected_in_the_unit_of_their_column(tiny_ms: Any, tmp_path: Path) -> None:
    def work(t: tables.table) -> None:
        t.putcol("TIME", t.getcol("TIME") / 86400)
        t.putcolkeyword("TIME", "QuantumUnits", ["d"])

    later = {"timerange": ">2024/03/02/09:00:00"}
    (expected,), (found,) = (selected(ms, **later).sources for ms in (tiny_ms.ms, altered(tiny_ms.ms, tmp_path, work)))
    assert 0 < found.nrow < 900
    assert np.array_equal(found.rows.number, expected.rows.number)


def test_states_without_a_name_are_no_intents(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("OBS_MODE", [""] * t.nrows()), "STATE")
    with pytest.raises(GpucubeError, match=r"`intent='\*TARGET\*'`: STATE names no intents"):
        selected(ms, intent="*TARGET*")


@pytest.mark.parametrize("subtable", ["ANTENNA/POSITION", "SOURCE/SOURCE_ID", "OBSERVATION/OBSERVER", "FIELD/NAME"])
def test_a_subtable_that_lacks_a_column_is_named(subtable: str, tiny_ms: Any, tmp_path: Path) -> None:
    name, lacking = subtable.split("/")
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.renamecol(lacking, "OTHER"), name)
    with pytest.raises(GpucubeError, match=f"altered.ms: subtable {name} cannot be read: .*{lacking}"):
        selected(ms)
