"""The rows of a MeasurementSet's main table: which ones belong to a field, and their cells, block by block.

In: a path, FIELD_IDs, columns and a range of channels. Out: a `RowSelection` for each DATA_DESC_ID, and the `Block`s
that a `BlockReader` reads from its rows. Every selected row is read once, in the order of the table: reading a few
channels of all rows instead costs tens of times as much, whatever the tiling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpucube.data.column_keywords import utc_seconds
from gpucube.data.measurementset import MeasurementSet, first_line, open_table, reading
from gpucube.data.msselect.rows import select_by_rows
from gpucube.errors import GpucubeError
from gpucube.text import counted

if TYPE_CHECKING:
    from casacore import tables

BLOCK_BYTES = 8 * 2**20
"""Bytes of visibilities in a block. Larger blocks leave the cache and were slower to read."""

LARGEST_BLOCK = 32 * 2**20
"""Bytes of visibilities that a block never exceeds, but for a single row."""

SHORTEST_BLOCK = 512
"""Fewest rows of a block of usual size, so that the run of rows that each channel gets in the store is long enough to write."""

TRANSPOSERS = 3
"""Threads that transpose and write blocks: these keep up with the one that reads, and each takes the memory of a block."""

CACHE_MIB = 64
"""MiB of tiles that casacore may keep of each column. It keeps those of a run of rows if they are fewer, otherwise one tile."""

SLICE_CACHE_MIB = 1
"""MiB of tiles that casacore keeps of each column of which slices are read. With more of them reading was slower."""

_TYPES = {
    "boolean": np.dtype(bool),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "complex": np.dtype(np.complex64),
    "dcomplex": np.dtype(np.complex128),
}
"""numpy's type of the cells that casacore says a column has, for those that can be read."""


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

    @property
    def factor_span(self) -> tuple[float, float]:
        """Least and largest Doppler factor of the rows that go into the store, or of all if none does."""
        if self.factor is None or not len(self):
            return 1.0, 1.0
        factor = self.factor[self.keep] if self.keep.any() else self.factor
        return float(factor.min()), float(factor.max())

    def part(self, first: int, count: int) -> RowSelection:
        """Return `count` of the rows, from the `first`-th; fewer at the end."""
        return self.at(slice(first, first + count))

    def at(self, which: slice | np.ndarray) -> RowSelection:
        """Return some of the rows, by their places in this selection."""
        return RowSelection(
            number=self.number[which],
            cross=self.cross[which],
            keep=self.keep[which],
            time=self.time[which],
            factor=None if self.factor is None else self.factor[which],
        )


class Block(NamedTuple):
    """The cells of a run of rows. A named tuple, because compiled loops take it as it is."""

    uvw: np.ndarray  # (nrow, 3) float64, metres
    data: np.ndarray  # (nrow, nchan, ncorr) complex64
    flag: np.ndarray  # (nrow, nchan, ncorr) bool
    weight: np.ndarray  # (nrow, nchan or 1, ncorr) float32; 1 if a weight holds for all channels
    first_channel: int = 0  # channel of the spectral window that data[:, 0] is
    by_weight: int = 0  # rows without WEIGHT_SPECTRUM, which have WEIGHT instead

    @property
    def nbytes(self) -> int:
        """Bytes that were read."""
        return self.uvw.nbytes + self.data.nbytes + self.flag.nbytes + self.weight.nbytes


