"""Cubes of lines whose continuum is subtracted while the data are read.

The oracle is a copy of the MeasurementSet in which numpy has fitted and subtracted the continuum of each row: imaged without
`contsubspw` it must give the same cube. A line and a bright continuum source away from the centre make the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from events import WhenSafe, interrupt
from jobs import altered, column, image, payload, planes
from oracles import LIGHT_SPEED

import gpucube
from gpucube.data.ingest import Ingest, ingest_rows
from gpucube.data.selection import select
from gpucube.report.page import write_report
from gpucube.schema.parameters import make_parameters

REST, CHANNEL, NCHAN = 1420.405752e6, 15625.0, 40  # 3.3 km/s
CELL = np.deg2rad(20 / 3600)
LINE = np.exp(-0.5 * ((np.arange(NCHAN) - 20) / 1.5) ** 2)
DIRTY: dict[str, Any] = {"niter": 0, "weighting": "natural", "products": ("dirty",), "specmode": "cubedata"}
ROUNDING = 3e-6
"""Jy/beam: single precision of data of 5 Jy, averaged over hundreds of samples."""

SIDES = np.r_[3:14, 27:38]
"""The channels of ``0:3~13;27~37``."""


@pytest.fixture(scope="module")
def line_ms(make_ms: Any) -> Path:
    """A line of 1 Jy in channel 20, and 5 Jy of continuum 23 pixels away; 900 rows in TOPO, with garbage in flagged samples."""
    sources = [(0, 0, LINE), (18 * CELL, -14 * CELL, 5.0)]
    settings = {
        "noise": 0.1,
        "frame": "TOPO",
        "rest_freq": REST,
        "weight_spectrum": True,
        "flag_cells": 0.1,
        "track_hours": 0.5,
    }
    made = make_ms(sources=sources, nchan=NCHAN, flag_channels=[5], **settings)
    return Path(made.ms)


def fitted(values: np.ndarray, weight: np.ndarray, good: np.ndarray, x: np.ndarray, order: int) -> np.ndarray:
    """Numpy's fit to one spectrum, (nchan,); `good` says which channels count."""
    parts = [np.polyfit(x[good], v[good], order, w=np.sqrt(weight[good])) for v in (values.real, values.imag)]
    return np.polyval(parts[0], x) + 1j * np.polyval(parts[1], x)


def without_continuum(
    ms: Path, folder: Path, order: int, line_free: np.ndarray | Callable[[int, int], np.ndarray] = SIDES
) -> Path:
    """A copy without its continuum. Line-free channels may depend on the row and its data description."""

    def subtract(t: tables.table) -> None:
        data, flag, weight = t.getcol("DATA"), t.getcol("FLAG"), t.getcol("WEIGHT_SPECTRUM").astype(float)
        x = np.linspace(-1, 1, data.shape[1])
        for row, corr in np.ndindex(data.shape[0], data.shape[2]):
            here = line_free(row, t.getcell("DATA_DESC_ID", row)) if callable(line_free) else line_free
            good = np.isin(np.arange(data.shape[1]), here) & ~flag[row, :, corr]
            if good.any():
                data[row, :, corr] -= fitted(data[row, :, corr].astype(complex), weight[row, :, corr], good, x, order)
        t.putcol("DATA", data)

    folder.mkdir(exist_ok=True)
    return altered(ms, folder, subtract)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_cube_is_that_of_data_from_which_numpy_subtracted_the_continuum(
    line_ms: Path, tmp_path: Path, order: int
) -> None:
    result = image(line_ms, tmp_path / "cube", **DIRTY, contsubspw="0:3~13;27~37", contsuborder=order)
    expected = image(without_continuum(line_ms, tmp_path / "numpy", order), tmp_path / "expected", **DIRTY)
    np.testing.assert_allclose(planes(result, "dirty"), planes(expected, "dirty"), atol=ROUNDING)
    assert [c.sum_weights for c in result.channels] == [c.sum_weights for c in expected.channels]
    assert result.summary["warnings"] == expected.summary["warnings"]


