"""Step 1, INGEST: read every selected row once and put it into the channel-major store.

In: a `Selection`. Out: a `VisibilityStore`. `Ingest` makes the empty store and splits the work into jobs, each a run of
rows of one source. `ingest_rows` does one job, in any thread or process, block by block:

    read block -> unusable uvw -> phase centre -> continuum (`subtract_continuum`) -> flags, Stokes, phase shift, channel map
    (`transpose`) -> other channels (`regrid`) -> write

All channels of a row are in memory together only between reading and `transpose`. The continuum is subtracted there, before
correlations are combined into Stokes parameters.

Reading holds the interpreter lock, because casacore does. Transposing and writing release it, and run beside it in threads.

A sample counts if neither FLAG nor FLAG_ROW is set, its weight is above 0 and its value finite (both below `LARGEST`), its
uvw is not 0 and shorter than `LONGEST_BASELINE`, and it is not an autocorrelation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.continuum import Remains, subtract_continuum
from gpucube.data.regrid import regrid
from gpucube.data.rows import TRANSPOSERS, Block, RowSelection
from gpucube.data.scratch import allocate
from gpucube.data.selection import Selection, Source
from gpucube.data.stokes import Rule
from gpucube.data.store import Partition, VisibilityStore, sort_rows, write_rows
from gpucube.data.transpose import LARGEST, KeptRows, transpose
from gpucube.errors import GpucubeError
from gpucube.text import counted

LONGEST_BASELINE = 1e10
"""Metres, thirty times the longest baseline so far. A longer one is garbage, and its w is too large for any gridder."""

UNFILLED = 0.01
"""Share of a partition's rows that can be exactly 0 without a warning. Rows count that are 0 in all channels and hands: single
zeros are usual where a correlator writes small integers, and channels of zeros where a simulated line has no continuum."""

BLOCKS_A_JOB = 16

NOTHING_COUNTS = "each selected sample is an autocorrelation, is flagged, or has no usable weight, value or uvw"
"""Why there are no data, for messages."""


@dataclass(frozen=True, kw_only=True)
class IngestJob:
    """A run of rows to be read and written to one partition. Picklable."""

    source: Source  # its rows are those of the job only
    partition: Partition
    first_row: int  # row of the partition that the first kept row of the job becomes
    block_rows: int  # rows of a block

    def through(self, folder: str) -> IngestJob:
        """Return the same job with another path to the folder of the store."""
        return replace(self, partition=replace(self.partition, folder=folder))


class Remark(Enum):
    """What rows can have that the user is warned of."""

    LOST_UVW = auto()  # left out because of uvw that no array has
    GARBAGE = auto()  # values or weights that no array measures
    BY_WEIGHT = auto()  # no WEIGHT_SPECTRUM, and WEIGHT instead
    LOST_CONTINUUM = auto()  # spectra whose continuum is not known
    LOWERED = auto()  # spectra whose continuum has a lower order
    WORTHLESS = auto()  # unflagged, but no sample has a weight above 0 and a finite value
    SEEN = auto()  # a sample that counts
    ZERO = auto()  # these, where each is exactly 0


MOST_LOOKED_AT, ROWS_LOOKED_AT = 256 * 2**20, 256
"""Bytes that a plan reads at most to find a sample that counts, and rows at a time."""


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """What one block of rows contained."""

    partition: int  # index of the partition that it was written to
    counts: np.ndarray  # (nstokes, nslot) int64, samples that count
    power: np.ndarray  # (nstokes, nslot) float64, sum of w |V|^2 over them
    nrow: int  # rows read
    nbytes: int  # bytes read
    lacking: np.ndarray  # (nstokes, nslot) int64, input channels of these samples that do not count
    rows: Counter[Remark]  # rows, and spectra of rows, that the user should know of


def plan_partitions(selection: Selection, folder: str) -> list[Partition]:
    """Work out the partitions that the store will have. Nothing is written."""
    return [
        Partition(
            folder=folder,
            index=index,
            nrow=int(source.rows.keep.sum()),
            nstokes=len(source.combinations),
            output=tuple(source.output.tolist()),
            frequency=tuple(source.frequency.tolist()),
            pointing=source.pointing,
        )
        for index, source in enumerate(selection.sources)
    ]


class Ingest:
    """Makes a store: allocates it, lists the jobs that fill it, and collects their reports.

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
        self._counts, self._power = np.zeros(selection.shape, np.int64), np.zeros(selection.shape)
        self._lacking, self._whole = np.zeros(selection.shape), np.zeros(selection.shape)  # input channels
        self._nbytes = self.rows_done = 0
        self._rows: list[Counter[Remark]] = [Counter() for _ in selection.sources]
        self._members = [source.members for source in selection.sources]
        self.nrow = sum(source.nrow for source in selection.sources)
        self.jobs = [
            job
            for source, partition in zip(selection.sources, self._partitions, strict=True)
            for job in _jobs(source, partition, block_rows or source.block_rows)
        ]

    def add(self, report: BlockReport) -> None:
        """Add what a block held."""
        partition = self._partitions[report.partition]
        self._counts[partition.pointing][:, partition.output] += report.counts
        self._power[partition.pointing][:, partition.output] += report.power
        self._nbytes += report.nbytes
        self._lacking[partition.pointing][:, partition.output] += report.lacking
        self._whole[partition.pointing][:, partition.output] += report.counts * self._members[report.partition]
        self._rows[report.partition] += report.rows
        self.rows_done += report.nrow

    def finish(self, reports: Iterable[BlockReport] = ()) -> VisibilityStore:
        """Add the reports that are still to come, sort the rows and return the store, which is then complete.

        Raises
        ------
        GpucubeError
            No sample counts.
        """
        for report in reports:
            self.add(report)
        if not self._counts.any():
            raise _nothing_left(self._selection, self._warnings())
        npointing, _, nchan = self._selection.shape
        selected = np.zeros((npointing, nchan), np.int64)
        for source in self._selection.sources:
            np.add.at(selected[source.pointing], source.output, int(source.rows.cross.sum()))
        for partition in self._partitions:
            if partition.nrow:
                sort_rows(partition)
        return VisibilityStore(
            folder=self._folder,
            partitions=tuple(self._partitions),
            counts=self._counts,
            selected=selected,
            power=np.divide(self._power, 2.0 * self._counts, out=np.zeros_like(self._power), where=self._counts > 0),
            lacking=np.divide(self._lacking, self._whole, out=np.zeros_like(self._power), where=self._whole > 0),
            ms_bytes_read=self._nbytes,
            warnings=tuple(self._warnings()),
        )

    def _warnings(self) -> Iterator[str]:
        """What the rows had that the user should know."""
        sources = self._selection.sources
        for path in dict.fromkeys(source.path for source in sources):
            mine = [number for number, source in enumerate(sources) if source.path == path]
            rows = sum((self._rows[number] for number in mine), Counter[Remark]())
            if not rows[Remark.SEEN] and self._counts.any():
                yield f"{path} adds nothing to the cube: {NOTHING_COUNTS}"
            if lost := rows[Remark.LOST_UVW]:
                yield (
                    f"{path}: {counted(lost, 'row')} left out, because uvw is 0, not finite or longer than "
                    f"{LONGEST_BASELINE:g} m"
                )
            if garbage := rows[Remark.GARBAGE]:
                yield (
                    f"{path}: {counted(garbage, 'row')} with values above {LARGEST:g} Jy or weights above {LARGEST:g} / Jy^2, "
                    "which no array measures: these samples do not count"
                )
            worthless, used = rows[Remark.WORTHLESS], rows[Remark.SEEN]
            if used and worthless > UNFILLED * (worthless + used):
                yield (
                    f"{path}: {worthless} of {counted(worthless + used, 'unflagged row')} left out, because no sample has a "
                    "weight above 0 and a finite value"
                )
            if by_weight := rows[Remark.BY_WEIGHT]:
                kept = sum(int(sources[number].rows.keep.sum()) for number in mine)
                yield (
                    f"{path}: WEIGHT_SPECTRUM is not written or nowhere above 0 in {by_weight} of "
                    f"{counted(kept, 'row')}: these rows have the weights of WEIGHT"
                )
            zero = [n for n in mine if self._rows[n][Remark.ZERO] > UNFILLED * self._rows[n][Remark.SEEN]]
            if zero:
                column = sources[zero[0]].column
                yield (
                    f"{path}: {column} is exactly 0, in every channel and correlation that is imaged, in "
                    f"{sum(self._rows[n][Remark.ZERO] for n in zero)} of {counted(rows[Remark.SEEN], 'unflagged row')}: flag "
                    f"these rows{', or choose another `datacolumn`, if it has not been filled' if column != 'DATA' else ''}"
                )
            if lost := rows[Remark.LOST_CONTINUUM]:
                yield (
                    f"{path}: {counted(lost, 'spectrum', 'spectra')} of a row and correlation left out, because no line-free "
                    "channel counts, so that the continuum is not known"
                )
            if lowered := rows[Remark.LOWERED]:
                yield (
                    f"{path}: flags leave {counted(lowered, 'spectrum', 'spectra')} of a row and correlation too few line-free "
                    "channels, or on one side only: their continuum has a lower order than `contsuborder`"
                )


