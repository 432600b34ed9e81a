"""Everything gpucube knows of MeasurementSets: the only module that calls casacore.

In: paths of MeasurementSets (version 2). Out: `MeasurementSetInfo`, a plain description of the subtables, `select_rows`,
and `read_block`, which reads the cells of one block of rows. Nothing is written and no lock is held.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction
from gpucube.sky.spectral import SpectralFrame, frame_of_code

if TYPE_CHECKING:
    from casacore import tables

COLUMN_OF = {"data": "DATA", "corrected": "CORRECTED_DATA", "model": "MODEL_DATA"}
_MEGABYTES_A_BLOCK = 8


@dataclass(frozen=True)
class SpectralWindow:
    """A row of SPECTRAL_WINDOW: channel centres and signed widths in Hz, and the frame they are given in."""

    frequency: np.ndarray
    width: np.ndarray
    frame: SpectralFrame


@dataclass(frozen=True)
class Field:
    """A row of FIELD: name, phase centre and SOURCE_ID."""

    name: str
    centre: Direction
    source_id: int


@dataclass(frozen=True)
class MeasurementSetInfo:
    """What the subtables say.

    `data_descriptions` holds (spectral window, correlation types) for each DATA_DESC_ID; `rest_frequencies` maps
    (SOURCE_ID, spectral window) to the first rest frequency in Hz.
    """

    path: str
    nrow: int
    columns: frozenset[str]
    spectral_windows: tuple[SpectralWindow, ...]
    data_descriptions: tuple[tuple[int, tuple[int, ...]], ...]
    fields: tuple[Field, ...]
    rest_frequencies: dict[tuple[int, int], float]
    telescope: str
    observer: str
    start_time_mjd_s: float

    def rest_frequency(self, field: Field, spw: int) -> float | None:
        """Rest frequency of a field in a spectral window, Hz; None if SOURCE gives none."""
        for key in ((field.source_id, spw), (field.source_id, -1)):
            if self.rest_frequencies.get(key, 0.0) > 0:
                return self.rest_frequencies[key]
        return None


@dataclass(frozen=True)
class RowSelection:
    """Rows of one (DATA_DESC_ID, FIELD).

    Attributes
    ----------
    rows : numpy.ndarray
        Row numbers in the MS, ascending, int64: all rows that will be read.
    counts : numpy.ndarray
        bool, same shape: rows that can count (FLAG_ROW not set).
    cross : numpy.ndarray
        bool, same shape: rows between two different antennas.
    """

    rows: np.ndarray
    counts: np.ndarray
    cross: np.ndarray


@dataclass(frozen=True)
class Block:
    """The cells of a block of rows; `nbytes` counts all of them as read.

    `data`, `flag` have shape (nrow, nchan, ncorr); `weight` (nrow, ncorr) or, from WEIGHT_SPECTRUM, (nrow, nchan, ncorr).
    """

    uvw: np.ndarray
    data: np.ndarray
    flag: np.ndarray
    weight: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes delivered by casacore for this block."""
        return self.uvw.nbytes + self.data.nbytes + self.flag.nbytes + self.weight.nbytes


def open_table(path: str) -> tables.table:
    """Open a table read-only; one line for what can be wrong with it.

    Raises
    ------
    GpucubeError
        The table cannot be opened, or another process keeps it locked.
    """
    from casacore import tables  # not at the top: a store can be imaged where casacore is not installed

    if is_locked(path):
        raise GpucubeError(f"{path} is locked by another process: wait until it has finished writing, or image a copy")
    try:
        return tables.table(path, readonly=True, ack=False, lockoptions="user")
    except RuntimeError as error:
        raise GpucubeError(f"cannot open {path}: {_first_line(error)}") from None