def test_the_line_stays_and_the_continuum_goes(line_ms: Path, tmp_path: Path) -> None:
    """A source 8 arcmin from the centre turns its phase by 0.07 rad over the window on the longest baseline: order 1 suffices."""
    plain = planes(image(line_ms, tmp_path / "plain", **DIRTY), "dirty")
    found = planes(image(line_ms, tmp_path / "cube", **DIRTY, contsubspw="0:3~13;27~37", contsuborder=1), "dirty")
    y, x = 32 - 14, 32 - 18
    assert np.nanmin(plain[:, y, x]) > 4.5
    # 0.1 Jy / sqrt(2 hands x 800 rows) is 2.5 mJy in a channel; five times that
    np.testing.assert_allclose(found[[0, 1, 10, 12, 30, 39], y, x], 0, atol=0.0125)
    assert found[20, 32, 32] == pytest.approx(1, abs=0.0125)


@pytest.mark.parametrize(
    "selection",
    [
        {"spw": "0:16~24"},
        {"start": 16, "nchan": 9},
        {"spw": "0:16~24", "nchan": 4, "width": 2},
        {"start": 30, "nchan": 6, "width": -4},
    ],
    ids=str,
)
def test_line_free_channels_outside_the_cube_are_read_for_the_fit(
    line_ms: Path, tmp_path: Path, selection: dict[str, Any]
) -> None:
    """The oracle subtracts before it selects and averages."""
    result = image(line_ms, tmp_path / "cube", **DIRTY, **selection, contsubspw="0:3~13;27~37", contsuborder=1)
    expected = image(without_continuum(line_ms, tmp_path / "numpy", 1), tmp_path / "expected", **DIRTY, **selection)
    np.testing.assert_allclose(planes(result, "dirty"), planes(expected, "dirty"), atol=ROUNDING)
    summary = result.summary
    assert summary["ms_bytes_read"] == summary["ms_bytes_selected"] > expected.summary["ms_bytes_read"]


def hertz(channel: float) -> float:
    return REST + (channel - NCHAN // 2) * CHANNEL


@pytest.mark.parametrize(
    "text",
    [
        f"0:{hertz(2.6) / 1e9!r}~{hertz(13.4) / 1e9!r}GHz;{hertz(26.6) / 1e6!r}~{hertz(37.4) / 1e6!r}MHz",
        f"*:3~13;{LIGHT_SPEED * (1 - hertz(37.4) / REST)!r}~{LIGHT_SPEED * (1 - hertz(26.6) / REST)!r}m/s",
        f"0:{LIGHT_SPEED / 1e3 * (1 - hertz(13.4) / REST)!r}~{LIGHT_SPEED / 1e3 * (1 - hertz(2.6) / REST)!r}km/s,0:27~37",
        "0:3~13,0:27~37",
        ["0:3~13;27~37"],
    ],
)
def test_channels_may_be_given_as_frequencies_or_velocities(line_ms: Path, tmp_path: Path, text: Any) -> None:
    wanted = {"restfreq": REST, "contsuborder": 1}
    expected = image(line_ms, tmp_path / "channels", **DIRTY, **wanted, contsubspw="0:3~13;27~37")
    found = image(line_ms, tmp_path / "cube", **DIRTY, **wanted, contsubspw=text)
    np.testing.assert_array_equal(planes(found, "dirty"), planes(expected, "dirty"))


def test_optical_velocities_are_those_of_the_axis(line_ms: Path, tmp_path: Path) -> None:
    def optical(channel: float) -> str:
        return repr(LIGHT_SPEED * (REST / hertz(channel) - 1))

    text = f"0:{optical(13.4)}~{optical(2.6)}m/s;{optical(37.4)}~{optical(26.6)}m/s"
    wanted = {"restfreq": REST, "veltype": "optical"}
    expected = image(line_ms, tmp_path / "channels", **DIRTY, **wanted, contsubspw="0:3~13;27~37")
    found = image(line_ms, tmp_path / "cube", **DIRTY, **wanted, contsubspw=text)
    np.testing.assert_array_equal(planes(found, "dirty"), planes(expected, "dirty"))


LSRK: dict[str, Any] = {
    "specmode": "cube",
    "outframe": "LSRK",
    "width": "7km/s",
    "start": "-35km/s",
    "nchan": 10,
    "restfreq": REST,
}


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "cubic"])
def test_the_continuum_is_subtracted_before_channels_are_interpolated(
    line_ms: Path, tmp_path: Path, interpolation: str
) -> None:
    axis = LSRK | {"interpolation": interpolation}
    found = image(line_ms, tmp_path / "cube", **(DIRTY | axis), contsubspw="0:3~13;27~37", contsuborder=1)
    expected = image(without_continuum(line_ms, tmp_path / "numpy", 1), tmp_path / "expected", **(DIRTY | axis))
    np.testing.assert_allclose(planes(found, "dirty"), planes(expected, "dirty"), atol=ROUNDING)