def select_rows(
    ms: MeasurementSet,
    field_ids: Sequence[int],
    descriptions: Sequence[int],
    asked: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[tuple[int, int], RowSelection], list[str]]:
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
    rows : dict
        (FIELD_ID, DATA_DESC_ID) -> `RowSelection`, for those that have rows.
    warnings : list of str
        Rows that belong nowhere, and parts of expressions that select nothing.

    Raises
    ------
    GpucubeError
        The MeasurementSet has no rows at all.
    """
    with reading(ms.path) as t:
        if t.nrows() == 0:
            raise GpucubeError(f"{ms.path} has no rows")
        description, field = t.getcol("DATA_DESC_ID"), t.getcol("FIELD_ID")
        cross = t.getcol("ANTENNA1") != t.getcol("ANTENNA2")
        keep = cross & ~t.getcol("FLAG_ROW")
        time = utc_seconds(t, "TIME", t.getcol("TIME"))
        chosen = np.isin(field, field_ids) & np.isin(description, descriptions)
        selected, doubts = select_by_rows(ms, t, asked, chosen)
    rows = np.flatnonzero(selected)
    nowhere = keep & ~(np.isin(field, np.arange(len(ms.fields))) & np.isin(description, ms.usable_descriptions))
    if nowhere.any():
        doubts.append(
            f"{ms.path}: {counted(int(nowhere.sum()), 'row')} left out, because FIELD_ID or DATA_DESC_ID (first in row "
            f"{int(nowhere.argmax())}: {int(field[nowhere][0])} and {int(description[nowhere][0])}) has no field, spectral "
            "window or correlations in the subtables"
        )
    rows = rows[np.lexsort((description[rows], field[rows]))]
    kinds = np.stack([field[rows], description[rows]], axis=1)
    found = {}
    for number in np.split(rows, np.flatnonzero(np.diff(kinds, axis=0).any(axis=1)) + 1) if len(rows) else ():
        kind = int(field[number[0]]), int(description[number[0]])
        found[kind] = RowSelection(number=number, cross=cross[number], keep=keep[number], time=time[number])
    return found, doubts


def weight_column(ms: MeasurementSet, rows: RowSelection) -> str:
    """Return WEIGHT_SPECTRUM if some of these rows have it with a weight above 0, else WEIGHT."""
    if "WEIGHT_SPECTRUM" not in ms.columns:
        return "WEIGHT"
    from casacore import tables  # not above: devices are tested where casacore is not

    with reading(ms.path) as t:
        # a few rows from all over usually suffice; all of them may belong to an antenna that was off
        for row in rows.number[:: max(1, len(rows) // 16)]:
            if _has_weight(t, int(row)):
                return "WEIGHT_SPECTRUM"
        selection = t.selectrows(rows.number)
        written = tables.taql("select from $selection where isdefined(WEIGHT_SPECTRUM)", tables=[selection])
        filled = any(_has_weight(written, row) for row in range(written.nrows()))
        written.close()
        selection.close()
    return "WEIGHT_SPECTRUM" if filled else "WEIGHT"


def _has_weight(t: tables.table, row: int) -> bool:
    return t.iscelldefined("WEIGHT_SPECTRUM", row) and _can_count(t.getcell("WEIGHT_SPECTRUM", row))


def _can_count(weight: np.ndarray) -> bool:
    return bool(np.any((weight > 0) & np.isfinite(weight)))


def _without_weight(weight: np.ndarray) -> np.ndarray:
    """Rows of a block of WEIGHT_SPECTRUM, (nrow, nchan, ncorr), without a weight that can count: bool, (nrow,)."""
    largest = weight.max(axis=(1, 2))  # NaN or infinite also for a row with good weights besides
    without: np.ndarray = ~((largest > 0) & (largest < np.inf))
    for row in np.flatnonzero(without).tolist():
        without[row] = not _can_count(weight[row])
    return without


def cell_shape(path: str, column: str, rows: RowSelection) -> tuple[int, int]:
    """Return the shape (nchan, ncorr) of the first data cell that will be used.

    Raises
    ------
    GpucubeError
        It is not two-dimensional, or this cell or another of some from all over is not there.
    """
    numbers = rows.number[rows.keep] if rows.keep.any() else rows.number
    row = int(numbers[0])
    with reading(path) as t:
        for looked_at in (*numbers[:: max(1, len(numbers) // 500)].tolist(), int(numbers[-1])):
            if not t.iscelldefined(column, looked_at):
                raise GpucubeError(f"{path}: {column} is not written in row {looked_at}: choose another `datacolumn`")
        shape = np.shape(t.getcell(column, row))
    if len(shape) != 2:
        raise GpucubeError(f"{path}: column {column} row {row} has shape {shape}, expected (channels, correlations)")
    return shape[0], shape[1]


def rows_per_block(row_bytes: int, most: int) -> int:
    """Return the number of rows of a block, if a row has `row_bytes` bytes of visibilities and a block at most `most`."""
    return max(1, min(max(SHORTEST_BLOCK, BLOCK_BYTES // row_bytes), most // row_bytes))


def bytes_of_tiles(path: str, columns: Sequence[str]) -> int:
    """Bytes of tiles that casacore keeps while whole cells of some columns are read in the order of the rows.

    These are the tiles of a run of rows, unless they are too many, and the one that is read.
    """
    kept = 0
    with reading(path) as t:
        for column in columns:
            cubes = t.getdminfo(column).get("SPEC", {}).get("HYPERCUBES", {}).values()
            in_column = [0]
            for cube in cubes:
                tile = int(cube["BucketSize"])
                run = tile * math.prod(
                    -(-n // m) for n, m in zip(cube["CubeShape"][:-1], cube["TileShape"][:-1], strict=True)
                )
                in_column.append(tile + (run if run <= 1.1 * CACHE_MIB * 2**20 else 0))
            kept += max(in_column)
    return kept


def reads_slices(path: str, column: str, channels: tuple[int, int] | None, nchan: int) -> bool:
    """Whether reading some channels of a column touches less than half of its tiles.

    A slice costs casacore several times a whole cell.
    """
    if channels is None:
        return False
    with reading(path) as t:
        cubes = t.getdminfo(column).get("SPEC", {}).get("HYPERCUBES", {})
    tile = max((int(cube["TileShape"][1]) for cube in cubes.values() if len(cube["TileShape"]) > 2), default=1)
    first, last = channels
    return (last // tile - first // tile + 1) * tile < nchan / 2


class BlockReader:
    """Reads blocks of a row selection from one MeasurementSet, whose cells it checks: compiled loops trust their shapes.

    Parameters
    ----------
    path : str
    rows : RowSelection
    column, weight : str
        Data column, and WEIGHT or WEIGHT_SPECTRUM.
    shape : tuple of int
        (channels, correlations) of a data cell.
    channels : tuple of int or None
        First and last channel to read; None for all.
    slices : bool
        Whether to read these channels alone. Otherwise whole cells are read and cut, see `reads_slices`.
    """

    def __init__(
        self,
        path: str,
        rows: RowSelection,
        column: str,
        weight: str,
        shape: tuple[int, int],
        channels: tuple[int, int] | None,
        slices: bool = False,
    ):
        self._path, self._column, self._weight, self._number, self._keep = path, column, weight, rows.number, rows.keep
        self._shape, self._channels, self._slices = shape, channels, slices and channels is not None
        self._table = open_table(path)
        for name in (column, "FLAG", weight):  # casacore would keep every tile that slices have touched
            self._table.setmaxcachesize(name, SLICE_CACHE_MIB if self._slices else CACHE_MIB)
        self._selection: tables.table | None = None

    def _table_for(self, count: int) -> tuple[tables.table, int]:
        """A table to read `count` rows from, and the row of it that is the first of the selection.

        casacore makes and reads a selection more slowly than a table, but is killed by a cell that is not written if it reads
        a table as a whole.
        """
        if int(self._number[-1] - self._number[0]) == len(self._number) - 1 and count < self._table.nrows():
            return self._table, int(self._number[0])
        if self._selection is None:
            self._selection = self._table.selectrows(self._number)
        return self._selection, 0

    def read(self, start: int, count: int) -> Block:
        """Read `count` rows of the selection from its `start`-th row.

        Raises
        ------
        GpucubeError
            Cells that casacore cannot read, that are not written, or of the wrong shape or type.
        """
        first, last = self._channels or (0, self._shape[0] - 1)
        cell = last - first + 1, self._shape[1]
        uvw = self._cells("UVW", start, count, (3,), "f")
        data = self._cells(self._column, start, count, cell, "c")
        flag = self._cells("FLAG", start, count, cell, "b")
        weight, by_weight = self._weights(start, count, cell)
        return Block(
            uvw.astype(np.float64, copy=False),
            data.astype(np.complex64, copy=False),
            flag,
            weight,
            first,
            by_weight,
        )

    def _cells(self, column: str, start: int, count: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """Cells of one column, (count, *shape), of a kind of numpy's."""
        kind_of_column = self._table.coldatatype(column)
        dtype = _TYPES.get(kind_of_column)
        if dtype is None or dtype.kind != kind:
            raise self._misshapen(column, int(self._number[start]), shape, kind_of_column, shape)
        table, first_row = self._table_for(count)
        spectra, row = len(shape) == 2, first_row + start
        cut = self._channels if spectra and not self._slices else None
        cells: np.ndarray = np.empty((count, *(shape if cut is None else self._shape)), dtype)
        try:  # casacore fills the array; it would make one of its own and copy it
            if spectra and self._slices and self._channels is not None:
                first, last = self._channels
                table.getcolslicenp(column, cells, [first, -1], [last, -1], [], row, count)
            else:
                table.getcolnp(column, cells, row, count)
        except RuntimeError as error:
            if self._keep[start : start + count].all():
                raise self._unreadable(column, start, count, shape, error) from None
            return self._kept_cells(column, start, count, shape, kind)
        return cells if cut is None else np.ascontiguousarray(cells[:, cut[0] : cut[1] + 1])

    def _kept_cells(self, column: str, start: int, count: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """The same one by one, with 0 in the rows that are not used, whose cells may not be written."""
        kept = np.flatnonzero(self._keep[start : start + count]).tolist()
        found = [self._cells(column, start + row, 1, shape, kind)[0] for row in kept]
        cells = np.zeros((count, *shape), _TYPES[self._table.coldatatype(column)])
        if kept:
            cells[kept] = found
        return cells

    def _unreadable(
        self, column: str, start: int, count: int, shape: tuple[int, ...], error: RuntimeError
    ) -> GpucubeError:
        """Say which cell of a block cannot be read, and why."""
        for row in range(start, start + count):
            number = int(self._number[row])
            if not self._is_written(column, row):
                other = ": choose another `datacolumn`" if column == self._column else ""
                return GpucubeError(f"{self._path}: {column} is not written in row {number}{other}")
            try:
                found = np.shape(self._table.getcell(column, number))
            except RuntimeError:
                break
            whole = (self._shape[0], *shape[1:]) if len(shape) == 2 else shape
            if found != whole:
                return self._misshapen(column, number, found, "", whole)
        return GpucubeError(f"{self._path}: rows cannot be read from {column}: {first_line(error)}")

    def _is_written(self, column: str, row: int) -> bool:
        return bool(self._table.iscelldefined(column, int(self._number[row])))

    def _misshapen(
        self, column: str, row: int, shape: tuple[int, ...], kind: str, expected: tuple[int, ...]
    ) -> GpucubeError:
        what = f" of type {kind}" if kind else ""
        return GpucubeError(
            f"{self._path}: {column} in row {row} has shape {shape}{what}; the other columns and subtables say {expected}"
        )

    def _weights(self, start: int, count: int, cell: tuple[int, int]) -> tuple[np.ndarray, int]:
        """Weights, float32, (count, nchan or 1, ncorr), and the number of rows that have WEIGHT and are used.

        These are the rows whose WEIGHT_SPECTRUM is not written, or nowhere above 0.
        """
        if self._weight == "WEIGHT":
            return self._plain_weights(start, count, cell), 0
        try:
            weight = self._cells("WEIGHT_SPECTRUM", start, count, cell, "f").astype(np.float32, copy=False)
        except GpucubeError:
            written = [row for row in range(count) if self._is_written("WEIGHT_SPECTRUM", start + row)]
            if len(written) == count:
                raise
            weight = np.zeros((count, *cell), np.float32)
            for row in written:
                weight[row] = self._cells("WEIGHT_SPECTRUM", start + row, 1, cell, "f")[0]
        empty = _without_weight(weight)
        if cell[0] < self._shape[0]:  # the other channels of a row say, too, whether it has a WEIGHT_SPECTRUM
            for row in np.flatnonzero(empty).tolist():
                if self._is_written("WEIGHT_SPECTRUM", start + row):
                    whole = self._table.getcell("WEIGHT_SPECTRUM", int(self._number[start + row]))
                    empty[row] = not _can_count(whole)
        if empty.any():
            weight[empty] = self._plain_weights(start, count, cell)[empty]
        return weight, int(np.count_nonzero(empty & self._keep[start : start + count]))

    def _plain_weights(self, start: int, count: int, cell: tuple[int, int]) -> np.ndarray:
        """WEIGHT, float32, (count, 1, ncorr)."""
        return self._cells("WEIGHT", start, count, cell[1:], "f").astype(np.float32, copy=False)[:, None, :]

    def close(self) -> None:
        """Close the table."""
        if self._selection is not None:
            self._selection.close()
        self._table.close()
