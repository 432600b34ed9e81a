"""CASA's selection syntax: the rows, fields and channels are those that CASA's own `ms.msselect` selects.

60 expressions or more for each parameter. The answers of `ms.msselect` (casatools 6.7) are in `selection_answers.json`, made by
`bench/peers/selection_answers.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from casacore import tables
from oracles import LIGHT_SPEED
from selection_ms import ANSWERS, ANTENNAS, CODES, EXPOSURE, FIELDS, MODES, STATIONS, make_selection_ms

import gpucube
from gpucube.data.measurementset import SpectralWindow
from gpucube.data.msselect.baselines import Antennas, select_baselines, select_uv
from gpucube.data.msselect.lists import select_fields, select_intents, select_numbers
from gpucube.data.msselect.times import select_times
from gpucube.data.msselect.windows import select_channels

CASES = [(name, text) for name, texts in ANSWERS.items() if name != "spw" for text in texts]


@pytest.fixture(scope="module")
def ms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The main table, the windows and the antennas."""
    path = str(tmp_path_factory.mktemp("selection") / "selection.ms")
    make_selection_ms(path)
    with (
        tables.table(path, ack=False) as main,
        tables.table(f"{path}::SPECTRAL_WINDOW", ack=False) as spw,
        tables.table(f"{path}::ANTENNA", ack=False) as antenna,
    ):
        windows = [
            SpectralWindow(
                frequency=spw.getcell("CHAN_FREQ", row),
                width=spw.getcell("CHAN_WIDTH", row),
                frame=None,
                name=spw.getcell("NAME", row),
                reference=spw.getcell("REF_FREQUENCY", row),
            )
            for row in range(spw.nrows())
        ]
        names = ("TIME", "ANTENNA1", "ANTENNA2", "FIELD_ID", "SCAN_NUMBER", "OBSERVATION_ID", "STATE_ID", "UVW")
        columns = {name: main.getcol(name) for name in (*names, "DATA_DESC_ID")}
        antennas = Antennas(names=ANTENNAS, stations=STATIONS, positions=antenna.getcol("POSITION"))
    return {"columns": columns, "windows": windows, "antennas": antennas}


def by_field(text: str, ms: dict[str, Any]) -> np.ndarray:
    return np.isin(ms["columns"]["FIELD_ID"], select_fields(text, FIELDS, CODES))


def by_intent(text: str, ms: dict[str, Any]) -> np.ndarray:
    return np.isin(ms["columns"]["STATE_ID"], select_intents(text, MODES))


def by_antenna(text: str, ms: dict[str, Any]) -> np.ndarray:
    pairs = select_baselines(text, ms["antennas"])
    return pairs[ms["columns"]["ANTENNA1"], ms["columns"]["ANTENNA2"]]


def by_time(text: str, ms: dict[str, Any]) -> np.ndarray:
    time = ms["columns"]["TIME"]
    ranges = select_times(text, time[0], EXPOSURE)
    return np.logical_or.reduce([(time >= low) & (time <= high) for low, high in ranges])


def by_uv(text: str, ms: dict[str, Any]) -> np.ndarray:
    distance = np.hypot(*ms["columns"]["UVW"][:, :2].T)
    wavelength = LIGHT_SPEED / np.array([window.reference for window in ms["windows"]])[ms["columns"]["DATA_DESC_ID"]]
    selected = np.zeros(len(distance), bool)
    for found in select_uv(text):
        metres = wavelength if found.wavelengths else np.ones_like(wavelength)
        selected |= (distance >= found.low * metres) & (distance <= found.high * metres)
    return selected


SELECTED: dict[str, Callable[[str, dict[str, Any]], np.ndarray]] = {
    "field": by_field,
    "scan": lambda text, ms: select_numbers("scan", text, ms["columns"]["SCAN_NUMBER"]),
    "observation": lambda text, ms: select_numbers("observation", text, ms["columns"]["OBSERVATION_ID"]),
    "intent": by_intent,
    "antenna": by_antenna,
    "timerange": by_time,
    "uvrange": by_uv,
}