def test_velocities_are_those_of_the_frame_of_the_cube_at_the_time_of_each_row(line_ms: Path, tmp_path: Path) -> None:
    """Half of the rows are taken half a year later, when LSRK velocities lie in other channels."""

    def later(t: tables.table) -> None:
        times = t.getcol("TIME")
        t.putcol("TIME", times + np.where(np.arange(len(times)) < 450, 0, 182 * 86400.0))

    ms = altered(line_ms, tmp_path, later)
    factor = select(make_parameters(vis=ms, imagename="unused", **LSRK)).sources[0].rows.factor
    assert factor is not None and np.ptp(factor) * REST > 3 * CHANNEL
    frequency = column(ms / "SPECTRAL_WINDOW", "CHAN_FREQ")[0]

    def line_free(row: int, _: int) -> np.ndarray:
        velocity = 299792.458 * (1 - frequency * factor[row] / REST)
        return np.flatnonzero(((velocity > -60) & (velocity < -25)) | ((velocity > 25) & (velocity < 60)))

    assert len(line_free(0, 0)) > 5 and not np.array_equal(line_free(0, 0), line_free(899, 0))
    found = image(ms, tmp_path / "cube", **(DIRTY | LSRK), contsubspw="0:-60~-25km/s;25~60km/s", contsuborder=0)
    copy = without_continuum(ms, tmp_path / "numpy", 0, line_free)
    expected = image(copy, tmp_path / "expected", **(DIRTY | LSRK))
    np.testing.assert_allclose(planes(found, "dirty"), planes(expected, "dirty"), atol=ROUNDING)
    (said,) = found.summary["continuum"]
    extremes = [line_free(int(row), 0) for row in (factor.argmin(), factor.argmax())]
    assert [[int(end) for part in text.split(";") for end in part.split("~")] for text in said["line_free"]] == [
        [c for c in channels if c - 1 not in channels or c + 1 not in channels] for channels in extremes
    ]


def two_windows(ms: Path, folder: Path) -> Path:
    """The same rows again, in a window that lies 40 channels higher and is numbered 0."""

    def shifted(t: tables.table) -> None:
        t.copyrows(t, 0, -1, 1)
        t.putcell("CHAN_FREQ", 0, t.getcell("CHAN_FREQ", 0) + NCHAN * CHANNEL)

    copy = altered(
        ms, folder, lambda t: (n := t.nrows(), t.copyrows(t), t.putcol("DATA_DESC_ID", np.ones(n, np.int32), n))
    )
    for name, how in (
        ("SPECTRAL_WINDOW", shifted),
        ("DATA_DESCRIPTION", lambda t: (t.copyrows(t, 0, -1, 1), t.putcell("SPECTRAL_WINDOW_ID", 1, 1))),
    ):
        with tables.table(str(copy / name), readonly=False, ack=False) as t:
            how(t)
    return copy


def test_two_windows_have_fits_of_their_own(line_ms: Path, tmp_path: Path) -> None:
    ms = two_windows(line_ms, tmp_path)
    found = image(ms, tmp_path / "cube", **DIRTY, contsubspw="0:3~13;27~37,1:0~9;30~39", contsuborder=1)

    def line_free(_: int, description: int) -> np.ndarray:
        return SIDES if description == 0 else np.r_[0:10, 30:40]

    expected = image(without_continuum(ms, tmp_path / "numpy", 1, line_free), tmp_path / "expected", **DIRTY)
    assert len(found.channels) == 2 * NCHAN
    np.testing.assert_allclose(planes(found, "dirty"), planes(expected, "dirty"), atol=ROUNDING)
    with pytest.raises(gpucube.GpucubeError, match=r"`contsubspw='0:3~13'` names no channels of .* window 1, which is"):
        image(ms, tmp_path / "none", **DIRTY, contsubspw="0:3~13")
    # a range in frequency need not lie in every window
    both = f"*:{hertz(-0.4) / 1e9!r}~{hertz(9.4) / 1e9!r}GHz;{hertz(70) / 1e9!r}~{hertz(81) / 1e9!r}GHz"
    assert len(image(ms, tmp_path / "both", **DIRTY, contsubspw=both).channels) == 2 * NCHAN


