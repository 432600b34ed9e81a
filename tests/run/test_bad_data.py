"""Bad data spoil nothing: a channel with data is finite in every product, and one without is NaN.

Nobody is alarmed by data that are flagged or have no weight, as long as some are left. What no array measures is named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from casacore.tables import table
from jobs import CELL, IMAGES, PRODUCTS, altered, image, planes

import gpucube
from gpucube.output.records import StopCode


def check(result: gpucube.Result, empty: Iterable[int]) -> None:
    """Finite where there are data, NaN where there are none, a beam table that readers accept."""
    empty = set(empty)
    for product in IMAGES:
        cube = fits.getdata(result.products[product])
        finite = np.isfinite(cube).all(axis=(0, 2, 3))
        blank = np.isnan(cube).all(axis=(0, 2, 3))
        expected = [record.channel in empty for record in result.channels]
        assert (~finite).tolist() == blank.tolist() == expected, product
    assert (planes(result, "mask") == 1).all()
    with fits.open(result.products["image"]) as hdus:
        beams = hdus["BEAMS"].data
        assert (beams["BMIN"] > 0).all() and (beams["BMAJ"] >= beams["BMIN"]).all()
        assert np.isfinite(beams["BPA"]).all()
    for record in result.channels:
        assert (record.stop_code == StopCode.NO_DATA) == (record.channel in empty)
        assert record.stop_code != StopCode.FAILED
        assert (record.visibilities == 0) == (record.channel in empty)
        if record.stop_code in (StopCode.THRESHOLD, StopCode.NSIGMA):
            assert record.peak_residual <= record.limit


def quiet_image(
    vis: Path, imagename: Path, capfd: pytest.CaptureFixture[str], *, warns: str = "", **changes: Any
) -> gpucube.Result:
    """A run that must say nothing at all, but for one warning if `warns` gives some of its words."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = image(vis, imagename, **changes)
    texts = [str(warning.message) for warning in said]
    assert [warns in text for text in texts] == [True] * bool(warns), texts
    assert texts == result.summary["warnings"]
    assert capfd.readouterr() == ("", "")
    return result


def put(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[table], None]:
    """A change of one column of the main table, in place."""

    def edit(main: table) -> None:
        values = main.getcol(name)
        change(values)
        main.putcol(name, values)

    return edit