@pytest.mark.parametrize(("parameter", "text"), CASES)
def test_rows_are_those_of_msselect(parameter: str, text: str, ms: dict[str, Any]) -> None:
    answer, columns = ANSWERS[parameter][text], ms["columns"]
    selected = SELECTED[parameter](text, ms)
    key = (columns["TIME"] * 10000 + columns["ANTENNA1"] * 100 + columns["ANTENNA2"]).astype(np.int64)
    rows = np.sort(key[selected])
    assert len(rows) == answer["rows"]
    assert hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16] == answer["sha"]
    if parameter == "field":
        assert select_fields(text, FIELDS, CODES) == answer["fields"]


@pytest.mark.parametrize("text", ANSWERS["spw"])
def test_channels_are_those_of_msselect(text: str, ms: dict[str, Any]) -> None:
    expected: dict[int, set[int]] = {}
    for window, first, last, step in ANSWERS["spw"][text]["channels"]:
        expected.setdefault(window, set()).update(range(first, last + 1, step))
    windows = ms["windows"]
    found = {
        window: set(range(len(windows[window].frequency)) if channels is None else channels.tolist())
        for window, channels in select_channels(text, windows).items()
    }
    assert found == expected


WRONG = [
    ("field", "9", "fields are numbered 0 to 8"),
    ("field", "0~9", "fields are numbered 0 to 8"),
    ("field", "M31", "numbered 0 to 8: M100, 3C286"),
    ("field", "M100,,M82", "nothing before or after a comma"),
    ("field", "3~1", "ends before it begins"),
    ("field", "/M(/", "not a valid pattern"),
    ("scan", "one", "expected numbers"),
    ("scan", "5~2", "ends before it begins"),
    ("scan", "<5&>2", "expected numbers"),
    ("observation", "*", "expected numbers"),
    ("intent", "*POINTING*", "no intent matches; the intents are CALIBRATE_BANDPASS#ON_SOURCE"),
    ("intent", ">=1", "no intent matches"),  # CASA does not know >= here
    ("intent", "5", "no intent matches"),
    ("intent", "*PHASE*,", "nothing before or after a comma"),
    ("antenna", "DV09", "no antenna matches; there are DV01"),
    ("antenna", "8", "antennas are numbered 0 to 7"),
    ("antenna", "DV01&&&&DV02", "expected antennas"),
    ("antenna", "<100parsec", "not a unit of length"),
    ("antenna", "DV01@B001", "no antenna is at this station"),
    ("uvrange", "100m", "a single distance selects nothing"),
    ("uvrange", "1~2furlongs", "expected distances"),
    ("uvrange", "500~100m", "ends before it begins"),
    ("timerange", "yesterday", "expected times"),
    ("timerange", "2019/13/21/0:0:0~1:0:0", "not a date"),
    ("timerange", "4:10:0~4:0:0", "ends before it begins"),
    ("timerange", "4:61:00~5:0:0", "minutes and seconds below 60"),
]


@pytest.mark.parametrize(("parameter", "text", "reason"), WRONG)
def test_wrong_expressions_are_refused_in_one_line(parameter: str, text: str, reason: str, ms: dict[str, Any]) -> None:
    with pytest.raises(gpucube.GpucubeError) as refusal:
        SELECTED[parameter](text, ms)
    message = str(refusal.value)
    assert message.startswith(f"`{parameter}={text!r}`") and reason in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "there is no spectral window 5; windows are numbered 0 to 4"),
        ("0:64", "channels 0 to 63; `spw` asks for channel 64"),
        ("0:60~70", "channels 0 to 63; `spw` asks for channel 70"),
        ("0:-1", "spectral windows and channels are numbered from 0"),
        ("0:-2~3", "spectral windows and channels are numbered from 0"),
        ("0:9~5", "write 5~9"),
        ("X_wide", "windows are numbered 0 to 4: ALMA_RB_03#A"),
        ("0:1~2km/s", "expected spectral windows"),
        ("0:90~91GHz", "no channel of spectral window 0 lies there: it goes from 100.000000 to 100.063000 GHz"),
        ("3~4GHz", "no spectral window matches"),
        ("0:1.5~3", "whole numbers"),
        ("0:1~5^2MHz", "different units"),
    ],
)
def test_wrong_windows_are_refused_in_one_line(text: str, reason: str, ms: dict[str, Any]) -> None:
    with pytest.raises(gpucube.GpucubeError) as refusal:
        select_channels(text, ms["windows"])
    assert str(refusal.value).startswith(f"`spw={text!r}`") and reason in str(refusal.value)
