"""The subtables of a MeasurementSet (version 2): what it holds, and where on the sky and in frequency.

In: the path of a MeasurementSet. Out: a `MeasurementSet`, a plain record of what SPECTRAL_WINDOW, POLARIZATION,
DATA_DESCRIPTION, FIELD, SOURCE and OBSERVATION say, checked to be usable. The rows of the main table are read in
`gpucube.data.rows`. Tables are opened read-only with user locking, so no lock is ever held.

The format is described in Kemball & Wieringa 2000, "MeasurementSet definition version 2.0" (AIPS++ note 229).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gpucube import disk, environment
from gpucube.data.column_keywords import reference_word, unit_factors
from gpucube.data.observation import antenna_positions, dish_diameter, observation_rows, rest_frequency_rows
from gpucube.errors import GpucubeError
from gpucube.sky.frames import FRAMES, SpectralFrame, frame_of_code

if TYPE_CHECKING:
    from casacore import tables

Rows = TypeVar("Rows")

_NEEDED_COLUMNS = {"UVW", "DATA_DESC_ID", "FIELD_ID", "ANTENNA1", "ANTENNA2", "FLAG", "FLAG_ROW", "TIME", "WEIGHT"}
_INTEGERS = {"int", "uint", "short", "ushort", "uchar", "int64"}
_SCALAR_TYPES = dict.fromkeys(("DATA_DESC_ID", "FIELD_ID", "ANTENNA1", "ANTENNA2"), _INTEGERS) | {
    "FLAG_ROW": {"boolean"},
    "TIME": {"double", "float"},
}
"""Needed columns that have one value in each row, and casacore's names of its types. The others have arrays."""
_NEEDED_SUBTABLES = ("SPECTRAL_WINDOW", "POLARIZATION", "DATA_DESCRIPTION", "FIELD")
_OPTIONAL_SUBTABLES = {"SOURCE", "OBSERVATION", "ANTENNA"}