def is_locked(path: str) -> bool:
    """Whether another process holds a table's write lock; casacore would wait for it in silence, for ever.

    The lock is the first byte of the file ``table.lock`` (casacore's class LockFile). A file system that knows no locks
    holds none.
    """
    lock = os.path.join(path.replace("::", "/"), "table.lock")
    if not os.access(lock, os.R_OK):
        return False
    with open(lock, "rb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def describe(path: str) -> MeasurementSetInfo:
    """Read the subtables of an MS.

    Raises
    ------
    GpucubeError
        There is no such MS, it is not an MS, or its subtables lack what imaging needs.
    """
    if not os.path.exists(path):
        raise GpucubeError(f"no such MeasurementSet: {path}")
    if not os.path.isfile(os.path.join(path, "table.dat")):
        raise GpucubeError(f"{path} is not a MeasurementSet (it holds no table.dat)")
    with open_table(path) as main:
        columns = frozenset(main.colnames())
        missing = {"UVW", "DATA_DESC_ID", "FIELD_ID", "ANTENNA1", "ANTENNA2", "FLAG", "FLAG_ROW", "WEIGHT"} - columns
        if missing:
            raise GpucubeError(f"{path} is not a MeasurementSet: column {min(missing)} is missing")
        keywords = set(main.keywordnames())
        nrow = main.nrows()
    for name in ("SPECTRAL_WINDOW", "POLARIZATION", "DATA_DESCRIPTION", "FIELD"):
        if name not in keywords:
            raise GpucubeError(f"{path} is not a whole MeasurementSet: subtable {name} is missing")
    try:
        info = _describe_subtables(path, nrow, columns, keywords)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
        raise GpucubeError(f"{path}: a subtable cannot be read: {_first_line(error)}") from None
    _check_subtables(info)
    return info


def _check_subtables(info: MeasurementSetInfo) -> None:
    """Refuse what no header could hold."""
    subtables = {
        "SPECTRAL_WINDOW": info.spectral_windows,
        "DATA_DESCRIPTION": info.data_descriptions,
        "FIELD": info.fields,
    }
    for name, rows in subtables.items():
        if not rows:
            raise GpucubeError(f"{info.path} is not a whole MeasurementSet: subtable {name} has no rows")
    for number, window in enumerate(info.spectral_windows):
        if not (np.isfinite(window.frequency) & (window.frequency > 0)).all() or not np.isfinite(window.width).all():
            raise GpucubeError(
                f"{info.path} spectral window {number}: a channel's frequency or width is no number above 0"
            )
    for number, field in enumerate(info.fields):
        if not np.isfinite((field.centre.ra, field.centre.dec)).all():
            raise GpucubeError(f"{info.path} field {number}: its direction PHASE_DIR is not finite")


def _describe_subtables(path: str, nrow: int, columns: frozenset[str], keywords: set[str]) -> MeasurementSetInfo:
    with open_table(f"{path}::SPECTRAL_WINDOW") as t:
        reference = t.getcol("MEAS_FREQ_REF") if "MEAS_FREQ_REF" in t.colnames() else np.full(t.nrows(), 5)
        windows = tuple(
            SpectralWindow(
                np.atleast_1d(t.getcell("CHAN_FREQ", i)).astype(float),
                np.atleast_1d(t.getcell("CHAN_WIDTH", i)).astype(float),
                frame_of_code(int(reference[i])),
            )
            for i in range(t.nrows())
        )
    with open_table(f"{path}::POLARIZATION") as t:
        polarisations = [tuple(int(c) for c in t.getcell("CORR_TYPE", i)) for i in range(t.nrows())]
    with open_table(f"{path}::DATA_DESCRIPTION") as t:
        spw, pol = t.getcol("SPECTRAL_WINDOW_ID"), t.getcol("POLARIZATION_ID")
        descriptions = tuple((int(s), polarisations[p]) for s, p in zip(spw, pol, strict=True))
    with open_table(f"{path}::FIELD") as t:
        measure = t.getcolkeywords("PHASE_DIR").get("MEASINFO", {}).get("Ref", "J2000")
        fields = tuple(
            Field(
                t.getcell("NAME", i),
                _direction(t.getcell("PHASE_DIR", i), "ICRS" if measure == "ICRS" else "FK5"),
                int(t.getcell("SOURCE_ID", i)),
            )
            for i in range(t.nrows())
        )
    telescope, observer, begin = "", "", 0.0
    if "OBSERVATION" in keywords:
        with open_table(f"{path}::OBSERVATION") as t:
            if t.nrows():
                telescope, observer = t.getcell("TELESCOPE_NAME", 0), t.getcell("OBSERVER", 0)
                begin = float(np.ravel(t.getcell("TIME_RANGE", 0))[0]) if t.iscelldefined("TIME_RANGE", 0) else 0.0
    rest: dict[tuple[int, int], float] = {}
    if "SOURCE" in keywords:
        with open_table(f"{path}::SOURCE") as t:
            if "REST_FREQUENCY" in t.colnames():
                for i in range(t.nrows()):
                    if t.iscelldefined("REST_FREQUENCY", i) and np.size(t.getcell("REST_FREQUENCY", i)):
                        key = (int(t.getcell("SOURCE_ID", i)), int(t.getcell("SPECTRAL_WINDOW_ID", i)))
                        rest.setdefault(key, float(np.ravel(t.getcell("REST_FREQUENCY", i))[0]))
    rest = {key: value for key, value in rest.items() if np.isfinite(value) and value > 0}
    begin = begin if np.isfinite(begin) else 0.0
    return MeasurementSetInfo(path, nrow, columns, windows, descriptions, fields, rest, telescope, observer, begin)


def _direction(cell: np.ndarray, frame: str) -> Direction:
    """Direction in a cell of PHASE_DIR: the constant term of its polynomial in time."""
    ra, dec = (float(x) for x in np.reshape(cell, (-1, 2))[0])
    return Direction(ra=ra, dec=dec, frame=frame)


def select_rows(path: str, field_id: int) -> dict[int, RowSelection]:
    """Find the rows of a field, by DATA_DESC_ID.

    Returns
    -------
    dict
        DATA_DESC_ID -> `RowSelection`; only those that have rows.
    """
    with open_table(path) as t:
        if t.nrows() == 0:
            return {}
        description, field = t.getcol("DATA_DESC_ID"), t.getcol("FIELD_ID")
        counts = ~t.getcol("FLAG_ROW")
        cross = t.getcol("ANTENNA1") != t.getcol("ANTENNA2")
    chosen = field == field_id
    return {
        int(d): RowSelection(rows := np.flatnonzero(chosen & (description == d)), counts[rows], cross[rows])
        for d in np.unique(description[chosen])
    }


def fields_with_rows(path: str) -> set[int]:
    """FIELD_IDs that occur in the main table."""
    with open_table(path) as t:
        return {int(f) for f in np.unique(t.getcol("FIELD_ID"))} if t.nrows() else set()


def weight_column(path: str, columns: frozenset[str], rows: np.ndarray) -> str:
    """WEIGHT_SPECTRUM if it is there and filled for these rows, else WEIGHT."""
    if "WEIGHT_SPECTRUM" not in columns:
        return "WEIGHT"
    with open_table(path) as t:
        # a few rows from all over tell at once, unless all of them are of an antenna that was off
        for row in (*rows[:: max(1, len(rows) // 16)], *rows):
            if not t.iscelldefined("WEIGHT_SPECTRUM", int(row)):
                return "WEIGHT"
            if np.any(t.getcell("WEIGHT_SPECTRUM", int(row)) > 0):
                return "WEIGHT_SPECTRUM"
    return "WEIGHT"


def cell_shape(path: str, column: str, row: int) -> tuple[int, int]:
    """Shape (nchan, ncorr) of a data cell.

    Raises
    ------
    GpucubeError
        The cell is not there or not two-dimensional.
    """
    with open_table(path) as t:
        if not t.iscelldefined(column, row):
            raise GpucubeError(f"{path}: column {column} is empty in row {row}: choose another datacolumn")
        shape = np.shape(t.getcell(column, row))
    if len(shape) != 2:
        raise GpucubeError(f"{path}: column {column} row {row} has shape {shape}, expected (channels, correlations)")
    return shape[0], shape[1]


def rows_per_block(nchan: int, ncorr: int) -> int:
    """Rows that make a block of some 8 MB of visibilities: larger ones were slower to read (cache).

    Not fewer than 512, so that runs of a channel in the store are not too short to write.
    """
    return max(512, int(_MEGABYTES_A_BLOCK * 2**20 / (8 * nchan * ncorr)))


class BlockReader:
    """Reads blocks of a row selection from one open MS.

    Parameters
    ----------
    path : str
    rows : numpy.ndarray
        Row numbers, ascending.
    column, weight : str
        Data column, and WEIGHT or WEIGHT_SPECTRUM.
    channels : tuple of int or None
        First and last input channel to read; None for all (a slice costs casacore several times a whole cell).
    """

    def __init__(self, path: str, rows: np.ndarray, column: str, weight: str, channels: tuple[int, int] | None):
        self._path, self._column, self._weight, self._channels = path, column, weight, channels
        self._table = open_table(path)
        self._selection = self._table.selectrows(rows)

    def read(self, start: int, count: int) -> Block:
        """Read `count` rows of the selection from its `start`-th row.

        Raises
        ------
        GpucubeError
            casacore cannot read them, or their shapes disagree.
        """

        def cells(column: str) -> np.ndarray:
            if self._channels is None or column in ("UVW", "WEIGHT"):
                return self._selection.getcol(column, start, count)
            first, last = self._channels
            return self._selection.getcolslice(column, [first, -1], [last, -1], [], start, count)

        try:
            block = Block(cells("UVW"), cells(self._column), cells("FLAG"), cells(self._weight))
        except RuntimeError as error:
            raise GpucubeError(f"{self._path}: rows cannot be read from {self._column}: {_first_line(error)}") from None
        if block.data.shape != block.flag.shape or block.data.shape[-1] != block.weight.shape[-1]:
            raise GpucubeError(
                f"{self._path}: {self._column} has shape {block.data.shape}, FLAG {block.flag.shape}, "
                f"{self._weight} {block.weight.shape}: they must agree"
            )
        return block

    def close(self) -> None:
        """Close the table."""
        self._selection.close()
        self._table.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
