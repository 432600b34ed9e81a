"""A MeasurementSet with many fields, windows, antennas, scans, observations, states and times, to select from.

`bench/peers/selection_answers.py` asks CASA's `ms.msselect` what each expression in `selection_answers.json` beside this file
selects, and writes the file anew. A new expression may be added there with any answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables

FIELDS = ("M100", "3C286", "3C48", "J1331+3030", "M101", "M82", "1331", "NGC 5194", "M100")
CODES = ("", "C", "C", "D", "", "", "NONE", "T", "")
MODES = (
    "CALIBRATE_BANDPASS#ON_SOURCE,CALIBRATE_WVR#ON_SOURCE",
    "OBSERVE_TARGET#ON_SOURCE",
    "CALIBRATE_PHASE#ON_SOURCE",
    "OBSERVE_TARGET#OFF_SOURCE",
    "CALIBRATE_FLUX#ON_SOURCE,CALIBRATE_PHASE#ON_SOURCE",
)
ANTENNAS = ("DV01", "DV02", "DV03", "DA41", "DA42", "PM01", "3", "ea11")
STATIONS = ("A001", "A002", "A010", "B001", "B002", "T701", "W08", "N16")
WINDOWS = (  # name, first channel, width, channels; Hz
    ("ALMA_RB_03#A", 100.0e9, 1e6, 64),
    ("ALMA_RB_03#B", 102.0e9, 2e6, 32),
    ("", 115.5e9, -1e6, 64),
    ("L_narrow", 1.42e9, 15625.0, 128),
    ("WVR", 183.3e9, 5e8, 4),
)
EXPOSURE = 10.0
START = 86400.0 * 58563.0 + 4 * 3600.0  # 2019/03/21/04:00:00

ANSWERS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "selection_answers.json").read_text())
"""Parameter -> expression -> what `ms.msselect` selects."""


def make_selection_ms(path: str) -> None:
    """Write the MeasurementSet."""
    rng = np.random.default_rng(5)
    pairs = [(a, b) for a in range(len(ANTENNAS)) for b in range(a, len(ANTENNAS))]
    # one row for every integration and pair; scan, field, state and window change with the integration
    times = np.concatenate([START + 5 + 10.0 * np.arange(90), START + 86400 + 5 + 10.0 * np.arange(40)])
    scans = np.concatenate([1 + np.arange(90) // 18, 10 + np.arange(40) // 20])
    row = np.repeat(np.arange(len(times)), len(pairs))
    positions = rng.uniform(-150, 150, (len(ANTENNAS), 3)) + [2225000.0, -5440000.0, -2481000.0]
    with tables.default_ms(path) as main:
        main.addrows(len(row))
        antenna1, antenna2 = np.array(pairs).T
        columns = {
            "ANTENNA1": np.tile(antenna1, len(times)),
            "ANTENNA2": np.tile(antenna2, len(times)),
            "TIME": times[row],
            "TIME_CENTROID": times[row],
            "EXPOSURE": np.full(len(row), EXPOSURE),
            "INTERVAL": np.full(len(row), EXPOSURE),
            "SCAN_NUMBER": scans[row],
            "FIELD_ID": (row // 4) % len(FIELDS),
            "STATE_ID": (row // 3) % len(MODES),
            "DATA_DESC_ID": row % len(WINDOWS),
            "OBSERVATION_ID": np.concatenate([np.arange(90) // 30, 3 + np.arange(40) // 14])[row],
        }
        for name, values in columns.items():
            main.putcol(name, values)
        offset = positions[columns["ANTENNA2"]] - positions[columns["ANTENNA1"]]
        main.putcol("UVW", offset * np.array([1.0, 0.8, 0.5]))
        main.putcol("FLAG_ROW", np.zeros(len(row), bool))
        main.flush()
    _fill(path, "FIELD", NAME=FIELDS, CODE=CODES, FLAG_ROW=[False] * len(FIELDS))
    _fill(path, "STATE", OBS_MODE=MODES, FLAG_ROW=[False] * len(MODES))
    _fill(path, "ANTENNA", NAME=ANTENNAS, STATION=STATIONS, POSITION=positions, FLAG_ROW=[False] * len(ANTENNAS))
    _fill(path, "POLARIZATION", NUM_CORR=[2], CORR_TYPE=[[9, 12]], FLAG_ROW=[False])
    _fill(path, "OBSERVATION", TELESCOPE_NAME=["ALMA"] * 6, FLAG_ROW=[False] * 6)
    count = len(WINDOWS)
    _fill(
        path, "DATA_DESCRIPTION", SPECTRAL_WINDOW_ID=range(count), POLARIZATION_ID=[0] * count, FLAG_ROW=[False] * count
    )
    frequency = [first + width * np.arange(nchan) for _, first, width, nchan in WINDOWS]
    _fill(
        path,
        "SPECTRAL_WINDOW",
        NAME=[window[0] for window in WINDOWS],
        NUM_CHAN=[window[3] for window in WINDOWS],
        CHAN_FREQ=frequency,
        CHAN_WIDTH=[np.full(nchan, width) for _, _, width, nchan in WINDOWS],
        EFFECTIVE_BW=[np.full(nchan, abs(width)) for _, _, width, nchan in WINDOWS],
        RESOLUTION=[np.full(nchan, abs(width)) for _, _, width, nchan in WINDOWS],
        REF_FREQUENCY=[values[0] for values in frequency],
        TOTAL_BANDWIDTH=[abs(width) * nchan for _, _, width, nchan in WINDOWS],
        MEAS_FREQ_REF=[5] * count,
        FLAG_ROW=[False] * count,
    )


def _fill(path: str, name: str, **columns: object) -> None:
    with tables.table(f"{path}::{name}", readonly=False, ack=False) as t:
        for column, values in columns.items():
            listed = list(values)  # type: ignore[call-overload]
            t.addrows(max(0, len(listed) - t.nrows()))
            for row, value in enumerate(listed):
                t.putcell(column, row, value)


def main(folder: Path) -> None:
    """Write what `bench/peers/selection_answers.py` takes."""
    make_selection_ms(str(folder / "selection.ms"))
    make_selection_ms(str(folder / "selection-one-window.ms"))
    with tables.table(str(folder / "selection-one-window.ms"), readonly=False, ack=False) as main_table:
        main_table.putcol("DATA_DESC_ID", np.zeros(main_table.nrows(), int))
    (folder / "expressions.json").write_text(json.dumps({name: list(texts) for name, texts in ANSWERS.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
