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
from dataclasses import dataclass, replace
from functools import cached_property

import numba
import numpy as np

from gpucube import measurementset, stokes
from gpucube.channels import ChannelMap, OutputChannels, WindowChannels, output_channels
from gpucube.errors import GpucubeError
from gpucube.geometry import LIGHT_SPEED
from gpucube.measurementset import Block, BlockReader, Field, MeasurementSetInfo, RowSelection
from gpucube.store import Partition, VisibilityStore, allocate, sort_rows, write_rows

LONGEST_BASELINE = 1e10
"""Metres: thirty times the longest there has been. A longer one is garbage, and its w too much for any gridder."""


@dataclass(frozen=True)
class Source:
    """One partition to be: where its rows come from and what becomes of them.

    `rotation` takes uvw to the cube's phase centre (None: they are there already).
    """

    path: str
    column: str
    weight: str
    rows: RowSelection
    input_shape: tuple[int, int]
    combinations: tuple[stokes.Combination, ...]
    channels: ChannelMap
    frequency: np.ndarray
    rotation: np.ndarray | None

    @cached_property
    def keep(self) -> np.ndarray:
        """Rows that go into the store."""
        return self.rows.counts & self.rows.cross

    def part(self, first: int, count: int) -> Source:
        """The same with a run of its rows only."""
        span, rows = slice(first, first + count), self.rows
        return replace(self, rows=type(rows)(rows.rows[span], rows.counts[span], rows.cross[span]))

    def channel_range(self) -> tuple[int, int] | None:
        """First and last input channel to read, None if all are."""
        first, last = int(self.channels.members.min()), int(self.channels.members.max())
        return None if (first, last) == (0, self.input_shape[0] - 1) else (first, last)

    def bytes_selected(self) -> int:
        """Bytes of the selected cells of UVW, data, FLAG and weight, each counted once."""
        nchan, ncorr = self.input_shape
        if (span := self.channel_range()) is not None:
            nchan = span[1] - span[0] + 1
        weights = 4 * ncorr * (nchan if self.weight == "WEIGHT_SPECTRUM" else 1)
        return len(self.rows.rows) * (24 + nchan * ncorr * 9 + weights)


@dataclass(frozen=True)
class Selection:
    """What will be read: the sources, the output channels, and the facts the header needs."""

    sources: tuple[Source, ...]
    channels: OutputChannels
    stokes: tuple[str, ...]
    field: Field
    frame: str
    restfreq: float | None
    info: MeasurementSetInfo


@dataclass(frozen=True)
class BlockReport:
    """What one block of rows held, per output channel: counted samples, sum of w |V|^2; and the bytes read."""

    counts: np.ndarray
    power: np.ndarray
    nbytes: int
    nrow: int


def select(
    vis: Iterable[str],
    *,
    field: str,
    spw: Callable[[int], dict[int, np.ndarray | None]],
    datacolumn: str,
    stokes_names: tuple[str, ...],
    start: int | None,
    width: int,
    nchan: int,
    phasecenter: tuple[float, float, str] | None,
    outframe: str = "",
    restfreq: float | None = None,
) -> Selection:
    """Turn the user's selection into sources and output channels. Reads subtables and index columns only.

    Parameters
    ----------
    spw : callable
        From the number of spectral windows of an MS to {window: channel indices, or None for all}, in the order wanted.
    phasecenter : (ra, dec, radesys) or None
        Radians; None is the first field's.

    Raises
    ------
    GpucubeError
        No such MS, field, window, column or channel; nothing left after selection; frames that differ.
    """
    found = []
    for path in vis:
        info = measurementset.describe(path)
        field_id = find_field(info, field, path)
        column = find_column(info, datacolumn)
        rows = measurementset.select_rows(path, field_id)
        wanted = spw(len(info.spectral_windows))
        for window, selected in wanted.items():
            for description, (of_window, corr_types) in enumerate(info.data_descriptions):
                if of_window == window and description in rows:
                    found.append((info, info.fields[field_id], column, window, corr_types, selected, rows[description]))
    if not found:
        raise GpucubeError(f"no rows are left after selection (field={field!r}, spw): check field and spw")
    info, first_field = found[0][:2]
    frames = {f[0].spectral_windows[f[3]].frame for f in found}
    if len(frames) > 1:
        raise GpucubeError(f"the selected spectral windows are in different frames ({', '.join(sorted(frames))})")
    frame = frames.pop()
    if outframe and outframe != frame:
        raise GpucubeError(
            f"outframe={outframe!r} is not available for data in {frame}: leave it empty to keep {frame}"
        )
    channels = output_channels([_window_channels(*f) for f in found], start, width, nchan)
    target = phasecenter or (first_field.ra, first_field.dec, first_field.radesys)
    sources = tuple(
        _source(i, f, column, window, corr, rows, stokes_names, channels.maps[k], target)
        for k, (i, f, column, window, corr, _, rows) in enumerate(found)
        if len(channels.maps[k].output)
    )
    rest = restfreq or _rest_frequency(info, first_field, found[0][3])
    named = Field(first_field.name, *target, first_field.source_id)
    return Selection(sources, channels, stokes_names, named, frame, rest, info)


