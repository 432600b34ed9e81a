"""The rows of a MeasurementSet's main table: which ones belong to a field, and their cells, block by block.

In: a path, FIELD_IDs, columns and a range of channels. Out: a `RowSelection` for each DATA_DESC_ID, and the `Block`s
that a `BlockReader` reads from its rows. Every selected row is read once, in the order of the table: reading a few
channels of all rows instead costs tens of times as much, whatever the tiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gpucube.data.column_keywords import utc_seconds
from gpucube.data.measurementset import MeasurementSet, first_line, open_table
from gpucube.data.msselect.rows import select_by_rows
from gpucube.errors import GpucubeError

BLOCK_BYTES = 8 * 2**20
"""Bytes of visibilities in a block. Larger blocks leave the cache and were slower to read."""

SHORTEST_BLOCK = 512
"""Fewest rows of a block, so that the run of rows that each channel gets in the store is long enough to write."""


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """The rows of one DATA_DESC_ID and one phase centre that will be read."""

    number: np.ndarray  # (nrow,) int64, row numbers in the main table, ascending
    cross: np.ndarray  # (nrow,) bool, True where the two antennas differ
    keep: np.ndarray  # (nrow,) bool, True where the row goes into the store: `cross`, and FLAG_ROW is not set
    time: np.ndarray  # (nrow,) float64, seconds UTC since MJD 0
    factor: np.ndarray | None = None  # (nrow,) frequency in the cube's frame over that in the data's; None for 1

    def __len__(self) -> int:
        return len(self.number)

    @property
    def kept_time(self) -> np.ndarray:
        """Times of the rows that go into the store, or of all if none does."""
        return self.time[self.keep] if self.keep.any() else self.time

    def part(self, first: int, count: int) -> RowSelection:
        """Return `count` of the rows, from the `first`-th; fewer at the end."""
        span = slice(first, first + count)
        factor = None if self.factor is None else self.factor[span]
        return RowSelection(
            number=self.number[span], cross=self.cross[span], keep=self.keep[span], time=self.time[span], factor=factor
        )


class Block(NamedTuple):
    """The cells of a run of rows. A named tuple, because compiled loops take it as it is."""

    uvw: np.ndarray  # (nrow, 3) float64, metres
    data: np.ndarray  # (nrow, nchan, ncorr) complex64
    flag: np.ndarray  # (nrow, nchan, ncorr) bool
    weight: np.ndarray  # (nrow, nchan or 1, ncorr) float32; 1 if a weight holds for all channels
    first_channel: int = 0  # channel of the spectral window that data[:, 0] is

    @property
    def nbytes(self) -> int:
        """Bytes that were read."""
        return self.uvw.nbytes + self.data.nbytes + self.flag.nbytes + self.weight.nbytes


def select_rows(
    ms: MeasurementSet,
    field_ids: Sequence[int],
    descriptions: Sequence[int],
    asked: Mapping[str, str] = MappingProxyType({}),
) -> dict[tuple[int, int], RowSelection]:
    """Find the rows of some fields.

    Parameters
    ----------
    ms : MeasurementSet
    field_ids, descriptions : sequence of int
        FIELD_IDs and DATA_DESC_IDs.
    asked : mapping
        Further selections, see `gpucube.data.msselect.rows`.

    Returns
    -------
    dict
        (FIELD_ID, DATA_DESC_ID) -> `RowSelection`, for those that have rows.

    Raises
    ------
    GpucubeError
        The MeasurementSet has no rows at all.
    """
    with open_table(ms.path) as t:
        if t.nrows() == 0:
            raise GpucubeError(f"{ms.path} has no rows")
        description, field = t.getcol("DATA_DESC_ID"), t.getcol("FIELD_ID")
        cross = t.getcol("ANTENNA1") != t.getcol("ANTENNA2")
        keep = cross & ~t.getcol("FLAG_ROW")
        time = utc_seconds(t, "TIME", t.getcol("TIME"))
        chosen = np.isin(field, field_ids) & np.isin(description, descriptions)
        rows = np.flatnonzero(select_by_rows(ms, t, asked, chosen))
    rows = rows[np.lexsort((description[rows], field[rows]))]
    kinds = np.stack([field[rows], description[rows]], axis=1)
    found = {}
    for number in np.split(rows, np.flatnonzero(np.diff(kinds, axis=0).any(axis=1)) + 1) if len(rows) else ():
        kind = int(field[number[0]]), int(description[number[0]])
        found[kind] = RowSelection(number=number, cross=cross[number], keep=keep[number], time=time[number])
    return found


def weight_column(ms: MeasurementSet, rows: RowSelection) -> str:
    """Return WEIGHT_SPECTRUM if these rows have it and some weight in it is above 0, else WEIGHT."""
    if "WEIGHT_SPECTRUM" not in ms.columns:
        return "WEIGHT"
    with open_table(ms.path) as t:
        # a few rows from all over usually suffice; all of them may belong to an antenna that was off
        for row in (*rows.number[:: max(1, len(rows) // 16)], *rows.number):
            if not t.iscelldefined("WEIGHT_SPECTRUM", int(row)):
                return "WEIGHT"
            if np.any(t.getcell("WEIGHT_SPECTRUM", int(row)) > 0):
                return "WEIGHT_SPECTRUM"
    return "WEIGHT"


def cell_shape(path: str, column: str, row: int) -> tuple[int, int]:
    """Return the shape (nchan, ncorr) of a data cell.

    Raises
    ------
    GpucubeError
        The cell is not there or not two-dimensional.
    """
    with open_table(path) as t:
        if not t.iscelldefined(column, row):
            raise GpucubeError(f"{path}: column {column} is empty in row {row}: choose another `datacolumn`")
        shape = np.shape(t.getcell(column, row))
    if len(shape) != 2:
        raise GpucubeError(f"{path}: column {column} row {row} has shape {shape}, expected (channels, correlations)")
    return shape[0], shape[1]


def rows_per_block(nchan: int, ncorr: int) -> int:
    """Return the number of rows of a block of `BLOCK_BYTES`."""
    return max(SHORTEST_BLOCK, BLOCK_BYTES // (8 * nchan * ncorr))


class BlockReader:
    """Reads blocks of a row selection from one MeasurementSet.

    Parameters
    ----------
    path : str
    rows : RowSelection
    column, weight : str
        Data column, and WEIGHT or WEIGHT_SPECTRUM.
    channels : tuple of int or None
        First and last channel to read; None for all. A slice costs casacore several times a whole cell.
    """

    def __init__(self, path: str, rows: RowSelection, column: str, weight: str, channels: tuple[int, int] | None):
        self._path, self._column, self._weight, self._channels = path, column, weight, channels
        self._table = open_table(path)
        self._selection = self._table.selectrows(rows.number)

    def read(self, start: int, count: int) -> Block:
        """Read `count` rows of the selection from its `start`-th row.

        Raises
        ------
        GpucubeError
            casacore cannot read them, or their shapes disagree.
        """
        try:
            uvw, data, flag, weight = (
                self._cells(column, start, count) for column in ("UVW", self._column, "FLAG", self._weight)
            )
        except RuntimeError as error:
            raise GpucubeError(f"{self._path}: rows cannot be read from {self._column}: {first_line(error)}") from None
        if data.shape != flag.shape or data.shape[-1] != weight.shape[-1]:
            raise GpucubeError(
                f"{self._path}: {self._column} has shape {data.shape}, FLAG {flag.shape}, "
                f"{self._weight} {weight.shape}: they must agree"
            )
        if weight.ndim == 2:
            weight = weight[:, None, :]
        return Block(uvw, data, flag, weight, 0 if self._channels is None else self._channels[0])

    def _cells(self, column: str, start: int, count: int) -> np.ndarray:
        cells: np.ndarray
        if self._channels is None or column in ("UVW", "WEIGHT"):
            cells = self._selection.getcol(column, start, count)
        else:
            first, last = self._channels
            cells = self._selection.getcolslice(column, [first, -1], [last, -1], [], start, count)
        return cells

    def close(self) -> None:
        """Close the table."""
        self._selection.close()
        self._table.close()