BYTES_TO_SORT = 90
"""What sorting takes for each row of a partition: its uvw, their half plane and tiles, the order and the uvw in that order."""


def _jobs(source: Source, partition: Partition, block_rows: int) -> Iterator[IngestJob]:
    """Jobs that fill a partition, each a number of blocks."""
    step = BLOCKS_A_JOB * block_rows
    kept_before = np.concatenate([[0], np.cumsum(source.rows.keep)])
    for first in range(0, source.nrow, step):
        yield IngestJob(
            source=source.part(first, step),
            partition=partition,
            first_row=int(kept_before[first]),
            block_rows=block_rows,
        )


def ingest_rows(job: IngestJob, threads: int = 1) -> Iterator[BlockReport]:
    """Read the rows of a job and put them into the store, block by block.

    This thread reads the blocks one after the other, while `threads` others transpose and write those before.

    Raises
    ------
    GpucubeError
        As `BlockReader.read` and `write_rows`.
    """
    source = job.source
    first_rows = job.first_row + np.concatenate([[0], np.cumsum(source.rows.keep)])
    reader = source.open()
    pending: deque[Future[BlockReport]] = deque()
    try:
        threads = min(threads, TRANSPOSERS)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, source.nrow, job.block_rows):
                block = reader.read(start, min(job.block_rows, source.nrow - start))
                while len(pending) >= threads:  # no more blocks than the plan counts
                    yield pending.popleft().result()
                rows = source.rows.part(start, job.block_rows)
                pending.append(pool.submit(ingest_block, job, block, rows, int(first_rows[start])))
            while pending:
                yield pending.popleft().result()
    finally:
        reader.close()