def assign(index: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[index] = value

    return change


def flag_all_but(rows: Any) -> Callable[[table], None]:
    """FLAG_ROW everywhere except in `rows`, where nothing at all is flagged."""

    def edit(main: table) -> None:
        keep = np.zeros(main.nrows(), bool)
        keep[rows] = True
        main.putcol("FLAG_ROW", ~keep)
        flag = main.getcol("FLAG")
        flag[keep] = False
        flag[:, 2] = True
        main.putcol("FLAG", flag)

    return edit


def one_baseline(main: table) -> None:
    flag_all_but((main.getcol("ANTENNA1") == 2) & (main.getcol("ANTENNA2") == 7))(main)


def one_time(main: table) -> None:
    flag_all_but(main.getcol("TIME") == main.getcol("TIME")[450])(main)


def all_the_same_uvw(main: table) -> None:
    main.putcol("UVW", np.tile(main.getcol("UVW")[7], (main.nrows(), 1)))


BAD: dict[str, tuple[Callable[[table], None], list[int]]] = {
    "NaN visibilities": (put("DATA", assign(np.s_[::3, 4:6], np.nan)), [2]),
    "infinite visibilities": (put("DATA", assign(np.s_[::3, 4:6], complex(np.inf, -np.inf))), [2]),
    "NaN in one hand": (put("DATA", assign(np.s_[::2, :, 1], complex(0, np.nan))), [2]),
    "a channel of NaN": (put("DATA", assign(np.s_[:, 7], np.nan)), [2, 7]),
    "NaN weights": (put("WEIGHT", assign(np.s_[::3], np.nan)), [2]),
    "infinite weights": (put("WEIGHT", assign(np.s_[::3], np.inf)), [2]),
    "zero weights": (put("WEIGHT", assign(np.s_[::3], 0)), [2]),
    "negative weights": (put("WEIGHT", assign(np.s_[::3], -1)), [2]),
    "tiny weights": (put("WEIGHT", lambda w: np.multiply(w, 1e-30, out=w)), [2]),
    "huge weights": (put("WEIGHT", lambda w: np.multiply(w, 1e15, out=w)), [2]),
    "one weight that no array has": (put("WEIGHT", assign(7, 1e20)), [2]),
    "NaN uvw": (put("UVW", assign(np.s_[::3, 1], np.nan)), [2]),
    "infinite uvw": (put("UVW", assign(np.s_[::3], np.inf)), [2]),
    "huge uvw": (put("UVW", assign(np.s_[::3], 1e30)), [2]),
    "uvw of zero": (put("UVW", assign(np.s_[::3], 0)), [2]),
    "one uvw for all": (all_the_same_uvw, [2]),
    "w all zero": (put("UVW", assign(np.s_[:, 2], 0)), [2]),
    "v all zero": (put("UVW", assign(np.s_[:, 1], 0)), [2]),
    "channels flagged": (put("FLAG", assign(np.s_[:, [0, 5, 11]], True)), [0, 2, 5, 11]),
    "one baseline": (one_baseline, [2]),
    "one time": (one_time, [2]),
    "one visibility": (flag_all_but(17), [2]),
    "two visibilities": (flag_all_but([17, 518]), [2]),
    "zero visibilities": (put("DATA", assign(np.s_[:], 0)), [2]),
    "an outlier": (put("DATA", assign(np.s_[31, 5], 1e9)), [2]),
    "huge outliers": (put("DATA", assign(np.s_[::7, 5], 1e30)), [2]),
    "a channel of nearly the largest number": (put("DATA", assign(np.s_[:, 5], 3e38)), [2, 5]),
    "tiny values": (put("DATA", lambda d: np.multiply(d, 1e-30, out=d)), [2]),
}


_UVW, _GARBAGE, _WIDE = "rows left out, because uvw is 0", "which no array measures", "wider than the image in channels"
WARNED = (
    dict.fromkeys(("NaN uvw", "infinite uvw", "huge uvw", "uvw of zero"), _UVW)
    | dict.fromkeys(
        ("huge outliers", "one weight that no array has", "a channel of nearly the largest number"), _GARBAGE
    )
    | dict.fromkeys(("one uvw for all", "v all zero", "one visibility", "two visibilities"), _WIDE)
    | dict.fromkeys(
        ("NaN in one hand", "NaN weights", "infinite weights", "zero weights", "negative weights"),
        "unflagged rows left out, because no sample has a weight above 0 and a finite value",
    )
    | {
        "zero visibilities": "DATA is exactly 0, in every channel and correlation that is imaged, in 870 of 870 unflagged"
    }
)
"""Words of the warning. Nothing is said of the others."""

NOTHING_LEFT: dict[str, Callable[[table], None]] = {
    "no positive weight": put("WEIGHT", assign(np.s_[:], 0)),
    "no weight that an array has": put("WEIGHT", lambda w: np.multiply(w, 1e30, out=w)),
    "no number": put("DATA", assign(np.s_[:], np.nan)),
    "uvw all zero": put("UVW", assign(np.s_[:], 0)),
    "everything flagged": put("FLAG", assign(np.s_[:], True)),
    "all rows flagged": put("FLAG_ROW", assign(np.s_[:], True)),
    "autocorrelations only": lambda main: main.putcol("ANTENNA2", main.getcol("ANTENNA1")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_spoil_nothing(name: str, tiny_ms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, empty = BAD[name]
    ms = altered(tiny_ms.ms, tmp_path, change)
    check(quiet_image(ms, tmp_path / "cube", capfd, gridder="auto", warns=WARNED.get(name, "")), empty)


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_nothing_left_is_an_error_that_leaves_no_files(name: str, tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, NOTHING_LEFT[name])
    with pytest.raises(
        gpucube.GpucubeError, match=r"^no data are left: each selected sample is an autocorr"
    ) as refusal:
        image(ms, tmp_path / "out" / "cube")
    assert "\n" not in str(refusal.value)
    reason = {"uvw all zero": _UVW, "no weight that an array has": _GARBAGE}.get(name, "")
    assert reason in str(refusal.value)
    with pytest.raises(gpucube.GpucubeError, match=r"^no data are left: each selected sample is an autocorr"):
        gpucube.plan_cube(ms, tmp_path / "out" / "cube", imsize=32, cell="20arcsec")
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("name", ["one visibility", "one baseline", "one uvw for all", "NaN uvw", "huge outliers"])
@pytest.mark.parametrize(
    "settings",
    [
        {"weighting": "natural"},
        {"weighting": "uniform"},
        {"gridder": "wgridder"},
        {"majorcycle": "visibility"},
        {"majorcycle": "image", "minorcycle": "textbook"},
        {"restoringbeam": "60arcsec"},
        {"epsilon": 1e-7},
        {"threshold": "10mJy", "nsigma": 0},
    ],
    ids=str,
)
def test_bad_values_spoil_nothing_with_any_settings(
    settings: dict, name: str, tiny_ms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, empty = BAD[name]
    ms = altered(tiny_ms.ms, tmp_path, change)
    narrow = "restoringbeam" in settings and name in ("one visibility", "one baseline", "one uvw for all")
    warns = "the beam of 60 x 60 arcsec does not contain" if narrow else WARNED.get(name, "")
    result = quiet_image(ms, tmp_path / "cube", capfd, warns=warns, **settings)
    if "restoringbeam" in settings:
        image_cube = planes(result, "image")
        assert np.isnan(image_cube).reshape(12, -1).all(1).tolist() == [c in empty for c in range(12)]
        assert np.isfinite(np.delete(image_cube, empty, 0)).all()
    else:
        check(result, empty)


@pytest.mark.filterwarnings("ignore:.*(left out|no array measures)")
@pytest.mark.parametrize(
    "name", ["NaN visibilities", "NaN weights", "zero weights", "NaN uvw", "uvw of zero", "huge outliers"]
)
def test_other_channels_and_samples_are_as_if_the_bad_ones_were_flagged(
    name: str, tiny_ms: Any, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "flagged").mkdir()
    bad = image(altered(tiny_ms.ms, tmp_path / "bad", BAD[name][0]), tmp_path / "bad" / "cube")
    flags = np.s_[::3, 4:6] if "visibilities" in name else np.s_[::7, 5] if "outliers" in name else np.s_[::3]
    flagged = image(
        altered(tiny_ms.ms, tmp_path / "flagged", put("FLAG", assign(flags, True))), tmp_path / "flagged" / "cube"
    )
    for product in PRODUCTS:
        np.testing.assert_array_equal(planes(bad, product), planes(flagged, product))


def test_flag_row_alone_is_obeyed(make_ms: Any, tmp_path: Path) -> None:
    line = [(-8 * CELL, -8 * CELL, 1.0)]
    by_row = image(make_ms(sources=line, flagrow_only=True).ms, tmp_path / "row")
    by_cell = image(make_ms(sources=line).ms, tmp_path / "cell")
    for product in IMAGES:
        np.testing.assert_array_equal(planes(by_row, product), planes(by_cell, product))


@pytest.mark.parametrize("changes", [{"npol": 1}, {"chan_width": -15625.0}, {"weight_spectrum": True}], ids=str)
def test_unusual_but_right_data(changes: dict, make_ms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ms = make_ms(sources=[(-8 * CELL, -8 * CELL, 1.0)], **changes).ms
    result = quiet_image(ms, tmp_path / "cube", capfd)
    check(result, [2])
    for record in result.channels:
        if record.channel != 2:
            assert planes(result, "image")[record.channel, 24, 40] == pytest.approx(1.0, abs=5 * record.noise)


def test_an_empty_field_remains_noise(make_ms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = quiet_image(make_ms(sources=[]).ms, tmp_path / "cube", capfd, nsigma=6)
    check(result, [2])
    for record in result.channels:
        assert (record.iterations, record.major_cycles) == (0, 0)
    assert not np.nan_to_num(planes(result, "model")).any()


def test_microarcsecond_cells(real_data: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # the baselines within one site (ALMA to APEX) have nearly all the weight: uniform weights see past them
    settings = {"imsize": 128, "cell": "2uas", "stokes": "pseudoI", "weighting": "uniform"}
    warns = "the MeasurementSet gives no rest frequency"
    result = quiet_image(real_data("m87_eht2017"), tmp_path / "cube", capfd, warns=warns, **settings)
    check(result, [])
    for record in result.channels:
        # longest baseline 8 Glambda: some 20 uas
        assert 15e-6 < record.beam["bmin_arcsec"] <= record.beam["bmaj_arcsec"] < 30e-6
    header = fits.getheader(result.products["image"])
    assert header["CDELT2"] * 3600e6 == pytest.approx(2.0, rel=1e-12)