def test_two_measurement_sets_may_have_channels_of_their_own(line_ms: Path, tmp_path: Path) -> None:
    other = altered(line_ms, tmp_path, lambda t: t.putcol("DATA", 0.5 * t.getcol("DATA")))
    found = image([line_ms, other], tmp_path / "cube", **DIRTY, contsubspw=["0:3~13;27~37", "0:0~9;30~39"])
    copies = [
        without_continuum(line_ms, tmp_path / "a", 0),
        without_continuum(other, tmp_path / "b", 0, np.r_[0:10, 30:40]),
    ]
    expected = image(copies, tmp_path / "expected", **DIRTY)
    np.testing.assert_allclose(planes(found, "dirty"), planes(expected, "dirty"), atol=ROUNDING)
    with pytest.raises(gpucube.GpucubeError, match="has 3 entries for 2 MeasurementSets"):
        image([line_ms, other], tmp_path / "none", **DIRTY, contsubspw=["0:3~13"] * 3)
    with pytest.raises(
        gpucube.GpucubeError, match=r"`contsubspw=''` names no channels of .*altered.ms spectral window 0"
    ):
        image([line_ms, other], tmp_path / "none", **DIRTY, contsubspw=["0:3~13", ""])


def test_every_stokes_parameter_is_made_from_correlations_without_continuum(make_ms: Any, tmp_path: Path) -> None:
    made = make_ms(sources=[(0, 0, LINE), (9 * CELL, 0, 5.0)], nchan=NCHAN, npol=4, weight_spectrum=True, ntime=8)
    found = image(Path(made.ms), tmp_path / "cube", **DIRTY, stokes="IQUV", contsubspw="0:3~13;27~37")
    expected = image(without_continuum(Path(made.ms), tmp_path / "numpy", 0), tmp_path / "exp", **DIRTY, stokes="IQUV")
    np.testing.assert_allclose(found.data("dirty"), expected.data("dirty"), atol=ROUNDING)


def test_rows_that_cannot_be_fitted_are_left_out_or_have_a_lower_order_and_are_counted(
    line_ms: Path, tmp_path: Path
) -> None:
    def spoil(t: tables.table) -> None:
        flag = t.getcol("FLAG")
        flag[:, :, 0] |= flag[:, :, 1]
        flag[:, :, 1] = flag[:, :, 0]
        flag[3:10, SIDES, 0] = True  # no line-free channel of one correlation
        flag[20:24, 20:, 1] = True  # a slope would be extrapolated from 11 channels over 40
        t.putcol("FLAG", flag)
        t.putcol("FLAG_ROW", np.zeros(t.nrows(), bool))

    ms = altered(line_ms, tmp_path, spoil)
    wholly = int(column(ms, "FLAG")[3:10].all(axis=(1, 2)).sum()), int(column(ms, "FLAG")[20:24].all(axis=(1, 2)).sum())
    wanted = {"contsubspw": "0:3~13;27~37", "contsuborder": 2, "stokes": "pseudoI"}
    with pytest.warns(UserWarning):
        result = image(ms, tmp_path / "cube", **DIRTY, **wanted)
    lost, lowered = (next(w for w in result.summary["warnings"] if word in w) for word in ("left out", "lower order"))
    assert lost.startswith(f"{ms}: {7 - wholly[0]} spectra of a row and correlation left out")
    assert lowered.startswith(f"{ms}: flags leave {4 - wholly[1]} spectra")
    before = image(line_ms, tmp_path / "before", **DIRTY, **wanted)
    assert result.channels[20].visibilities <= before.channels[20].visibilities


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"contsubspw": "0:3~13;27~97"},
            r"`contsubspw=.*` in '27~97': .*channels 0 to 39; `contsubspw` asks for channel 97",
        ),
        ({"contsubspw": "7:3~13"}, "there is no spectral window 7"),
        ({"contsubspw": "0:13~3"}, "write 3~13"),
        ({"contsubspw": "0:3-13"}, "in '3-13': expected"),
        (
            {"contsubspw": "0:3GHz~4GHz"},
            r"in '3GHz~4GHz': no line-free channel lies there: .* from 1.4200\d+ to 1.4207\d+ GHz",
        ),
        ({"contsubspw": "0:900~990km/s"}, r"in '900~990km/s': no line-free channel lies there"),
        ({"contsubspw": "0:90~-90km/s"}, "write -90km/s~90km/s"),
        ({"contsubspw": "0:1km/s~500m/s"}, "write 500m/s~1km/s"),
        ({"contsubspw": "0:3~13;"}, "in '': expected"),
        ({"contsubspw": "0:"}, "in '': expected"),
        ({"contsubspw": "0:3~13,"}, "in '': expected"),
        ({"contsubspw": "0:3~13;*"}, "expected"),
        ({"contsubspw": "0:>13"}, "expected channels"),
        ({"contsubspw": "0:>5km/s"}, "expected a range of velocities"),
        ({"contsubspw": "0:5km/s"}, "expected a range of velocities"),
        ({"contsubspw": "0:5~6lightyears"}, "expected"),
        ({"contsubspw": "-90~-40km/s"}, r"expected spectral windows and a colon .* '\*:-50~10km/s'"),
        (
            {"contsubspw": "0:3", "contsuborder": 1},
            r"leaves 1 line-free channel in .* `contsuborder=1` needs 2 or more",
        ),
        ({"contsubspw": "0:3~5", "contsuborder": 5}, r"`contsuborder=5`|contsuborder.*from 0 to 4"),
        ({"contsubspw": "0:3~5", "contsuborder": -1}, r"contsuborder.*from 0 to 4"),
        ({"contsubspw": "0:3~5", "contsuborder": 0.5}, "contsuborder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_values_are_refused_in_one_line_that_says_where(
    line_ms: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(gpucube.GpucubeError, match=reason) as refusal:
        image(line_ms, tmp_path / "cube", **DIRTY, **settings)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("cube*"))


