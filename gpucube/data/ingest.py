"""Step 1, INGEST: read every selected row once and put it into the channel-major store.

In: MeasurementSets and the selection (field, spw, channels, column, Stokes). Out: a `VisibilityStore`. What happens to a
sample on the way: flags, weights, Stokes parameter, phase shift to the common phase centre, channel averaging. Reading
(casacore, which holds the interpreter lock) and transposing (compiled, which does not) run side by side; with Dask workers
each takes its own blocks of rows.

A sample counts if neither FLAG nor FLAG_ROW is set, its weight is > 0 and finite, its value and uvw are finite (and uvw
below `LONGEST_BASELINE`), and it is no autocorrelation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.measurementset import Block
from gpucube.data.selection import Selection, Source
from gpucube.data.store import Partition, VisibilityStore, allocate, sort_rows, write_rows
from gpucube.data.transpose import transpose_block

LONGEST_BASELINE = 1e10
"""Metres: thirty times the longest there has been. A longer one is garbage, and its w too much for any gridder."""

BLOCKS_A_JOB = 16


@dataclass(frozen=True, kw_only=True)
class IngestJob:
    """A run of rows to be read and written to one partition. Picklable.

    Attributes
    ----------
    source : Source
        Holds the run of rows only.
    partition : Partition
    first_row : int
        Row of the partition where those of the source begin.
    block_rows : int
        Rows of a block.
    """

    source: Source
    partition: Partition
    first_row: int
    block_rows: int

    def through(self, folder: str) -> IngestJob:
        """The same job with another path to the folder of the store."""
        return replace(self, partition=replace(self.partition, folder=folder))


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """What one block of rows held.

    Attributes
    ----------
    partition : int
        Index of the partition that it was written to.
    counts : numpy.ndarray
        Samples that count, int64, shape (nstokes, nslot).
    power : numpy.ndarray
        Sum of w |V|^2 over them, shape (nstokes, nslot).
    nrow, nbytes : int
        Rows and bytes read.
    """

    partition: int
    counts: np.ndarray
    power: np.ndarray
    nrow: int
    nbytes: int


def plan_partitions(selection: Selection, folder: str) -> list[Partition]:
    """The partitions that the store will have. Nothing is written."""
    return [
        Partition(
            folder=folder,
            index=index,
            nrow=int(source.keep.sum()),
            nstokes=len(source.combinations),
            output=tuple(source.channel_map.output.tolist()),
            frequency=tuple(source.channel_map.frequency.tolist()),
            pointing=source.pointing,
        )
        for index, source in enumerate(selection.sources)
    ]


class Ingest:
    """Makes a store: allocates it, says which jobs fill it, and gathers what they report.

    Parameters
    ----------
    selection : Selection
    folder : str
        Scratch folder to make. It exists as soon as the constructor returns.
    owner : str
        Imagename that the folder is for.
    block_rows : int, optional
        Rows of a block; by default as many as are quick to read.

    Attributes
    ----------
    jobs : list of IngestJob
    nrow, rows_done : int
        Rows to be read, and rows read so far.

    Raises
    ------
    GpucubeError
        As `allocate`.

    Examples
    --------
    >>> reading = Ingest(selection, "out/target.scratch")  # doctest: +SKIP
    >>> store = reading.finish(r for job in reading.jobs for r in ingest_rows(job))  # doctest: +SKIP
    """

    def __init__(self, selection: Selection, folder: str, *, owner: str = "", block_rows: int | None = None):
        self._folder, self._selection = folder, selection
        self._partitions = plan_partitions(selection, folder)
        allocate(self._partitions, owner)
        shape = (selection.npointing, len(selection.stokes), selection.axis.nchan)
        self._counts, self._power = np.zeros(shape, np.int64), np.zeros(shape)
        self._nbytes = self.rows_done = 0
        self.nrow = sum(source.nrow for source in selection.sources)
        self.jobs = [
            job
            for source, partition in zip(selection.sources, self._partitions, strict=True)
            for job in _jobs(source, partition, block_rows or source.block_rows)
        ]

    def add(self, report: BlockReport) -> None:
        """Note what a block held."""
        partition = self._partitions[report.partition]
        self._counts[partition.pointing][:, partition.output] += report.counts
        self._power[partition.pointing][:, partition.output] += report.power
        self._nbytes += report.nbytes
        self.rows_done += report.nrow

    def finish(self, reports: Iterable[BlockReport] = ()) -> VisibilityStore:
        """Add the reports that are still to come and return the store, which is then complete."""
        for report in reports:
            self.add(report)
        selected = np.zeros((self._selection.npointing, self._selection.axis.nchan), np.int64)
        for source in self._selection.sources:
            np.add.at(selected[source.pointing], source.channel_map.output, int(source.rows.cross.sum()))
        for partition in self._partitions:
            if partition.nrow:
                sort_rows(partition)
        return VisibilityStore(
            folder=self._folder,
            partitions=tuple(self._partitions),
            counts=self._counts,
            selected=selected,
            power=np.divide(self._power, 2.0 * self._counts, out=np.zeros_like(self._power), where=self._counts > 0),
            ms_bytes_read=self._nbytes,
        )


def _jobs(source: Source, partition: Partition, block_rows: int) -> Iterator[IngestJob]:
    """Jobs that fill a partition, each a number of blocks."""
    step = BLOCKS_A_JOB * block_rows
    for first in range(0, source.nrow, step):
        yield IngestJob(
            source=source.part(first, step),
            partition=partition,
            first_row=int(source.keep[:first].sum()),
            block_rows=block_rows,
        )


def ingest_rows(job: IngestJob, threads: int = 1) -> Iterator[BlockReport]:
    """Read the rows of a job and put them into the store, block by block.

    Blocks are read one after the other here while `threads` others transpose and write those before.

    Raises
    ------
    GpucubeError
        As `BlockReader.read` and `write_rows`.
    """
    source = job.source
    first_kept = job.first_row + np.concatenate([[0], np.cumsum(source.keep)])
    reader = source.open()
    pending: deque[Future[BlockReport]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for row in range(0, source.nrow, job.block_rows):
                n = min(job.block_rows, source.nrow - row)
                block = reader.read(row, n)
                while len(pending) > threads:
                    yield pending.popleft().result()
                keep = source.keep[row : row + n]
                pending.append(pool.submit(_put_block, source, job.partition, block, keep, int(first_kept[row])))
            while pending:
                yield pending.popleft().result()
    finally:
        reader.close()


def _put_block(source: Source, partition: Partition, block: Block, keep: np.ndarray, offset: int) -> BlockReport:
    """Transpose one block and write its rows, the `offset`-th of the partition and following."""
    nstokes, nslot, _ = partition.shape
    counts, power = np.zeros((nstokes, nslot), np.int64), np.zeros((nstokes, nslot))
    rows = np.flatnonzero(keep)
    if len(rows):
        uvw = block.uvw[rows]
        good = (np.abs(uvw) < LONGEST_BASELINE).all(axis=1)
        uvw[~good] = 0.0
        delay = np.zeros(len(rows))
        if source.rotation is not None:
            turned = uvw @ source.rotation.T
            delay = (uvw[:, 2] - turned[:, 2]) / LIGHT_SPEED
            uvw = turned
        vis = np.empty((nstokes, nslot, len(rows)), np.complex64)
        weight = np.empty(vis.shape, np.float32)
        rules = source.combinations
        transpose_block(
            block.data,
            block.flag,
            block.weight if block.weight.ndim == 3 else block.weight[:, None, :],
            rows,
            good,
            delay,
            source.frequency,
            (source.channel_range or (0, 0))[0],
            source.channel_map.offsets,
            source.channel_map.members,
            np.array([int(c.rule) for c in rules]),
            np.array([[c.a, c.b] for c in rules]),
            np.array([[c.factor_a, c.factor_b] for c in rules], np.complex128),
            vis,
            weight,
            counts,
            power,
        )
        write_rows(partition, offset, np.ascontiguousarray(uvw), vis, weight)
    return BlockReport(partition=partition.index, counts=counts, power=power, nrow=len(keep), nbytes=block.nbytes)