def warm_up(job: IngestJob) -> None:
    """Compile the loops of reading: read the first row of a job without writing it into the store."""
    reader = job.source.open()
    rows = replace(job.source.rows.part(0, 1), keep=np.zeros(1, bool))
    try:
        ingest_block(job, reader.read(0, 1), rows, job.first_row)
    finally:
        reader.close()


def ingest_block(job: IngestJob, block: Block, rows: RowSelection, first_row: int) -> BlockReport:
    """Put the rows of one block into the store.

    Parameters
    ----------
    job : IngestJob
    block : Block
    rows : RowSelection
        The rows of the block.
    first_row : int
        Row of the partition that the first one kept becomes.
    """
    source = job.source
    number = np.flatnonzero(rows.keep)
    uvw, usable = usable_uvw(block.uvw[number])
    uvw, delay = to_phase_centre(uvw, source.rotation_at(rows.time[number]))
    factor = None if rows.factor is None else rows.factor[number]
    remains = Remains(0, 0)
    if source.continuum is not None:
        of_rows = None if factor is None else factor[usable]
        remains = subtract_continuum(block, source.continuum, number[usable], source.hands, of_rows)
    planes = transpose(block, KeptRows(number, usable, delay), source.channel_map, source.combinations)
    if source.regridding is not None:
        planes = regrid(planes, np.ones(len(number)) if factor is None else factor, source.regridding)
    counts = planes.seen if source.regridding is None else planes.weight.any(axis=(0, 1))
    if factor is not None:
        uvw = uvw / factor[:, None]  # in wavelengths of the cube's frequencies they are what the observatory saw
    # a row in which nothing counts must not decide the longest baseline or the number of w planes
    uvw[~counts] = 0.0
    write_rows(job.partition, first_row, uvw, planes.vis, planes.weight)
    lost = number[~usable]
    unseen = number[usable & ~planes.seen & ~planes.garbage]
    return BlockReport(
        partition=job.partition.index,
        counts=planes.counts,
        power=planes.power,
        nrow=len(rows),
        nbytes=block.nbytes,
        lacking=planes.lacking,
        rows=Counter(
            {
                Remark.LOST_UVW: int(np.count_nonzero(_may_count(block, lost))) if len(lost) else 0,
                Remark.GARBAGE: int(np.count_nonzero(planes.garbage)),
                Remark.BY_WEIGHT: block.by_weight,
                Remark.WORTHLESS: int(np.count_nonzero(_worthless(block, unseen, source))) if len(unseen) else 0,
                Remark.LOWERED: remains.lowered,
                Remark.LOST_CONTINUUM: remains.lost,
                Remark.SEEN: int(np.count_nonzero(planes.seen)),
                Remark.ZERO: int(np.count_nonzero(planes.strength == 0)),
            }
        ),
    )


def _may_count(block: Block, rows: np.ndarray) -> np.ndarray:
    """Which rows of a block have an unflagged sample of positive weight: bool, (nrows,)."""
    may: np.ndarray = (~block.flag[rows] & (block.weight[rows] > 0)).any(axis=(1, 2))
    return may