def test_velocities_without_a_rest_frequency_are_refused(line_ms: Path, tmp_path: Path) -> None:
    ms = altered(line_ms, tmp_path, lambda t: t.putcol("REST_FREQUENCY", np.zeros((t.nrows(), 1))), "SOURCE")
    with pytest.raises(gpucube.GpucubeError, match=r"in '5~9km/s': it is in velocity.*give `restfreq`"):
        image(ms, tmp_path / "cube", **DIRTY, contsubspw="0:5~9km/s")


@pytest.mark.parametrize("text", ["0", "*", "0:0~39", "0:10~30"])
def test_a_fit_to_all_that_is_imaged_gives_a_warning(line_ms: Path, tmp_path: Path, text: str) -> None:
    with pytest.warns(UserWarning, match="names every imaged channel of .* as line-free"):
        image(line_ms, tmp_path / "cube", **DIRTY, spw="0:15~25", contsubspw=text)


def test_a_fit_that_is_extrapolated_gives_a_warning(line_ms: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"extrapolated from 5 line-free channels with order 1: .* up to \d+ times"):
        image(line_ms, tmp_path / "cube", **DIRTY, contsubspw="0:0~4", contsuborder=1)


def test_an_order_without_channels_gives_a_warning(line_ms: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="`contsuborder=1` is not used, because no continuum is subtracted"):
        image(line_ms, tmp_path / "cube", **DIRTY, contsuborder=1)


