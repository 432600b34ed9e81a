"""The MeasurementSet on disk: the main table with tiled columns, and every subtable that tclean and WSClean read.

In: `SimulationParameters`, antenna positions and times; the caller fills the rows. Out: an MS v2 with one spectral window,
one field and one polarisation setup. DATA and FLAG are tiled in blocks of about 1 MiB, and SOURCE holds the rest frequency.
The layout follows the MeasurementSet definition 2.0 (Kemball & Wieringa, 2000).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables

from gpucube import environment
from gpucube.simulate.parameters import SimulationParameters
from gpucube.sky.frames import FRAMES

TILE_BYTES = 2**20

FIRST_CODE = {"circular": 5, "linear": 9}
"""casacore's Stokes codes: RR RL LR LL = 5 to 8, XX XY YX YY = 9 to 12."""

OBS_MODE = "OBSERVE_TARGET#ON_SOURCE"
RECEPTOR_PAIRS = {1: [[0, 0]], 2: [[0, 0], [1, 1]], 4: [[0, 0], [0, 1], [1, 0], [1, 1]]}

CONSTANT_COLUMNS = tuple(
    f"{name}_ID" for name in ("ARRAY", "DATA_DESC", "FIELD", "OBSERVATION", "PROCESSOR", "STATE")
) + ("FEED1", "FEED2")
SLOW_COLUMNS = (*CONSTANT_COLUMNS, "TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "SCAN_NUMBER")
"""Columns that rarely change from row to row: an incremental storage manager stores each value once."""


def create_main(path: Path, nrow: int, npol: int, tile_chan: int, weight_spectrum: bool) -> tables.table:
    """Create the MS, which must not exist, with empty subtables. Return its main table, open for writing, with its rows.

    `tile_chan` is the number of channels per tile of DATA.
    """
    environment.provide_home()
    description = tables.required_ms_desc("MAIN")
    managers: dict[str, dict[str, Any]] = {}
    cubes = {"DATA": "complex"} | ({"WEIGHT_SPECTRUM": "float"} if weight_spectrum else {})
    for column, kind in cubes.items():
        description.update(tables.maketabdesc(tables.makearrcoldesc(column, 0, valuetype=kind, ndim=2)))

    def tile(column: str, manager: str, *shape: int) -> None:
        group = f"Tiled{column}"
        description[column]["dataManagerType"], description[column]["dataManagerGroup"] = manager, group
        spec = {"DEFAULTTILESHAPE": np.array(shape, np.int32)}
        managers[group] = {"TYPE": manager, "NAME": group, "COLUMNS": [column], "SPEC": spec}

    tile_row = max(1, TILE_BYTES // (8 * npol * tile_chan))
    for column in cubes:
        tile(column, "TiledShapeStMan", npol, tile_chan, tile_row)
    tile("FLAG", "TiledShapeStMan", npol, tile_chan, 8 * tile_row)
    tile("UVW", "TiledColumnStMan", 3, 4096)
    description["UVW"].update(shape=[3], ndim=1, option=5)
    tile("WEIGHT", "TiledShapeStMan", npol, 8192)
    tile("SIGMA", "TiledShapeStMan", npol, 8192)
    for column in SLOW_COLUMNS:
        description[column]["dataManagerType"] = "IncrementalStMan"
        description[column]["dataManagerGroup"] = "Incremental"
    main = tables.default_ms(str(path), description, tables.makedminfo(description, managers))
    main.addrows(nrow)
    return main


def write_constant_columns(main: tables.table, integration: float) -> None:
    """Fill the columns that are the same in every row. `integration` is in seconds."""
    nrow = main.nrows()
    for column in ("INTERVAL", "EXPOSURE"):
        main.putcol(column, np.full(nrow, integration))
    for column in CONSTANT_COLUMNS:
        main.putcol(column, np.zeros(nrow, np.int32))
    main.putcolkeyword("UVW", "MEASINFO", {"type": "uvw", "Ref": "J2000"})


def write_subtables(
    main: tables.table, p: SimulationParameters, positions: np.ndarray, stations: list[str], times: np.ndarray
) -> None:
    """Fill every subtable. `positions` are ITRF (nant, 3) in metres, `times` (ntime,) UTC seconds since MJD 0."""
    root = main.name()
    direction = np.array([p.phase_centre])
    frequency, width = p.frequency, abs(p.chan_width)
    pairs = np.array(RECEPTOR_PAIRS[p.npol], np.int32)  # (npol, 2)
    span = np.array([times[0] - p.integration / 2, times[-1] + p.integration / 2])
    rows: dict[str, dict[str, Any]] = {
        "POLARIZATION": {
            "NUM_CORR": p.npol,
            "CORR_TYPE": FIRST_CODE[p.kind.feeds] + pairs @ np.array([2, 1], np.int32),
            "CORR_PRODUCT": pairs,
        },
        "SPECTRAL_WINDOW": {
            "NUM_CHAN": p.nchan,
            "CHAN_FREQ": frequency,
            "CHAN_WIDTH": np.full(p.nchan, p.chan_width),
            "EFFECTIVE_BW": np.full(p.nchan, width),
            "RESOLUTION": np.full(p.nchan, width),
            "TOTAL_BANDWIDTH": width * p.nchan,
            "REF_FREQUENCY": frequency[0],
            "MEAS_FREQ_REF": FRAMES[p.frame].code,
            "NAME": "LINE",
            "NET_SIDEBAND": 1,
            "IF_CONV_CHAIN": 0,
            "FREQ_GROUP": 0,
            "FREQ_GROUP_NAME": "none",
        },
        "DATA_DESCRIPTION": {"SPECTRAL_WINDOW_ID": 0, "POLARIZATION_ID": 0},
        "FIELD": {
            "DELAY_DIR": direction,
            "PHASE_DIR": direction,
            "REFERENCE_DIR": direction,
            "NAME": "SIMLINE",
            "CODE": "",
            "NUM_POLY": 0,
            "SOURCE_ID": 0,
            "TIME": span[0],
        },
        "OBSERVATION": {
            "TELESCOPE_NAME": p.kind.telescope,
            "OBSERVER": "simulated",
            "PROJECT": "gpucube",
            "TIME_RANGE": span,
            "LOG": np.array(["simulated"]),
            "SCHEDULE": np.array(["none"]),
            "SCHEDULE_TYPE": "",
            "RELEASE_DATE": 0.0,
        },
        "STATE": {"SIG": True, "REF": False, "CAL": 0.0, "LOAD": 0.0, "SUB_SCAN": 0, "OBS_MODE": OBS_MODE},
        "PROCESSOR": {"TYPE": "CORRELATOR", "SUB_TYPE": "", "TYPE_ID": -1, "MODE_ID": -1},
        "HISTORY": {
            "TIME": span[0],
            "MESSAGE": "simulated observation",
            "APPLICATION": "gpucube simulate",
            "ORIGIN": "gpucube",
            "PRIORITY": "INFO",
            "OBJECT_ID": 0,
            "OBSERVATION_ID": 0,
            "CLI_COMMAND": np.array([""]),
            "APP_PARAMS": np.array([""]),
        },
    }
    for name, cells in rows.items():
        with tables.table(f"{root}::{name}", readonly=False, ack=False) as table:
            _put_row(table, cells)
    _write_antennas(root, p, positions, stations, span)
    _write_source(main, p, span)


def _put_row(table: tables.table, cells: dict[str, Any]) -> None:
    """Append one row."""
    table.addrows(1)
    for column, value in cells.items():
        table.putcell(column, table.nrows() - 1, value)
    if "FLAG_ROW" in table.colnames():
        table.putcell("FLAG_ROW", table.nrows() - 1, False)


def _write_antennas(
    root: str, p: SimulationParameters, positions: np.ndarray, stations: list[str], span: np.ndarray
) -> None:
    """Fill ANTENNA and FEED, with one row for each antenna."""
    nant = len(stations)
    names = [f"ea{i + 1:02d}" for i in range(nant)] if p.kind.telescope == "EVLA" else stations
    hands = ["R", "L"] if p.kind.feeds == "circular" else ["X", "Y"]
    numbers = {"FEED_ID": 0, "BEAM_ID": -1, "NUM_RECEPTORS": 2, "SPECTRAL_WINDOW_ID": -1}
    columns: dict[str, dict[str, Any]] = {
        "ANTENNA": {
            "POSITION": positions,
            "OFFSET": np.zeros((nant, 3)),
            "DISH_DIAMETER": np.full(nant, p.kind.dish),
            "NAME": names,
            "STATION": stations,
            "TYPE": ["GROUND-BASED"] * nant,
            "MOUNT": ["ALT-AZ"] * nant,
            "FLAG_ROW": np.zeros(nant, bool),
        },
        "FEED": {
            "ANTENNA_ID": np.arange(nant, dtype=np.int32),
            **{column: np.full(nant, value, np.int32) for column, value in numbers.items()},
            "TIME": np.full(nant, span.mean()),
            "INTERVAL": np.full(nant, 1e9),
            "BEAM_OFFSET": np.zeros((nant, 2, 2)),
            "POL_RESPONSE": np.tile(np.eye(2, dtype=np.complex64), (nant, 1, 1)),
            "POLARIZATION_TYPE": {"shape": [nant, 2], "array": hands * nant},
            "POSITION": np.zeros((nant, 3)),
            "RECEPTOR_ANGLE": np.zeros((nant, 2)),
        },
    }
    for name, values in columns.items():
        with tables.table(f"{root}::{name}", readonly=False, ack=False) as table:
            table.addrows(nant)
            for column, value in values.items():
                table.putcol(column, value)


def _write_source(main: tables.table, p: SimulationParameters, span: np.ndarray) -> None:
    """Write SOURCE, an optional subtable from which imagers take the rest frequency."""
    description = tables.required_ms_desc("SOURCE")
    frequency = {"QuantumUnits": ["Hz"], "MEASINFO": {"type": "frequency", "Ref": "LSRK"}}
    velocity = {"QuantumUnits": ["m/s"], "MEASINFO": {"type": "radialvelocity", "Ref": "LSRK"}}
    for column in (
        tables.makearrcoldesc("REST_FREQUENCY", 0.0, ndim=1, keywords=frequency),
        tables.makearrcoldesc("SYSVEL", 0.0, ndim=1, keywords=velocity),
        tables.makearrcoldesc("TRANSITION", "", ndim=1),
    ):
        description.update(tables.maketabdesc(column))
    with tables.default_ms_subtable("SOURCE", f"{main.name()}/SOURCE", description) as table:
        cells: dict[str, Any] = {"SOURCE_ID": 0, "SPECTRAL_WINDOW_ID": 0, "NUM_LINES": 1, "CALIBRATION_GROUP": 0}
        cells |= {"NAME": "SIMLINE", "CODE": "", "TIME": span.mean(), "INTERVAL": 1e9}
        cells |= {"DIRECTION": np.array(p.phase_centre), "PROPER_MOTION": np.zeros(2)}
        cells |= {"REST_FREQUENCY": np.array([p.rest_freq]), "SYSVEL": np.zeros(1), "TRANSITION": np.array(["LINE"])}
        _put_row(table, cells)
        main.putkeyword("SOURCE", table)