def _worthless(block: Block, rows: np.ndarray, source: Source) -> np.ndarray:
    """Which rows of a block have unflagged samples of all hands, but none that counts: bool, (nrows,)."""
    unflagged = ~block.flag[rows][..., list(source.hands)].any(axis=2)
    worthless: np.ndarray = unflagged.any(axis=1) & ~_samples_count(block, rows, source).any(axis=1)
    return worthless


def _samples_count(block: Block, rows: np.ndarray, source: Source) -> np.ndarray:
    """In which channels of some rows a Stokes parameter can be made: bool, (nrows, nchan)."""
    counts = _hands_count(block, rows, source)
    made: np.ndarray = (np.all if _needs_both_hands(source) else np.any)(counts, axis=2)
    return made


def _hands_count(block: Block, rows: np.ndarray, source: Source) -> np.ndarray:
    """Which samples of some rows count, of the hands that are needed: bool, (nrows, nchan, nhand)."""
    hands = list(source.hands)
    data, flag, weight = (array[rows][..., hands] for array in (block.data, block.flag, block.weight))
    with np.errstate(invalid="ignore", over="ignore"):
        counts: np.ndarray = ~flag & (weight > 0) & (weight < LARGEST) & (np.abs(data) < LARGEST)
    return counts


def _needs_both_hands(source: Source) -> bool:
    """Whether no Stokes parameter can be made of one hand."""
    return {c.rule for c in source.combinations} == {Rule.BOTH}


def refuse_if_nothing_counts(selection: Selection) -> None:
    """Read from the beginning until a sample counts, at most `MOST_LOOKED_AT` bytes.

    Raises
    ------
    GpucubeError
        All that is selected has been read, and no sample counts.
    """
    left = MOST_LOOKED_AT
    for source in selection.sources:
        if not source.rows.keep.any():
            continue
        reader = source.open()
        step = min(source.block_rows, ROWS_LOOKED_AT)
        try:
            for start in range(0, source.nrow, step):
                block = reader.read(start, min(step, source.nrow - start))
                rows = np.flatnonzero(source.rows.part(start, step).keep)
                rows = rows[usable_uvw(block.uvw[rows])[1]]
                left -= block.nbytes
                if left < 0 or _samples_count(block, rows, source).any():
                    return
        finally:
            reader.close()
    raise _nothing_left(selection)


def _nothing_left(selection: Selection, warnings: Iterable[str] = ()) -> GpucubeError:
    advice = "two hands are needed of each: `stokes='pseudoI'` takes either"
    both = [advice] if any(map(_has_single_hands, selection.sources)) else []
    return GpucubeError("; ".join([f"no data are left: {NOTHING_COUNTS}", *both, *warnings]))


def _has_single_hands(source: Source) -> bool:
    """Whether the first block of a source has samples with one hand, if it has none with the two hands that are needed."""
    if not _needs_both_hands(source):
        return False
    reader = source.open()
    try:
        block = reader.read(0, min(source.block_rows, source.nrow))
    finally:
        reader.close()
    kept = source.rows.keep[: len(block.uvw)] & usable_uvw(block.uvw)[1]
    return bool(_hands_count(block, np.flatnonzero(kept), source).any())


def usable_uvw(uvw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace by 0 the uvw that no gridder can use; also return where uvw is usable, bool, shape (nrow,).

    Two antennas are never in one place: if uvw is 0, it has not been filled in.
    """
    u, v, w = np.abs(uvw.T)
    largest = np.maximum(np.maximum(u, v), w)
    usable = (largest > 0) & (largest < LONGEST_BASELINE)  # NaN compares as False
    return uvw if usable.all() else np.where(usable[:, None], uvw, 0.0), usable


def to_phase_centre(uvw: np.ndarray, rotation: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rotate uvw to another phase centre.

    Parameters
    ----------
    uvw : numpy.ndarray
        Metres, shape (nrow, 3).
    rotation : numpy.ndarray or None
        See `gpucube.sky.directions.uvw_rotation`, shape (3, 3), or (nrow, 3, 3) if rows differ; None for no change.

    Returns
    -------
    uvw : numpy.ndarray
        Metres, shape (nrow, 3).
    delay : numpy.ndarray
        (old w - new w) / c, seconds, shape (nrow,). Visibilities are multiplied by exp(2 pi i frequency delay).
    """
    if rotation is None:
        return uvw, np.zeros(len(uvw))
    turned = uvw @ rotation.T if rotation.ndim == 2 else np.einsum("rij,rj->ri", rotation, uvw)
    return turned, (uvw[:, 2] - turned[:, 2]) / LIGHT_SPEED
