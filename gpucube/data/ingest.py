"""Step 1, INGEST: read every selected row once and put it into the channel-major store.

In: MeasurementSets and the selection (field, spw, channels, column, Stokes). Out: a `VisibilityStore`. What happens to a
sample on the way: flags, weights, Stokes parameter, phase shift to the common phase centre, channel averaging. Reading
(casacore, which holds the interpreter lock) and transposing (compiled, which does not) run side by side; with Dask workers
each takes its own blocks of rows.

A sample counts if neither FLAG nor FLAG_ROW is set, its weight is > 0 and finite, its value and uvw are finite (and uvw
below `LONGEST_BASELINE`), and it is no autocorrelation.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data import measurementset
from gpucube.data.measurementset import Block, BlockReader
from gpucube.data.selection import Selection, Source
from gpucube.data.store import Partition, VisibilityStore, allocate, sort_rows, write_rows
from gpucube.data.transpose import transpose_block

LONGEST_BASELINE = 1e10
"""Metres: thirty times the longest there has been. A longer one is garbage, and its w too much for any gridder."""


@dataclass(frozen=True)
class BlockReport:
    """What one block of rows held, per output channel: counted samples, sum of w |V|^2; and the bytes read."""

    counts: np.ndarray
    power: np.ndarray
    nbytes: int
    nrow: int


def plan_store(selection: Selection, folder: str) -> list[Partition]:
    """The partitions the store will have, without making anything."""
    return [Partition(folder, i, *shape) for i, shape in enumerate(_shapes(selection))]


def _shapes(selection: Selection) -> list[tuple[int, int, tuple[int, ...], tuple[float, ...]]]:
    return [
        (
            int(s.keep.sum()),
            len(s.combinations),
            tuple(s.channels.output.tolist()),
            tuple(s.channels.frequency.tolist()),
        )
        for s in selection.sources
    ]


def ingest(
    selection: Selection,
    folder: str,
    progress: Callable[[int, int], None],
    run: Callable[[list[tuple]], Iterable[tuple[int, BlockReport]]],
    on_allocated: ExitStack,
    owner: str = "",
) -> tuple[VisibilityStore, int]:
    """Make the store.

    Parameters
    ----------
    selection : Selection
    folder : str
        Scratch folder to make.
    progress : callable
        Called with (rows done, rows in all).
    run : callable
        Runs `ingest_rows` over many (source, partition, first row, number of rows).
    on_allocated : contextlib.ExitStack
        Where the removal of the scratch folder is put as soon as it exists.
    owner : str
        Imagename that the folder is for.

    Returns
    -------
    store : VisibilityStore
    nbytes : int
        Bytes read from the MeasurementSets.

    Raises
    ------
    GpucubeError
        As `allocate` and `BlockReader.read`.
    """
    partitions = allocate(folder, _shapes(selection), owner)
    on_allocated.callback(shutil.rmtree, folder, ignore_errors=True)
    nstokes, nchan = len(selection.stokes), len(selection.channels.frequency)
    counts, power = np.zeros((nstokes, nchan), np.int64), np.zeros((nstokes, nchan))
    selected = np.zeros(nchan, np.int64)
    for source in selection.sources:
        np.add.at(selected, source.channels.output, int(source.rows.cross.sum()))
    total = sum(len(s.rows.rows) for s in selection.sources)
    done = nbytes = 0
    jobs = [
        (source, partition, *span)
        for source, partition in zip(selection.sources, partitions, strict=True)
        for span in _spans(source)
    ]
    for index, report in run(jobs):
        slots = selection.sources[index].channels.output
        counts[:, slots] += report.counts
        power[:, slots] += report.power
        nbytes += report.nbytes
        done += report.nrow
        progress(done, total)
    for partition in partitions:
        if partition.nrow:
            sort_rows(partition)
    power = np.divide(power, 2.0 * counts, out=np.zeros_like(power), where=counts > 0)
    return VisibilityStore(folder, tuple(partitions), counts, selected, power), nbytes


def _spans(source: Source, blocks: int = 16) -> list[tuple[int, int]]:
    """Spans of rows for workers, each a number of blocks."""
    nrow = len(source.rows.rows)
    step = blocks * measurementset.rows_per_block(*source.input_shape)
    return [(first, min(step, nrow - first)) for first in range(0, nrow, step)]


def ingest_rows(
    source: Source, partition: Partition, first: int, count: int, threads: int = 1, offset: int = 0
) -> Iterator[BlockReport]:
    """Read `count` rows of a source from its `first`-th and put them into the store, block by block.

    Blocks are read one after the other here while `threads` others transpose and write those before. `offset` rows of the
    partition lie before those of the source.
    """
    step = measurementset.rows_per_block(*source.input_shape)
    kept_before = offset + np.concatenate([[0], np.cumsum(source.keep)])
    reader = BlockReader(source.path, source.rows.rows, source.column, source.weight, source.channel_range())
    pending: deque[Future[BlockReport]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for row in range(first, first + count, step):
                n = min(step, first + count - row)
                block = reader.read(row, n)
                while len(pending) > threads:
                    yield pending.popleft().result()
                keep = source.keep[row : row + n]
                pending.append(pool.submit(_put_block, source, partition, block, keep, int(kept_before[row])))
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
            (source.channel_range() or (0, 0))[0],
            source.channels.offsets,
            source.channels.members,
            np.array([int(c.rule) for c in rules]),
            np.array([[c.a, c.b] for c in rules]),
            np.array([[c.factor_a, c.factor_b] for c in rules], np.complex128),
            vis,
            weight,
            counts,
            power,
        )
        write_rows(partition, offset, np.ascontiguousarray(uvw), vis, weight)
    return BlockReport(counts, power, block.nbytes, len(keep))