@dataclass(frozen=True, kw_only=True)
class SpectralWindow:
    """A row of SPECTRAL_WINDOW."""

    frequency: np.ndarray  # (nchan,) float64, centres of the channels, Hz; NaN where the table says nothing
    width: np.ndarray  # (nchan,) float64, Hz, signed as in the table
    frame: SpectralFrame | None  # None if the table names none that is known
    frame_written: str = ""  # what the table says about it, for a message
    name: str = ""
    reference: float = 0.0  # REF_FREQUENCY, Hz; 0 if unknown

    @property
    def middle(self) -> float:
        """Middle of the first and the last channel, Hz."""
        return float(self.frequency[0] + self.frequency[-1]) / 2


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """A row of DATA_DESCRIPTION: the spectral window and the correlations (casacore's codes) of a kind of rows.

    The window is -1, or there are no correlations, if the subtables lack the row that it names.
    """

    spw: int
    correlations: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A row of FIELD: name and SOURCE_ID. `gpucube.data.fields` says where it is."""

    name: str
    source_id: int


@dataclass(frozen=True, kw_only=True)
class MeasurementSet:
    """What the subtables of a MeasurementSet say."""

    path: str
    columns: frozenset[str]  # of the main table
    spectral_windows: tuple[SpectralWindow, ...]
    data_descriptions: tuple[DataDescription, ...]  # by DATA_DESC_ID
    fields: tuple[Field, ...]  # by FIELD_ID
    rest_frequencies: tuple[tuple[int, int, float], ...] = ()  # SOURCE_ID, spectral window or -1 for all, Hz
    observations: tuple[tuple[str, str], ...] = ()  # by OBSERVATION_ID: telescope, observer
    antenna_positions: np.ndarray  # (nantenna, 3), ITRF, metres
    dish_diameter: float = 0.0  # median of the antennas, metres; 0 if unknown

    @property
    def usable_descriptions(self) -> list[int]:
        """DATA_DESC_IDs that have a spectral window and correlations."""
        return [number for number, d in enumerate(self.data_descriptions) if d.spw >= 0 and d.correlations]

    def rest_frequencies_of(self, field: Field, spw: int) -> list[float]:
        """Return the rest frequencies of a field in a spectral window, Hz; those for this window alone come first."""
        return [
            frequency
            for wanted in (spw, -1)
            for source, window, frequency in self.rest_frequencies
            if (source, window) == (field.source_id, wanted)
        ]


def describe(path: str) -> MeasurementSet:
    """Read the subtables of a MeasurementSet.

    Raises
    ------
    GpucubeError
        There is no such MeasurementSet, it is something else, or its subtables lack what imaging needs.
    """
    if not os.path.exists(path):
        raise GpucubeError(f"no such MeasurementSet: {path}")
    if not os.path.isfile(os.path.join(path, "table.dat")):
        convert = "importasdm" if os.path.exists(os.path.join(path, "ASDM.xml")) else "importuvfits"
        hint = f": convert it with CASA's {convert}" if convert == "importasdm" or os.path.isfile(path) else ""
        raise GpucubeError(f"{path} is not a MeasurementSet (it holds no table.dat){hint}")
    with reading(path) as main:
        columns, keywords = frozenset(main.colnames()), set(main.keywordnames())
        version = float(main.getkeyword("MS_VERSION")) if "MS_VERSION" in keywords else 2.0
        if int(version) != 2:
            raise GpucubeError(f"{path} is a MeasurementSet of version {version:g}: gpucube reads version 2")
        there = {name for name in _OPTIONAL_SUBTABLES & keywords if os.path.isdir(_place_of(main, name))}
        if "UVW" in columns and (unit_factors(main, "UVW", "m") != 1).any():
            raise GpucubeError(f"{path}: column UVW is not in metres")
        _check_types(main, path)
    if missing := _NEEDED_COLUMNS - columns:
        raise GpucubeError(f"{path} is not a MeasurementSet: column {min(missing)} is missing")
    for name in _NEEDED_SUBTABLES:
        if name not in keywords:
            raise GpucubeError(f"{path} is not a complete MeasurementSet: subtable {name} is missing")
    windows = _spectral_windows(path)
    ms = MeasurementSet(
        path=path,
        columns=columns,
        spectral_windows=windows,
        data_descriptions=_data_descriptions(path, len(windows)),
        fields=_fields(path),
        rest_frequencies=_read(path, "SOURCE", rest_frequency_rows, there, ()),
        observations=_read(path, "OBSERVATION", observation_rows, there, ()),
        antenna_positions=_read(path, "ANTENNA", antenna_positions, there, np.empty((0, 3))),
        dish_diameter=_read(path, "ANTENNA", dish_diameter, there, 0.0),
    )
    _check(ms)
    return ms


def _check_types(main: tables.table, path: str) -> None:
    """Refuse needed columns of the main table that do not hold what they should. Shapes are checked when cells are read."""
    for name in sorted(_NEEDED_COLUMNS & set(main.colnames())):
        types, scalar = _SCALAR_TYPES.get(name), bool(main.isscalarcol(name))
        found = str(main.coldatatype(name))
        if scalar != (types is not None) or found == "string" or (types and found not in types):
            what = "one" if scalar else "an array of"
            raise GpucubeError(f"{path} is not a MeasurementSet: column {name} has {what} {found} in each row")


def _place_of(main: tables.table, subtable: str) -> str:
    """Path of a subtable, which may lie outside the MeasurementSet."""
    return str(main.getkeyword(subtable)).removeprefix("Table: ")


@contextmanager
def reading(path: str) -> Iterator[tables.table]:
    """Open a table, and report in one line what cannot be read of it: a file of a column may be cut short or missing."""
    with open_table(path) as t:
        try:
            yield t
        except RuntimeError as error:
            raise GpucubeError(f"{path} cannot be read: {first_line(error)}") from None


@contextmanager
def _subtable(path: str, name: str) -> Iterator[tables.table]:
    """Open a subtable, and report in one line what cannot be read of it."""
    with open_table(f"{path}::{name}") as t:
        try:
            yield t
        except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
            raise GpucubeError(f"{path}: subtable {name} cannot be read: {first_line(error)}") from None


def _spectral_windows(path: str) -> tuple[SpectralWindow, ...]:
    with _subtable(path, "SPECTRAL_WINDOW") as t:
        frames = [_frame(t, row) for row in range(t.nrows())]
        frequency_unit, width_unit = (unit_factors(t, column, "Hz") for column in ("CHAN_FREQ", "CHAN_WIDTH"))
        return tuple(
            SpectralWindow(
                frequency=_cell(t, "CHAN_FREQ", row, np.nan) * frequency_unit,
                width=_cell(t, "CHAN_WIDTH", row, np.nan) * width_unit,
                frame=frame,
                frame_written=written,
                name=t.getcell("NAME", row) if "NAME" in t.colnames() else "",
                reference=float(t.getcell("REF_FREQUENCY", row)) if "REF_FREQUENCY" in t.colnames() else 0.0,
            )
            for row, (frame, written) in enumerate(frames)
        )


def _cell(t: tables.table, column: str, row: int, absent: float) -> np.ndarray:
    """A cell as a one-dimensional array; one that is not written, or empty, is one number."""
    cell = np.ravel(t.getcell(column, row)) if t.iscelldefined(column, row) else np.empty(0)
    return cell if len(cell) else np.array([absent])


def _frame(windows: tables.table, row: int) -> tuple[SpectralFrame | None, str]:
    """Frame of a row of SPECTRAL_WINDOW, and where the table says it.

    MEAS_FREQ_REF is used if it exists, as in tclean, even if the keywords of CHAN_FREQ differ.
    """
    if "MEAS_FREQ_REF" in windows.colnames():
        code = int(windows.getcell("MEAS_FREQ_REF", row))
        return frame_of_code(code), f"MEAS_FREQ_REF is {code}"
    name = reference_word(windows, "CHAN_FREQ", row, {frame.code: frame.name for frame in FRAMES.values()}, "")
    there = f"CHAN_FREQ is in the frame {name!r}" if name else "there is no MEAS_FREQ_REF, and CHAN_FREQ names no frame"
    return FRAMES.get(name), there


def _data_descriptions(path: str, nwindow: int) -> tuple[DataDescription, ...]:
    with _subtable(path, "POLARIZATION") as t:
        correlations = [tuple(int(c) for c in _cell(t, "CORR_TYPE", row, 0)) for row in range(t.nrows())]
    if not correlations:
        raise GpucubeError(f"{path} is not a complete MeasurementSet: subtable POLARIZATION has no rows")
    with _subtable(path, "DATA_DESCRIPTION") as t:
        spws, polarizations = t.getcol("SPECTRAL_WINDOW_ID"), t.getcol("POLARIZATION_ID")
    return tuple(
        DataDescription(
            spw=int(spw) if 0 <= spw < nwindow else -1,
            correlations=correlations[polarization] if 0 <= polarization < len(correlations) else (),
        )
        for spw, polarization in zip(spws, polarizations, strict=True)
    )


def _fields(path: str) -> tuple[Field, ...]:
    with _subtable(path, "FIELD") as t:
        return tuple(
            Field(name=t.getcell("NAME", row), source_id=int(t.getcell("SOURCE_ID", row))) for row in range(t.nrows())
        )


def _read(path: str, name: str, read: Callable[[tables.table], Rows], keywords: Container[str], absent: Rows) -> Rows:
    """Apply `read` to a subtable that a MeasurementSet may lack."""
    if name not in keywords:
        return absent
    with _subtable(path, name) as t:
        return read(t)


def _check(ms: MeasurementSet) -> None:
    """Refuse empty subtables."""
    subtables = {
        "SPECTRAL_WINDOW": ms.spectral_windows,
        "DATA_DESCRIPTION": ms.data_descriptions,
        "FIELD": ms.fields,
    }
    for name, rows in subtables.items():
        if not rows:
            raise GpucubeError(f"{ms.path} is not a complete MeasurementSet: subtable {name} has no rows")


def referenced_tables(path: str) -> list[str]:
    """Return the tables outside of a MeasurementSet that its rows lie in, as those of a saved selection do."""
    inside = os.path.realpath(path)
    with reading(path) as main:
        parts = [os.path.realpath(part) for part in main.partnames(recursive=True)]
    return [part for part in parts if os.path.commonpath([part, inside]) != inside]


def open_table(path: str) -> tables.table:
    """Open a table read-only. Its ``with`` block closes it.

    Raises
    ------
    GpucubeError
        The table cannot be opened, or another process keeps it locked.
    """
    from casacore import tables  # not at the top: a store can be imaged where casacore is not installed

    if is_locked(path):
        raise GpucubeError(f"{path} is locked by another process: wait until it has finished writing, or image a copy")
    environment.provide_home()
    try:
        return tables.table(path, readonly=True, ack=False, lockoptions="user")
    except RuntimeError as error:
        raise GpucubeError(f"cannot open {path}: {first_line(error)}") from None


def is_locked(path: str) -> bool:
    """Return True if another process holds the write lock of a table, for which casacore would wait forever in silence.

    The lock is on the first byte of the file ``table.lock`` (casacore's class LockFile). On a file system without locks
    no table is locked.
    """
    lock = os.path.join(path.replace("::", "/"), "table.lock")
    with suppress(OSError), disk.open_to_read(lock) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def first_line(error: Exception) -> str:
    """Return casacore's message for an error, without its stack."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