def find_field(info: MeasurementSetInfo, field: str, path: str) -> int:
    """FIELD_ID chosen by number or by name; the empty string takes the only field that has rows.

    Raises
    ------
    GpucubeError
        No such field, or several fit.
    """
    names = [f.name for f in info.fields]
    if field.strip().isdigit():
        if int(field) >= len(names):
            raise GpucubeError(f"{path} has no field {field}: fields are numbered 0 to {len(names) - 1}")
        return int(field)
    if not field:
        fits = list(range(len(names))) if len(names) == 1 else sorted(measurementset.fields_with_rows(path))
        if not fits:
            raise GpucubeError(f"{path} has no rows")
    else:
        fits = [i for i, name in enumerate(names) if name == field]
        if not fits:
            raise GpucubeError(f"{path} has no field {field!r}: it has {_listed(names)}")
    if len(fits) > 1:
        raise GpucubeError(
            f"{path}: {len(fits)} fields fit field={field!r} "
            f"({_listed([f'{i}: {names[i]}' for i in fits])}): select one by its number"
        )
    return fits[0]


def find_column(info: MeasurementSetInfo, datacolumn: str) -> str:
    """The data column: ``"auto"`` takes CORRECTED_DATA if it is there, else DATA.

    Raises
    ------
    GpucubeError
        The MS does not have it.
    """
    if datacolumn == "auto":
        column = next((c for c in ("CORRECTED_DATA", "DATA") if c in info.columns), "DATA")
    else:
        column = measurementset.COLUMN_OF[datacolumn]
    if column not in info.columns:
        there = [name for name, c in measurementset.COLUMN_OF.items() if c in info.columns]
        raise GpucubeError(
            f"{info.path} has no column {column}: datacolumn can be {' or '.join(there) or 'nothing here'}"
        )
    return column


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _window_channels(info, _field, _column, window, _corr, selected, _rows) -> WindowChannels:  # type: ignore[no-untyped-def]
    spectral = info.spectral_windows[window]
    nchan = len(spectral.frequency)
    chosen = np.arange(nchan) if selected is None else np.asarray(selected)
    label = f"{info.path} spectral window {window}"
    if len(chosen) and chosen.max() >= nchan:
        raise GpucubeError(f"{label} has channels 0 to {nchan - 1}; spw asks for channel {chosen.max()}")
    return WindowChannels(label, spectral.frequency, spectral.width, chosen)


def _source(info, field, column, window, corr_types, rows, stokes_names, channel_map, target):  # type: ignore[no-untyped-def]
    where = f"{info.path} spectral window {window}"
    shape = measurementset.cell_shape(info.path, column, int(rows.rows[0]))
    frequency = info.spectral_windows[window].frequency
    if shape != (len(frequency), len(corr_types)):
        raise GpucubeError(
            f"{where}: {column} has (channels, correlations) = {shape}, the subtables say "
            f"{(len(frequency), len(corr_types))}"
        )
    return Source(
        info.path,
        column,
        measurementset.weight_column(info.path, info.columns, rows.rows),
        rows,
        shape,
        stokes.combinations(corr_types, stokes_names, where),
        channel_map,
        frequency,
        uvw_rotation((field.ra, field.dec, field.radesys), target),
    )


def _rest_frequency(info: MeasurementSetInfo, field: Field, window: int) -> float | None:
    for key in ((field.source_id, window), (field.source_id, -1)):
        if info.rest_frequencies.get(key, 0.0) > 0:
            return info.rest_frequencies[key]
    return None


def uvw_rotation(origin: tuple[float, float, str], target: tuple[float, float, str]) -> np.ndarray | None:
    """Matrix that takes uvw for phase centre `origin` to `target`, both (ra, dec, radesys) in radians.

    With e(ra, dec) the rows (east, north, up) of the uvw frame in equatorial coordinates: M = e(target) e(origin)^T
    (Thompson, Moran & Swenson 2017, section 4.1). None if both are the same point.
    """
    if origin == target:
        return None
    positions = []
    for ra, dec, radesys in (origin, target):
        if origin[2] != target[2]:
            from astropy import units
            from astropy.coordinates import SkyCoord

            icrs = SkyCoord(ra * units.rad, dec * units.rad, frame=radesys.lower()).icrs
            ra, dec = icrs.ra.rad, icrs.dec.rad
        positions.append(_uvw_frame(ra, dec))
    return positions[1] @ positions[0].T


