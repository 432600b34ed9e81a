"""From parameters to the sources and axes of a cube."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import column

from gpucube.constants import ARCSEC
from gpucube.data.selection import choose_windows, select
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


@pytest.mark.parametrize(
    ("spw", "expected"),
    [
        ("", {0: None, 1: None, 2: None}),
        ("2,0", {2: None, 0: None}),
        ("1:3~5", {1: [3, 4, 5]}),
        ("1:3~5;1~2", {1: [1, 2, 3, 4, 5]}),
        ("*:0~1", {0: [0, 1], 1: [0, 1], 2: [0, 1]}),
        ("1:3~5,1:4~6", {1: [3, 4, 5, 6]}),
        ("1:3~5,1", {1: None}),
        ("1,1:3~5", {1: None}),
        ("0:1,0~1:3", {0: [1, 3], 1: [3]}),
    ],
)
def test_windows_and_channels_named_by_spw(spw: str, expected: dict[int, list[int] | None]) -> None:
    chosen = choose_windows(spw, 3)
    assert list(chosen) == list(expected)
    for window, channels in expected.items():
        assert (chosen[window] is None) == (channels is None)
        if channels is not None:
            assert chosen[window].tolist() == channels


def test_a_window_that_is_not_there_is_refused() -> None:
    with pytest.raises(GpucubeError, match="no spectral window 3, they are numbered 0 to 2"):
        choose_windows("1~3", 3)


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
