"""A MeasurementSet with many fields, windows, antennas, scans, states and times, and expressions that select from it.

`bench/peers/selection_answers.py` asks CASA's `ms.msselect` what each expression selects; the answers are in
`selection_answers.json` beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

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

EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "field": (
        *(
            "0",
            "3",
            "0,2",
            "0~2",
            "1~3,5",
            "<2",
            ">6",
            ">2&<5",
            "0,>6",
            "8",
            "1331",
            "M82",
            "M100",
            "3C48",
            "3C286,M82",
        ),
        *(
            "M*",
            "3C*",
            "*",
            "M10?",
            "*C*",
            "J1331+3030",
            '"J1331+3030"',
            '"M10[01]"',
            '"M{82,101}"',
            '"NGC*"',
            "NGC 5194",
        ),
        *(
            "/M10[0-9]/",
            "/3C.*/",
            "/.*8.*/",
            "C",
            "D",
            "T",
            "NONE",
            "M82,0~1",
            " 1 , 2 ",
            "1 ~ 2",
            "M82 , M101",
            '"M100"',
        ),
        *("3C*,M*", '"?C*"', "/[A-Z]1.*/", "NGC*", "*0*", "*1*", "0~8", ">0", "<9", ">0&<2", "M100,M101,M82", "J*,N*"),
        *('"*"', "/.*/", "?C48", "M???", "5,5,5", "6~7", "7", "C,D", "2,1,0", "NGC 5194,3C48"),
    ),
    "spw": (
        *(
            "0",
            "1",
            "0,1",
            "0~2",
            "*",
            "3",
            "4",
            "0~4",
            "<2",
            ">2",
            "0:5",
            "0:5~20",
            "0:5~20;30~40",
            "0:5~20,1",
            "*:1~2",
        ),
        *(
            "0~1:3~7",
            "0:10~20^2",
            "0:^4",
            "1:^5",
            "0:0~63^10",
            "L_narrow",
            "L_narrow:10~19",
            "WVR",
            "L*",
            '"ALMA*"',
            "?_narrow",
        ),
        *(
            "WVR:0~1",
            "0,2:1~5",
            "2:0~10",
            "2",
            "0:3;5;7",
            "3:0~127^16",
            "2,0",
            "0;2",
            "0;2:5~9",
            "0~2^2",
            "<3:2~4",
            "*:0",
        ),
        *(
            "0:100.0005~100.0105GHz",
            "0:100005~100010MHz",
            "2:115.4805~115.4905GHz",
            "3:1.4202~1.4208GHz",
            "1:102.01~102.02GHz",
        ),
        *(
            "3:1420.2~1420.4MHz",
            "0:100.0~100.1GHz",
            "0:99~100.005GHz",
            "0:100.05~101GHz",
            "2:115~115.45GHz",
            "1:102.001~102.005GHz",
        ),
        *(
            "99~104GHz",
            "1~2GHz",
            "100.0315GHz",
            "1.42~1.43GHz",
            "<2GHz",
            ">110GHz",
            "<101GHz",
            "99~116GHz:1~3",
            "L_*:5",
            "WVR,0",
        ),
        *("0:100.0005~100.0205GHz^2MHz", "3:1.4202~1.4208GHz^31.25kHz", "*:0~3", "0:0~3;60~63", "(0,1)"),
    ),
    "scan": (
        *(
            "1",
            "2",
            "1,2",
            "1~3",
            "<3",
            ">3",
            "<=3",
            ">=3",
            ">1&<4",
            ">=1&<=4",
            "1~2,5",
            "1,>4",
            "<2,>4",
            "10",
            "10~11",
            "3~12",
        ),
        *(
            " 1 ",
            "1 , 2",
            "1~2,4~5",
            "5,4,3",
            "1,1,1",
            ">0",
            "<100",
            ">=10",
            "<=10",
            ">=2&<=3",
            ">2&<11",
            "1,2,3,4,5",
            "2~4,10",
        ),
        *(
            "<2",
            ">10",
            ">=11",
            "11",
            "4~11",
            "1~11",
            "5",
            "4",
            "3",
            "1,3,5",
            "2,4",
            "<4,10",
            ">=5",
            "<=2",
            ">3&<6",
            ">=3&<=5",
        ),
        *(
            "10,11",
            "1~5",
            "2~5",
            "<=1",
            "5~10",
            "3,10~11",
            "1,10",
            "2,11",
            "<3,>5",
            ">4",
            "<11",
            "<=11",
            ">=1",
            "3 ~ 5",
            ">= 3",
        ),
    ),
    "observation": ("0", "1", "0,1", "0~1", "<1", ">0", ">=0", "<=1", ">=1", "<2", ">=0&<=1", "1,0", " 0 ", "0,0"),
    "intent": (
        *(
            "OBSERVE_TARGET#ON_SOURCE",
            "*TARGET*",
            "OBSERVE*",
            "CALIBRATE*",
            "*PHASE*",
            "*",
            "*ON_SOURCE",
            "*OFF_SOURCE",
            "0",
            "1",
        ),
        *(
            "0,1",
            "0~2",
            "<2",
            ">2",
            "CALIBRATE_WVR#ON_SOURCE",
            "*WVR*",
            "*FLUX*,*BANDPASS*",
            "/OBSERVE.*/",
            '"*TARGET#O*"',
        ),
        *(
            "CALIBRATE_PHASE#ON_SOURCE",
            "CALIBRATE_FLUX#ON_SOURCE",
            "*FLUX*&*PHASE*",
            ">1&<4",
            "3",
            "*TARGET*,0",
            "*_SOURCE",
        ),
        *(
            "/.*PHASE.*/",
            "*#ON*",
            "OBSERVE_TARGET#OFF_SOURCE",
            "CALIBRATE_BANDPASS#ON_SOURCE",
            "2~4",
            "*FL*",
            "C*,O*",
            "?B*",
        ),
    ),
    "antenna": (
        *(
            "DV01",
            "DV01,DV02",
            "0",
            "0~2",
            "0,3",
            "DV*",
            "D*",
            "PM01",
            "3",
            "5",
            "DV01&DV02",
            "DV01&",
            "DV01,DV02&",
            "DV*&",
        ),
        *(
            "DV*&DA*",
            "0&1",
            "0~2&3~4",
            "0~3&",
            "!DV01",
            "!DV01,DV02",
            "!DV*",
            "!PM01;!ea11",
            "DV01&DV02;DA41&DA42",
            "ea11",
        ),
        *(
            "DV01;!DV02",
            "DV*;!DV01&DV02",
            "DV*&*",
            "*&*",
            "*",
            "PM01&*",
            "A001",
            "A0*",
            "@A001",
            "@A0*",
            "DV*@A0*",
            "DV01@A001",
        ),
        *(
            "(DV01,DA41)@(A001,B001)",
            "@B*&@A*",
            '"DV0[12]"',
            '"DV0{1,3}"',
            "/DV.*/",
            "/D[AV].*/",
            "DV01&&DV02",
            "!DV01&DV02",
        ),
        *(
            "<100m",
            ">100m",
            "<0.1km",
            ">=200m",
            "<=150m",
            "100m~300m",
            "!<100m",
            ">50",
            "100.0~250.0m",
            "<60m,>300m",
            "DV0?",
            "D?0*",
        ),
        *(
            "ea11&DV01",
            "3&DV*",
            "6",
            "7",
            "0~7&",
            "DV01 & DV02",
            "DV01 , DV02",
            "T701",
            "W*",
            "N16&DV01",
            "/DV01&DA.*/",
            "^DV*",
        ),
    ),
    "uvrange": (
        *(
            "0~100m",
            "<100m",
            ">100m",
            "100~300",
            "<100",
            ">300",
            "0~0.1km",
            ">0.1km",
            "0~50klambda",
            ">50klambda",
            "<20klambda",
        ),
        *(
            "10~40klambda",
            "0~20000lambda",
            "0.01~0.04Mlambda",
            ">5klambda",
            "<100m,>300m",
            "0~50m,200~250m",
            "50~500m",
            "1~2km",
        ),
        *(
            ">0m",
            ">0lambda",
            "<1km",
            "<1Mlambda",
            "100~200m",
            "150~160m",
            "0.05~0.15km",
            ">10000lambda",
            ">0",
            "30~400",
            "< 80m",
        ),
        *(
            "> 80m",
            "20 ~ 200m",
            "<50m,100~150m,>300m",
            "<5klambda",
            ">100klambda",
            "0~10klambda",
            "10~20klambda",
            "20~30klambda",
        ),
        *(
            "30~40klambda",
            "0~500lambda",
            ">500lambda",
            "<2000lambda",
            "2~3klambda",
            "0.001~0.002Mlambda",
            "0~1e2m",
            "<1.5e2m",
        ),
        *(
            "75.5~180.25m",
            ">75.5m",
            "<180.25m",
            "0~1000m",
            "99~101m",
            "<33m",
            ">333m",
            "111~222m",
            "60~90m,110~140m",
            ">0.2km",
        ),
    ),
    "timerange": (
        *(
            ">2019/03/21/04:05:00",
            "<2019/03/21/04:05:00",
            "2019/03/21/04:00:00~2019/03/21/04:10:00",
            "04:00:00~04:10:00",
        ),
        *(
            "04:05:00~04:15:00",
            ">04:10:00",
            "<04:10:00",
            "04:00:05",
            "2019/03/21/04:00:05",
            "4:0:0~4:2:30",
            ">2019/03/22/00:00:00",
        ),
        *("2019/03/22/04:00:00~2019/03/22/04:05:00", "2019/03/21/04:00:00~04:10:00", "04:00:00~2019/03/22/05:00:00"),
        *(
            "2019/03/21/04:00:00+00:10:00",
            "04:02:00+0:5:0",
            "[04:00:05~04:01:05]",
            "04:00:05~04:01:05",
            "5.0[04:00:10~04:01:00]",
        ),
        *(
            "20.0[04:01:00~04:02:00]",
            "<04:02:00,>04:12:00",
            "04:00:00~04:01:00,04:10:00~04:11:00",
            "*/*/*/04:05:00~*/*/*/04:10:00",
        ),
        *(
            "2019/*/*/04:00:00~2019/*/*/04:03:00",
            "<2019/03/22/0:0:0",
            ">2019/03/22/0:0:0",
            "2019/03/21/4:0:0~2019/03/21/23:59:59",
        ),
        *(
            ">2019/03/21/04:05:00.5",
            "<2019/03/21/04:05:05.001",
            "04:00:04.9~04:00:15.1",
            "04:00:05.0~04:00:15.0",
            "04:01:05",
        ),
        *(
            "04:01:03",
            "04:01:09",
            "04:01:11",
            ">4:3:0",
            "<4:3:0",
            "2019/3/21/4:3:0~2019/3/21/4:4:0",
            "2019/3/22/4:3:0~4:4:0",
        ),
        *(
            "2019/03/21~2019/03/22",
            "2019/03/21~2019/03/22/4:2:0",
            ">2019/03/21",
            "<2019/03/22",
            "2019/03/21/04:10:00~2019/03/22",
        ),
        *(
            "00:05:00~04:05:00",
            "0:0:0~24:0:0",
            "4:0:0+0:0:30",
            "4:0:0+1:0:0",
            "2019/03/21/4:0:0+24:10:0",
            ">*/*/22/4:0:0",
        ),
        *(
            "*/*/22/4:0:0~*/*/22/4:6:0",
            "04:00:00~04:03:00,<2019/03/21/04:05:00",
            ">2018/12/31/0:0:0",
            "<2020/1/1/0:0:0",
        ),
        *(
            "[4:0:5~4:0:15]",
            "[4:0:5.5~4:0:14]",
            "1.0[4:0:6~4:0:14]",
            "2019/03/21/04:00:00 ~ 2019/03/21/04:02:00",
            "> 4:5:0",
        ),
    ),
}
"""Parameter -> expressions that select something."""


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
            "OBSERVATION_ID": (times[row] > START + 43200).astype(int),
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
    _fill(path, "OBSERVATION", TELESCOPE_NAME=["ALMA", "ALMA"], FLAG_ROW=[False] * 2)
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
    (folder / "expressions.json").write_text(json.dumps(EXPRESSIONS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