def _uvw_frame(ra: float, dec: float) -> np.ndarray:
    sr, cr, sd, cd = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    return np.array([[-sr, cr, 0.0], [-sd * cr, -sd * sr, cd], [cd * cr, cd * sr, sd]])


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


_ROWS, _SLOTS = 16, 64
"""Rows and slots transposed at a time: 16 rows of 64 channels and two hands are 16 KiB, half of an L1 cache."""


@numba.njit(nogil=True, cache=True, inline="always")
def _usable(flagged: bool, weight: float, re: float, im: float) -> bool:
    # x - x is 0 only for finite x
    return not flagged and weight > 0.0 and weight - weight == 0.0 and re - re == 0.0 and im - im == 0.0


@numba.njit(nogil=True, cache=True)
def transpose_block(
    data: np.ndarray,
    flag: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    good: np.ndarray,
    delay: np.ndarray,
    frequency: np.ndarray,
    origin: int,
    offsets: np.ndarray,
    members: np.ndarray,
    rule: np.ndarray,
    hands: np.ndarray,
    factors: np.ndarray,
    vis_out: np.ndarray,
    weight_out: np.ndarray,
    counts: np.ndarray,
    power: np.ndarray,
) -> None:
    """Form Stokes, shift phase, average channels and write one block channel-major.

    Parameters
    ----------
    data, flag : (nrow, nchan, ncorr); weight : (nrow, nchan or 1, ncorr)
    rows : rows of the block that go out; `good` (finite uvw) and `delay` (seconds, to the new phase centre) for each
    origin : input channel of data[:, 0]
    offsets, members : as `ChannelMap`
    rule, hands, factors : as `stokes.Combination`, one row per Stokes parameter
    vis_out, weight_out : (nstokes, nslot, len(rows)), written
    counts, power : (nstokes, nslot), added to: samples that count, and sum of w |V|^2
    """
    spectral_weight = weight.shape[1] > 1
    nslot = len(offsets) - 1
    for first_slot in range(0, nslot, _SLOTS):
        last_slot = min(first_slot + _SLOTS, nslot)
        for first_row in range(0, len(rows), _ROWS):
            last_row = min(first_row + _ROWS, len(rows))
            for s in range(len(rule)):
                a, b = hands[s, 0], hands[s, 1]
                fa, fb = factors[s, 0], factors[s, 1]
                far, fai, fbr, fbi = fa.real, fa.imag, fb.real, fb.imag
                for slot in range(first_slot, last_slot):
                    begin, end = offsets[slot], offsets[slot + 1]
                    counted, powered = 0, 0.0
                    for k in range(first_row, last_row):
                        r = rows[k]
                        total_re, total_im, total_w = 0.0, 0.0, 0.0
                        for j in range(begin, end):
                            c = members[j] - origin
                            cw = c if spectral_weight else 0
                            ar, ai = np.float64(data[r, c, a].real), np.float64(data[r, c, a].imag)
                            wa = np.float64(weight[r, cw, a])
                            ok_a = good[k] and _usable(flag[r, c, a], wa, ar, ai)
                            re, im, w = 0.0, 0.0, 0.0
                            if b < 0:
                                if ok_a:
                                    re, im, w = ar, ai, wa
                            else:
                                br, bi = np.float64(data[r, c, b].real), np.float64(data[r, c, b].imag)
                                wb = np.float64(weight[r, cw, b])
                                ok_b = good[k] and _usable(flag[r, c, b], wb, br, bi)
                                if rule[s] == 1:
                                    if ok_a and ok_b:
                                        re = far * ar - fai * ai + fbr * br - fbi * bi
                                        im = far * ai + fai * ar + fbr * bi + fbi * br
                                        w = 4.0 * wa * wb / (wa + wb)
                                elif ok_a and ok_b:
                                    w = wa + wb
                                    re, im = (ar * wa + br * wb) / w, (ai * wa + bi * wb) / w
                                elif ok_a:
                                    re, im, w = ar, ai, wa
                                elif ok_b:
                                    re, im, w = br, bi, wb
                            if w > 0.0:
                                if delay[k] != 0.0:
                                    turns = delay[k] * frequency[members[j]]
                                    phase = 2.0 * np.pi * (turns - np.floor(turns))
                                    cos, sin = np.cos(phase), np.sin(phase)
                                    re, im = re * cos - im * sin, re * sin + im * cos
                                total_re += re * w
                                total_im += im * w
                                total_w += w
                        if total_w > 0.0:
                            total_re /= total_w
                            total_im /= total_w
                            counted += 1
                            powered += total_w * (total_re * total_re + total_im * total_im)
                        vis_out[s, slot, k] = complex(total_re, total_im)
                        weight_out[s, slot, k] = total_w
                    counts[s, slot] += counted
                    power[s, slot] += powered