@pytest.mark.parametrize(
    "settings", [{"chunksize": 1}, {"chunksize": 7, "workers": 2}, {"chunksize": -1, "workers": 2}], ids=str
)
def test_bits_do_not_depend_on_workers_or_chunk_size(line_ms: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    wanted = DIRTY | LSRK | {"contsubspw": "0:3~13;25~60km/s", "contsuborder": 1}
    one = image(line_ms, tmp_path / "one", **wanted, workers=1)
    other = image(line_ms, tmp_path / "other", **wanted, **settings)
    assert payload(other) == payload(one)


def test_bits_do_not_depend_on_the_rows_of_a_block(line_ms: Path, tmp_path: Path) -> None:
    wanted = LSRK | {"contsubspw": "0:3~13;25~60km/s", "contsuborder": 2}
    selection = select(make_parameters(vis=line_ms, imagename="unused", **wanted))
    stores = []
    for rows in (7, 100, 900):
        reading = Ingest(selection, str(tmp_path / f"blocks of {rows}"), block_rows=rows)
        stores.append(
            reading.finish(report for job in reading.jobs for report in ingest_rows(job, threads=rows % 3 + 1))
        )
    for store in stores[1:]:
        for name in ("uvw", "vis", "weight"):
            (one,), (other,) = stores[0].partitions, store.partitions
            assert one.array(name).tobytes() == other.array(name).tobytes()
        np.testing.assert_array_equal(store.counts, stores[0].counts)
        assert store.warnings == stores[0].warnings


def test_a_run_that_is_cut_off_takes_up_its_visibilities_without_continuum_and_its_warnings(
    line_ms: Path, tmp_path: Path
) -> None:
    def spoil(t: tables.table) -> None:
        flag = t.getcol("FLAG")
        flag[3:10, SIDES] = True
        t.putcol("FLAG", flag)

    ms = altered(line_ms, tmp_path, spoil)
    wanted = DIRTY | LSRK | {"contsubspw": "0:3~13;27~37", "contsuborder": 1, "workers": 1, "chunksize": 4}
    with pytest.warns(UserWarning, match="left out"):
        whole = image(ms, tmp_path / "whole", **wanted)
    with pytest.raises(KeyboardInterrupt):
        image(ms, tmp_path / "cube", **wanted, observer=WhenSafe(8, interrupt))
    with pytest.warns(UserWarning, match="left out"):
        resumed = image(ms, tmp_path / "cube", **wanted, resume=True)
    assert payload(resumed) == payload(whole)
    assert resumed.summary["warnings"] == whole.summary["warnings"]
    assert resumed.summary["resumed_channels"] >= 8


def test_resume_refuses_another_fit(line_ms: Path, tmp_path: Path) -> None:
    image(line_ms, tmp_path / "cube", **DIRTY, contsubspw="0:3~13;27~37")
    for changed in ({"contsuborder": 1}, {"contsubspw": "0:3~13"}, {"contsubspw": ""}):
        with pytest.raises(gpucube.GpucubeError, match=f"cannot resume .*{next(iter(changed))} was"):
            image(line_ms, tmp_path / "cube", **(DIRTY | {"contsubspw": "0:3~13;27~37", "resume": True} | changed))


def test_the_data_are_not_changed(line_ms: Path, tmp_path: Path) -> None:
    before = column(line_ms, "DATA").copy()
    image(line_ms, tmp_path / "cube", **DIRTY, contsubspw="0:3~13;27~37")
    np.testing.assert_array_equal(column(line_ms, "DATA"), before)
    shutil.rmtree(tmp_path)


def test_a_plan_says_what_is_fitted_and_what_is_read_for_it(line_ms: Path, tmp_path: Path) -> None:
    """45 rows of 10 antennas at 20 times: 22 channels of the cube and 35 for the fit, each of 2 x (8 + 1 + 4) bytes."""
    wanted = {"imsize": 64, "cell": "20arcsec", "specmode": "cubedata", "spw": "0:15~25"}
    plan = gpucube.plan_cube(line_ms, tmp_path / "cube", **wanted, contsubspw="0:3~13;27~37", contsuborder=1)
    plain = gpucube.plan_cube(line_ms, tmp_path / "cube", **wanted)
    assert plan.ms_bytes - plain.ms_bytes == 900 * 26 * (35 - 11)
    assert "continuum  order 1 is fitted to 22 of 40 channels of each row and subtracted; 562 kB more are read" in str(
        plan
    )
    assert plain.continuum == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:3~13;27~37", "order 1, fitted to channels 3~13;27~37 of 40"),
        # 3.3 km/s a channel; the Earth moves by less than a channel in half an hour
        ("0:-60~-25km/s;25~60km/s", "order 1, fitted to channels 2~12;28~38 of 40"),
    ],
)
def test_summary_and_report_say_which_channels_were_fitted(
    line_ms: Path, tmp_path: Path, text: str, words: str
) -> None:
    result = image(line_ms, tmp_path / "cube", **DIRTY, contsubspw=text, contsuborder=1, restfreq=REST)
    (fitted_to,) = result.summary["continuum"]
    assert (fitted_to["measurement_set"], fitted_to["spw"], fitted_to["order"]) == (str(line_ms), 0, 1)
    assert (
        f'<th scope="row">{line_ms} spectral window 0</th><td>{words}</td>'
        in Path(write_report(result.summary["parameters"]["imagename"])).read_text()
    )
